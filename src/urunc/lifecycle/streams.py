# SPDX-License-Identifier: Apache-2.0
"""The container's standard streams, as its monitor gets them: without a terminal the caller's own,
but by descriptions of the container's own (open(2)).

QEMU and Firecracker make what they read and write non-blocking, and a terminal raw; on a
description that is shared with the caller, the caller would have it so as well, for good where the
monitor is killed. So a pipe, a FIFO or a device is opened anew. A file is not: its offset is shared
with the caller on purpose. Runs in the runtime, before init is forked.
"""

from __future__ import annotations

import posix

from urunc import logs
from urunc.linux.files import is_null
from urunc.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.plan.model import Chosen, Plan

S_IFMT, S_IFIFO, S_IFCHR, S_IFREG, S_IFSOCK = 0o170000, 0o010000, 0o020000, 0o100000, 0o140000
S_IFDIR = 0o040000
O_NOCTTY = 0o400
O_ACCMODE = 3


@record
class Streams:
    """Descriptors of the runtime's, to be closed by it once init has them."""

    descriptors: tuple[int, ...]
    """For standard input, output and error: open to read, to write, to write."""
    kinds: tuple[str, ...]
    """Of each: "socket", or "file" for all else."""
    readers: tuple[int, ...]
    """Reading ends of the outputs' pipes: as long as somebody has them, a writer whose reader is
    gone waits. QEMU, in place of that, would try again and again, as fast as it can."""

    def close(self) -> None:
        """Let go of them."""
        for fd in (*self.descriptors, *self.readers):
            posix.close(fd)


def take(given: tuple[int, ...] = (0, 1, 2)) -> Streams:
    """The streams of a container whose caller has these. Raises OSError."""
    readers: list[int] = []
    kinds, descriptors = [], []
    for number, fd in enumerate(given):
        kind = posix.fstat(fd).st_mode & S_IFMT
        kinds.append("socket" if kind == S_IFSOCK else "file")
        descriptors.append(_input(fd, kind) if number == 0 else _output(fd, kind, readers))
    return Streams(descriptors=tuple(descriptors), kinds=tuple(kinds), readers=tuple(readers))


def settled(plan: Plan, streams: Streams, chosen: Chosen) -> Chosen:
    """What was chosen so far, with what the streams are."""
    if not plan.application.process:
        return chosen
    if is_null(streams.descriptors[0]):
        # the application has /dev/null itself, as it would have on the host
        chosen = replace(chosen, no_input=True)
    if not plan.application.streams:
        return chosen
    return replace(chosen, streams=streams.kinds, stream_descriptors=streams.descriptors[1:])


def _input(fd: int, kind: int) -> int:
    if kind == S_IFCHR and posix.isatty(fd):
        logs.warn(
            "standard input is a terminal that config.json does not ask for: the guest has none "
            "(process.terminal, or run in the foreground)"
        )
        return posix.open("/dev/null", posix.O_RDONLY | posix.O_CLOEXEC)
    if kind == S_IFDIR or _access(fd) == posix.O_WRONLY:
        # the monitor would try again and again, as fast as it can
        logs.warn("standard input cannot be read (a directory, or open for writing): it is empty")
        return posix.open("/dev/null", posix.O_RDONLY | posix.O_CLOEXEC)
    if kind in (S_IFIFO, S_IFCHR):
        return _reopened(fd, posix.O_RDONLY)
    return posix.dup(fd)


def _output(fd: int, kind: int, readers: list[int]) -> int:
    if kind == S_IFIFO:
        readers.append(_reopened(fd, posix.O_RDONLY))  # first: fifo(7) has ENXIO for a lone writer
    if kind in (S_IFIFO, S_IFCHR):
        return _reopened(fd, posix.O_WRONLY)
    if kind == S_IFREG and _access(fd) != posix.O_WRONLY:
        return _reopened(fd, posix.O_WRONLY | posix.O_APPEND)  # a monitor that writes only
    return posix.dup(fd)


def _access(fd: int) -> int:
    from fcntl import F_GETFL, fcntl

    return fcntl(fd, F_GETFL) & O_ACCMODE


def _reopened(fd: int, flags: int) -> int:
    """The same file by another description (proc_pid_fd(5)); the caller's where that may not be."""
    flags |= posix.O_NONBLOCK | posix.O_CLOEXEC | O_NOCTTY
    try:
        found = posix.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        return posix.dup(fd)
    posix.set_blocking(found, True)
    return found
