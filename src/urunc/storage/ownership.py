# SPDX-License-Identifier: Apache-2.0
"""Maps the owners of files for the guest of a container with a user namespace: the guest has no
such namespace, and shall see the owners that the container sees.

On the host the ids of such a root filesystem are mapped (chowned by the engine, or by an id-mapped
mount). In the guest a file belongs to the id that the container's mapping gives it; unmapped ids
become 65534, as the kernel shows them (user_namespaces(7)). Archives are written with mapped ids.
Images are changed in place after mkfs, as no mkfs maps ids: what is parsed here was just written by
mkfs, with names that an image's author chose.
"""

from __future__ import annotations

import posix
from struct import pack_into, unpack_from

from urunc.errors import HostError
from urunc.storage import ext_inodes
from urunc.storage.ext_inodes import SUPERBLOCK, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.ids import IdMap

NOBODY = 65534
"""The id that the kernel shows for an unmapped one (/proc/sys/kernel/overflowuid)."""
EROFS_MAGIC, EROFS_SLOT, EROFS_DIRENT = 0xE0F5E1E2, 32, 12
EROFS_PLAIN, EROFS_INLINE = 0, 2
SQUASHFS_MAGIC, SQUASHFS_PLAIN, SQUASHFS_IDS = 0x73717368, 0x8000, 8192 // 4
S_IFMT, S_IFDIR = 0o170000, 0o040000
OPTIONS = {"erofs": ("-Eforce-inode-extended",), "squashfs": ("-noId",)}
"""Options of mkfs so that an image's ids can be changed in place: 32 bits for each id (erofs), an
uncompressed table of ids (squashfs)."""


class Owners:
    """Maps ids of files from the runtime's to the container's."""

    def __init__(self, users: IdMap, groups: IdMap) -> None:
        self.users = users
        self.groups = groups

    @property
    def name(self) -> str:
        """Identifies the mapping, as a part of an image's key."""
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
    """Map the owners in an image that was made with OPTIONS, in place; raises OSError, and
    HostError for an unexpected or damaged image."""
    try:
        {"ext2": _ext, "ext4": _ext, "erofs": _erofs, "squashfs": _squashfs}[filesystem](fd, owners)
    except (IndexError, ValueError) as error:
        raise HostError(f"owners of files in {filesystem}: {error}") from None
    except Exception as error:
        if type(error).__name__ != "error":  # struct's
            raise
        raise HostError(f"owners of files in {filesystem}: the image is cut off") from None


def _ext(fd: int, owners: Owners) -> None:
    def edit(table: bytearray, at: int, inode_bytes: int) -> None:
        low, high = at + 0x18, at + 0x78
        uid_low, gid_low = unpack_from("<H", table, at + 2)[0], unpack_from("<H", table, low)[0]
        uid_high, gid_high = unpack_from("<HH", table, high)
        uid = owners.user(uid_low | uid_high << 16)
        gid = owners.group(gid_low | gid_high << 16)
        pack_into("<H", table, at + 2, uid & 0xFFFF)
        pack_into("<H", table, low, gid & 0xFFFF)
        pack_into("<HH", table, high, uid >> 16, gid >> 16)

    ext_inodes.change(fd, edit)


def _squashfs(fd: int, owners: Owners) -> None:
    """Change the table of ids that inodes refer to. Users and groups share it, so an id that a user
    and a group have with different mappings cannot be represented."""
    block = read(fd, 96, 0)
    (magic,) = unpack_from("<I", block)
    (count,) = unpack_from("<H", block, 26)
    (start,) = unpack_from("<Q", block, 48)
    if magic != SQUASHFS_MAGIC:
        raise ValueError("no image of squashfs 4")
    blocks = -(-count // SQUASHFS_IDS)
    pointers = unpack_from(f"<{blocks}Q", read(fd, 8 * blocks, start))
    for number, offset in enumerate(pointers):
        (header,) = unpack_from("<H", read(fd, 2, offset))
        ids = min(count - number * SQUASHFS_IDS, SQUASHFS_IDS)
        if not header & SQUASHFS_PLAIN or header & ~SQUASHFS_PLAIN != ids * 4:
            raise ValueError("the table of ids is packed")
        table = read(fd, ids * 4, offset + 2)
        for index in range(ids):
            (known,) = unpack_from("<I", table, index * 4)
            uid, gid = owners.user(known), owners.group(known)
            if uid != gid:
                raise ValueError(
                    f"user {known} is {uid} in the container and group {known} is {gid}, which it "
                    "cannot tell apart: choose another format"
                )
            pack_into("<I", table, index * 4, uid)
        posix.pwrite(fd, table, offset + 2)


def _erofs(fd: int, owners: Owners) -> None:
    """Change each inode that is reachable from the root (Documentation/filesystems/erofs.rst)."""
    block = read(fd, 128, SUPERBLOCK)
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
    if compatible & 1:  # a checksum of the superblock's whole block, which may hold inodes
        whole = read(fd, (1 << block_bits) - SUPERBLOCK, SUPERBLOCK)
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
        """Change one inode's owners; if it is a directory, the numbers of the inodes in it."""
        offset = self.start + number * EROFS_SLOT
        inode = read(self.fd, 64, offset)
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
                read(self.fd, count, tail if inline else first * self.block_bytes + begin)
            )
        return names


def _named(block: bytearray) -> list[int]:
    """The inode numbers in a directory's block, which has entries and then their names."""
    count = unpack_from("<H", block, 8)[0] // EROFS_DIRENT
    return [unpack_from("<Q", block, index * EROFS_DIRENT)[0] for index in range(count)]


def crc32c(content: bytes) -> int:
    """CRC-32C (Castagnoli) with all ones as the initial value and no final inversion, as erofs uses
    it."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    found = 0xFFFFFFFF
    for byte in content:
        found = found >> 8 ^ table[(found ^ byte) & 0xFF]
    return found
