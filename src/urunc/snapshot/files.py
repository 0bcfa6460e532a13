# SPDX-License-Identifier: Apache-2.0
"""The directory of a saved guest: GUEST in the directory that the user names, with the manifest and
the files that it lists.

It is written under another name and renamed once all of it is on the disk. It is read by
descriptors: no link is followed, nothing is taken that another user can change, and no file is
larger than it should be. The directory is its owner's alone (0700), for a guest's memory is in it;
its files can be read by all who are let in (0444), such as a monitor's user.
"""

from __future__ import annotations

import posix
from errno import ENOENT
from fcntl import LOCK_EX, LOCK_NB, flock

from urunc.errors import SnapshotError, reason
from urunc.linux import _linux
from urunc.linux.files import (
    S_IFMT,
    S_IFREG,
    make_directories,
    read_descriptor,
    remove_tree,
    write_all,
)
from urunc.snapshot.manifest import LIMIT_BYTES, MANIFEST, Manifest, parse, written
from urunc.storage.sparse import extents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

GUEST = "guest"
CHUNK_BYTES = 1 << 20
ZEROS = bytes(CHUNK_BYTES)
DIRECTORY = posix.O_DIRECTORY | posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC
FILE = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_CLOEXEC
TAKEN = 0o022
"""Modes by which others could write."""
FS_IOC_UNRESVSP64 = 0x4030582B
"""_IOW('X', 43, struct space_resv), include/uapi/linux/falloc.h: make a hole."""


def digest(fd: int, size: int, *, dig: bool = False) -> str:
    """The digest of the first `size` bytes of a file: SHA-256 over the chunks of CHUNK_BYTES that
    have anything but zeros in them, each after its offset, and the size, both as 8 bytes with the
    lowest first. Holes are not read. With `dig`, chunks of zeros become holes."""
    from hashlib import sha256

    found = sha256()
    for offset in _chunks(fd, size):
        data = _read(fd, offset, min(CHUNK_BYTES, size - offset))
        if data == ZEROS or data == ZEROS[: len(data)]:
            if dig:
                _make_hole(fd, offset, len(data))
            continue
        found.update(offset.to_bytes(8, "little"))
        found.update(data)
    found.update(size.to_bytes(8, "little"))
    return found.hexdigest()


def digest_of_words(*words: str) -> str:
    """The digest of a list of texts."""
    from hashlib import sha256

    whole = "".join(f"{len(word)} {word}" for word in words)
    return sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()


def _chunks(fd: int, size: int) -> Iterator[int]:
    """The offsets of the chunks that are not holes as a whole."""
    following = 0
    for begin, end in extents(fd, size):
        first = max(begin // CHUNK_BYTES * CHUNK_BYTES, following)
        for offset in range(first, end, CHUNK_BYTES):
            yield offset
            following = offset + CHUNK_BYTES


def _read(fd: int, offset: int, count: int) -> bytes:
    parts = []
    while count:
        part = posix.pread(fd, count, offset)
        if not part:
            raise SnapshotError("a file became shorter while it was read")
        parts.append(part)
        offset, count = offset + len(part), count - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _make_hole(fd: int, offset: int, length: int) -> None:
    from fcntl import ioctl

    begin, span = offset.to_bytes(8, "little"), length.to_bytes(8, "little")
    try:
        ioctl(fd, FS_IOC_UNRESVSP64, bytes(8) + begin + span + bytes(24))
    except OSError:
        pass  # the file system has no holes: then there are zeros


class Writing:
    """A saved guest that is being written, below the directory `path`, which is made if need be."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._parent = -1
        self._fd = -1
        self._name = f".{GUEST}.{posix.getpid()}"
        self._made = False
        self.files: dict[str, int] = {}
        """Descriptors of its files by their names."""

    def begin(self) -> None:
        """Make the directory under its other name; raises SnapshotError."""
        try:
            make_directories(self.path, 0o700)
            self._parent = posix.open(self.path, DIRECTORY)
            _check_owner(self.path, self._parent)
            self._check_place()
            self._sweep()
            posix.mkdir(self._name, 0o700, dir_fd=self._parent)
            self._made = True
            self._fd = posix.open(self._name, DIRECTORY, dir_fd=self._parent)
            flock(self._fd, LOCK_EX)
        except OSError as error:
            self.end()
            raise SnapshotError(f"image path '{self.path}': {reason(error)}") from None
        except SnapshotError:
            self.end()
            raise

    def _below(self, name: str) -> str:
        """The path of a name in the directory that was opened, whatever leads to it by now."""
        return f"/proc/self/fd/{self._parent}/{name}"

    def _check_place(self) -> None:
        """What will be replaced is a saved guest, or empty."""
        try:
            fd = posix.open(GUEST, DIRECTORY, dir_fd=self._parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise SnapshotError(f"'{self.path}/{GUEST}': {reason(error)}") from None
        try:
            names = posix.listdir(fd)
        finally:
            posix.close(fd)
        if names and MANIFEST not in names:
            raise SnapshotError(
                f"'{self.path}/{GUEST}': there is something else than a saved guest",
                "move it away, or name another directory",
            )

    def _sweep(self) -> None:
        """Remove what writers that were killed have left."""
        for name in posix.listdir(self._parent):
            if not (name.startswith(f".{GUEST}.") and name.removeprefix(f".{GUEST}.").isdecimal()):
                continue
            fd = posix.open(name, DIRECTORY, dir_fd=self._parent)
            try:
                flock(fd, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                continue  # it is being written
            finally:
                posix.close(fd)
            remove_tree(self._below(name))

    def new(self, name: str, size: int = 0, owner: tuple[int, int] | None = None) -> int:
        """The descriptor of a new file, which has room for `size` bytes. Raises OSError."""
        flags = posix.O_RDWR | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC
        fd = posix.open(name, flags, 0o600, dir_fd=self._fd)
        self.files[name] = fd
        if size:
            posix.posix_fallocate(fd, 0, size)
        if owner:
            posix.fchown(fd, *owner)
        return fd

    def settle(self) -> None:
        """No one but the owner writes to the files from here on, and all of them are on the disk.
        Raises OSError."""
        for fd in self.files.values():
            posix.fchown(fd, posix.geteuid(), posix.getegid())
            posix.fchmod(fd, 0o444)
            posix.fsync(fd)

    def commit(self, manifest: Manifest) -> None:
        """Put it in its place, where it replaces another. Raises OSError, and SnapshotError where
        it could not be read again."""
        content = written(manifest)
        parse(content)
        fd = self.new(MANIFEST)
        write_all(fd, content)
        posix.fchmod(fd, 0o444)
        posix.fsync(fd)
        posix.fsync(self._fd)
        try:
            _linux.exchange(self._below(self._name), self._below(GUEST))
        except FileNotFoundError:
            posix.rename(self._name, GUEST, src_dir_fd=self._parent, dst_dir_fd=self._parent)
        posix.fsync(self._parent)

    def end(self) -> None:
        """Let go of it, and remove what has not been put in its place, or had been there before."""
        for fd in (*self.files.values(), self._fd):
            if fd >= 0:
                posix.close(fd)
        self.files = {}
        self._fd = -1
        try:
            self.remove()
        finally:
            if self._parent >= 0:
                posix.close(self._parent)
            self._parent = -1

    def remove(self) -> None:
        """Remove what is there under the other name, if this has made it."""
        if self._made:
            remove_tree(self._below(self._name))
            self._made = False


class Reading:
    """A saved guest that is read; raises SnapshotError where it is not what it should be."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.files: dict[str, int] = {}
        """Descriptors of its files by their names."""
        try:
            parent = posix.open(path, DIRECTORY)
        except OSError as error:
            raise SnapshotError(f"image path '{path}': {reason(error)}") from None
        try:
            _check_owner(path, parent)
            self._fd = posix.open(GUEST, DIRECTORY, dir_fd=parent)
        except OSError as error:
            hint = "it is no checkpoint of a unikernel" if error.errno == ENOENT else ""
            raise SnapshotError(f"image path '{path}/{GUEST}': {reason(error)}", hint) from None
        finally:
            posix.close(parent)
        try:
            _check_owner(f"{path}/{GUEST}", self._fd)
            self.manifest = self._manifest()
            for file in self.manifest.files:
                self.files[file.name] = self._open(file.name, file.size_bytes)
        except BaseException:
            self.close()
            raise

    def _manifest(self) -> Manifest:
        fd = self._open(MANIFEST)
        try:
            return parse(read_descriptor(fd, LIMIT_BYTES))
        finally:
            posix.close(fd)

    def _open(self, name: str, size: int = -1) -> int:
        where = f"{self.path}/{GUEST}/{name}"
        try:
            fd = posix.open(name, FILE, dir_fd=self._fd)
        except OSError as error:
            raise SnapshotError(f"'{where}': {reason(error)}") from None
        try:
            facts = posix.fstat(fd)
            if facts.st_mode & S_IFMT != S_IFREG:
                raise SnapshotError(f"'{where}': it is no regular file")
            _check_owner(where, fd)
            if size >= 0 and facts.st_size != size:
                raise SnapshotError(
                    f"'{where}': {facts.st_size} bytes are not the {size} that were saved"
                )
        except BaseException:
            posix.close(fd)
            raise
        return fd

    def verify(self) -> None:
        """Compare the files' content with the digests."""
        for file in self.manifest.files:
            if digest(self.files[file.name], file.size_bytes) != file.digest:
                raise SnapshotError(
                    f"'{self.path}/{GUEST}/{file.name}': its content is not what was saved"
                )

    def close(self) -> None:
        """Let go of it."""
        for fd in (*self.files.values(), self._fd):
            if fd >= 0:
                posix.close(fd)
        self.files, self._fd = {}, -1


def _check_owner(path: str, fd: int) -> None:
    facts = posix.fstat(fd)
    if facts.st_uid != posix.geteuid():
        raise SnapshotError(
            f"'{path}': it belongs to user {facts.st_uid}, who can change it",
            f"whose content it is to be trusted with: `chown {posix.geteuid()}`",
        )
    if facts.st_mode & TAKEN:
        raise SnapshotError(f"'{path}': others may write to it", "`chmod go-w` takes that away")
