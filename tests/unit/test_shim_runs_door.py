# SPDX-License-Identifier: Apache-2.0
"""How the shim runs the door: which verbs, with what words, and what comes back; what it loads
meanwhile."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from urunc import programs
from urunc.errors import HostError
from urunc.shim import door, verbs
from urunc.shim.verbs import Verbs


@pytest.fixture
def stand_in(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], bytes | None]:
    """Runs a script in the door's place; what it came to."""

    def run(script: str) -> bytes | None:
        file = tmp_path / door.PROGRAM
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        monkeypatch.setattr(programs, "path", lambda name: str(tmp_path / name))
        found: list[bytes | None] = []
        started = door.start(["--root", "/a b", "start", "one"], found.append)
        assert started
        started.finish(os.waitpid(started.pid, 0)[1])
        (answer,) = found
        return answer

    return run


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ('[ "$*" = "--root /a b start one" ] && [ $URUNC_DOOR = only ]', None),
        ("read line; [ -z $line ]", None),
        ("exit 125", b""),
        ("echo no; exit 125", b"no\n"),
        ("kill -9 $$", b""),
    ],
)
def test_what_it_came_to(
    stand_in: Callable[[str], bytes | None], script: str, expected: bytes | None
) -> None:
    assert stand_in(script) == expected


def test_without_it(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    def missing(_name: str) -> str:
        raise HostError("none")

    monkeypatch.setattr(programs, "path", missing)
    assert door.start(["start", "one"], print) is None
    monkeypatch.setattr(programs, "path", lambda name: str(tmp_path / name))
    assert door.start(["start", "one"], print) is None
    monkeypatch.setitem(door.posix.environ, door.SWITCH, b"off")  # type: ignore[attr-defined]  # its module's own import
    assert door.start(["start", "one"], print) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["start", "a"], True),
        (["delete", "--force", "a"], True),
        (["kill", "a", "9"], True),
        (["kill", "--all", "a", "9"], True),
        (["kill", "a", "15"], False),
        (["create", "a"], False),
        (["pause", "9"], False),
    ],
)
def test_verbs(words: list[str], expected: bool) -> None:
    assert door.is_for(words) == expected


@pytest.mark.parametrize("there", [True, False])
def test_what_is_loaded_meanwhile(monkeypatch: pytest.MonkeyPatch, *, there: bool) -> None:
    """Whoever makes a container, the end of it needs no file of urunc's; the shim lives on where
    there is none."""
    name = "shim.unmount" if there else "no_such_module"
    monkeypatch.delitem(sys.modules, f"urunc.{name}", raising=False)
    monkeypatch.setattr(verbs, "MEANWHILE", (name,))
    work: list[Any] = []
    loop: Any = SimpleNamespace(await_worker=work.append)
    codes: list[int] = []
    Verbs(loop).check(lambda: 7, lambda answer: codes.append(answer.code), lambda: None)
    (worker,) = work
    worker.finish(os.waitpid(worker.pid, 0)[1])
    assert codes == [7]
    assert (f"urunc.{name}" in sys.modules) == there
