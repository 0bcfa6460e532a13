# SPDX-License-Identifier: Apache-2.0
"""The container's first process: from fresh namespaces to the monitor itself.

Forked from the runtime (create), so all it needs is loaded already; after `PivotRoot` nothing can
be imported, not even a codec. It joins v1's control groups and the namespaces given by path, runs
createContainer hooks, executes the steps as root in the container's namespaces, then waits, as the
monitor's user without privileges and not dumpable (its pid namespace may be shared), until `start`
opens its FIFO; then it becomes the monitor.

Two FIFOs in the container's directory: `start` brings one JSON object (what changed since create);
`started` carries an error back, or ends without a word when the monitor's execve closed it.
"""

from __future__ import annotations

import posix
from errno import EACCES
from select import POLLIN, poll

from urunc import timing
from urunc.bundle.spec import Hook
from urunc.errors import Error, InitError, reason
from urunc.init import hooks
from urunc.init.root_steps import PrivateMounts
from urunc.init.steps import PR_SET_DUMPABLE, unpack
from urunc.jsontext import dumps, loads
from urunc.linux import _linux, cgroups, namespaces, seccomp
from urunc.linux.files import read_descriptor, write_all
from urunc.record import rebuild, record
from urunc.state import INIT_NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

READY = b"."


@record
class Setup:
    """What init knows from its birth: v1 control groups and namespaces to join by path, and
    descriptors: of the FIFOs, and of what the runtime prepared for the steps."""

    image_root: str
    groups: tuple[str, ...]
    join: dict[str, str]
    start_fd: int
    started_fd: int
    prepared: frozenset[int]
    streams: tuple[int, ...]
    """What shall be its standard streams, () where it keeps those that it has."""
    readers: tuple[int, ...]
    """The outputs' reading ends, for a monitor that shall wait for a reader."""
    keep_descriptors: int
    start_hooks: tuple[Hook, ...]


class Channel:
    """One end of the talk between the runtime and init: JSON lines over two pipes."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        self._buffer = b""

    def send(self, message: Any) -> None:
        """Say something; BrokenPipeError where the other side is gone."""
        write_all(self.write_fd, dumps(message).encode() + b"\n")

    def receive(self, timeout_s: float | None = None) -> Any:
        """The next message; None where the other side is gone, TimeoutError after the time
        limit."""
        poller = poll()
        poller.register(self.read_fd, POLLIN)
        while b"\n" not in self._buffer:
            if timeout_s is not None and not poller.poll(int(timeout_s * 1000)):
                raise TimeoutError
            part = posix.read(self.read_fd, 1 << 16)
            if not part:
                return None
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return loads(line.decode())

    def close(self) -> None:
        """Let go of both pipes."""
        posix.close(self.read_fd)
        posix.close(self.write_fd)


def main(setup: Setup, channel: Channel) -> NoReturn:
    """Everything init does; never returns."""
    timing.stamp(4)
    report = channel.write_fd
    try:
        started = _prepare(setup, channel)
        report = started.started_fd
        _wait_and_become(started)
    except Error as error:
        answer = {"error": error.message, "hint": error.hint}
    except OSError as error:
        named = f" '{error.filename}'" if error.filename else ""
        answer = {"error": f"{reason(error)}{named}"}
    except BaseException as error:  # a defect of ours: the runtime must hear of it all the same
        answer = {"error": f"{type(error).__name__}: {error}"}
    try:
        posix.write(report, dumps(answer).encode() + b"\n")
    finally:
        posix._exit(1)


class _Waiting:
    """What is left in init's hands while it waits for `start`."""

    def __init__(self) -> None:
        self.start_fd = -1
        self.started_fd = -1
        self.helper: tuple[int, int, int] | None = None
        self.launch: dict[str, Any] = {}
        self.filters: list[tuple[int, bytes]] = []
        self.keep = 0
        self.kept: list[int] = []


def _prepare(setup: Setup, channel: Channel) -> _Waiting:
    _linux.set_name(INIT_NAME)
    _linux.prctl(PR_SET_DUMPABLE, 0)
    posix.setsid()
    waiting = _Waiting()
    waiting.keep = 3 + setup.keep_descriptors
    waiting.start_fd, waiting.started_fd = setup.start_fd, setup.started_fd
    _close_others(
        waiting.keep,
        {
            channel.read_fd,
            channel.write_fd,
            waiting.start_fd,
            waiting.started_fd,
            timing.descriptor(),
            *setup.prepared,
        },
    )
    for number, fd in enumerate(setup.streams):
        posix.dup2(fd, number)
    timing.stamp(5)
    for path in setup.groups:
        try:
            cgroups.join_alone(path)
        except OSError as error:
            raise InitError(f"join control group '{path}': {reason(error)}") from None
    for kind, path in setup.join.items():
        try:
            namespaces.join(path, namespaces.KINDS[kind][0])
        except OSError as error:
            raise InitError(f"{kind} namespace '{path}': {reason(error)}") from None
    channel.send({"ok": True})
    while True:
        message = channel.receive()
        if message is None:
            posix._exit(
                1
            )  # the runtime is gone, and with it the only one who could start this container
        if "hooks" in message:
            programs = [rebuild(Hook, hook) for hook in message["hooks"]]
            hooks.run_all("createContainer", programs, message["state"])
            channel.send({"ok": True})
            continue
        timing.stamp(9)
        _execute(setup, message, waiting)
        channel.send({"ok": True})
        channel.close()
        return waiting


def _execute(setup: Setup, message: Any, waiting: _Waiting) -> None:
    if message["unshare"]:
        _linux.unshare(message["unshare"])
    for step in unpack(message["steps"]):
        try:
            step.execute()
        except OSError as error:
            raise InitError(f"{step.describe()}: {reason(error)}") from None
        if isinstance(step, PrivateMounts) and setup.start_hooks:
            waiting.helper = _fork_helper(setup)
    waiting.launch = message["launch"]
    if waiting.launch["streams"]:
        waiting.kept = [*setup.streams[1:], *setup.readers]
    for fd in {*setup.streams, *setup.readers}.difference(waiting.kept):
        posix.close(fd)
    waiting.filters = [(flags, bytes.fromhex(text)) for flags, text in message["filters"]]
    _write_files(waiting.launch)


def _write_files(launch: dict[str, Any]) -> None:
    for path, text in launch["files"].items():
        fd = posix.open(
            path, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC, 0o600
        )
        write_all(fd, text.encode("utf-8", "surrogateescape"))
        posix.close(fd)


def _fork_helper(setup: Setup) -> tuple[int, int, int]:
    """A child that stays in the image's root, where startContainer hooks have their programs; made
    before what is for the monitor alone: its labels, its terminal."""
    ask_read, ask_write = posix.pipe()
    answer_read, answer_write = posix.pipe()
    pid = posix.fork()
    if pid == 0:
        try:
            _close_others(3, {ask_read, answer_write})
            posix.chdir(setup.image_root)
            posix.chroot(".")
            posix.write(answer_write, READY)
            state = read_descriptor(ask_read).decode()
            if state:
                hooks.run_all("startContainer", setup.start_hooks, state)
        except Error as error:
            posix.write(answer_write, error.message.encode())
        except OSError as error:
            posix.write(answer_write, f"startContainer hooks: {reason(error)}".encode())
        finally:
            posix._exit(0)
    posix.close(ask_read)
    posix.close(answer_write)
    # it must be there before pivot_root, which moves every process that is still at the old root
    said = posix.read(answer_read, 4096)
    if said != READY:
        raise InitError(said.decode())
    return pid, ask_write, answer_read


def _wait_and_become(waiting: _Waiting) -> None:
    poller = poll()
    poller.register(waiting.start_fd, POLLIN)
    poller.poll()
    timing.stamp(14)
    posix.set_blocking(waiting.start_fd, True)
    message = loads(read_descriptor(waiting.start_fd).decode())
    if message["launch"]:
        waiting.launch = message["launch"]
        _write_files(waiting.launch)
    if waiting.helper:
        pid, ask, answer = waiting.helper
        try:
            write_all(ask, message["state"].encode())
        except BrokenPipeError:
            pass  # it ended with an error, which is its answer
        posix.close(ask)
        problem = read_descriptor(answer).decode()
        if problem:
            raise InitError(problem)
        posix.waitpid(pid, 0)
    _claim(waiting)
    argv = waiting.launch["argv"]
    _linux.default_signals()
    _close_others(waiting.keep, {waiting.started_fd, timing.descriptor(), *waiting.kept})
    timing.stamp(18)
    for flags, program in waiting.filters:
        seccomp.install(program, flags)
    try:
        posix.execve(argv[0], argv, {})
    except OSError as error:
        raise InitError(f"exec monitor '{argv[0]}': {reason(error)}") from None


def _claim(waiting: _Waiting) -> None:
    """Open what the monitor shall have from its birth on: FIFOs, and block devices so that nobody
    else can mount them as long as it lives."""
    for path in waiting.launch["held"]:
        waiting.kept.append(posix.open(path, posix.O_RDWR | posix.O_NONBLOCK))
    for path in waiting.launch["claims"]:
        for access in (posix.O_RDWR, posix.O_RDONLY):
            try:
                waiting.kept.append(posix.open(path, access | posix.O_EXCL))
                break
            except OSError as error:
                if error.errno == EACCES and access == posix.O_RDWR:
                    continue  # a disk that is only read
                raise InitError(
                    f"take over the root filesystem's device for the guest: {reason(error)}",
                    "it is mounted, or used by another guest",
                ) from None
    for fd in waiting.kept:
        posix.set_inheritable(fd, True)


def _close_others(first: int, keep: set[int]) -> None:
    """Close every descriptor from `first` on but these."""
    for fd in sorted(number for number in keep if number >= first):
        if fd > first:
            _linux.close_range(first, fd - 1, 0)
        first = fd + 1
    _linux.close_range(first, 0xFFFFFFFF, 0)
