# SPDX-License-Identifier: Apache-2.0
"""A process's terminal in the shim: the socket that the runtime sends its master over, and what
passes bytes between the master and the client's FIFOs.

The shim's loop drives it; nothing waits, and what is held is bounded, so a client that stops
reading stops this terminal and nothing else. Runs in the shim.
"""

from __future__ import annotations

import posix
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    SCM_RIGHTS,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
)
from _socket import socket as Socket
from select import POLLERR, POLLHUP, POLLIN, POLLOUT
from time import monotonic

from urunc.errors import HostError, reason
from urunc.linux.files import unlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.shim.stdio import TaskStreams

TIOCSWINSZ = 0x5414
BUFFER_BYTES = 1 << 16
DESCRIPTOR_BYTES = 4
ROUNDS, LAST_ROUNDS = 4, 64
"""How often in a row it is read, so that one that writes without end holds nobody up."""
QUIET_S = 0.2
"""How long a terminal that others still have open is silent before it counts as read empty."""


class Terminal:
    """The terminal of one process, over opened streams."""

    def __init__(self, streams: TaskStreams, directory: str = "/run") -> None:
        """Listen for the runtime, in a new directory below a short one; raises HostError."""
        self._streams = streams
        self._master = -1
        self._size: tuple[int, int] | None = None
        self._to_master = b""
        self._to_client = b""
        self._line_begun = False
        self._input_ended = streams.input < 0
        self._ended = False
        self._quiet_since = 0.0
        self._directory = f"{directory}/urunc-{posix.urandom(8).hex()}"
        self.socket_path = f"{self._directory}/tty"
        """What the runtime gets as its console socket."""
        self._sockets: dict[int, Socket] = {}
        try:
            posix.mkdir(self._directory, 0o700)
            listener = Socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK)
            self._sockets[listener.fileno()] = listener
            self._listener = listener.fileno()
            listener.bind(self.socket_path)
            listener.listen(1)
        except OSError as error:
            self._stop_listening()
            raise HostError(f"console socket '{self.socket_path}': {reason(error)}") from None
        streams.relay = self

    def descriptors(self) -> list[tuple[int, int]]:
        """What to poll for now, and for what; it changes with each call of `ready`."""
        found = [(fd, POLLIN) for fd in self._sockets]
        if self._master >= 0:
            if not self._input_ended and len(self._to_master) < BUFFER_BYTES:
                found.append((self._streams.input, POLLIN))
            events = POLLIN if not self._ended and len(self._to_client) < BUFFER_BYTES else 0
            events |= POLLOUT if self._to_master else 0
            if events:
                found.append((self._master, events))
        if self._to_client:
            found.append((self._streams.output, POLLOUT))
        return found

    def ready(self, fd: int, events: int) -> None:
        """What `poll` found; never waits, nor does it raise."""
        if fd in self._sockets:
            self._hear(fd)
        elif fd == self._master:
            if events & POLLOUT or (self._to_master and events & (POLLHUP | POLLERR)):
                self._feed()
            if events & (POLLIN | POLLHUP | POLLERR):
                self._drain()
        elif fd == self._streams.input and not self._input_ended:
            self._take()
        elif fd == self._streams.output:
            self._flush()

    def resize(self, width: int, height: int) -> None:
        """Columns and rows; those of before the terminal came are kept for it."""
        self._size = width & 0xFFFF, height & 0xFFFF
        if self._master >= 0:
            self._set_size()

    def close_stdin(self) -> None:
        """CloseIO: once the client has closed its end too, the terminal is told."""
        self._streams.close_stdin()

    def finish(self) -> None:
        """The process has ended: what it wrote is passed on, then the output ends."""
        for _ in range(2):  # it may have been so quick that its terminal is in the socket still
            for fd in list(self._sockets):
                if fd in self._sockets:
                    self._hear(fd)
        self._stop_listening()
        self._quiet_since = monotonic()
        self._streams.settling.later(self)

    def settled(self) -> bool:
        """Whether it has been read empty; others may have it open still, without writing."""
        self._drain()
        quiet = monotonic() - self._quiet_since > QUIET_S
        if not self._to_client and (quiet or self._master < 0):
            self._end()
        return self._ended and not self._to_client

    def close(self) -> None:
        """Pass on what can be passed on at once, and let go; can be repeated."""
        self._stop_listening()
        self._drain(LAST_ROUNDS)
        self._to_client = self._to_master = b""
        self._end()
        if self._master >= 0:
            posix.close(self._master)
            self._master = -1

    # the socket

    def _hear(self, fd: int) -> None:
        """The runtime connects, or sends the master."""
        try:
            if fd == self._listener:
                # socket.accept() is Python's, in a module of its own, and typeshed has no other
                accepted, _ = self._sockets[fd]._accept()  # type: ignore[attr-defined]  # _socket's own
                peer = Socket(AF_UNIX, SOCK_STREAM, 0, accepted)
                peer.setblocking(False)
                self._sockets[accepted] = peer
                return
            content, extra, _, _ = self._sockets[fd].recvmsg(
                4096, CMSG_SPACE(DESCRIPTOR_BYTES), MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            content, extra = b"", []
        for _, kind, data in extra:
            if kind == SCM_RIGHTS and len(data) >= DESCRIPTOR_BYTES:
                self._own(int.from_bytes(data[:DESCRIPTOR_BYTES], "little"))
        if self._master >= 0:
            self._stop_listening()
        elif not content and fd in self._sockets:
            self._sockets.pop(fd).close()

    def _own(self, fd: int) -> None:
        if self._master >= 0 or not posix.isatty(fd):
            posix.close(fd)
            return
        posix.set_blocking(fd, False)
        self._master = fd
        self._set_size()

    def _stop_listening(self) -> None:
        for item in self._sockets.values():
            item.close()
        self._sockets.clear()
        if self._directory:
            try:
                unlink(self.socket_path)
                posix.rmdir(self._directory)
            except OSError:
                pass  # it was never made, or somebody was faster
            self._directory = ""

    def _set_size(self) -> None:
        if self._size:
            from _struct import pack
            from fcntl import ioctl

            try:
                ioctl(self._master, TIOCSWINSZ, pack("HHHH", self._size[1], self._size[0], 0, 0))
            except OSError:
                pass  # hung up meanwhile

    # client → master

    def _take(self) -> None:
        try:
            part = posix.read(self._streams.input, BUFFER_BYTES - len(self._to_master))
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if part:
            self._line_begun = part[-1:] not in (b"\n", b"\r")
        else:
            self._input_ended = True
            part = self._end_of_input()
        self._to_master += part
        self._feed()

    def _end_of_input(self) -> bytes:
        """What a person would type to end the input. Hanging the terminal up would end the process
        as well, and a guest's monitor with it."""
        from termios import ICANON, VEOF, error, tcgetattr

        try:
            attributes = tcgetattr(self._master)
        except error:
            return b""
        character = attributes[6][VEOF]
        assert isinstance(character, bytes)
        if not attributes[3] & ICANON:
            return b"\x04"  # to whatever reads the line for itself
        if character == b"\0":
            return b""
        # in the middle of a line the first ends the line only (termios(3))
        return character * 2 if self._line_begun else character

    def _feed(self) -> None:
        if not self._to_master:
            return
        try:
            written = posix.write(self._master, self._to_master)
        except BlockingIOError:
            return
        except OSError:
            written = len(self._to_master)  # EIO: nobody is there to read it
        self._to_master = self._to_master[written:]

    # master → client

    def _drain(self, rounds: int = ROUNDS) -> None:
        """Read what there is, as far as it can be held."""
        for _ in range(rounds):
            if self._master < 0 or self._ended or len(self._to_client) >= BUFFER_BYTES:
                break
            try:
                part = posix.read(self._master, BUFFER_BYTES - len(self._to_client))
            except BlockingIOError:
                break
            except OSError:
                part = b""  # EIO: every other end is closed
            if not part:
                self._ended = True
                break
            self._quiet_since = monotonic()
            if self._streams.output >= 0:
                self._to_client += part
                if not self._flush():
                    break
        if self._ended:
            self._end()

    def _flush(self) -> bool:
        """Write what is held to the client; whether all of it went."""
        if self._to_client:
            try:
                written = posix.write(self._streams.output, self._to_client)
            except BlockingIOError:
                return False
            except OSError:
                written = len(self._to_client)  # a logging binary that is gone, a full disk
            self._to_client = self._to_client[written:]
        if self._ended:
            self._end()
        return not self._to_client

    def _end(self) -> None:
        """Nothing more comes; once all of it is written, the client sees the end."""
        self._ended = True
        if not self._to_client:
            self._input_ended = True
            self._streams.end_output()
