# SPDX-License-Identifier: Apache-2.0
"""A client of a running monitor's control socket, which is in the monitor's own root.

The monitor is not trusted: links in its root are resolved within it, and the peer must be the
monitor itself. Answers have a time limit, after which the caller gets an error and goes on without.
The protocol is the monitor's (Monitor.order).
"""

from __future__ import annotations

import posix
from sys import byteorder

from urunc.errors import MonitorError, reason
from urunc.linux import process
from urunc.linux.files import O_PATH, open_in_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

ANSWER_TIMEOUT_S = 2.0
LINE_LIMIT_BYTES = 1 << 20
NONSENSE = (ValueError, KeyError, TypeError, AttributeError)
"""Errors from parsing an answer that is not what it should be."""


class Control:
    """A connection to a monitor's control socket (a Unix stream socket)."""

    def __init__(self, pid: int, path: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        from _socket import AF_UNIX, SO_PEERCRED, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET
        from _socket import socket as Socket

        self._buffer = b""
        self._timeout_s = timeout_s
        try:
            fd = open_in_root(f"/proc/{pid}/root", path, O_PATH)
            try:
                self._socket = Socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
                self._socket.settimeout(timeout_s)
                self._socket.connect(f"/proc/self/fd/{fd}")
            finally:
                posix.close(fd)
        except OSError as error:
            raise MonitorError(f"control socket '{path}': {reason(error)}") from None
        peer = int.from_bytes(self._socket.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)[:4], "little")
        # or the monitor is a child of the supervisor, which is `pid`
        if peer != pid and process.parent(peer) != pid:
            self._socket.close()
            raise MonitorError(f"control socket '{path}': process {peer} answers, not the monitor")

    def fileno(self) -> int:
        """The socket's descriptor, to poll for events."""
        return self._socket.fileno()

    def send(self, content: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Send bytes, with descriptors (unix(7), SCM_RIGHTS); raises MonitorError."""
        try:
            if descriptors:
                content = content[self._pass_on(content, descriptors) :]
            self._socket.sendall(content)
        except OSError as error:
            raise MonitorError(f"control socket: {reason(error)}") from None

    def _pass_on(self, content: bytes, descriptors: tuple[int, ...]) -> int:
        from _socket import SCM_RIGHTS, SOL_SOCKET

        numbers = b"".join(fd.to_bytes(4, byteorder) for fd in descriptors)
        return int(self._socket.sendmsg([content], [(SOL_SOCKET, SCM_RIGHTS, numbers)]))

    def line(self) -> bytes:
        """The next line, without its end. Raises MonitorError after the time limit, and at the end
        of the stream."""
        while b"\n" not in self._buffer:
            self._receive()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r")

    def read(self, count: int) -> bytes:
        """The next `count` bytes, LINE_LIMIT_BYTES at most; raises MonitorError as `line` does."""
        while len(self._buffer) < min(count, LINE_LIMIT_BYTES):
            self._receive()
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def _receive(self) -> None:
        try:
            part = self._socket.recv(1 << 16)
        except TimeoutError:
            raise MonitorError(f"control socket: no answer within {self._timeout_s:g} s") from None
        except OSError as error:
            raise MonitorError(f"control socket: {reason(error)}") from None
        if not part or len(self._buffer) > LINE_LIMIT_BYTES:
            raise MonitorError("control socket: closed in the middle of an answer")
        self._buffer += part

    def lines(self) -> list[bytes]:
        """The complete lines that have arrived, without waiting; raises MonitorError at the end of
        the stream."""
        from _socket import MSG_DONTWAIT

        try:
            part = self._socket.recv(1 << 16, MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError as error:
            raise MonitorError(f"control socket: {reason(error)}") from None
        if not part and not self._buffer:
            raise MonitorError("control socket: closed")
        *whole, self._buffer = (self._buffer + part).split(b"\n")
        if not part or len(self._buffer) > LINE_LIMIT_BYTES:
            self._buffer = b""
        return [line.rstrip(b"\r") for line in whole]

    def close(self) -> None:
        self._socket.close()
