# SPDX-License-Identifier: Apache-2.0
"""A file that the engine reads once the container has ended (a pod's termination message), where
the guest has a copy of it: urunc's init writes what it ends with onto a small disk, and who sees
first that the container has stopped puts it into the engine's file.

The guest is not trusted: at worst it says something else of itself, 4096 bytes at most.
"""

from __future__ import annotations

import posix

from urunc import logs
from urunc.errors import reason
from urunc.linux.files import S_IFMT, S_IFREG, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.state import ReturnedFile

SECTOR_BYTES = 512
LIMIT_BYTES = 4096
"""So much of its end kubelet reads (MaxContainerTerminationMessageLength of pkg/kubelet)."""
MAGIC = b"urunc-returned 1 "
"""Then the length in decimal and a line's end, in a sector of its own; then the bytes."""


def is_read_back(source: str) -> bool:
    """Whether a file is one that kubelet made for a container's termination message:
    `…/pods/UID/containers/NAME/ID` (pkg/kubelet, getPodContainerDir; the ID is 8 hexadecimal
    letters), wherever terminationMessagePath has it mounted."""
    parts = source.split("/")
    if len(parts) < 6 or (parts[-5], parts[-3]) != ("pods", "containers"):
        return False
    return len(parts[-1]) == 8 and not parts[-1].strip("0123456789abcdef")


def make(path: str) -> None:
    """The disk, empty. Raises OSError."""
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
    fd = posix.open(path, flags, 0o600)
    posix.ftruncate(fd, SECTOR_BYTES + LIMIT_BYTES)
    posix.close(fd)


def give_back(file: ReturnedFile) -> None:
    """Put what a stopped guest left into the engine's file, once. What is in the way is a
    warning."""
    try:
        message = _take(file.disk)
        if message is not None:
            _write(file.source, file.identity, message)
    except OSError as error:
        logs.warn(f"give back '{file.destination}' to '{file.source}': {reason(error)}")


def _take(path: str) -> bytes | None:
    """What is on the disk, which is empty after that; None where nothing is."""
    fd = posix.open(path, posix.O_RDWR | posix.O_NOFOLLOW | posix.O_CLOEXEC)
    try:
        header = posix.pread(fd, SECTOR_BYTES, 0)
        length = header.removeprefix(MAGIC).partition(b"\n")[0]
        if not header.startswith(MAGIC) or not length.isdigit() or len(length) > 4:
            return None
        message = posix.pread(fd, min(int(length), LIMIT_BYTES), SECTOR_BYTES)
        posix.pwrite(fd, bytes(SECTOR_BYTES), 0)
        return message
    finally:
        posix.close(fd)


def _write(path: str, identity: tuple[int, ...], message: bytes) -> None:
    """Into the very file that was there at create."""
    flags = posix.O_WRONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_CLOEXEC
    fd = posix.open(path, flags)
    try:
        facts = posix.fstat(fd)
        if facts.st_mode & S_IFMT != S_IFREG or (facts.st_dev, facts.st_ino) != identity:
            logs.warn(f"give back '{path}': it is another file than at create")
            return
        posix.ftruncate(fd, 0)
        write_all(fd, message)
    finally:
        posix.close(fd)
