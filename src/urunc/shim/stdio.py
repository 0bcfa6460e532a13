# SPDX-License-Identifier: Apache-2.0
"""A process's standard streams as containerd names them: nothing, a FIFO, a file, a logging binary.

Without a terminal nothing is copied: the process has the FIFO's own end. The shim keeps a reader of
its output, so that a client that went away costs it no SIGPIPE, and a writer of its input until
CloseIO, so that the input does not end before its client came. Nothing here waits, whoever opens
first. Runs in the shim, with its privilege; the relay of a terminal is lifecycle/terminal.py's.
"""

from __future__ import annotations

import posix
from select import POLLERR, poll
from time import monotonic

from urunc.errors import HostError, reason
from urunc.linux.files import O_PATH, make_directories

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Unsettled(Protocol):
        """What outlives its process for a while."""

        def settled(self) -> bool:
            """Go on as far as it goes without waiting; True where nothing is left to do."""

    class Relay(Protocol):
        """What passes bytes between streams and a terminal."""

        def finish(self) -> None:
            """The process has ended."""

        def close(self) -> None:
            """Let go of everything."""


SETTLE_MS = 100
"""How often what is not settled yet is looked at."""
READY_TIMEOUT_S = 30
TERMINATE_AFTER_S, KILL_AFTER_S = 2, 12
"""A logging binary's time after its container is removed: to end by itself, and after SIGTERM."""

S_IFMT, S_IFIFO = 0o170000, 0o010000
O_NOCTTY = 0o400
APPEND = posix.O_WRONLY | posix.O_APPEND | posix.O_CLOEXEC | O_NOCTTY
SIGKILL, SIGPIPE, SIGTERM, SIGXFSZ = 9, 13, 15, 25


class Settling:
    """What outlives its process for a while: output whose reader has not come, logging binaries
    that shall end, terminals that are read empty. A source of the shim's loop, which does not wait
    for it."""

    busy = False

    def __init__(self) -> None:
        self._items: list[Unsettled] = []

    def later(self, item: Unsettled) -> None:
        """Look after it from now on, unless there is nothing left to do."""
        if not item.settled():
            self._items.append(item)

    def settle(self) -> bool:
        """Go on with all of it; whether anything is left, to be called for after SETTLE_MS."""
        self._items = [item for item in self._items if not item.settled()]
        return bool(self._items)

    def descriptors(self) -> tuple[()]:
        """There are none: what is to be settled is looked at."""
        return ()

    def timeout_s(self) -> float | None:
        """When to look again; None where nothing is left."""
        return SETTLE_MS / 1000 if self._items else None

    def advance(self) -> None:
        """Go on, from the loop."""
        self.settle()


def parse(name: str) -> tuple[str, str, list[tuple[str, str]]]:
    """(scheme, path, query) of a stream's name; a plain path's scheme is "fifo"."""
    scheme, colon, rest = name.partition(":")
    if not colon or "/" in scheme:
        return "fifo", name, []
    path, _, query = rest.partition("#")[0].partition("?")
    if path.startswith("//"):
        _, slash, path = path[2:].partition("/")
        path = slash + path
    pairs = []
    for part in filter(None, query.split("&")):
        key, _, value = part.replace("+", " ").partition("=")
        pairs.append((unquote(key), unquote(value)))
    return scheme, unquote(path), pairs


def unquote(text: str) -> str:
    """A URI's text with its %XX decoded (RFC 3986, 2.1); what is no such escape stays."""
    first, *parts = text.encode("utf-8", "surrogateescape").split(b"%")
    found = [first]
    for part in parts:
        digits = part[:2].decode("latin-1")
        if len(digits) == 2 and not digits.strip("0123456789abcdefABCDEF"):
            found += [bytes.fromhex(digits), part[2:]]
        else:
            found += [b"%", part]
    return b"".join(found).decode("utf-8", "surrogateescape")


class TaskStreams:
    """The standard streams of one process."""

    def __init__(
        self,
        stdin: str,
        stdout: str,
        stderr: str,
        *,
        terminal: bool,
        namespace: str,
        identifier: str,
        settling: Settling,
        owner: tuple[int, int] = (0, 0),
    ) -> None:
        """`settling` looks after what outlives the process. `owner`: the user and group whom the
        process's FIFOs shall be (IoUid, IoGid), so that it can open them anew (as /dev/stdout) in a
        user namespace where root is these."""
        self.settling = settling
        self._owner = owner
        self._names = (stdin, stdout, "" if terminal else stderr)
        self._terminal = terminal
        self._namespace = namespace
        self._identifier = identifier
        self.child = (-1, -1, -1)
        """What the process gets as 0, 1 and 2; -1 is /dev/null. With a terminal all are."""
        self.input = self.output = -1
        """With a terminal: the ends that its relay reads and writes, without waiting."""
        self.relay: Relay | None = None
        self._stdin_writer = -1
        self._ends: dict[int, str] = {}
        """The ends that are the process's or the relay's → their names."""
        self._readers: list[int] = []
        self._left: list[_LeftOutput] = []
        self._logger: Logger | None = None

    def open(self) -> None:
        """Open everything; never waits; raises HostError, and then nothing is open."""
        stdin, stdout, stderr = self._names
        what = f"stdin '{stdin}'"
        try:
            source = self._open_input(stdin)
            what = f"stdout '{stdout}'"
            out = self._open_output(stdout, 0)
            what = f"stderr '{stderr}'"
            error = self._open_output(stderr, 1)
            if self._logger:
                if not stderr and not self._terminal:
                    error = self._logger.inputs[1]  # it has both, as with containerd's own shim
                what = f"logging binary '{self._logger.path}'"
                self._logger.start(self._namespace, self._identifier)
            if self._terminal:
                for fd in (source, out):
                    if fd >= 0:
                        posix.set_blocking(fd, False)
        except OSError as problem:
            self.close()
            raise HostError(f"{what}: {reason(problem)}") from None
        except HostError:
            self.close()
            raise
        if self._terminal:
            self.input, self.output = source, out
        else:
            self.child = (source, out, error)

    def _open_input(self, name: str) -> int:
        scheme, path, _ = parse(name)
        if not path or scheme.startswith("binary"):
            return -1
        if scheme not in ("fifo", "file"):
            raise HostError(f"stdin '{name}': unknown scheme")
        fd = posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC | O_NOCTTY)
        self._ends[fd] = ""
        if _is_fifo(fd):
            self._give(fd)
            self._stdin_writer = _reopen(fd, posix.O_WRONLY | posix.O_NONBLOCK)
        posix.set_blocking(fd, True)
        return fd

    def _open_output(self, name: str, number: int) -> int:
        if not name:
            return -1
        scheme, path, query = parse(name)
        if scheme in ("binary", "binary-v2"):
            if not self._logger:
                self._logger = Logger(path, query, strict=scheme == "binary-v2")
                self._ends.update(dict.fromkeys(self._logger.inputs, ""))
            return self._logger.inputs[number]
        for fd, other in self._ends.items():
            if other == name:
                return fd
        if scheme == "fifo":
            fd = self._open_fifo(path)
        elif scheme == "file":
            make_directories(path.rpartition("/")[0] or "/")
            fd = posix.open(path, APPEND | posix.O_CREAT, 0o644)
        else:
            raise HostError(f"{('stdout', 'stderr')[number]} '{name}': unknown scheme")
        self._ends[fd] = name
        return fd

    def _open_fifo(self, path: str) -> int:
        place = posix.open(path, O_PATH | posix.O_CLOEXEC)
        try:
            if not _is_fifo(place):
                return _reopen(place, APPEND)
            self._readers.append(_reopen(place, posix.O_RDONLY | posix.O_NONBLOCK))
            fd = _reopen(place, posix.O_WRONLY | posix.O_NONBLOCK)
        finally:
            posix.close(place)
        posix.set_blocking(fd, True)
        self._give(fd)
        return fd

    def _give(self, fd: int) -> None:
        if not self._terminal and self._owner != (0, 0):
            posix.fchown(fd, *self._owner)

    @property
    def has_logger(self) -> bool:
        """Whether a logging binary has to be waited for."""
        return self._logger is not None

    def wait_ready(self) -> None:
        """Wait until a logging binary says that it is ready; raises HostError. For a worker that
        has the shim's descriptors still, before the process is made."""
        if self._logger:
            self._logger.wait_ready()

    def release_child(self) -> None:
        """The process has its descriptors: close ours."""
        if not self._terminal:
            self._close_ends()
            self.child = (-1, -1, -1)

    def _close_ends(self) -> None:
        while self._ends:
            posix.close(self._ends.popitem()[0])

    def close_stdin(self) -> None:
        """CloseIO: the input ends when its client closes it, too."""
        if self._stdin_writer >= 0:
            posix.close(self._stdin_writer)
            self._stdin_writer = -1

    def release(self) -> None:
        """The process has ended: its output ends for who reads it."""
        self.release_child()
        self.close_stdin()
        if self.relay:
            self.relay.finish()
        else:
            self.end_output()

    def end_output(self) -> None:
        """Nobody writes any more: who reads sees the end; who comes late finds what was written."""
        self._close_ends()
        self.input = self.output = -1
        while self._readers:
            left = _LeftOutput(self._readers.pop())
            self._left.append(left)
            self.settling.later(left)

    def close(self) -> None:
        """Let go of everything, also of output that nobody has read; can be repeated."""
        relay, self.relay = self.relay, None
        if relay:
            relay.close()
        self.close_stdin()
        self.end_output()
        self.child = (-1, -1, -1)
        for left in self._left:
            left.close()
        self._left.clear()
        logger, self._logger = self._logger, None
        if logger:
            logger.end(self.settling)


class _LeftOutput:
    """A FIFO of output that nobody writes to any more.

    A client opens its end when it likes. Until it has come, the shim is a writer, so that its open
    returns (fifo(7)), and then no more, so that it sees the end. A reader of ours stays, so that a
    process that was left behind gets no SIGPIPE.
    """

    def __init__(self, reader: int) -> None:
        self._reader = reader
        self._writer = _reopen(reader, posix.O_WRONLY | posix.O_NONBLOCK)

    def settled(self) -> bool:
        """Look whether a client reads: without ours, has the writer an error?"""
        if self._writer < 0:
            return True
        posix.close(self._reader)
        self._reader = -1
        alone = poll()
        alone.register(self._writer, 0)
        absent = any(events & POLLERR for _, events in alone.poll(0))
        self._reader = _reopen(self._writer, posix.O_RDONLY | posix.O_NONBLOCK)
        if absent:
            return False
        posix.close(self._writer)
        self._writer = -1
        return True

    def close(self) -> None:
        """Whoever has not come will not come."""
        self.settled()
        for fd in (self._reader, self._writer):
            if fd >= 0:
                posix.close(fd)
        self._reader = self._writer = -1


class Logger:
    """A logging binary: the container's output on its descriptors 3 and 4; it closes 5 (the second
    version writes a byte before) when it is ready. Its input ends with the container, and so shall
    it."""

    def __init__(self, path: str, query: list[tuple[str, str]], *, strict: bool) -> None:
        self.path = path
        self._words = [path]
        known = set()
        for key, value in query:
            if key not in known:  # as in Go, of several values the first counts
                self._words += [key, value]
                known.add(key)
        self._strict = strict
        pairs = [posix.pipe() for _ in range(3)]
        self.inputs = [pairs[0][1], pairs[1][1]]
        """Descriptors to write to, for standard output and error: the caller's to close."""
        self._given = [pairs[0][0], pairs[1][0], pairs[2][1]]
        self._ready = pairs[2][0]
        self._pidfd = -1
        self._steps: list[tuple[float, int]] = []
        """When it gets which signals, if it has not ended."""

    def start(self, namespace: str, identifier: str) -> None:
        """Start it; raises OSError."""
        from fcntl import F_DUPFD_CLOEXEC, fcntl

        actions: list[Any] = []
        for fd in range(3):
            actions.append((posix.POSIX_SPAWN_OPEN, fd, "/dev/null", posix.O_RDWR, 0))
        high: list[int] = []
        try:
            for number, fd in enumerate(self._given, 3):
                high.append(fcntl(fd, F_DUPFD_CLOEXEC, 10))  # so that none is overwritten
                actions.append((posix.POSIX_SPAWN_DUP2, high[-1], number))
            pid = posix.posix_spawn(
                self.path,
                self._words,
                {"CONTAINER_ID": identifier, "CONTAINER_NAMESPACE": namespace},
                file_actions=actions,
                setsigdef=(SIGPIPE, SIGXFSZ),
                setsigmask=(),
            )
            self._pidfd = posix.pidfd_open(pid)
        finally:
            for fd in (*high, *self._given):
                posix.close(fd)
            self._given = []

    def wait_ready(self) -> None:
        """Wait for its word; raises HostError."""
        from select import POLLIN

        poller = poll()
        poller.register(self._ready, POLLIN)
        if not poller.poll(READY_TIMEOUT_S * 1000):
            raise HostError(f"logging binary '{self.path}': not ready within {READY_TIMEOUT_S} s")
        if not posix.read(self._ready, 1) and self._strict:
            raise HostError(f"logging binary '{self.path}': ended before it was ready")

    def end(self, settling: Settling) -> None:
        """Its container is removed: it ends when it has read all, or is made to."""
        for fd in (self._ready, *self._given):
            posix.close(fd)
        self._given = []
        now = monotonic()
        first = now + TERMINATE_AFTER_S
        self._steps = [(first, SIGTERM), (first + KILL_AFTER_S, SIGKILL)]
        if self._pidfd >= 0:
            settling.later(self)

    def settled(self) -> bool:
        """Whether it has ended; signals it when it is time."""
        from urunc.linux.process import send_signal, wait_gone

        if not wait_gone(self._pidfd, 0):
            if self._steps and monotonic() >= self._steps[0][0]:
                send_signal(self._pidfd, self._steps.pop(0)[1])
            return False
        try:
            posix.waitid(posix.P_PIDFD, self._pidfd, posix.WEXITED | posix.WNOHANG)
        except ChildProcessError:
            pass  # whoever waits for every child was first
        posix.close(self._pidfd)
        return True


def _is_fifo(fd: int) -> bool:
    return posix.fstat(fd).st_mode & S_IFMT == S_IFIFO


def _reopen(fd: int, flags: int) -> int:
    """The same file once more, in another mode (proc_pid_fd(5))."""
    return posix.open(f"/proc/self/fd/{fd}", flags | posix.O_CLOEXEC)
