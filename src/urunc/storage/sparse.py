# SPDX-License-Identifier: Apache-2.0
"""Files with holes: where their data is, and copies in which holes stay holes."""

from __future__ import annotations

import posix
from errno import EBADF, EINVAL, ENOSYS, ENOTSUP, ENXIO, EPERM, EXDEV

from urunc.linux.files import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SEEK_SET, SEEK_CUR = 0, 1
BUFFER_BYTES = 1 << 20
UNABLE = (EXDEV, EINVAL, ENOTSUP, ENOSYS, EPERM, EBADF)
"""Errors of copy_file_range(2) and sendfile(2) for files between which they cannot copy."""


def extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of each part of a file of `size` bytes that is no hole; the whole file if the
    file system does not tell (lseek(2), SEEK_DATA). Moves the descriptor's position."""
    end = 0
    while end < size:
        try:
            begin = posix.lseek(fd, end, posix.SEEK_DATA)
            end = min(posix.lseek(fd, begin, posix.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == ENXIO:
                return  # nothing but a hole is left
            if error.errno != EINVAL:
                raise
            begin, end = end, size
        if begin < end:
            yield begin, end


def copy(source: int, out: int, size: int) -> None:
    """Copy the first `size` bytes of a file to the position of `out`, a regular file. Holes stay
    holes, and so does what is missing at the end."""
    start = posix.lseek(out, 0, SEEK_CUR)
    for begin, end in extents(source, size):
        posix.lseek(source, begin, SEEK_SET)
        posix.lseek(out, start + begin, SEEK_SET)
        left = end - begin
        while left and (count := transfer(source, out, left)):
            left -= count
    posix.lseek(out, start + size, SEEK_SET)


def transfer(source: int, out: int, count: int) -> int:
    """Copy up to `count` bytes from position to position, inside the kernel if it can; how many
    were copied, 0 at the end of the file."""
    count = min(count, 1 << 30)
    for call in (posix.copy_file_range, _sendfile):
        try:
            done = call(source, out, count)
        except OSError as error:
            if error.errno not in UNABLE:
                raise
        else:
            if done:
                return done
    data = posix.read(source, min(count, BUFFER_BYTES))
    write_all(out, data)
    return len(data)


def _sendfile(source: int, out: int, count: int) -> int:
    return posix.sendfile(out, source, None, count)
