# SPDX-License-Identifier: Apache-2.0
"""Containers of the ordinary runtime by the door: which runtime that is, Python has noted, and as
long as nothing of that has changed the door hands their verbs to it without Python."""

from __future__ import annotations

import os
import pathlib
import random
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from lib.busybox import BUSYBOX
from lib.doors import handed_over, make_door, make_sanitized
from lib.patience import patient, until
from lib.support import Bundle, Urunc, need, nothing_left

pytestmark = pytest.mark.usefixtures("with_door")

NAME = "one"
TELLS = """#!/bin/sh
echo "$0" "$@" "$PATH"
grep -E 'SigBlk|SigIgn' /proc/self/status
"""
"""In place of a runtime: what it was given."""


@pytest.fixture
def alone(urunc: Urunc, tmp_path: pathlib.Path) -> Urunc:
    """The same root and configuration, by the door alone."""
    made = Urunc.__new__(Urunc)
    made.__dict__.update(urunc.__dict__, program=str(tmp_path / "door"))
    make_door(tmp_path / "door", "/nowhere/launch")
    return made


@pytest.fixture
def path(urunc: Urunc, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A PATH whose second directory has a runtime that tells, and a container of it."""
    program = tmp_path / "second/runc"
    (tmp_path / "first").mkdir()
    program.parent.mkdir()
    program.write_text(TELLS)
    program.chmod(0o755)
    (urunc.root / NAME).mkdir(parents=True)
    before = os.environ["PATH"]
    monkeypatch.setenv("PATH", f"{program.parent.with_name('first')}:{program.parent}:{before}")
    yield os.environ["PATH"]
    urunc("features", PATH=before)  # what was noted for those without PATH is no more
    (urunc.root / NAME).rmdir()


def test_a_life(urunc: Urunc, alone: Urunc, tmp_path: pathlib.Path) -> None:
    need("runc", "busybox")
    bundle = Bundle(tmp_path / "b")
    bundle.add("bin/sh", BUSYBOX)
    bundle.args("/bin/sh", "-c", "trap 'exit 3' TERM; sleep 30 & wait")
    (bundle.root / "proc").mkdir()
    bundle.config["mounts"] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        shown = urunc("state", container.id, URUNC_DOOR="off").stdout
        assert alone("state", container.id).stdout == shown
        assert handed_over(alone("pause", container.id, check=False))
        alone("start", container.id)
        refused = alone("delete", container.id, check=False)
        assert refused.returncode and not handed_over(refused)
        alone("kill", container.id, "KILL")
        until(lambda: urunc.state(container.id)["status"] == "stopped")
        alone("delete", container.id)
        assert not (urunc.root / container.id).exists()


@pytest.mark.parametrize(
    "words",
    [("state", NAME), ("start", NAME), ("kill", NAME), ("kill", "--all", NAME, "RTMIN+3"),
     ("delete", "--force", NAME), ("delete", "-f", NAME)],
)  # fmt: skip
def test_the_same_words(urunc: Urunc, alone: Urunc, path: str, words: tuple[str, ...]) -> None:
    """Also for whoever has blocked signals or ignores them, as Python's callers do."""

    def run(runtime: Urunc, **environment: str) -> Any:
        def before() -> None:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})

        command = runtime.command("--log-format=json", "--systemd-cgroup", *words)
        return subprocess.run(
            command, preexec_fn=before, capture_output=True, text=True, check=True,
            env=os.environ | environment,
        ).stdout  # fmt: skip

    by_python = run(urunc, URUNC_DOOR="off")
    assert f"/second/runc --root {urunc.root} --log-format=json --systemd-cgroup {words[0]}" in (
        by_python
    )
    assert run(alone) == by_python


def test_without_a_path(urunc: Urunc, alone: Urunc, path: str) -> None:
    """The runtime that was found last by somebody with one."""
    bare = ["env", "-i"]
    urunc("state", NAME)
    urunc.prefix = alone.prefix = bare
    by_python = urunc("state", NAME).stdout
    assert "/second/runc" in by_python
    assert alone("state", NAME).stdout == by_python
    urunc.prefix = []
    urunc("features", PATH=path.rpartition("/second:")[2])
    assert handed_over(alone("state", NAME, check=False))


CHANGES = ("configuration", "runtime", "another before it", "path", "journal")


@pytest.mark.parametrize("change", CHANGES)
def test_what_holds_no_more(
    urunc: Urunc, alone: Urunc, tmp_path: pathlib.Path, path: str, change: str
) -> None:
    assert handed_over(alone("state", NAME, PATH=f"{path}:/nobody/else", check=False))
    urunc("state", NAME)
    alone("state", NAME)
    environment: dict[str, Any] = {}
    if change == "configuration":
        urunc.config.write_text(urunc.config.read_text() + "\n")
    elif change == "runtime":
        (tmp_path / "second/runc").chmod(0o700)
    elif change == "another before it":
        (tmp_path / "first/runc").write_text("")
    elif change == "path":
        environment["PATH"] = f"{path}:/more"
    else:
        (urunc.root / NAME / "journal").touch()
    assert handed_over(alone("state", NAME, check=False, **environment))
    (urunc.root / NAME / "journal").unlink(missing_ok=True)
    urunc("state", NAME, **environment)
    alone("state", NAME, **environment)


def test_a_spoilt_note(urunc: Urunc, tmp_path: pathlib.Path, path: str) -> None:
    """Cut, or with bytes that are not its own, it is nothing to go by. Its end, which is what to
    run, is left as it is: whoever can write there is root."""
    program = tmp_path / "sanitized"
    make_sanitized(program, "DOOR")
    note = pathlib.Path("/run/urunc.d/programs/ordinary.recipe")
    urunc("state", NAME)
    whole = note.read_bytes()
    last = whole.rindex(b"\0", 0, -1)
    command = [
        str(program),
        "--root",
        str(urunc.root),
        "--config",
        str(urunc.config),
        "state",
        NAME,
    ]
    environment = {"PATH": path, "ASAN_OPTIONS": "detect_leaks=0"}  # it frees nothing: it ends

    def works(content: bytes) -> bool:
        note.write_bytes(content)
        done = subprocess.run(command, capture_output=True, env=environment, timeout=patient(20))
        assert b"Sanitizer" not in done.stderr and b"runtime error" not in done.stderr
        return done.returncode == 0

    chance = random.Random(7)
    for _ in range(20):
        assert not works(whole[: chance.randrange(last)])
        spoilt = bytearray(whole)
        for place in chance.sample(range(last), 3):
            spoilt[place] ^= 1 << chance.randrange(8)
        assert not works(bytes(spoilt))
    assert works(whole)
