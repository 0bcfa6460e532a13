# SPDX-License-Identifier: Apache-2.0
"""Archives in cpio's "newc" format, which Linux unpacks as its initramfs (the kernel's
Documentation/driver-api/early-userspace/buffer-format).

Runs in the caller's namespaces, as root. A tree may be hostile and change while it is read: it is
walked by descriptors and never left, only regular files and directories are opened, and links,
devices and set-user-ID bits are data. The same tree gives the same bytes: names are sorted, inodes
numbered anew, the numbers of the tree's own device left out.
"""

from __future__ import annotations

import posix
import sys
from errno import (
    EDQUOT,
    EFBIG,
    ELOOP,
    ENODATA,
    ENOENT,
    ENOSPC,
    ENOTDIR,
    ENOTSUP,
    EXDEV,
)

from urunc.errors import HostError, ImageError, reason
from urunc.linux import _linux
from urunc.linux.files import O_PATH, S_IFBLK, S_IFDIR, S_IFMT, S_IFREG, write_all
from urunc.record import record
from urunc.storage import sparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from urunc.storage.ownership import Owners

    Attribute = Callable[[bytes, int, str], bool]

S_IFCHR = 0o020000
S_IFLNK = 0o120000
# openat2(2)
RESOLVE_NO_XDEV = 0x01
RESOLVE_BENEATH = 0x08
RESOLVE_NO_SYMLINKS = 0x04

HEADER = b"070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X00000000"
HEADER_BYTES = 110
TRAILER = b"TRAILER!!!"
BLOCK_BYTES = 512
"""An archive's length is a multiple of this, as cpio(1) makes it, so that it can serve as a
disk."""
MAX_FILE_BYTES = 0xFFFFFFFF
MAX_PATH_BYTES = 4095
"""PATH_MAX without the final NUL: the kernel skips members with longer names, silently."""
BUFFER_BYTES = 1 << 20
SMALL_BYTES = 128 << 10
"""Files up to this size go through our buffer, many in one write; larger ones never leave the
kernel."""
MIB = 1 << 20

FULL = (ENOSPC, EDQUOT, EFBIG)
GONE = (ENOENT, ENOTDIR, ELOOP)
LEFT_OUT_LIMIT = 32
"""How many attribute names are counted separately; an image's author can choose any number."""
OTHERS = "(others)"
LABEL = "security.selinux"
"""Left out without a remark: labels are of the host's policy, and a guest has its own."""
OVERLAY = ("trusted.overlay.", "user.overlay.")
"""Prefixes of overlayfs' own attributes in upper and lower directories; left out without a
remark."""


class TooLargeError(HostError):
    """The archive would pass its limit."""


@record
class LeftOut:
    """An extended attribute of archived files; newc cannot hold any."""

    name: str
    files: int
    example: str
    """The first file with it."""


@record
class Facts:
    """Facts of an archive that was written."""

    size_bytes: int
    members: int
    left_out: tuple[LeftOut, ...]
    linked: int = 0
    """Names whose content stands with another name (hard links): empty for a reader that knows no
    such links."""
    linked_example: str = ""
    """The first of these."""


def write_tree(
    out: int, root_fd: int, prefix: str, *, limit_bytes: int = 0, one_file_system: bool = True,
    owners: Owners | None = None,
) -> Facts:  # fmt: skip
    """Write an archive of one tree, whose root is the descriptor `root_fd`, as `prefix` in the
    archive ("" for its top). The other arguments and the errors are Writer's."""
    writer = Writer(out, limit_bytes, owners)
    writer.tree(root_fd, prefix, one_file_system=one_file_system)
    return writer.end()


class Writer:
    """Writes one archive to the end of a regular file; holes stay holes. With `owners`, files have
    the owners that the container sees.

    Its methods raise OSError if the archive cannot be written, TooLargeError beyond `limit_bytes`
    (0: no limit), HostError for files that cannot be read, ImageError for what the format cannot
    hold.
    """

    def __init__(self, out: int, limit_bytes: int = 0, owners: Owners | None = None) -> None:
        self.out = out
        self.owners = owners
        self.limit_bytes = limit_bytes
        self.what = ""
        """The tree that is being packed, for messages."""
        self.size_bytes = 0
        self.members = 0
        self.linked = 0
        self.linked_example = ""
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self._directories = {b""}
        self._left_out: dict[str, LeftOut] = {}

    def file(self, name: str, content: bytes, mode: int) -> None:
        """Add a file; root owns it and the directories above it."""
        path = encoded(name)
        self.parents(path)
        self.member(path, S_IFREG | mode, size=len(content))
        self.put(content)
        self.pad()

    def tree(
        self, root_fd: int, prefix: str, *, what: str = "", one_file_system: bool = True,
        live: bool = False, attribute: Attribute | None = None,
    ) -> None:  # fmt: skip
        """Add the directory with everything below it, or the single file, that `root_fd` refers to
        (O_PATH will do), as `prefix`.

        `one_file_system` leaves out what is mounted below it. `live`: others may be writing to the
        tree, so a file that grows is cut to its first size and one that vanishes is left out;
        otherwise both are errors. `attribute(path below the root, descriptor, name)` is called for
        each extended attribute of files and directories, and returns whether it has handled it.
        """
        self.what = what or f"'{prefix}'"
        name = encoded(prefix)
        self.parents(name)
        _Walk(self, root_fd, name, one_file_system, live, attribute).run()

    def end(self) -> Facts:
        """Write the trailer and the padding, and flush."""
        self.member(TRAILER, 0, number=0)
        self.put(bytes(-self.size_bytes % BLOCK_BYTES))
        self.flush()
        left_out = tuple(self._left_out[name] for name in sorted(self._left_out))
        return Facts(
            size_bytes=self.size_bytes,
            members=self.members,
            left_out=left_out,
            linked=self.linked,
            linked_example=self.linked_example,
        )

    def parents(self, path: bytes) -> None:
        """Add the directories above a member that are not there yet, owned by root."""
        end = path.find(b"/")
        while end > 0:
            if path[:end] not in self._directories:
                self._directories.add(path[:end])
                self.member(path[:end], S_IFDIR | 0o755, links=2)
            end = path.find(b"/", end + 1)

    def member(
        self, path: bytes, mode: int, *, uid: int = 0, gid: int = 0, links: int = 1, mtime: int = 0,
        size: int = 0, device: int = 0, number: int = -1,
    ) -> None:  # fmt: skip
        """Write a member's header; the caller then puts `size` bytes and calls `pad`. `number`: the
        inode number that hard links share, -1 for a new one."""
        if len(path) > MAX_PATH_BYTES:
            raise ImageError(
                f"pack {self.what}: '{decoded(path[:64])}…': a path of {len(path)} bytes",
                f"Linux unpacks names of {MAX_PATH_BYTES} at most",
            )
        if size > MAX_FILE_BYTES:
            raise ImageError(
                f"pack {self.what}: '{decoded(path)}' has {size} bytes",
                "a cpio archive holds files of less than 4 GiB; use a disk or a shared directory",
            )
        self.members += 1
        mtime = min(max(mtime, 0), 0xFFFFFFFF)
        major, minor = posix.major(device), posix.minor(device)
        numbers = (
            self.members if number < 0 else number, mode, uid, gid, links, mtime, size,
            0, 0, major, minor, len(path) + 1,
        )  # fmt: skip
        self.put(HEADER % numbers + path + b"\0")
        self.pad()

    def leave_out(self, name: str, path: bytes) -> None:
        """Count an extended attribute that the archive will lack."""
        if name not in self._left_out and len(self._left_out) >= LEFT_OUT_LIMIT:
            name = OTHERS
        known = self._left_out.get(name)
        self._left_out[name] = LeftOut(
            name=name,
            files=known.files + 1 if known else 1,
            example=known.example if known else decoded(path),
        )

    def put(self, content: bytes) -> None:
        """Append bytes to the archive."""
        self.grow(len(content))
        self._buffer.append(content)
        self._buffered_bytes += len(content)
        if self._buffered_bytes >= BUFFER_BYTES:
            self.flush()

    def pad(self) -> None:
        """Append zero bytes up to a multiple of four, where a header or content may begin."""
        self.put(bytes(-self.size_bytes % 4))

    def grow(self, count: int) -> None:
        """Account for bytes that will be written; raises TooLargeError."""
        self.size_bytes += count
        if self.limit_bytes and self.size_bytes > self.limit_bytes:
            raise TooLargeError(f"pack {self.what}: more than {self.limit_bytes / MIB:g} MiB")

    def flush(self) -> None:
        """Write the buffer to the file."""
        write_all(self.out, b"".join(self._buffer))
        self._buffer.clear()
        self._buffered_bytes = 0


class _Walk:
    """Adds one tree to an archive: a directory's members sorted by name, then its
    subdirectories."""

    def __init__(
        self, writer: Writer, root_fd: int, prefix: bytes, one_file_system: bool, live: bool,
        attribute: Attribute | None,
    ) -> None:  # fmt: skip
        self.writer = writer
        self.root_fd = root_fd
        self.prefix = prefix
        self.live = live
        self.attribute = attribute
        self.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
        if one_file_system:
            self.resolve |= RESOLVE_NO_XDEV
        self.waiting: list[bytes] = []
        self.linked: dict[tuple[int, int], list[bytes]] = {}
        """(device, inode) → paths of the hard links met so far: newc has the content with the last
        of them."""

    def run(self) -> None:
        if self.take(self.root_fd, b""):
            self.waiting.append(b"")
        while self.waiting:
            self.directory(self.waiting.pop())
        for paths in self.linked.values():  # files with links outside the tree
            while paths and not self.links(self.root_fd, paths):
                paths.pop()

    def directory(self, path: bytes) -> None:
        """Add a directory's members; its subdirectories go to `waiting`."""
        fd = self.open(self.root_fd, path or b".", posix.O_DIRECTORY, path)
        if fd < 0:
            return
        found = []
        try:
            self.attributes(fd, path)
            for name in sorted(self.names(fd)):
                inner = path + b"/" + name if path else name
                if self.entry(fd, name, inner):
                    found.append(inner)
        except OSError as error:
            raise self.failure(error, path) from None
        finally:
            posix.close(fd)
        self.waiting += reversed(found)

    def names(self, fd: int) -> list[bytes]:
        """The names in a directory; raises TooLargeError for more than the limit has room for."""
        limit = self.writer.limit_bytes // HEADER_BYTES or sys.maxsize
        found = []
        with posix.scandir(fd) as entries:
            for entry in entries:
                found.append(encoded(entry.name))
                if len(found) > limit:
                    self.writer.grow(len(found) * HEADER_BYTES)
        return found

    def entry(self, directory: int, name: bytes, path: bytes) -> bool:
        """Add one entry of a directory; whether it is a directory itself."""
        fd = self.open(directory, name, O_PATH | posix.O_NOFOLLOW, path)
        if fd < 0:
            return False
        try:
            return self.take(fd, path)
        except OSError as error:
            raise self.failure(error, path) from None
        finally:
            posix.close(fd)

    def open(self, directory: int, name: bytes, flags: int, path: bytes) -> int:
        """A descriptor of an entry of a directory; -1 for a mount point that is left out, and for
        one that vanished."""
        try:
            return _linux.openat2(directory, decoded(name), flags, 0, self.resolve)
        except OSError as error:
            if error.errno == EXDEV:
                self.mount_point(directory, name, path)
            elif not (self.live and error.errno in GONE):
                raise self.failure(error, path) from None
        return -1

    def take(self, fd: int, path: bytes) -> bool:
        """Add what an O_PATH descriptor refers to; whether it is a directory."""
        facts = posix.fstat(fd)
        kind = facts.st_mode & S_IFMT
        if kind == S_IFDIR:
            self.header(path, facts, links=2)
            return True
        if kind == S_IFLNK:
            target = posix.readlink(b"", dir_fd=fd)
            self.header(path, facts, size=len(target))
            self.writer.put(target)
            self.writer.pad()
            return False
        if facts.st_nlink > 1:
            self.link(fd, path, facts)
        elif kind == S_IFREG:
            self.regular(fd, path, facts)
        else:
            self.header(path, facts)
        return False

    def mount_point(self, directory: int, name: bytes, path: bytes) -> None:
        """Add an empty directory or file in place of a mount that is left out."""
        facts = posix.stat(name, dir_fd=directory, follow_symlinks=False)
        if facts.st_mode & S_IFMT == S_IFDIR:
            self.writer.member(self.name(path), S_IFDIR | 0o755, links=2)
        else:
            self.writer.member(self.name(path), S_IFREG | 0o644)

    def link(self, fd: int, path: bytes, facts: posix.stat_result) -> None:
        """Note one of several links to a file, which are added when the last one has come."""
        identity = (facts.st_dev, facts.st_ino)
        paths = self.linked.setdefault(identity, [])
        paths.append(path)
        if len(paths) >= facts.st_nlink:
            del self.linked[identity]
            self.links(fd, paths)

    def links(self, fd: int, paths: list[bytes]) -> bool:
        """Add all links to a file; False if the last one has vanished. `fd` is a descriptor of the
        file, or the root's for a file that was not kept open."""
        path = paths[-1]
        mine = fd == self.root_fd and path != b""
        if mine:
            fd = self.open(fd, path, O_PATH | posix.O_NOFOLLOW, path)
        if fd < 0:
            return False
        try:
            facts = posix.fstat(fd)
            number = self.writer.members + 1
            for other in paths[:-1]:
                self.header(other, facts, links=len(paths), number=number)
            if facts.st_mode & S_IFMT == S_IFREG:
                if facts.st_size and paths[1:]:
                    self.writer.linked_example = self.writer.linked_example or decoded(paths[0])
                    self.writer.linked += len(paths) - 1
                self.regular(fd, path, facts, links=len(paths), number=number)
            else:
                self.header(path, facts, links=len(paths), number=number)
        except OSError as error:
            raise self.failure(error, path) from None
        finally:
            if mine:
                posix.close(fd)
        return True

    def regular(
        self, fd: int, path: bytes, facts: posix.stat_result, links: int = 1, number: int = -1
    ) -> None:
        """A regular file. By way of /proc it is the very file that was looked at, whatever has its
        name by now."""
        size = facts.st_size
        content = posix.open(f"/proc/self/fd/{fd}", posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            self.attributes(content, path)
            self.header(path, facts, links=links, size=size, number=number)
            if size <= SMALL_BYTES:
                data = _read(content, size)
                self.writer.put(data + bytes(size - len(data)))
            else:
                self.writer.grow(size)
                self.writer.flush()
                sparse.copy(content, self.writer.out, size)
            self.writer.pad()
            now = posix.fstat(content)
            if now.st_size < size or (not self.live and changed(facts, now)):
                raise HostError(
                    f"pack {self.writer.what}: '{decoded(path)}' was changed meanwhile",
                    f"it had {size} bytes, and now {now.st_size}",
                )
        finally:
            posix.close(content)

    def header(
        self, path: bytes, facts: posix.stat_result, *, links: int = 1, size: int = 0,
        number: int = -1,
    ) -> None:  # fmt: skip
        """A member's header with the owner and the mode of a file."""
        kind = facts.st_mode & S_IFMT
        owners = self.writer.owners
        uid = owners.user(facts.st_uid) if owners else facts.st_uid
        gid = owners.group(facts.st_gid) if owners else facts.st_gid
        self.writer.member(
            self.name(path), facts.st_mode, uid=uid, gid=gid, links=links,
            mtime=facts.st_mtime_ns // 10**9, size=size, number=number,
            device=facts.st_rdev if kind in (S_IFBLK, S_IFCHR) else 0,
        )  # fmt: skip

    def name(self, path: bytes) -> bytes:
        """A member's name in the archive."""
        if self.prefix:
            return self.prefix + b"/" + path if path else self.prefix
        return b"./" + path if path == TRAILER else path or b"."

    def attributes(self, fd: int, path: bytes) -> None:
        """Note what the format leaves out."""
        try:
            names = posix.listxattr(fd)
        except OSError as error:
            if error.errno in (ENOTSUP, ENODATA):
                return
            raise
        for name in names:
            if self.attribute and self.attribute(path, fd, name):
                continue
            if name != LABEL and not name.startswith(OVERLAY):
                self.writer.leave_out(name, path)

    def failure(self, error: OSError, path: bytes) -> Exception:
        """What to raise: the archive's own trouble as it is, the tree's in words."""
        if error.errno in FULL:
            return error
        name = decoded(path) or "."
        return HostError(f"pack {self.writer.what}: '{name}': {reason(error)}")


def encoded(name: str) -> bytes:
    """A file's name as the kernel has it."""
    return name.encode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


def decoded(name: bytes) -> str:
    """A file's name as Python has it."""
    return name.decode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


def changed(before: posix.stat_result, now: posix.stat_result) -> bool:
    """Whether a file was written to between two looks."""
    return (before.st_size, before.st_mtime_ns) != (now.st_size, now.st_mtime_ns)


def _read(fd: int, size: int) -> bytes:
    data = posix.read(fd, size)
    while len(data) < size and (more := posix.read(fd, size - len(data))):
        data += more
    return data
