# SPDX-License-Identifier: Apache-2.0
"""How the shim runs the door: which verbs, with what words, and what comes back."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import pytest

from urunc import programs
from urunc.errors import HostError
from urunc.shim import door


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
