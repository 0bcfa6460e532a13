# SPDX-License-Identifier: Apache-2.0
"""The compiled program that containerd runs, by the rules of the Python behind it: a script stands
for that, and keeps what it was given."""

from __future__ import annotations

import json
import os
import pathlib
import random
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from lib.doors import make_door, make_sanitized
from lib.patience import patient, until
from lib.shims import PROGRAM, runc_options
from lib.support import need
from urunc.shim import ENDED_FILE, bootstrap
from urunc.shim.bundle import leave_answer
from urunc.shim.command import socket_path
from urunc.shim.messages import any_of, decode, encode

END = {"pid": 37, "exit_status": 5, "exited_at": {"seconds": 1700000000, "nanos": 37}}
BEHIND = """#!/bin/sh
cat >{directory}/input
printf '%s\\n' "$0" "$@" >{directory}/words.new
mv {directory}/words.new {directory}/words
"""
SANDBOX, GROUP = "io.kubernetes.cri.sandbox-id", "io.containerd.runc.v2.group"


class Place:
    """A bundle `b`, the program, and what came to be of it."""

    def __init__(self, directory: pathlib.Path, program: pathlib.Path) -> None:
        self.directory = directory
        self.bundle = directory / "b"
        self.bundle.mkdir()
        self.sockets = tempfile.mkdtemp(prefix="u")  # a socket's path has 106 bytes at most
        behind = directory / "behind"
        behind.write_text(BEHIND.format(directory=directory))
        behind.chmod(0o755)
        self.program = directory / "program"
        make_door(self.program, behind, program)
        self.config({})

    def config(self, document: object) -> None:
        text = document if isinstance(document, str) else json.dumps(document, ensure_ascii=False)
        (self.bundle / "config.json").write_text(text)

    def run(self, *words: str, stdin: bytes = b"", **environment: str) -> bytes:
        """What it says."""
        (self.directory / "words").unlink(missing_ok=True)
        done = subprocess.run(
            [self.program, *words], input=stdin, capture_output=True, cwd=self.bundle,
            timeout=patient(20),
            env={"PATH": "/usr/bin:/bin", "ASAN_OPTIONS": "detect_leaks=0", **environment},
        )  # fmt: skip
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout

    def start(self, *words: str, stdin: bytes = b"", **environment: str) -> bytes:
        given = ("-namespace", "n", "-address", "/a.sock", "-publish-binary", "/x", "-id", "one")
        return self.run(*given, *words, "start", stdin=stdin, **environment)

    def parameters(self, **values: Any) -> dict[str, Any]:
        known = {"instance_id": "one", "namespace": "n", "socket_dir": self.sockets}
        known |= {"containerd_version": "2.4.2", "containerd_grpc_address": "/b.sock"}
        return {**known, "containerd_ttrpc_address": "/b.ttrpc", **values}

    def sent(self, **values: Any) -> bytes:
        message = "containerd.runtime.bootstrap.v1.BootstrapParams"
        return encode(message, self.parameters(**values))

    def behind(self) -> list[str]:
        """The words that Python was given, of which a shim's come a little later than the
        answer."""
        until((self.directory / "words").exists)
        return (self.directory / "words").read_text().splitlines()[1:]

    def handed_over(self) -> bool:
        """Whether Python has it all; else it is a shim."""
        return self.behind()[-1] != "serve"


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Iterator[Place]:
    need("root", "installed")
    made = Place(tmp_path, PROGRAM)
    yield made
    shutil.rmtree(made.sockets)


@pytest.mark.parametrize(
    ("version", "extensions"),
    [
        ("2.3.7", []),
        ("2.4.2", []),
        ("2.10.0+unknown", []),
        ("v2.4.0-rc.1", []),
        ("2.4-rc", []),
        ("10.0", []),
        ("2", []),
        ("", []),
        ("2.4.2", [{"value": None}]),
        ("2.4.2", [{"value": runc_options(binary_name="runc", systemd_cgroup=True)}]),
    ],
)
def test_start(place: Place, version: str, extensions: list[Any]) -> None:
    """The answer, the address that is kept, and what Python is to go on with."""
    parameters = place.parameters(containerd_version=version, extensions=extensions)
    said = place.start(stdin=place.sent(containerd_version=version, extensions=extensions))
    path = socket_path(place.sockets, "/b.sock", "n", "one")
    assert said == bootstrap.answer(parameters, f"unix://{path}")
    assert (place.bundle / "address").read_text() == f"unix://{path}"
    words = place.behind()
    assert words[:4] == ["-namespace", "n", "-id", "one"] and words[-1] == "serve"
    served = dict(zip(words[4:-1:2], words[5::2], strict=False))
    assert served["-path"] == path and served["-events"] == "/b.ttrpc"
    score = int(pathlib.Path("/proc/self/oom_score_adj").read_text())
    assert int(served["-adjust"]) == min(score + 1, 1000)
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_shim_that_is_there(place: Place) -> None:
    """Its address is said, and no other comes to be; after its end one does."""
    path = socket_path(place.sockets, "/b.sock", "n", "one")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        assert path.encode() in place.start(stdin=place.sent())
        assert not (place.directory / "words").exists()
    assert path.encode() in place.start(stdin=place.sent())
    assert not place.handed_over()


def test_older_containerds(place: Place) -> None:
    """An address alone; with the events' address of the environment."""
    for stdin in (b"", encode("google.protobuf.Any", runc_options(root="/r"))):
        said = place.start(stdin=stdin, TTRPC_ADDRESS="/e")
        path = socket_path("/run/containerd/s", "/a.sock", "n", "one")
        assert said == f"unix://{path}".encode()
        words = place.behind()
        assert words[words.index("-events") + 1] == "/e"
        os.unlink(path)


@pytest.mark.parametrize(
    ("document", "group"),
    [
        ({"annotations": {SANDBOX: "pod"}}, "pod"),
        ({"annotations": {SANDBOX: "pod", GROUP: "é"}, "a": [{}, [], [1, {"b": []}]]}, "é"),
        ({"annotations": {GROUP: "", "x": '"\\', SANDBOX: "pod"}}, "pod"),
        ({"annotations": {GROUP: ""}}, "one"),
        ({"annotations": {}, "x": {SANDBOX: "no"}, "y": [SANDBOX, 'a"b', -1.5e9, None]}, "one"),
        ({"process": {"annotations": {SANDBOX: "no"}, "args": ["}", "\\"]}}, "one"),
        ('\t{ "annotations" :\n{ "' + GROUP + '" : "g" } } \n', "g"),
    ],
)
def test_groups(place: Place, document: object, group: str) -> None:
    place.config(document)
    said = place.start(stdin=place.sent())
    assert socket_path(place.sockets, "/b.sock", "n", group).encode() in said
    assert not place.handed_over()


PYTHONS = [
    '{"annotations": {"' + SANDBOX + '": "a\\u0062"}}', '{"annotations": {"' + SANDBOX + '": 7}}',
    '{"annotations": {"io.kubernetes.cri.sandbox\\u002did": "a"}}', '{"annotations": null}',
    '{"annotations": {"' + SANDBOX + '": "a", "' + SANDBOX + '": "b"}}', '{"annotations": []}',
    '{"annotations": {}, "annotations": {}}', "{} {}", "", "[]", '{"a": }', '{"a": [1}', '{"a": "b',
    '{"a": "\n"}', '{"a\\"": 1, "b": ' + "[" * 100 + "]" * 100 + "}", '{"a": 1,}', "{}\0",
]  # fmt: skip


@pytest.mark.parametrize("text", PYTHONS)
def test_a_configuration_that_is_pythons(place: Place, text: str) -> None:
    """With the same words and input."""
    place.config(text)
    assert place.start(stdin=place.sent()) == b""
    assert place.behind()[:2] == ["-namespace", "n"] and place.handed_over()
    assert (place.directory / "input").read_bytes() == place.sent()
    assert not os.listdir(place.sockets)


def test_input_that_is_pythons(place: Place) -> None:
    toml = any_of("runtimeoptions.v1.Options", {"config_body": b'ShimCgroup = "/g"'})
    grouped = runc_options(shim_cgroup="/g")
    number = b"\x10\x01" + encode("google.protobuf.Any", {"type_url": grouped["type_url"]})
    for stdin in (
        place.sent(extensions=[{"value": grouped}]), place.sent(extensions=[{"value": toml}]),
        place.sent(instance_id="another"), place.sent(socket_dir="/" + "x" * 100),
        encode("google.protobuf.Any", grouped), place.sent()[:-1], b"\xff" * 20,
        number,  # where options should be
    ):  # fmt: skip
        assert place.start(stdin=stdin) == b""
        assert place.handed_over()
        assert (place.directory / "input").read_bytes() == stdin
    assert not os.listdir(place.sockets)


@pytest.mark.parametrize(
    "words",
    [("-v",), ("-info",), ("start",), ("-id", "one", "start"), ("-x", "y", "start"), (),
     ("-namespace", "n", "-id", "one", "start", "more"), ("-namespace", "n", "-id", "one", "stop"),
     ("-namespace", "n", "-id")],
)  # fmt: skip
def test_words_that_are_pythons(place: Place, words: tuple[str, ...]) -> None:
    assert place.run(*words) == b""
    assert place.behind() == list(words)


def test_words_as_gos_programs_take_them(place: Place) -> None:
    place.run("--namespace=n", "-id=one", "-debug", "-address=/b.sock", "start", stdin=place.sent())
    assert not place.handed_over()
    place.start(stdin=place.sent(), URUNC_DOOR="off")
    assert place.handed_over()


def test_the_answer_of_delete(place: Place) -> None:
    """Without an interpreter; 37 is a `%`, a letter like any other."""
    (place.bundle / "address").write_text(f"unix://{place.sockets}/socket")
    leave_answer(str(place.bundle), END)
    answer = place.run("-namespace", "n", "-id", "one", "-bundle", str(place.bundle), "delete")
    assert decode("containerd.task.v2.DeleteResponse", answer) == END
    assert not (place.directory / "words").exists()


@pytest.mark.parametrize(
    "case", ["no answer", "half an answer", "no address", "socket", "another bundle"]
)
def test_a_delete_that_is_pythons(place: Place, case: str) -> None:
    (place.bundle / "address").write_text(f"unix://{place.sockets}/socket")
    leave_answer(str(place.bundle), END)
    ended = place.bundle / ENDED_FILE
    if case == "no answer":
        ended.unlink()
    if case == "half an answer":
        ended.write_text(ended.read_text()[:-3])
    if case == "no address":
        (place.bundle / "address").unlink()
    if case == "socket":
        pathlib.Path(place.sockets, "socket").touch()
    words = ("-bundle", str(place.directory)) if case == "another bundle" else ()
    assert place.run("-namespace", "n", "-id", "one", *words, "delete") == b""
    assert place.handed_over()


def test_spoilt_input(tmp_path: pathlib.Path) -> None:
    """Cut, or with other bytes: it reads nothing that is not there, and ends."""
    need("root", "installed")
    program = tmp_path / "sanitized"
    make_sanitized(program, "SHIM")
    place = Place(tmp_path, program)
    config = json.dumps({"a": [1, {"b": "c"}], "annotations": {SANDBOX: "pod", "x": "y"}}).encode()
    options = [{"value": runc_options(binary_name="runc", root="/r")}]
    chance = random.Random(7)
    try:
        for _ in range(40):
            texts = [bytearray(config), bytearray(place.sent(extensions=options))]
            text = texts[chance.randrange(2)]
            del text[chance.randrange(len(text) // 2, len(text) + 1) :]
            for _ in range(chance.randrange(3)):
                text[chance.randrange(len(text))] = chance.randrange(256)
            (place.bundle / "config.json").write_bytes(texts[0])
            # of a directory of sockets that is spoilt nothing may come to be elsewhere
            if bytes(texts[1]).count(place.sockets.encode()) == 1:
                place.start(stdin=bytes(texts[1]))
    finally:
        shutil.rmtree(place.sockets)
