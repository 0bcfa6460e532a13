# SPDX-License-Identifier: Apache-2.0
"""Archives in cpio's "newc" format, which Linux unpacks as its initramfs (the kernel's
Documentation/driver-api/early-userspace/buffer-format).

Runs in the caller's namespaces, as root. What it reads may belong to somebody hostile who changes
it meanwhile: a tree is walked by descriptors, below its root and nowhere else, nothing but regular
files and directories is ever opened, and links, devices and set-user-ID bits are data. The same
tree gives the same bytes: names are in order, inodes numbered anew, devices' numbers left out.
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
"""An archive's length is a multiple of this, as cpio(1) has it: it can be a disk as it is."""
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
"""So many names of attributes are told apart; who made the files chose them."""
OTHERS = "(others)"
LABEL = "security.selinux"
"""The host's business; a guest has its own policy."""
OVERLAY = ("trusted.overlay.", "user.overlay.")
"""overlayfs' notes to itself in the directories that it consists of."""


class TooLargeError(HostError):
    """The archive would pass its limit."""


@record
class LeftOut:
    """An extended attribute that the archive does not have, for newc has none."""

    name: str
    files: int
    example: str
    """The first file with it."""


@record
class Facts:
    """What was written."""

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
    """A whole archive of the tree that `root_fd` is, as `prefix` in it ("" for its top); see
    Writer."""
    writer = Writer(out, limit_bytes, owners)
    writer.tree(root_fd, prefix, one_file_system=one_file_system)
    return writer.end()


class Writer:
    """Writes one archive to a regular file, from its descriptor's position on, where the file must
    end: holes stay holes.

    With `owners` files belong to whom the container sees them belong to.
    Raises OSError where the file cannot be written, TooLargeError beyond `limit_bytes` (0: none),
    HostError for what cannot be read, ImageError for what the format cannot hold.
    """

    def __init__(self, out: int, limit_bytes: int = 0, owners: Owners | None = None) -> None:
        self.out = out
        self.owners = owners
        self.limit_bytes = limit_bytes
        self.what = ""
        """What is being packed, for messages."""
        self.size_bytes = 0
        self.members = 0
        self.linked = 0
        self.linked_example = ""
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self._directories = {b""}
        self._left_out: dict[str, LeftOut] = {}

    def file(self, name: str, content: bytes, mode: int) -> None:
        """A file of root's, in directories of root's."""
        path = encoded(name)
        self.parents(path)
        self.member(path, S_IFREG | mode, size=len(content))
        self.put(content)
        self.pad()

    def tree(
        self, root_fd: int, prefix: str, *, what: str = "", one_file_system: bool = True,
        live: bool = False, attribute: Attribute | None = None,
    ) -> None:  # fmt: skip
        """What a descriptor is (one by O_PATH, too), a directory with everything below it or a
        single file, as `prefix`.

        `one_file_system`: what is mounted below it is left out. `live`: others may be writing to
        it; a file that grows is taken as long as it was, and one that vanishes left out, which are
        errors else. `attribute` is asked about each extended attribute of files and directories
        (path below the root, descriptor, name): true means that it was seen to.
        """
        self.what = what or f"'{prefix}'"
        name = encoded(prefix)
        self.parents(name)
        _Walk(self, root_fd, name, one_file_system, live, attribute).run()

    def end(self) -> Facts:
        """The last member, and what is left in the buffer."""
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
        """The directories above a member, of root's, where they are not there yet."""
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
        """A member's header; `size` bytes and `pad` have to follow. `number`: an inode that
        members share, else a new one."""
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
        """Note an extended attribute that a member had."""
        if name not in self._left_out and len(self._left_out) >= LEFT_OUT_LIMIT:
            name = OTHERS
        known = self._left_out.get(name)
        self._left_out[name] = LeftOut(
            name=name,
            files=known.files + 1 if known else 1,
            example=known.example if known else decoded(path),
        )

    def put(self, content: bytes) -> None:
        """Add bytes."""
        self.grow(len(content))
        self._buffer.append(content)
        self._buffered_bytes += len(content)
        if self._buffered_bytes >= BUFFER_BYTES:
            self.flush()

    def pad(self) -> None:
        """Zero bytes up to where a header or a content may begin."""
        self.put(bytes(-self.size_bytes % 4))

    def grow(self, count: int) -> None:
        """Account for bytes to come."""
        self.size_bytes += count
        if self.limit_bytes and self.size_bytes > self.limit_bytes:
            raise TooLargeError(f"pack {self.what}: more than {self.limit_bytes / MIB:g} MiB")

    def flush(self) -> None:
        """Empty the buffer."""
        write_all(self.out, b"".join(self._buffer))
        self._buffer.clear()
        self._buffered_bytes = 0


class _Walk:
    """One tree's way into an archive: all members of a directory by name, then its directories."""

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
        """Hard links met so far, by device and inode: newc wants the content with the last of
        them."""

    def run(self) -> None:
        if self.take(self.root_fd, b""):
            self.waiting.append(b"")
        while self.waiting:
            self.directory(self.waiting.pop())
        for paths in self.linked.values():  # the tree has not all links of these
            while paths and not self.links(self.root_fd, paths):
                paths.pop()

    def directory(self, path: bytes) -> None:
        """Everything in a directory; those in it wait."""
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
        """What is in a directory, no more than could be written."""
        limit = self.writer.limit_bytes // HEADER_BYTES or sys.maxsize
        found = []
        with posix.scandir(fd) as entries:
            for entry in entries:
                found.append(encoded(entry.name))
                if len(found) > limit:
                    self.writer.grow(len(found) * HEADER_BYTES)
        return found

    def entry(self, directory: int, name: bytes, path: bytes) -> bool:
        """Something in a directory; whether it is a directory."""
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
        """A descriptor of something in a directory; -1 where there is nothing to be had."""
        try:
            return _linux.openat2(directory, decoded(name), flags, 0, self.resolve)
        except OSError as error:
            if error.errno == EXDEV:
                self.mount_point(directory, name, path)
            elif not (self.live and error.errno in GONE):
                raise self.failure(error, path) from None
        return -1

    def take(self, fd: int, path: bytes) -> bool:
        """What a descriptor by O_PATH is; whether it is a directory."""
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
        """Where something is mounted that is left out: a directory or a file to mount on."""
        facts = posix.stat(name, dir_fd=directory, follow_symlinks=False)
        if facts.st_mode & S_IFMT == S_IFDIR:
            self.writer.member(self.name(path), S_IFDIR | 0o755, links=2)
        else:
            self.writer.member(self.name(path), S_IFREG | 0o644)

    def link(self, fd: int, path: bytes, facts: posix.stat_result) -> None:
        """One of several links to a file: written once the last one has come."""
        identity = (facts.st_dev, facts.st_ino)
        paths = self.linked.setdefault(identity, [])
        paths.append(path)
        if len(paths) >= facts.st_nlink:
            del self.linked[identity]
            self.links(fd, paths)

    def links(self, fd: int, paths: list[bytes]) -> bool:
        """All links to a file, unless the last has vanished; `fd` is it or, for a file seen long
        ago, the root."""
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
