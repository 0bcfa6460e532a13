# SPDX-License-Identifier: Apache-2.0
"""A pod's termination message: a file of the kubelet's, of which the guest has a copy. At the end
urunc's init writes the copy's content to a small disk; the first urunc process that sees that the
container has stopped writes it back to the kubelet's file.

The guest is not trusted: at worst it reports something false of itself, in 4096 bytes at most.
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
"""The kubelet reads no more of it (MaxContainerTerminationMessageLength of pkg/kubelet)."""
MAGIC = b"urunc-returned 1 "
"""Begins the disk's first sector; the length in decimal and a line feed follow, the message begins
in the second sector."""


def is_read_back(source: str) -> bool:
    """Whether the kubelet made this file for a container's termination message, to go by its path:
    `…/pods/UID/containers/NAME/ID` (pkg/kubelet, getPodContainerDir; the ID is 8 hexadecimal
    digits). terminationMessagePath may have it mounted anywhere."""
    parts = source.split("/")
    if len(parts) < 6 or (parts[-5], parts[-3]) != ("pods", "containers"):
        return False
    return len(parts[-1]) == 8 and not parts[-1].strip("0123456789abcdef")


def make(path: str) -> None:
    """Make the disk, empty; raises OSError."""
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
    fd = posix.open(path, flags, 0o600)
    posix.ftruncate(fd, SECTOR_BYTES + LIMIT_BYTES)
    posix.close(fd)


def give_back(file: ReturnedFile) -> None:
    """Write a stopped guest's message to the engine's file, once. A failure is a warning."""
    try:
        message = _take(file.disk)
        if message is not None:
            _write(file.source, file.identity, message)
    except OSError as error:
        logs.warn(f"give back '{file.destination}' to '{file.source}': {reason(error)}")


def _take(path: str) -> bytes | None:
    """The message on the disk, None if there is none; empties the disk."""
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
    """Write to the engine's file if it still is the one seen at create: `identity` is its (device,
    inode)."""
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
