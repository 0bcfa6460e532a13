# SPDX-License-Identifier: Apache-2.0
"""The inodes of an ext2 or ext4 that mke2fs has just made with build_image.FEATURES, changed in
place: no checksums, and tables of inodes whose unused ends are holes (Documentation/filesystems/
ext4)."""

from __future__ import annotations

import posix
from errno import EINVAL
from struct import unpack_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SUPERBLOCK = 1024
"""The offset of the superblock, in bytes."""
FIRST_INODE, ROOT_INODE = 11, 2
ATIME, CTIME, MTIME = 0x08, 0x0C, 0x10
EXTRA_SIZE, CTIME_EXTRA, MTIME_EXTRA, ATIME_EXTRA = 0x80, 0x84, 0x88, 0x8C
"""Offsets in an inode: the later ones, if it has more than 128 bytes; `_extra` holds nanoseconds
and the bits of years after 2038."""
EXTRA_NEEDED = ATIME_EXTRA + 4 - 128


def read(fd: int, size: int, offset: int) -> bytearray:
    """That many bytes; raises OSError where the image ends before."""
    found = posix.pread(fd, size, offset)
    if len(found) < size:
        raise OSError(EINVAL, "the image is cut off")
    return bytearray(found)


def change(fd: int, edit: Callable[[bytearray, int, int], None]) -> None:
    """Call `edit(table, offset, inode_bytes)` for each inode in use, which lies at that offset of
    the table; raises OSError."""
    block = read(fd, 1024, SUPERBLOCK)
    count, _, _, _, _, first_block, log_size = unpack_from("<7I", block)
    per_group = unpack_from("<I", block, 0x28)[0]
    (inode_bytes,) = unpack_from("<H", block, 0x58)
    block_bytes = 1024 << log_size
    groups = -(-count // per_group)
    descriptors = read(fd, 32 * groups, (first_block + 1) * block_bytes)
    for group in range(groups):
        offset = unpack_from("<I", descriptors, 32 * group + 8)[0] * block_bytes
        table = read(fd, per_group * inode_bytes, offset)
        used = 0
        for index in range(per_group):
            number, at = group * per_group + index + 1, index * inode_bytes
            if number < FIRST_INODE and number != ROOT_INODE:
                continue
            if table[at : at + 2] == b"\0\0" or table[at + 0x1A : at + 0x1C] == b"\0\0":
                continue  # no mode, or no links
            edit(table, at, inode_bytes)
            used = at + inode_bytes
        if used:  # the rest are holes, and stay so
            posix.pwrite(fd, table[:used], offset)


def settle_times(fd: int) -> None:
    """Make each inode's times of access and of change that of its modification. mke2fs copies all
    three of the tree's, and the other two change while nobody changes the tree: by reading it,
    and by copying it as a whole."""

    def edit(table: bytearray, at: int, inode_bytes: int) -> None:
        modified = table[at + MTIME : at + MTIME + 4]
        table[at + ATIME : at + ATIME + 4] = table[at + CTIME : at + CTIME + 4] = modified
        if inode_bytes > 128 and unpack_from("<H", table, at + EXTRA_SIZE)[0] >= EXTRA_NEEDED:
            extra = table[at + MTIME_EXTRA : at + MTIME_EXTRA + 4]
            table[at + ATIME_EXTRA : at + ATIME_EXTRA + 4] = extra
            table[at + CTIME_EXTRA : at + CTIME_EXTRA + 4] = extra

    change(fd, edit)
