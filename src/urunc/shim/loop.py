# SPDX-License-Identifier: Apache-2.0
"""The shim's one loop: poll(2) over connections, children's ends and what other sources give it.

Nothing in it waits but poll. What a call asks for, and what the end of a child means, is for who
has handed it a handler.
"""

from __future__ import annotations

import posix
from _socket import AF_UNIX, SOCK_STREAM
from _socket import socket as Socket
from select import POLLHUP, POLLIN, POLLOUT, poll

from urunc import logs
from urunc.shim.ttrpc import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence
    from typing import Any, Protocol

    from urunc.shim import ttrpc

    class Source(Protocol):
        """What the loop looks after, besides connections and children."""

        @property
        def busy(self) -> bool:
            """Whether the loop must not end for its sake."""

        def descriptors(self) -> Iterable[tuple[int, int, Callable[[int], None]]]:
            """What to poll in the next turn: (descriptor, events, what to call with those that
            came)."""

        def timeout_s(self) -> float | None:
            """When to `advance` whatever happens; None: not at all."""

        def advance(self) -> None:
            """Go on as far as it goes without waiting; called after each turn."""

    class Work(Protocol):
        """A child that does one thing (worker.Worker)."""

        pid: int

        def finish(self, status: int) -> None:
            """It has ended, with this status of wait(2)."""


QUIET_S = 1.0
"""After so long without anything to do memory is given back."""


class Loop:
    """Connections to a listening socket, children, and sources."""

    def __init__(self, listener: Any, services: Mapping[str, Container[str]]) -> None:
        """`services` are the names of the methods of each."""
        self._listener = listener
        self._services = services
        self._connections: list[Connection] = []
        self._workers: dict[int, Callable[[int], None]] = {}
        self._adopted: dict[int, Callable[[int], None]] = {}
        self._unclaimed: dict[int, int] = {}
        """Statuses of children that have ended before they were adopted."""
        self._leaving = False
        self._wake = -1
        self._busy = True
        """Whether anything happened since memory was given back."""

    @property
    def leaving(self) -> bool:
        """Whether it ends as soon as nothing is left to do."""
        return self._leaving

    @property
    def connected(self) -> bool:
        """Whether anybody is connected."""
        return bool(self._connections)

    def leave(self) -> None:
        """End as soon as no source is busy, no worker at work, and no answer unsent."""
        self._leaving = True

    def await_worker(self, work: Work) -> None:
        """Call a worker's `finish` when it has ended. Until then the loop does not."""
        self._workers[work.pid] = work.finish

    def adopt(self, pid: int, ended: Callable[[int], None]) -> None:
        """Call `ended` with the status of wait(2) when this child, which a worker has made, ends;
        at once if it has."""
        if pid in self._unclaimed:
            ended(self._unclaimed.pop(pid))
        else:
            self._adopted[pid] = ended
        if not self._workers:
            self._unclaimed.clear()

    def disown(self, pid: int) -> None:
        """Nobody asks for this child's end any more."""
        self._adopted.pop(pid, None)

    def run(
        self, serve: Callable[[Connection, ttrpc.Request], None], sources: Sequence[Source]
    ) -> None:
        """Serve until there is nothing left to serve: `serve` answers a call, at once or later."""
        self._wake = _wake_on_children()
        self._reap(0)  # who has ended before that wakes nobody
        while not self._leaving or self._has_work(sources):
            self._turn(serve, sources)

    def _has_work(self, sources: Sequence[Source]) -> bool:
        """Whether somebody waits for an answer or an event, or a container has come meanwhile."""
        unsent = any(connection.sending for connection in self._connections)
        return bool(self._workers) or unsent or any(source.busy for source in sources)

    def _turn(
        self, serve: Callable[[Connection, ttrpc.Request], None], sources: Sequence[Source]
    ) -> None:
        poller = poll()
        handlers: dict[int, Callable[[int], None]] = {}

        def watch(fd: int, events: int, handler: Callable[[int], None]) -> None:
            poller.register(fd, events)
            handlers[fd] = handler

        watch(self._listener.fileno(), POLLIN, self._accept)
        watch(self._wake, POLLIN, self._reap)
        for connection in self._connections:
            wanted = POLLIN | (POLLOUT if connection.sending else 0)
            watch(connection.fileno(), wanted, _talk(connection, serve))
        for source in sources:
            for fd, events, handler in source.descriptors():
                watch(fd, events, handler)
        ready = poller.poll(self._patience_ms(sources))
        for fd, events in ready:
            handlers[fd](events)
        if self._busy and not ready and not self._workers:
            from urunc.shim.memory import give_back

            give_back()
        self._busy = bool(ready or self._workers)
        for source in sources:
            source.advance()
        for connection in [item for item in self._connections if item.closed]:
            connection.close()
            self._connections.remove(connection)

    def _patience_ms(self, sources: Sequence[Source]) -> int | None:
        """How long nothing has to be looked after; None: until something happens."""
        waits_s = [source.timeout_s() for source in sources]
        if self._busy and not self._workers:
            waits_s.append(QUIET_S)
        known = [wait_s for wait_s in waits_s if wait_s is not None]
        return int(min(known) * 1000) + 1 if known else None

    def _accept(self, _events: int) -> None:
        try:
            fd, _ = self._listener._accept()  # socket.accept() is Python's, in a module of its own
        except OSError:
            return
        peer = Socket(AF_UNIX, SOCK_STREAM, 0, fd)
        self._connections.append(Connection(peer, self._services))

    def _reap(self, _events: int) -> None:
        try:
            posix.read(self._wake, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = posix.waitpid(-1, posix.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid in self._workers:
                _tell(self._workers.pop(pid), pid, status)
            elif pid in self._adopted:
                _tell(self._adopted.pop(pid), pid, status)
            elif self._workers:  # one of them may have made it, and not said so yet
                self._unclaimed[pid] = status


def _tell(ended: Callable[[int], None], pid: int, status: int) -> None:
    """Tell of a child's end; what goes wrong in that is no other child's, nor the loop's."""
    try:
        ended(status)
    except Exception as error:
        logs.warn(f"after the end of process {pid}: {type(error).__name__}: {error}")


def _talk(
    connection: Connection, serve: Callable[[Connection, ttrpc.Request], None]
) -> Callable[[int], None]:
    def talk(events: int) -> None:
        if events & POLLOUT:
            connection.send()
        if events & (POLLIN | POLLHUP):
            for called in connection.receive():
                serve(connection, called)

    return talk


def _wake_on_children() -> int:
    """A descriptor that is readable when a child has ended."""
    import _signal

    read, write = posix.pipe()
    for fd in (read, write):
        posix.set_blocking(fd, False)
    _signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    _signal.signal(_signal.SIGCHLD, lambda *_: None)
    return read
