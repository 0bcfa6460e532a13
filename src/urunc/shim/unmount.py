# SPDX-License-Identifier: Apache-2.0
"""The end of a root filesystem that rootfs.py has mounted, apart from it: the shim itself does
this, and has no use for the rest. In the host's mount namespace, with root's privilege.
"""

from __future__ import annotations

import posix
from errno import EBUSY, EINVAL, ENOENT
from time import sleep

from urunc.errors import HostError, reason
from urunc.linux import _linux
from urunc.linux.files import O_PATH, read_text

MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
BUSY_TRIES, BUSY_WAIT_S = 5, 0.01


def unmount_all(target: str) -> None:
    """Unmount all that is mounted at a directory and below it; nothing there is fine; raises
    HostError.

    What is in use for more than a moment is detached: it is gone from here at once, and from the
    kernel when its last user is (umount(2)).
    """
    target = target.rstrip("/")
    try:
        while _unmount(target):
            pass
        if posix.listdir(target):  # a root that is the bundle's own may hold mounts
            for path in _below(target):
                while _unmount(path):
                    pass
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise HostError(f"unmount '{error.filename or target}': {reason(error)}") from None


def _unmount(path: str) -> bool:
    """Unmount what is on top at a path; False where nothing is mounted."""
    for attempt in range(BUSY_TRIES + 1):
        detach = MNT_DETACH if attempt == BUSY_TRIES else 0
        try:
            _linux.umount2(path, UMOUNT_NOFOLLOW | detach)
            return True
        except OSError as error:
            if error.errno in (EINVAL, ENOENT):
                return False
            if error.errno != EBUSY or detach:
                raise
            sleep(BUSY_WAIT_S)
    raise AssertionError


def _below(target: str) -> list[str]:
    """Mount points below a directory, the deepest first (proc_pid_mountinfo(5))."""
    fd = posix.open(target, O_PATH | posix.O_CLOEXEC)
    try:
        real = posix.readlink(f"/proc/self/fd/{fd}")
    finally:
        posix.close(fd)
    found = set()
    for line in read_text("/proc/self/mountinfo", 1 << 26).splitlines():
        point = line.split(" ", 5)[4]
        for number in (0o40, 0o11, 0o12, 0o134):  # in this order: the backslash last
            point = point.replace(f"\\{number:03o}", chr(number))
        if point.startswith(f"{real}/"):
            found.add(point)
    return sorted(found, key=len, reverse=True)
