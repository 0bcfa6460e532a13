# SPDX-License-Identifier: Apache-2.0
"""Processes named so that a reused pid is never mistaken for them: (boot id, pid, start time).

proc_pid_stat(5): field 2 is the command in parentheses (which may hold anything), 3 the state, 22
the start time in clock ticks since boot.
"""

from __future__ import annotations

import posix

from urunc.linux.files import read_bytes

# getrlimit(2): the kernel's numbers are the order of the names, the same on x86_64 and aarch64
RLIMITS = {
    name: number
    for number, name in enumerate(
        "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE "  # noqa: SIM905 (a long list of words)
        "RTPRIO RTTIME".split()
    )
}


def stat(pid: int) -> tuple[str, str, int] | None:
    """(command, one-letter state, start time in ticks) of a process; None where there is none."""
    if pid <= 0:
        return None
    command, fields = _fields(pid)
    return (command, fields[0], int(fields[19])) if len(fields) > 19 else None


def parent(pid: int) -> int:
    """The pid of a process's parent; 0 where the process is gone."""
    _, fields = _fields(pid)
    return int(fields[1]) if fields else 0


def cpu_ticks(pid: int) -> int:
    """The processor time that a process and its threads have used, in clock ticks; 0 where it is
    gone."""
    _, fields = _fields(pid)
    return int(fields[11]) + int(fields[12]) if fields else 0


def _fields(pid: int) -> tuple[str, list[str]]:
    """(command, what comes after it) of proc_pid_stat(5); no fields where there is no process."""
    try:
        text = read_bytes(f"/proc/{pid}/stat", 4096).decode("ascii", "replace")
    except OSError:
        return "", []
    head, _, tail = text.rpartition(")")
    return head.partition("(")[2], tail.split()


_boot_id = ""


def boot_id() -> str:
    """This boot's identity: pids and start times repeat after a reboot (random(4))."""
    global _boot_id  # no process outlives a boot: `list` asks for each container
    _boot_id = _boot_id or read_bytes("/proc/sys/kernel/random/boot_id", 64).decode().strip()
    return _boot_id


def hears(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, or blocks it to read of it (proc_pid_status(5),
    SigCgt and SigBlk); False where it is gone."""
    try:
        text = read_bytes(f"/proc/{pid}/status", 1 << 16)
    except OSError:
        return False
    masks = [text.partition(b"\n%s:" % name)[2].split()[0] for name in (b"SigCgt", b"SigBlk")]
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def open_pidfd(pid: int, start_time: int) -> int | None:
    """A pidfd of exactly this process; None where it is gone."""
    try:
        fd = posix.pidfd_open(pid)
    except OSError:
        return None
    facts = stat(pid)
    if facts is None or facts[2] != start_time:
        posix.close(fd)
        return None
    return fd


PIDFD_GET_INFO = 0xC040FF0B
PIDFD_INFO_EXIT = 1 << 3


def exit_status(pidfd: int, pid: int, timeout_s: float = 1) -> int | None:
    """The exit code of a process that has ended, negative where a signal ended it; None where the
    kernel does not tell one who is not its parent.

    From the pidfd once it has been waited for (Linux 6.15), from /proc while it is a zombie.
    """
    from fcntl import ioctl
    from time import monotonic, sleep

    end = monotonic() + timeout_s
    while True:
        info = bytearray(PIDFD_INFO_EXIT.to_bytes(8, "little") + bytes(56))
        try:
            ioctl(pidfd, PIDFD_GET_INFO, info)
            if int.from_bytes(info[:8], "little") & PIDFD_INFO_EXIT:
                return posix.waitstatus_to_exitcode(int.from_bytes(info[60:64], "little"))
        except OSError:
            pass  # an older kernel, or a process that is gone for it
        try:
            text = read_bytes(f"/proc/{pid}/stat", 4096).decode("ascii", "replace")
            fields = text.rpartition(")")[2].split()
            if fields[0] == "Z":
                return posix.waitstatus_to_exitcode(int(fields[49]))
        except (OSError, IndexError, ValueError):
            pass
        if monotonic() > end:
            return None
        sleep(0.01)


def send_signal(pidfd: int, number: int) -> bool:
    """Signal a process through its pidfd; False where it has ended (pidfd_send_signal(2), Linux
    5.1)."""
    from _signal import pidfd_send_signal

    try:
        pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def wait_gone(pidfd: int, timeout_s: float) -> bool:
    """Wait until a process has ended (a zombie has); False after the time limit."""
    from select import POLLIN, poll

    poller = poll()
    poller.register(pidfd, POLLIN)
    return bool(poller.poll(int(timeout_s * 1000)))
