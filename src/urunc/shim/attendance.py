# SPDX-License-Identifier: Apache-2.0
"""The end of a shim that nobody needs: a source of the loop.

containerd ends its shims by Shutdown, but not one whose answer to `start` it did not accept, and
none if it dies itself between a shim's start and its first container: these have to end alone.
"""

from __future__ import annotations

from time import monotonic

from urunc.linux.files import unlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from urunc.shim.loop import Loop
    from urunc.shim.tasks import Tasks

ALONE_S = 30.0
"""How long a shim without a container stays after its last client has gone, or for its first one.
containerd connects at once, and stays connected until it says Shutdown."""


class Attendance:
    """Whether anybody is there."""

    def __init__(self, loop: Loop, tasks: Tasks, path: str) -> None:
        """`path` is where the loop listens."""
        self._loop = loop
        self._tasks = tasks
        self._path = path
        self._alone_since_s: float | None = monotonic()

    @property
    def busy(self) -> bool:
        """Nobody waits for it."""
        return False

    def descriptors(self) -> tuple[tuple[int, int, Callable[[int], None]], ...]:
        """Nothing to poll for."""
        return ()

    def timeout_s(self) -> float | None:
        """How long it may be alone still; None where it is not."""
        if self._alone_since_s is None:
            return None
        return max(0.0, self._alone_since_s + ALONE_S - monotonic())

    def advance(self) -> None:
        """Look whether it is alone, and leave if it has been so for long."""
        if self._tasks or self._loop.connected or self._loop.leaving:
            self._alone_since_s = None
        elif self._alone_since_s is None:
            self._alone_since_s = monotonic()
        elif monotonic() >= self._alone_since_s + ALONE_S:
            self._loop.leave()
            unlink(self._path)  # from here on the next container gets another shim
