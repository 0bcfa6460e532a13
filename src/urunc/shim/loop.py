# SPDX-License-Identifier: Apache-2.0
"""The shim's one loop: connections and their requests, children and their ends, workers, streams.

Nothing in it waits but poll(2). Who asked for what, and what is done about it, is the service's
(service.py), which this class is the ground of.
"""

from __future__ import annotations

import posix
from _socket import AF_UNIX, SOCK_STREAM
from _socket import socket as Socket
from select import POLLHUP, POLLIN, POLLOUT, poll

from urunc.errors import Error as RuntimeProblem
from urunc.shim.messages import MessageError, decode, encode
from urunc.shim.stdio import SETTLE_MS, settle
from urunc.shim.tables import METHODS
from urunc.shim.ttrpc import INTERNAL, INVALID_ARGUMENT, UNKNOWN, Connection, StatusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from urunc.shim import ttrpc
    from urunc.shim.publisher import Publisher
    from urunc.shim.tasks import Task, TaskProcess
    from urunc.shim.terminal import Terminal
    from urunc.shim.worker import Worker

VERSIONS = {"containerd.task.v2.Task": "v2", "containerd.task.v3.Task": "v3"}
HANDLERS = {"ResizePty": "resize_pty", "CloseIO": "close_io"}
"""method → its handler's name, where that is not the method's in small letters."""
QUIET_S = 1.0
"""After so long without anything to do memory is given back."""


class Call:
    """A request that waits for its answer."""

    def __init__(self, connection: Connection, called: ttrpc.Request) -> None:
        self.connection = connection
        self.stream = called.stream
        self.package = f"containerd.task.{VERSIONS[called.service]}"
        self.method = called.method
        self.values = decode(f"{self.package}.{METHODS[called.method][0]}", called.payload)

    def answer(self, **values: Any) -> None:
        """Answer it with the method's response."""
        response = METHODS[self.method][1]
        name = response if "." in response else f"{self.package}.{response}"
        self.connection.respond(self.stream, encode(name, values))

    def refuse(self, code: int, message: str) -> None:
        """Answer it with a status."""
        self.connection.fail(self.stream, StatusError(code, message))


class Loop:
    """What every request and every ended child comes through."""

    def __init__(self, listener: Any, path: str, publisher: Publisher) -> None:
        self.listener = listener
        self.path = path
        """Where it listens."""
        self.publisher = publisher
        self.tasks: dict[str, Task] = {}
        self.connections: list[Connection] = []
        self.workers: dict[int, Worker] = {}
        self.processes: dict[int, tuple[Task, TaskProcess]] = {}
        self.unclaimed: dict[int, int] = {}
        """Ends of children whose pids are not known yet."""
        self.leaving = False
        self._wake = -1
        self._busy = True
        """Whether anything happened since memory was given back."""
        self._settling = False
        """Whether something that outlives its process has to be looked after (stdio.settle)."""

    def run(self) -> None:
        """Serve until there is nothing left to serve."""
        self._wake = _wake_on_children()
        while not self.leaving or self._is_busy():
            self._turn()

    def _is_busy(self) -> bool:
        """Whether somebody waits for an answer or an event, or a container has come meanwhile."""
        unsent = any(connection.sending for connection in self.connections)
        return bool(self.tasks or self.workers) or unsent or not self.publisher.empty

    def _turn(self) -> None:
        poller = poll()
        poller.register(self.listener.fileno(), POLLIN)
        poller.register(self._wake, POLLIN)
        handlers: dict[int, Callable[[int], None]] = {
            self.listener.fileno(): self._accept,
            self._wake: self._reap,
        }

        def watch(fd: int, events: int, handler: Callable[[int], None]) -> None:
            poller.register(fd, events)
            handlers[fd] = handler

        for connection in self.connections:
            wanted = POLLIN | (POLLOUT if connection.sending else 0)
            watch(connection.fileno(), wanted, self._talk(connection))
        for fd, events in self.publisher.descriptors():
            watch(fd, events, lambda _: self.publisher.advance())
        for task in self.tasks.values():
            for process in (task.init, *task.execs.values()):
                for fd, events in process.terminal.descriptors() if process.terminal else ():
                    watch(fd, events, _relay(process.terminal, fd))
            if task.memory and task.memory.fd >= 0:
                watch(task.memory.fd, task.memory.events, self.hear_memory(task))
        ready = poller.poll(self._patience_ms())
        for fd, events in ready:
            if fd in handlers:
                handlers[fd](events)
        if self._busy and not ready and not self.workers:
            from urunc.shim.memory import give_back

            give_back()
        self._busy = bool(ready or self.workers)
        self._settling = settle()
        self.publisher.advance()
        for connection in [item for item in self.connections if item.closed]:
            connection.close()
            self.connections.remove(connection)

    def _patience_ms(self) -> int | None:
        """How long nothing has to be looked after; None: until something happens."""
        waits_s = [self.publisher.timeout_s()]
        if self._settling:
            waits_s.append(SETTLE_MS / 1000)
        if self._busy and not self.workers:
            waits_s.append(QUIET_S)
        known = [wait_s for wait_s in waits_s if wait_s is not None]
        return int(min(known) * 1000) + 1 if known else None

    def _accept(self, _events: int) -> None:
        try:
            fd, _ = self.listener._accept()  # socket.accept() is Python's, in a module of its own
        except OSError:
            return
        peer = Socket(AF_UNIX, SOCK_STREAM, 0, fd)
        self.connections.append(Connection(peer, dict.fromkeys(VERSIONS, METHODS)))

    def _talk(self, connection: Connection) -> Callable[[int], None]:
        def talk(events: int) -> None:
            if events & POLLOUT:
                connection.send()
            if events & (POLLIN | POLLHUP):
                for called in connection.receive():
                    self._serve(connection, called)

        return talk

    def _serve(self, connection: Connection, called: ttrpc.Request) -> None:
        method = called.method
        try:
            getattr(self, f"do_{HANDLERS.get(method, method.lower())}")(Call(connection, called))
            return
        except StatusError as error:
            answer = error
        except MessageError as error:
            answer = StatusError(INVALID_ARGUMENT, f"{method}: {error}")
        except RuntimeProblem as error:
            answer = StatusError(UNKNOWN, str(error))
        except OSError as error:
            where = f" '{error.filename}'" if error.filename else ""
            answer = StatusError(UNKNOWN, f"{method}: {error.strerror or error}{where}")
        except Exception as error:  # a defect of ours must not end the other containers' shim
            answer = StatusError(INTERNAL, f"{method}: {type(error).__name__}: {error}")
        connection.fail(called.stream, answer)

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
            if pid in self.workers:
                self.workers.pop(pid).finish(status)
            elif pid in self.processes:
                self.ended(*self.processes.pop(pid), status)
            else:
                self.unclaimed[pid] = status

    def adopt(self, task: Task, process: TaskProcess, pid: int) -> None:
        """A process of a container is known by its pid from here on; it may have ended already."""
        process.pid = pid
        if pid in self.unclaimed:
            self.ended(task, process, self.unclaimed.pop(pid))
        else:
            self.processes[pid] = (task, process)
        if not self.workers:
            self.unclaimed.clear()

    # the service's

    def ended(self, task: Task, process: TaskProcess, status: int) -> None:
        """A process of a container has ended, with this status of wait(2)."""
        raise NotImplementedError

    def hear_memory(self, task: Task) -> Callable[[int], None]:
        """What hears of a container's memory."""
        raise NotImplementedError


def _relay(terminal: Terminal | None, fd: int) -> Callable[[int], None]:
    assert terminal
    return lambda events: terminal.ready(fd, events)


def _wake_on_children() -> int:
    """A descriptor that is readable when a child has ended."""
    import _signal

    read, write = posix.pipe()
    for fd in (read, write):
        posix.set_blocking(fd, False)
    _signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    _signal.signal(_signal.SIGCHLD, lambda *_: None)
    return read
