# SPDX-License-Identifier: Apache-2.0
"""The verbs of a unikernel that its recipe is for, carried out by the door (door/) for the shim:
no copy of this process is made, whose pages it would have to give up one by one, and the modules of
these verbs are not loaded. What the door leaves alone is a worker's (worker.py).
"""

from __future__ import annotations

import posix

from urunc import programs
from urunc.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM = "urunc-door"
SWITCH = b"URUNC_DOOR"
"""An environment variable: `only` has it do nothing but what a recipe says, `off` nothing."""
KILLING = "9"
SAID_LIMIT_BYTES = 1 << 16
SIGPIPE, SIGXFSZ = 13, 25
"""Signals that CPython ignores, and a program that it starts would."""


class Door:
    """A door at work, which the loop waits for."""

    def __init__(self, pid: int, said: int, done: Callable[[bytes | None], None]) -> None:
        self.pid = pid
        self._said = said
        self._done = done

    def finish(self, status: int) -> None:
        """It has ended, with this status of wait(2)."""
        try:
            said = posix.pread(self._said, SAID_LIMIT_BYTES, 0)
        finally:
            posix.close(self._said)
        self._done(said if status else None)


def is_for(words: list[str]) -> bool:
    """Whether a recipe may say what a verb does."""
    return words[0] in ("start", "delete") or (words[0] == "kill" and words[-1] == KILLING)


def start(words: list[str], done: Callable[[bytes | None], None]) -> Door | None:
    """Start it with a command line of urunc's (without the program's name); None where it is
    not there, or not wanted. `done` gets None where it has done it, and else what init has said in
    place of starting, which may be nothing."""
    if posix.environ.get(SWITCH) == b"off":
        return None
    try:
        path = programs.path(PROGRAM)
    except HostError:
        return None
    said = posix.memfd_create("said")
    actions = [
        (posix.POSIX_SPAWN_OPEN, 0, "/dev/null", posix.O_RDONLY, 0),
        (posix.POSIX_SPAWN_DUP2, said, 1),
    ]
    try:
        pid = posix.posix_spawn(
            path, ["urunc", *words], {**posix.environ, SWITCH: b"only"},
            file_actions=actions, setsigdef=(SIGPIPE, SIGXFSZ), setsigmask=(),
        )  # fmt: skip
    except OSError:
        posix.close(said)
        return None
    return Door(pid, said, done)
