# SPDX-License-Identifier: Apache-2.0
"""A child that undoes what its parent has begun, should the parent be killed: a guest that stands
still goes on, and nothing half made stays."""

from __future__ import annotations

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DONE = b"."
SIGNALS = (1, 2, 3, 13, 15)


class Guard:
    """From its making to `release`, `undo` is called in the child if this process ends. The child
    has the locks that its parent has."""

    def __init__(self, undo: Callable[[], None]) -> None:
        ear, self._mouth = posix.pipe()
        self._pid = posix.fork()
        if self._pid:
            posix.close(ear)
            return
        try:
            import _signal

            for number in SIGNALS:
                _signal.signal(number, _signal.SIG_IGN)
            posix.setsid()
            posix.close(self._mouth)
            if posix.read(ear, 1) != DONE:
                undo()
        finally:
            posix._exit(0)

    def release(self) -> None:
        """Nothing is left to undo."""
        try:
            posix.write(self._mouth, DONE)
        except BrokenPipeError:
            pass  # somebody has killed it
        posix.close(self._mouth)
        posix.waitpid(self._pid, 0)
