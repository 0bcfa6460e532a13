# SPDX-License-Identifier: Apache-2.0
"""Owners of files as a container in a user namespace sees them, for its guest, which has none.

There the ids of a root filesystem are the host's (chowned by the engine, or shown so by an
id-mapped mount): in the guest a file belongs to the id that the container's mapping makes of it,
and what is mapped to none to nobody, as the kernel shows it (user_namespaces(7)). Archives are
written so; an image that a filesystem's program has made is changed in place, for no program maps
ids. What is parsed here has just been written by those programs, from names that an image's author
has chosen.
"""

from __future__ import annotations

import posix
from errno import EINVAL
from struct import pack_into, unpack_from

from urunc.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.ids import IdMap

NOBODY = 65534
"""What the kernel shows of an id that is not mapped (/proc/sys/kernel/overflowuid)."""
SUPERBLOCK = 1024
"""Where ext2, ext4 and erofs have theirs, in bytes."""
EXT_FIRST_INODE, EXT_ROOT_INODE = 11, 2
EROFS_MAGIC, EROFS_SLOT, EROFS_DIRENT = 0xE0F5E1E2, 32, 12
EROFS_PLAIN, EROFS_INLINE = 0, 2
SQUASHFS_MAGIC, SQUASHFS_PLAIN, SQUASHFS_IDS = 0x73717368, 0x8000, 8192 // 4
S_IFMT, S_IFDIR = 0o170000, 0o040000
OPTIONS = {"erofs": ("-Eforce-inode-extended",), "squashfs": ("-noId",)}
"""What makes an image that can be changed: 32 bits for each id, and the table of ids not packed."""


class Owners:
    """The ids of files, from the runtime's to the container's."""

    def __init__(self, users: IdMap, groups: IdMap) -> None:
        self.users = users
        self.groups = groups

    @property
    def name(self) -> str:
        """By which images of these owners are told from others."""
        return " ".join(
            f"{kind}{item.container}:{item.host}+{item.size}"
            for kind, ids in (("u", self.users), ("g", self.groups))
            for item in ids.ranges
        )

    def user(self, uid: int) -> int:
        """The container's id of a file's owner."""
        inner = self.users.to_inner(uid)
        return NOBODY if inner is None else inner

    def group(self, gid: int) -> int:
        """The container's id of a file's group."""
        inner = self.groups.to_inner(gid)
        return NOBODY if inner is None else inner


def rewrite(fd: int, filesystem: str, owners: Owners) -> None:
    """Change the owners in an image that was made with OPTIONS; raises OSError, and HostError for
    an image that is not as it is to be expected."""
    try:
        {"ext2": _ext, "ext4": _ext, "erofs": _erofs, "squashfs": _squashfs}[filesystem](fd, owners)
    except (IndexError, ValueError) as error:
        raise HostError(f"owners of files in {filesystem}: {error}") from None
    except Exception as error:
        if type(error).__name__ != "error":  # struct's
            raise
        raise HostError(f"owners of files in {filesystem}: the image is cut off") from None


def _read(fd: int, size: int, offset: int) -> bytearray:
    found = posix.pread(fd, size, offset)
    if len(found) < size:
        raise OSError(EINVAL, "the image is cut off")
    return bytearray(found)


def _ext(fd: int, owners: Owners) -> None:
    """Each inode in use, in the groups' tables (Documentation/filesystems/ext4). There are no
    checksums (building.FEATURES)."""
    block = _read(fd, 1024, SUPERBLOCK)
    count, _, _, _, _, first_block, log_size = unpack_from("<7I", block)
    per_group = unpack_from("<I", block, 0x28)[0]
    (inode_bytes,) = unpack_from("<H", block, 0x58)
    block_bytes = 1024 << log_size
    groups = -(-count // per_group)
    table = _read(fd, 32 * groups, (first_block + 1) * block_bytes)
    for group in range(groups):
        offset = unpack_from("<I", table, 32 * group + 8)[0] * block_bytes
        inodes = _read(fd, per_group * inode_bytes, offset)
        for index in range(per_group):
            number, at = group * per_group + index + 1, index * inode_bytes
            if number < EXT_FIRST_INODE and number != EXT_ROOT_INODE:
                continue
            mode, uid_low = unpack_from("<HH", inodes, at)
            gid_low, links = unpack_from("<HH", inodes, at + 0x18)
            if not mode or not links:
                continue
            uid_high, gid_high = unpack_from("<HH", inodes, at + 0x78)
            uid = owners.user(uid_low | uid_high << 16)
            gid = owners.group(gid_low | gid_high << 16)
            pack_into("<H", inodes, at + 2, uid & 0xFFFF)
            pack_into("<H", inodes, at + 0x18, gid & 0xFFFF)
            pack_into("<HH", inodes, at + 0x78, uid >> 16, gid >> 16)
            # each by itself: tables of free inodes are holes
            posix.pwrite(fd, inodes[at : at + 128], offset + at)


def _squashfs(fd: int, owners: Owners) -> None:
    """The table of ids, to which inodes point; users and groups have one together, so an id that is
    mapped to two cannot be said."""
    block = _read(fd, 96, 0)
    (magic,) = unpack_from("<I", block)
    (count,) = unpack_from("<H", block, 26)
    (start,) = unpack_from("<Q", block, 48)
    if magic != SQUASHFS_MAGIC:
        raise ValueError("no image of squashfs 4")
    blocks = -(-count // SQUASHFS_IDS)
    pointers = unpack_from(f"<{blocks}Q", _read(fd, 8 * blocks, start))
    for number, offset in enumerate(pointers):
        (header,) = unpack_from("<H", _read(fd, 2, offset))
        ids = min(count - number * SQUASHFS_IDS, SQUASHFS_IDS)
        if not header & SQUASHFS_PLAIN or header & ~SQUASHFS_PLAIN != ids * 4:
            raise ValueError("the table of ids is packed")
        table = _read(fd, ids * 4, offset + 2)
        for index in range(ids):
            (known,) = unpack_from("<I", table, index * 4)
            uid, gid = owners.user(known), owners.group(known)
            if uid != gid:
                raise ValueError(
                    f"user {known} is {uid} in the container and group {known} is {gid}, which it "
                    "cannot tell apart: choose another form"
                )
            pack_into("<I", table, index * 4, uid)
        posix.pwrite(fd, table, offset + 2)


def _erofs(fd: int, owners: Owners) -> None:
    """Each inode that a directory names, from the root on (Documentation/filesystems/erofs.rst)."""
    block = _read(fd, 128, SUPERBLOCK)
    magic, _, compatible = unpack_from("<3I", block)
    block_bits = block[12]
    (root,) = unpack_from("<H", block, 14)
    (meta,) = unpack_from("<I", block, 40)
    if magic != EROFS_MAGIC or not 9 <= block_bits <= 16:
        raise ValueError("no image of erofs")
    tree = _Erofs(fd, 1 << block_bits, meta << block_bits, owners)
    pending, seen = [root], {root}
    while pending:
        for inner in tree.inode(pending.pop()):
            if inner not in seen:
                seen.add(inner)
                pending.append(inner)
    if compatible & 1:  # of the superblock's whole block, inodes in it too
        whole = _read(fd, (1 << block_bits) - SUPERBLOCK, SUPERBLOCK)
        pack_into("<I", whole, 4, 0)
        posix.pwrite(fd, crc32c(bytes(whole)).to_bytes(4, "little"), SUPERBLOCK + 4)


class _Erofs:
    """The inodes of an erofs."""

    def __init__(self, fd: int, block_bytes: int, start: int, owners: Owners) -> None:
        self.fd = fd
        self.block_bytes = block_bytes
        self.start = start
        self.owners = owners

    def inode(self, number: int) -> list[int]:
        """Change the owners of one; what it names, if it is a directory."""
        offset = self.start + number * EROFS_SLOT
        inode = _read(self.fd, 64, offset)
        inode_format, attributes, mode = unpack_from("<HHH", inode)
        if not inode_format & 1:
            raise ValueError("an inode has 16 bits for an id")
        uid, gid = unpack_from("<II", inode, 24)
        pack_into("<II", inode, 24, self.owners.user(uid), self.owners.group(gid))
        posix.pwrite(self.fd, inode, offset)
        if mode & S_IFMT != S_IFDIR:
            return []
        (size,) = unpack_from("<Q", inode, 8)
        (first,) = unpack_from("<I", inode, 16)
        layout = inode_format >> 1 & 7
        if layout not in (EROFS_PLAIN, EROFS_INLINE):
            raise ValueError("a directory is packed")
        tail = offset + 64 + (12 + 4 * (attributes - 1) if attributes else 0)
        names: list[int] = []
        for begin in range(0, size, self.block_bytes):
            count = min(size - begin, self.block_bytes)
            inline = layout == EROFS_INLINE and begin + self.block_bytes >= size
            names += _named(
                _read(self.fd, count, tail if inline else first * self.block_bytes + begin)
            )
        return names


def _named(block: bytearray) -> list[int]:
    """The inodes' numbers in a block of a directory: entries, then their names."""
    count = unpack_from("<H", block, 8)[0] // EROFS_DIRENT
    return [unpack_from("<Q", block, index * EROFS_DIRENT)[0] for index in range(count)]


def crc32c(content: bytes) -> int:
    """Castagnoli's checksum, from all ones on and not inverted at the end, as erofs has it."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    found = 0xFFFFFFFF
    for byte in content:
        found = found >> 8 ^ table[(found ^ byte) & 0xFF]
    return found
