# SPDX-License-Identifier: Apache-2.0
"""`run` in the foreground with a terminal: what the user types goes to the guest's, and what that
shows comes back, until the container ends.

The engine's part of a terminal (conmon, a shim) played by ourselves: init sends the other end over
a socket, as it would to them.
"""

from __future__ import annotations

import posix
from fcntl import ioctl
from select import POLLHUP, POLLIN, poll

from urunc.init.root_steps import TIOCSWINSZ
from urunc.linux.files import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TIOCGWINSZ = 0x5413
DESCRIPTOR_BYTES = 4
ESCAPE_WAIT_MS = 200


class Session:
    """The terminal of one `run`. `init_end` is the socket to give to create."""

    def __init__(self) -> None:
        from _socket import socketpair

        ours, theirs = socketpair()
        self._ours = ours
        self.init_end: int = theirs.detach()
        self._master = -1
        self._before: list[Any] | None = None

    def take(self) -> None:
        """Receive the guest's terminal, and make the user's own hand every key on unchanged."""
        from _socket import CMSG_SPACE, SCM_RIGHTS

        _, extra, _, _ = self._ours.recvmsg(4096, CMSG_SPACE(DESCRIPTOR_BYTES))
        for _, kind, content in extra:
            if kind == SCM_RIGHTS:
                self._master = int.from_bytes(content[:DESCRIPTOR_BYTES], "little")
        self.resize()
        if posix.isatty(0):
            import termios
            import tty

            self._before = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSANOW)  # what was typed ahead is kept

    def resize(self) -> tuple[int, int] | None:
        """Give the container's terminal the size of the user's: (rows, columns), where there are
        both."""
        if self._master < 0 or not posix.isatty(0):
            return None
        size = ioctl(0, TIOCGWINSZ, bytes(8))
        ioctl(self._master, TIOCSWINSZ, size)
        return int.from_bytes(size[:2], "little"), int.from_bytes(size[2:4], "little")

    def copy(self, pidfd: int) -> None:
        """Pass bytes both ways until the process of a pidfd has ended and all it wrote is shown."""
        poller = poll()
        for fd in (0, self._master, pidfd):
            poller.register(fd, POLLIN)
        ended = False
        while True:
            try:
                ready = dict(poller.poll(ESCAPE_WAIT_MS if ended else None))
            except InterruptedError:
                continue
            if 0 in ready and not self._pass(0, self._master):
                poller.unregister(0)
            if self._master in ready:
                if ready[self._master] & POLLIN:
                    if not self._pass(self._master, 1):
                        return
                elif ready[self._master] & POLLHUP:
                    return
            elif ended:
                return
            if pidfd in ready:
                ended = True
                poller.unregister(pidfd)

    def _pass(self, source: int, target: int) -> bool:
        try:
            part = posix.read(source, 1 << 14)
            if part:
                write_all(target, part)
        except OSError:
            return False  # EIO: the other end of a terminal is closed
        return bool(part)

    def close(self) -> None:
        """Give the user's terminal back as it was."""
        if self._before is not None:
            import termios

            termios.tcsetattr(0, termios.TCSADRAIN, self._before)
            self._before = None
        if self._master >= 0:
            posix.close(self._master)
            self._master = -1
