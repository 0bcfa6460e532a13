# SPDX-License-Identifier: Apache-2.0
"""Directory trees, read by descriptors: their size for the builder, and a key for all of their
content.

An image's author chooses names, sizes, modes and times, so none of these identifies a file's
content: files are read whole. Links are never followed, and only regular files and directories are
opened.
"""

from __future__ import annotations

import posix
from errno import ENODATA
from hashlib import sha256
from time import time_ns

from urunc.errors import HostError, reason
from urunc.jsontext import dumps, loads
from urunc.linux import _linux
from urunc.linux.files import (
    O_PATH,
    S_IFDIR,
    S_IFMT,
    S_IFREG,
    make_directories,
    read_text,
    write_whole,
)
from urunc.linux.mounts import (
    AT_EMPTY_PATH,
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
)
from urunc.record import record
from urunc.storage.cache import TREES
from urunc.storage.layers import KEY_BYTES, S_IFLNK, digest
from urunc.storage.sparse import extents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS = 0x08, 0x04
BUFFER_BYTES = 1 << 20
SETTLED_NS = 100_000_000
"""Two changes within this time may leave the same ctime: the kernel's clock for file times ticks
every 1 to 10 ms."""
ATTRIBUTES = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
NAMES_LIMIT = 4_000_000
"""The most entries of a tree that are looked at; no root filesystem has as many."""


class TreeEntry:
    """A file, directory, link or node of a tree."""

    __slots__ = ("directory", "facts", "name", "path")

    def __init__(self, path: str, directory: int, name: str, facts: posix.stat_result) -> None:
        self.path = path
        """Relative to the tree's root, "" for the root itself."""
        self.directory = directory
        """A descriptor of the directory it is in, open until the walk goes on to the next one."""
        self.name = name
        self.facts = facts

    @property
    def kind(self) -> int:
        """The file type, S_IFMT of the mode."""
        return self.facts.st_mode & S_IFMT

    def target(self) -> str:
        """The target of a symbolic link, "" for anything else."""
        return posix.readlink(self.name, dir_fd=self.directory) if self.kind == S_IFLNK else ""

    def attributes(self) -> list[tuple[str, bytes]]:
        """Extended attributes, sorted by name, without SELinux labels, which are the host's."""
        path = (
            f"/proc/self/fd/{self.directory}/{self.name}"  # there is no listxattrat(2) before 6.13
        )
        return [
            (key, posix.getxattr(path, key, follow_symlinks=False))
            for key in sorted(posix.listxattr(path, follow_symlinks=False))
            if key != "security.selinux"
        ]

    def open(self) -> int:
        """A descriptor of a regular file."""
        flags = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_CLOEXEC
        return posix.open(self.name, flags, dir_fd=self.directory)


@record
class Size:
    """The size of a tree."""

    entries: int
    data_bytes: int
    """The content of files, without holes."""
    apparent_bytes: int
    """The content of files, with holes."""
    blocks: int
    """Blocks of 4 KiB that an ext filesystem needs for it."""


def open_tree(root: str) -> int:
    """A descriptor of a detached copy of a directory's mount, without what is mounted below it
    (open_tree(2)). Needs CAP_SYS_ADMIN; raises OSError."""
    fd = posix.open(root, O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    try:
        return _linux.open_tree(fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH)
    finally:
        posix.close(fd)


def restrict(mount: int) -> None:
    """Let a mount of `open_tree` be read only, without traces: an ext image holds access times.
    How they are kept is not ours to say of another user namespace's mount (mount_namespaces(7),
    "locked"); the rest is."""
    noatime = ATTRIBUTES | MOUNT_ATTR_NOATIME
    try:
        _linux.mount_setattr(mount, "", AT_EMPTY_PATH, noatime, MOUNT_ATTR__ATIME, 0)
    except PermissionError:
        _linux.mount_setattr(mount, "", AT_EMPTY_PATH, ATTRIBUTES, 0, 0)


def walk(root: int) -> Iterator[TreeEntry]:
    """Every entry of a tree, the root first, in an order that depends on names alone; raises
    OSError, and HostError beyond NAMES_LIMIT."""
    yield TreeEntry("", root, ".", posix.fstat(root))
    pending = [""]
    count = 0
    flags = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC
    while pending:
        below = pending.pop()
        directory = _linux.openat2(
            root, below or ".", flags, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
        )
        try:
            names = sorted(posix.listdir(directory))
            count += len(names)
            if count > NAMES_LIMIT:
                raise HostError(f"a tree of more than {NAMES_LIMIT} files")
            for name in names:
                path = f"{below}/{name}" if below else name
                entry = TreeEntry(
                    path, directory, name, posix.stat(name, dir_fd=directory, follow_symlinks=False)
                )
                if entry.kind == S_IFDIR:
                    pending.append(path)
                yield entry
        finally:
            posix.close(directory)


def measure(root: int) -> Size:
    """The size of a tree, with hard links counted once; raises OSError and HostError."""
    entries = data = apparent = blocks = 0
    seen: set[tuple[int, int]] = set()
    names = 0
    for entry in walk(root):
        facts = entry.facts
        names += 8 + (len(entry.name.encode("utf-8", "surrogateescape")) + 3) // 4 * 4
        if entry.kind != S_IFDIR and facts.st_nlink > 1:
            if (facts.st_dev, facts.st_ino) in seen:
                continue
            seen.add((facts.st_dev, facts.st_ino))
        entries += 1
        if entry.kind == S_IFREG:
            size = _data_bytes(entry)
            data += size
            apparent += facts.st_size
            # an index block for every 1,024 of data is ext2's; ext4's extents need fewer
            blocks += -(-size // 4096) + size // (4096 * 1000) + (3 if size > 12 * 4096 else 0)
        elif entry.kind == S_IFDIR:
            blocks += 1
        elif entry.kind == S_IFLNK and facts.st_size >= 60:
            blocks += 1  # shorter ones are in the inode
        if _has_attributes(entry):
            blocks += 1
    # blocks of directories are two thirds full at worst
    return Size(
        entries=entries,
        data_bytes=data,
        apparent_bytes=apparent,
        blocks=blocks + names * 3 // 2 // 4096,
    )


def _data_bytes(entry: TreeEntry) -> int:
    facts = entry.facts
    if not _has_holes(facts):
        return facts.st_size
    fd = entry.open()
    try:
        return sum(end - begin for begin, end in extents(fd, facts.st_size))
    finally:
        posix.close(fd)


def _has_holes(facts: posix.stat_result) -> bool:
    return facts.st_blocks * 512 < facts.st_size


def _has_attributes(entry: TreeEntry) -> bool:
    path = f"/proc/self/fd/{entry.directory}/{entry.name}"
    return bool(posix.listxattr(path, follow_symlinks=False))


def key_of(root: str, cache: str) -> str:
    """A key for all of a tree's content, of files too. `cache` is the cache's directory, which
    remembers the key together with the tree's signature: an unchanged tree is not read again.
    Raises HostError.
    """
    try:
        tree = open_tree(root)
        try:
            before, newest_ns, where = _signature(tree)
            memory = f"{cache}/{TREES}/{where}"
            try:
                known = loads(read_text(memory))
                if known["signature"] == before:
                    posix.utime(memory)
                    return str(known["key"])
            except (OSError, ValueError, KeyError, TypeError):
                pass  # not there, or written by another version
            started_ns = time_ns()
            key = _content(tree)
            if newest_ns < started_ns - SETTLED_NS:
                make_directories(f"{cache}/{TREES}", 0o700)
                write_whole(memory, dumps({"signature": before, "key": key}).encode())
            return key
        finally:
            posix.close(tree)
    except OSError as error:
        where = f" '{error.filename}'" if error.filename else ""
        raise HostError(f"read root filesystem '{root}'{where}: {reason(error)}") from None


def signature(root: int) -> str:
    """A hash of every entry's metadata, which changes with any change in the tree. Raises
    OSError."""
    return _signature(root)[0]


def _signature(root: int) -> tuple[str, int, str]:
    hashed = sha256()
    newest_ns = 0
    for entry in walk(root):
        facts = entry.facts
        newest_ns = max(newest_ns, facts.st_ctime_ns)
        noted = (
            entry.path, facts.st_dev, facts.st_ino, facts.st_mode, facts.st_size, facts.st_mtime_ns,
            facts.st_ctime_ns,
        )  # fmt: skip
        hashed.update(ascii(noted).encode())
    facts = posix.fstat(root)
    return hashed.hexdigest(), newest_ns, digest("tree", str(facts.st_dev), str(facts.st_ino))


def _content(root: int) -> str:
    """A hash of modes, owners, links, nodes, attributes and contents. Times count for files with
    content only: an engine makes empty files, and the directories above them, anew."""
    hashed = sha256()
    first: dict[tuple[int, int], str] = {}
    for entry in walk(root):
        facts = entry.facts
        node = facts.st_dev, facts.st_ino
        again = first.setdefault(node, entry.path) if facts.st_nlink > 1 else entry.path
        linked = again if entry.kind != S_IFDIR and again != entry.path else None
        regular = entry.kind == S_IFREG
        noted = (
            entry.path, linked, facts.st_mode, facts.st_uid, facts.st_gid, facts.st_rdev,
            facts.st_size if regular else 0, facts.st_mtime_ns if regular and facts.st_size else 0,
            entry.target(), entry.attributes(),
        )  # fmt: skip
        hashed.update(ascii(noted).encode())
        if regular and facts.st_size and linked is None:
            hashed.update(_digest_of_file(entry))
    return hashed.hexdigest()[: 2 * KEY_BYTES]


def _digest_of_file(entry: TreeEntry) -> bytes:
    hashed = sha256()
    buffer = memoryview(bytearray(min(BUFFER_BYTES, entry.facts.st_size)))
    size = entry.facts.st_size
    fd = entry.open()
    try:
        for begin, end in extents(fd, size) if _has_holes(entry.facts) else [(0, size)]:
            hashed.update(b"%d-%d " % (begin, end))
            posix.lseek(fd, begin, 0)
            while begin < end:
                count = posix.readv(fd, [buffer[: end - begin]])
                if not count:
                    raise OSError(ENODATA, "it was cut short while it was read", entry.path)
                hashed.update(buffer[:count])
                begin += count
    finally:
        posix.close(fd)
    return hashed.digest()
