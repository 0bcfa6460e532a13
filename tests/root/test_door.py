# SPDX-License-Identifier: Apache-2.0
"""The door, without the Python behind it: what it does for itself, what it leaves alone, and that
both ways come to the same."""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import termios

import pytest

from lib.doors import handed_over, make_door, make_sanitized
from lib.patience import patient, until
from lib.support import (
    PARTS,
    PREFIX,
    Bundle,
    Network,
    Urunc,
    ip,
    need,
    nothing_left,
)

pytestmark = pytest.mark.usefixtures("with_door")

WORD = "URUNC_DOOR"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The door with nothing behind it: what it would hand over fails."""
    need("installed")
    path = tmp_path_factory.mktemp("door") / "urunc"
    make_door(path, "/nowhere/launch")
    return str(path)


@pytest.fixture
def door(urunc: Urunc, alone: str) -> Urunc:
    """The same root and configuration as `urunc`, by the door alone."""
    made = Urunc.__new__(Urunc)
    made.__dict__.update(urunc.__dict__, program=alone)
    return made


@pytest.fixture(params=["no device", "empty", "redirected"])
def bundle(request: pytest.FixtureRequest, tmp_path: pathlib.Path, bundle: Bundle) -> Bundle:
    """A guest that can have no interface, one in a network namespace that is empty, one with an
    interface that it takes over."""
    if request.param == "no device":
        return bundle
    if request.param == "empty":
        return with_device(tmp_path)
    network: Network = request.getfixturevalue("network")
    network.connect()
    return with_device(tmp_path, network)


def with_device(tmp_path: pathlib.Path, network: Network | None = None) -> Bundle:
    """The probe with a disk and room for an interface."""
    made = Bundle(tmp_path / "net", "mirage", "spt", block="disk")
    made.add("unikernel", PARTS / "probe-mirage.spt")
    (made.root / "disk").write_bytes(bytes(1 << 20))
    made.args("probe.hang")
    if network:
        made.network(network.path)
    return made


@pytest.fixture
def simple(tmp_path: pathlib.Path) -> Bundle:
    """For what does not depend on a network."""
    return with_device(tmp_path)


def all_states(urunc: Urunc, door: Urunc, identifier: str) -> str:
    """The container's status; what is printed is the same both ways."""
    by_door = door("state", identifier)
    assert by_door.stderr == ""
    assert by_door.stdout == urunc("state", identifier, URUNC_DOOR="off").stdout
    return str(json.loads(by_door.stdout)["status"])


def test_a_life(urunc: Urunc, door: Urunc, bundle: Bundle) -> None:
    """From created to deleted, by nothing but the recipe."""
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        assert all_states(urunc, door, container.id) == "created"
        assert door("start", container.id).stdout == ""
        assert all_states(urunc, door, container.id) == "running"
        urunc("pause", container.id)
        assert all_states(urunc, door, container.id) == "paused"
        urunc("resume", container.id)
        assert door("kill", container.id, "KILL").stdout == ""
        container.wait_stopped()
        assert all_states(urunc, door, container.id) == "stopped"
        assert door("delete", container.id).stdout == ""
        assert not (urunc.root / container.id).exists()


@pytest.mark.parametrize("signal", ["9", "KILL", "SIGKILL"])
def test_kill_before_start(urunc: Urunc, door: Urunc, bundle: Bundle, signal: str) -> None:
    container = urunc.create(bundle)
    door("kill", "--all", container.id, signal)
    container.wait_stopped()
    door("kill", "--all", container.id, signal)  # as with runc, no error then
    door("delete", "--force", container.id)


LEFT_ALONE = [
    ["--version"], ["--help"], [], ["start"], ["start", "--help"], ["start", "{id}", "more"],
    ["--debug", "start", "{id}"], ["start", "--log", "/dev/null", "{id}"], ["start", "--", "{id}"],
    ["kill", "{id}"], ["kill", "{id}", "TERM"], ["kill", "{id}", "0"], ["kill", "{id}", "9", "9"],
    ["state", "--force", "{id}"], ["delete", "-x", "{id}"], ["delete", "--forced", "{id}"],
    ["delete", "{id}"], ["delete", "--force", "{id}"], ["delete", "nobody"],
    ["--log-format", "xml", "start", "{id}"], ["--root"], ["--criu", "x", "start", "{id}"],
    ["start", "../{id}"], ["start", "."], ["start", ""], ["pause", "{id}"], ["exec", "{id}", "sh"],
    ["--config", "/nowhere.toml", "start", "{id}"], ["--root", "here", "start", "{id}"],
]  # fmt: skip


def test_what_is_left_to_python(urunc: Urunc, door: Urunc, bundle: Bundle) -> None:
    """The container is untouched by all of it."""
    container = urunc.create(bundle)
    for words in LEFT_ALONE:
        assert handed_over(door(*(word.format(id=container.id) for word in words), check=False))
    assert handed_over(door("start", container.id, check=False, URUNC_DOOR="off"))
    assert handed_over(door("start", container.id, check=False, URUNC_TIMESTAMPS="1"))
    assert container.status() == "created"
    door("start", container.id)
    assert handed_over(door("start", container.id, check=False))
    assert handed_over(door("delete", container.id, check=False))
    container.delete("--force")


def test_delete_force_without_a_container(urunc: Urunc, door: Urunc) -> None:
    """What runc's shim asks after each container that has gone is no error, and no work."""
    for way in ("off", "on"):
        answer = urunc("delete", "--force", "nobody", URUNC_DOOR=way)
        assert answer.stdout + answer.stderr == ""
    door("delete", "--force", "nobody")
    (urunc.root / "file").parent.mkdir(exist_ok=True)
    (urunc.root / "file").write_text("")
    assert handed_over(door("delete", "--force", "file", check=False))
    usual = [door.program, "delete", "--force", "nobody"]
    answer = subprocess.run(usual, capture_output=True, text=True, check=False)
    assert handed_over(answer), "Python alone knows all usual places"


def test_a_name_that_is_a_status(
    urunc: Urunc, door: Urunc, simple: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    urunc.identifiers.append("running")
    monkeypatch.setattr(urunc, "new_id", lambda: "running")
    container = urunc.create(simple)
    assert all_states(urunc, door, "running") == "created"
    door("kill", "running", "9")
    container.wait_stopped()
    assert all_states(urunc, door, "running") == "stopped"
    door("delete", "running")


def test_the_usual_root(urunc: Urunc, door: Urunc, tmp_path: pathlib.Path, simple: Bundle) -> None:
    """Root's, also in a session."""
    container = urunc.create(simple)
    place = 'mount -t tmpfs x /run; mkdir /run/urunc; mount --bind "$0" /run/urunc; exec "$@"'
    words = ["unshare", "--mount", "sh", "-ec", place, str(urunc.root), door.program]
    words += ["--config", str(urunc.config), "state", container.id]
    for user in ("root", "somebody"):
        session = os.environ | {"XDG_RUNTIME_DIR": "/run/user/0", "USER": user}
        answer = subprocess.run(words, capture_output=True, text=True, env=session, check=False)
        assert handed_over(answer) == (user != "root")


def test_a_word_that_is_not_the_doors(urunc: Urunc, simple: Bundle) -> None:
    container = urunc.create(simple)
    container.start()
    answer = urunc("start", container.id, check=False, URUNC_DOOR_SAID='{"error": "forged"}')
    assert "is running, not created" in answer.stderr


def test_nowhere_to_write(urunc: Urunc, simple: Bundle) -> None:
    """Standard output on a full device is an error, said in the same words."""
    container = urunc.create(simple)
    answers = []
    for way in ("on", "off"):
        with pathlib.Path("/dev/full").open("w") as full:
            answer = subprocess.run(
                urunc.command("state", container.id),
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {WORD: way},
            )
        answers.append((answer.returncode, answer.stderr))
    assert answers[0] == answers[1]
    assert answers[0] == (1, "urunc: error: write to standard output: no space left on device\n")


def test_init_that_ends_meanwhile(urunc: Urunc, simple: Bundle) -> None:
    """While it is told to start: with a letter that is longer than a pipe."""
    simple.config["annotations"] = {"long": "x" * 200_000} | simple.config.get("annotations", {})
    said = []
    for way in ("on", "off"):
        container = urunc.create(simple)
        os.kill(container.pid, signal.SIGSTOP)
        with subprocess.Popen(
            urunc.command("start", container.id),
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {WORD: way},
        ) as process:
            path = urunc.root / container.id / "start"
            until(lambda: waiting_in(path) >= 1 << 16)  # noqa: B023 (called here, while it is so)
            os.kill(container.pid, signal.SIGKILL)
            _, errors = process.communicate(timeout=patient(30))
        said.append((process.returncode, errors.replace(container.id, "ID")))
        container.delete("--force")
    assert said[0] == said[1]
    assert said[0] == (1, "urunc: error: start 'ID': container is stopped, not created\n")


def waiting_in(fifo: pathlib.Path) -> int:
    """How many bytes are in a FIFO that nobody has read yet."""
    with open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
        return int(struct.unpack("i", fcntl.ioctl(file, termios.FIONREAD, bytes(4)))[0])


def test_timestamps(urunc: Urunc, door: Urunc, simple: Bundle) -> None:
    """As `create` was told; where they cannot be written, Python says so."""
    container = urunc.create(simple, URUNC_TIMESTAMPS="1")
    elsewhere = urunc.stamps.rename(urunc.stamps.with_suffix(".elsewhere"))
    urunc.stamps.mkdir()
    assert handed_over(door("start", container.id, check=False))
    urunc.stamps.rmdir()
    elsewhere.rename(urunc.stamps)
    door("start", container.id)
    found = [json.loads(line)["timestampID"] for line in urunc.stamps.read_text().splitlines()]
    assert sorted({*found, "TS15"}) == [f"TS{number:02}" for number in range(19)]
    assert len(set(found)) == len(found)


def edit(path: pathlib.Path, text: str = "") -> None:
    path.write_text(path.read_text() + text)


def test_a_drop_in_that_said_nothing(urunc: Urunc, door: Urunc, simple: Bundle) -> None:
    """It is a part of the configuration all the same."""
    drop_in = urunc.config.with_suffix(".d") / "more.toml"
    drop_in.parent.mkdir()
    drop_in.write_text("# nothing\n")
    container = urunc.create(simple)
    door("state", container.id)
    drop_in.write_text("[timeouts]\nkill_s = -1\n")
    assert handed_over(door("state", container.id, check=False))
    drop_in.unlink()


@pytest.mark.parametrize(
    "file", ["container.json", "journal", "recipe", "configuration", "drop-in"]
)
def test_a_recipe_that_does_not_hold(urunc: Urunc, door: Urunc, bundle: Bundle, file: str) -> None:
    """Whatever it was made of has changed, or it has gone."""
    container = urunc.create(bundle)
    directory = urunc.root / container.id
    if file == "recipe":
        (directory / file).unlink()
    elif file == "configuration":
        edit(urunc.config, "\n")
    elif file == "drop-in":
        urunc.config.with_suffix(".d").mkdir()
    else:
        edit(directory / file)
    for verb in ("start", "state", "delete"):
        assert handed_over(door(verb, container.id, check=False))
    assert handed_over(door("kill", container.id, "KILL", check=False))
    container.start()
    container.delete("--force")


HOOK = {"path": "/bin/true"}


@pytest.mark.parametrize(("kind", "verb"), [("poststart", "start"), ("poststop", "delete")])
def test_hooks_are_for_python(
    urunc: Urunc, door: Urunc, bundle: Bundle, kind: str, verb: str
) -> None:
    bundle.config["hooks"] = {kind: [HOOK]}
    container = urunc.create(bundle)
    for own in ("start", "delete"):
        assert handed_over(door(own, container.id, check=False)) == (own == verb)
        if own == verb:
            urunc(own, container.id)
        if own == "start":
            door("kill", container.id, "KILL")
            container.wait_stopped()


def test_init_says_why(urunc: Urunc, door: Urunc, bundle: Bundle) -> None:
    """What goes wrong after the door is through is said in Python's words, and in the log."""
    bundle.config["hooks"] = {"startContainer": [{"path": "/nowhere"}]}
    said = []
    for way in ("on", "off"):
        container = urunc.create(bundle)
        log = urunc.root.parent / f"{way}.log"
        options = ["--log", str(log), "--log-format", "json"]
        answer = urunc(*options, "start", container.id, check=False, URUNC_DOOR=way)
        message = json.loads(log.read_text())["msg"]
        said.append((answer.returncode, answer.stdout, message.replace(container.id, "ID")))
        container.delete("--force")
    assert said[0] == said[1]
    assert "/nowhere" in said[0][2]


CHANGES = [
    "addr add 10.123.0.9/24 dev eth0", "route add 10.9.0.0/16 via 10.123.0.1",
    "link set eth0 mtu 1400", "link set eth0 address 02:00:00:00:00:01", "link set eth0 down",
    "neigh add 10.123.0.77 lladdr 02:00:00:00:00:02 dev eth0 nud permanent",
    "link add more up type veth", "addr add fd00::9/64 dev eth0 nodad",
    "-6 route add fd01::/64 dev eth0", "-6 route add fe80::77/128 dev eth0",
    "route replace default via 10.123.0.1 metric 7",
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_that_changed(
    urunc: Urunc, door: Urunc, network: Network, tmp_path: pathlib.Path, change: str
) -> None:
    """What the guest would have to be told makes the door give way; what takes it back, not."""
    network.connect()
    bundle = with_device(tmp_path, network)
    container = urunc.create(bundle)
    ip("-n", network.inside, *change.split())
    assert handed_over(door("start", container.id, check=False))
    container.start()
    container.delete("--force")


@pytest.mark.parametrize("mode", ["pod", "shared"])
def test_a_network_with_others(
    urunc: Urunc, door: Urunc, network: Network, tmp_path: pathlib.Path, mode: str
) -> None:
    """A pod's guest is started by the door; rules and programs are removed by Python."""
    network.connect()
    bundle = with_device(tmp_path, network)
    bundle.config["annotations"][f"{PREFIX}network"] = mode
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        answer = door("start", container.id, check=False)
        assert handed_over(answer) if mode == "shared" else answer.returncode == 0
        container.delete("--force")


def test_no_way_back(urunc: Urunc, simple: Bundle, tmp_path: pathlib.Path) -> None:
    """The root of a user namespace, who may go into a network namespace of its own and not back,
    stays where it is: Python sees to that, from where it was called."""
    container = urunc.create(simple)
    urunc("kill", container.id, "9")
    container.wait_stopped()
    behind, asks = tmp_path / "launch", tmp_path / "urunc"
    behind.write_text("#!/bin/sh\nreadlink /proc/self/ns/net\n")
    behind.chmod(0o755)
    make_door(asks, behind)
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", "echo; exec unshare -n sleep 99"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        path = f"/proc/{other.pid}/ns/net"
        home = os.readlink("/proc/self/ns/net")
        until(lambda: os.readlink(path) != home)
        facts = os.stat(path)
        recipe = urunc.root / container.id / "recipe"
        fields = recipe.read_bytes().split(b"\0")
        where = fields.index(b"yes") + 2
        gone = (b"gone", os.fsencode(path), b"%d %d" % (facts.st_dev, facts.st_ino))
        recipe.write_bytes(b"\0".join([*fields[:where], *gone, *fields[where:]]))
        enter = ["nsenter", f"--user=/proc/{other.pid}/ns/user", "--preserve-credentials"]
        words = urunc.command("delete", container.id)
        words[words.index(urunc.program)] = str(asks)
        answer = subprocess.run([*enter, *words], capture_output=True, text=True, check=True)
        other.kill()
    assert answer.stdout.strip() == home


def test_a_device_that_came(urunc: Urunc, door: Urunc, tmp_path: pathlib.Path) -> None:
    """In a network namespace that was empty."""
    container = urunc.create(with_device(tmp_path))
    enter = ["nsenter", f"--net=/proc/{container.pid}/ns/net"]
    subprocess.run([*enter, "ip", "link", "add", "d0", "type", "veth"], check=True)
    assert handed_over(door("start", container.id, check=False))
    container.delete("--force")


def test_a_namespace_that_went(
    urunc: Urunc, door: Urunc, network: Network, tmp_path: pathlib.Path
) -> None:
    """What was in it went with it, so there is nothing left to remove."""
    network.connect()
    bundle = with_device(tmp_path, network)
    container = urunc.create(bundle)
    door("start", container.id)
    network.remove()
    door("kill", container.id, "9")
    container.wait_stopped()
    door("delete", container.id)


def test_killed_for_memory(urunc: Urunc, door: Urunc, bundle: Bundle) -> None:
    """That is said, and so for Python; here the count is another file's."""
    container = urunc.create(bundle)
    recipe = urunc.root / container.id / "recipe"
    counts = urunc.root.parent / "counts"
    counts.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    fields = recipe.read_bytes().split(b"\0")
    files = (b"/memory.oom_control", b"/memory.events")
    where = next(index for index, field in enumerate(fields) if field.endswith(files))
    fields[where] = os.fsencode(counts)
    recipe.write_bytes(b"\0".join(fields))
    door("kill", container.id, "9")
    container.wait_stopped()
    assert handed_over(door("delete", container.id, check=False))
    counts.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    door("delete", container.id)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The door with sanitizers, and nothing behind it."""
    path = tmp_path_factory.mktemp("sanitized") / "urunc"
    make_sanitized(path, "DOOR")
    return str(path)


def sanitized(urunc: Urunc, program: str, *words: str) -> bool:
    """Whether the door has done it; it has not read what is not there."""
    command = [program, "--root", str(urunc.root), "--config", str(urunc.config), *words]
    answer = subprocess.run(
        command,
        capture_output=True,
        timeout=patient(20),
        env={"ASAN_OPTIONS": "detect_leaks=0"},  # it frees nothing: it ends
    )
    assert answer.returncode in (0, 1), answer.stderr
    assert b"Sanitizer" not in answer.stderr and b"runtime error" not in answer.stderr
    return answer.returncode == 0


def test_a_life_with_sanitizers(
    urunc: Urunc, program: str, network: Network, tmp_path: pathlib.Path
) -> None:
    """Also where what the kernel said of the network is spoilt: then it looks different."""
    network.connect()
    container = urunc.create(with_device(tmp_path, network))
    recipe = urunc.root / container.id / "recipe"
    whole = recipe.read_bytes()
    dump = whole.index(b"eth0\0", whole.rindex(b"ask\0")) - 200
    chance = random.Random(9)
    for _ in range(20):
        content = bytearray(whole[: chance.randrange(dump, len(whole))])
        for _ in range(40):
            content[chance.randrange(dump, len(content))] = chance.randrange(256)
        recipe.write_bytes(content)
        assert not sanitized(urunc, program, "start", container.id)
    recipe.write_bytes(whole)
    for verb in ("start", "state"):
        assert sanitized(urunc, program, verb, container.id)
    assert sanitized(urunc, program, "kill", container.id, "9")
    container.wait_stopped()
    assert sanitized(urunc, program, "delete", container.id)


def test_spoilt_recipes(urunc: Urunc, program: str, bundle: Bundle) -> None:
    """Cut, or with bytes that are not its own: it reads nothing that is not there, and ends. What
    names files is left out, for it would be done."""
    container = urunc.create(bundle)
    recipe = urunc.root / container.id / "recipe"
    whole = recipe.read_bytes()
    limit = whole.index(b'"running"') if b'"running"' in whole else whole.index(b'"status": "')
    chance = random.Random(8)
    for _ in range(60):
        content = bytearray(whole[: chance.randrange(len(whole))])
        for _ in range(chance.randrange(4)):
            if content[:limit]:
                content[chance.randrange(min(limit, len(content)))] = chance.randrange(256)
        recipe.write_bytes(content)
        sanitized(urunc, program, "state", container.id)
    recipe.write_bytes(whole)
    container.delete("--force")
