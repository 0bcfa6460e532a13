# SPDX-License-Identifier: Apache-2.0
"""The container's first process: from fresh namespaces to the monitor itself.

Forked from the runtime (create), so all it needs is loaded already; after `PivotRoot` nothing can
be imported, not even a codec. It joins v1's control groups and the namespaces given by path, runs
createContainer hooks, executes the steps as root in the container's namespaces, then waits, as the
monitor's user without privileges and not dumpable (its pid namespace may be shared), until `start`
opens its FIFO; then it becomes the monitor.

Two FIFOs in the container's directory: `start` brings one letter (what changed since create);
`started` carries a problem back, or ends without a word when the monitor's execve closed it.
letters.py has what is said and how.
"""

from __future__ import annotations

import posix
from errno import EACCES, EINVAL
from select import POLLIN, poll

from urunc import timing
from urunc.errors import Error, InitError, reason
from urunc.init import hooks
from urunc.init.letters import Channel, Done, Problem, RunHooks, line, start_of, whole
from urunc.init.root_steps import PrivateMounts
from urunc.init.steps import PR_SET_DUMPABLE, unpack
from urunc.linux import _linux, cgroups, mounts, namespaces, seccomp
from urunc.linux.files import O_PATH, read_descriptor, write_all
from urunc.state import INIT_NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from urunc.init.letters import MonitorExec, Prepare, Setup

PR_CAPBSET_DROP = 24


def main(setup: Setup, channel: Channel) -> NoReturn:
    """Everything init does; never returns."""
    timing.stamp(4)
    report = channel.write_fd
    written: Callable[[Problem], bytes] = line
    try:
        waiting = _prepare(setup, channel)
        report, written = waiting.started_fd, whole
        _wait_and_become(waiting)
    except Error as error:
        problem = Problem(error=error.message, hint=error.hint)
    except OSError as error:
        named = f" '{error.filename}'" if error.filename else ""
        problem = Problem(error=f"{reason(error)}{named}")
    except BaseException as error:  # a defect of ours: the runtime must hear of it all the same
        problem = Problem(error=f"{type(error).__name__}: {error}")
    try:
        posix.write(report, written(problem))
    finally:
        posix._exit(1)


class _Waiting:
    """What is left in init's hands while it waits for `start`."""

    launch: MonitorExec

    def __init__(self, setup: Setup) -> None:
        self.start_fd = setup.start_fd
        self.started_fd = setup.started_fd
        self.helper: Channel | None = None
        self.helper_pid = 0
        self.filters: list[tuple[int, bytes]] = []
        self.keep = 3 + setup.keep_descriptors
        self.kept: list[int] = []


def _prepare(setup: Setup, channel: Channel) -> _Waiting:
    _linux.set_name(INIT_NAME)
    _linux.prctl(PR_SET_DUMPABLE, 0)
    posix.setsid()
    waiting = _Waiting(setup)
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
    channel.send(Done())
    while True:
        letter = channel.receive()
        if letter is None:
            # the runtime is gone, and with it the only one who could start this container
            posix._exit(1)
        if isinstance(letter, RunHooks):
            hooks.run_all("createContainer", setup.create_hooks, letter.state)
            channel.send(Done())
            continue
        timing.stamp(9)
        _execute(setup, letter, waiting)
        channel.send(Done())
        channel.close()
        return waiting


def _execute(setup: Setup, wanted: Prepare, waiting: _Waiting) -> None:
    if wanted.unshare:
        _linux.unshare(wanted.unshare)
    for step in unpack(wanted.steps):
        try:
            step.execute()
        except OSError as error:
            raise InitError(f"{step.describe()}: {reason(error)}") from None
        if isinstance(step, PrivateMounts) and setup.start_hooks:
            waiting.helper_pid, waiting.helper = _fork_helper(setup)
    waiting.launch = wanted.launch
    if waiting.launch.streams:
        waiting.kept = [*setup.streams[1:], *setup.readers]
    for fd in {*setup.streams, *setup.readers}.difference(waiting.kept):
        posix.close(fd)
    waiting.filters = [(flags, bytes.fromhex(text)) for flags, text in wanted.filters]
    _write_files(waiting.launch)


def _write_files(launch: MonitorExec) -> None:
    for path, text in launch.files.items():
        fd = posix.open(
            path, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC, 0o600
        )
        write_all(fd, text.encode("utf-8", "surrogateescape"))
        posix.close(fd)


def _fork_helper(setup: Setup) -> tuple[int, Channel]:
    """A child (its pid, and the talk with it) that stays in the image's root, where startContainer
    hooks have their programs; made before what is for the monitor alone: its labels, its
    terminal."""
    ask_read, ask_write = posix.pipe()
    answer_read, answer_write = posix.pipe()
    pid = posix.fork()
    if pid == 0:
        _help(setup, Channel(ask_read, answer_write))
    posix.close(ask_read)
    posix.close(answer_write)
    helper = Channel(answer_read, ask_write)
    # it must be there before pivot_root, which moves every process that is still at the old root
    _hear(helper)
    return pid, helper


def _help(setup: Setup, channel: Channel) -> NoReturn:
    """The helper's side."""
    try:
        _close_others(3, {channel.read_fd, channel.write_fd})
        _enter_image(setup)
        channel.send(Done())
        letter = channel.receive()
        if isinstance(letter, RunHooks):
            hooks.run_all("startContainer", setup.start_hooks, letter.state)
            channel.send(Done())
    except Error as error:
        channel.send(Problem(error=error.message, hint=error.hint))
    except OSError as error:
        channel.send(Problem(error=f"startContainer hooks: {reason(error)}"))
    finally:
        posix._exit(0)


def _enter_image(setup: Setup) -> None:
    """Make the image's root this process's only one, in a mount namespace of its own, and give up
    what the application may not have: its hooks' programs are the image's, and root could leave a
    chroot(2)."""
    posix.chdir(setup.image_root)
    _linux.unshare(namespaces.CLONE_NEWNS)
    mounts.make_private()
    here = posix.open(".", O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    root = mounts.clone(here, recursive=True)
    posix.close(here)
    _linux.move_mount(root, ".")
    posix.fchdir(root)
    posix.close(root)
    mounts.enter()
    _limit_bounding(setup.hook_capabilities)
    _linux.capset(0)  # root's programs get at their execve what the bounding set leaves


def _limit_bounding(mask: int) -> None:
    """Drop every capability from the bounding set but these."""
    for number in range(64):
        if not mask >> number & 1:
            try:
                _linux.prctl(PR_CAPBSET_DROP, number)
            except OSError as error:
                if error.errno == EINVAL:
                    return  # the kernel knows no more
                raise


def _hear(helper: Channel) -> None:
    """The helper's answer; raises what it reports."""
    answer = helper.receive()
    if isinstance(answer, Problem):
        raise InitError(answer.error, answer.hint)
    if answer is None:
        raise InitError("startContainer hooks: their process died")


def _wait_and_become(waiting: _Waiting) -> None:
    poller = poll()
    poller.register(waiting.start_fd, POLLIN)
    poller.poll()
    timing.stamp(14)
    posix.set_blocking(waiting.start_fd, True)
    start = start_of(read_descriptor(waiting.start_fd))
    if start.launch:
        waiting.launch = start.launch
        _write_files(waiting.launch)
    if waiting.helper:
        try:
            waiting.helper.send(RunHooks(state=start.state))
        except BrokenPipeError:
            pass  # it ended with an error, which is its answer
        _hear(waiting.helper)
        posix.waitpid(waiting.helper_pid, 0)
    _claim(waiting)
    argv = waiting.launch.argv
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
    for path in waiting.launch.held:
        waiting.kept.append(posix.open(path, posix.O_RDWR | posix.O_NONBLOCK))
    for path in waiting.launch.claims:
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
