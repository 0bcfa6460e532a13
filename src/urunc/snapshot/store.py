# SPDX-License-Identifier: Apache-2.0
"""The directory of snapshots that containers start from, its owner's alone: for each key a
directory with the saved guest (files.py), `stamps` of its files, and `uses`, which counts.

A lock on a key's directory is shared while a guest is taken up from it, and exclusive while it is
written or removed. What is in it was written by urunc and is not read to the end each time: a file
that was written to since has another stamp (size, inode, times), and then the snapshot is not used.
"""

from __future__ import annotations

import posix
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock

from urunc.errors import SnapshotError, reason
from urunc.linux.files import exists, make_directories, read_text, remove_tree, write_whole
from urunc.record import record
from urunc.snapshot.files import DIRECTORY, GUEST, Reading
from urunc.snapshot.manifest import MANIFEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.snapshot.manifest import Manifest

STAMPS, USES, SALT = "stamps", "uses", ".salt"
KEY_LENGTH = 64
OTHERS = 0o077
HINT = "start.directory in the configuration names another directory"


@record
class Entry:
    """A snapshot in the directory."""

    key: str
    path: str
    bytes: int
    """What it takes on the disk."""
    hits: int
    """How many containers were taken up from it."""
    made_s: int
    used_s: int
    """When it was made, and last used (seconds since the Epoch)."""


def prepare(path: str) -> None:
    """Make the directory if it is missing; raises SnapshotError if others can reach it."""
    try:
        if not exists(path):
            make_directories(path.rpartition("/")[0] or "/")
            make_directories(path, 0o700)
        facts = posix.stat(path, follow_symlinks=False)
    except OSError as error:
        raise SnapshotError(f"snapshots '{path}': {reason(error)}", HINT) from None
    if facts.st_uid != posix.geteuid():
        raise SnapshotError(f"snapshots '{path}': it belongs to user {facts.st_uid}", HINT)
    if facts.st_mode & OTHERS:
        raise SnapshotError(
            f"snapshots '{path}': others may enter it, and the memory of guests is in it",
            "`chmod 0700` takes that away",
        )


def salt(path: str) -> str:
    """The machine's own part of each key, made once; raises SnapshotError."""
    name = f"{path}/{SALT}"
    try:
        if not exists(name):
            write_whole(name, posix.urandom(32).hex().encode())
        return read_text(name, 64)
    except OSError as error:
        raise SnapshotError(f"'{name}': {reason(error)}") from None


class Place:
    """A key's directory, locked."""

    def __init__(self, path: str, key: str) -> None:
        self.directory = path
        self.key = key
        self.path = f"{path}/{key}"
        self._fd = -1

    def lock(self, *, alone: bool, make: bool = False) -> bool:
        """False where another has it, or there is none. Raises OSError."""
        if make:
            make_directories(self.path, 0o700)
        try:
            self._fd = posix.open(self.path, DIRECTORY)
            flock(self._fd, (LOCK_EX if alone else LOCK_SH) | LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            self.release()
            return False
        if not exists(f"{self.path}/.") or posix.stat(self.path).st_ino != self._inode():
            self.release()
            return False
        return True

    def _inode(self) -> int:
        return posix.fstat(self._fd).st_ino

    def release(self) -> None:
        """Let go of it."""
        if self._fd >= 0:
            posix.close(self._fd)
        self._fd = -1

    def read(self) -> Reading:
        """The saved guest as it was written; raises SnapshotError."""
        saved = Reading(self.path)
        try:
            known = read_text(f"{self.path}/{STAMPS}", 1 << 16)
            if known != _stamps(self.path, saved.manifest):
                raise SnapshotError(f"'{self.path}': its files are not as they were written")
        except OSError as error:
            saved.close()
            raise SnapshotError(f"'{self.path}/{STAMPS}': {reason(error)}") from None
        except SnapshotError:
            saved.close()
            raise
        return saved

    def seal(self, manifest: Manifest) -> None:
        """Note the stamps of what was written, which can be used from here on. Raises OSError."""
        write_whole(f"{self.path}/{USES}", b"0")
        write_whole(f"{self.path}/{STAMPS}", _stamps(self.path, manifest).encode())

    def count(self) -> None:
        """Another guest was taken up from it."""
        try:
            uses = int(read_text(f"{self.path}/{USES}", 32))
            write_whole(f"{self.path}/{USES}", str(uses + 1).encode())
        except (OSError, ValueError):
            pass  # a full disk, say; a count is no more than that

    def remove(self) -> None:
        """Remove it; the lock is this process's alone. Raises OSError."""
        remove_tree(self.path, (GUEST,))


def is_sealed(path: str) -> bool:
    """Whether a key's directory has a snapshot that is complete."""
    return exists(f"{path}/{STAMPS}")


def _stamps(path: str, manifest: Manifest) -> str:
    lines = []
    for name in (MANIFEST, *(file.name for file in manifest.files)):
        facts = posix.stat(f"{path}/{GUEST}/{name}", follow_symlinks=False)
        lines.append(
            f"{name} {facts.st_ino} {facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}\n"
        )
    return "".join(lines)


def entries(path: str) -> list[Entry]:
    """All that can be used, the least recently used first; [] where there is no directory."""
    found = []
    try:
        names = posix.listdir(path)
    except OSError:
        return []
    for name in names:
        if len(name) == KEY_LENGTH and exists(f"{path}/{name}/{STAMPS}"):
            try:
                found.append(_entry(path, name))
            except (OSError, ValueError):
                pass  # it has just been removed
    return sorted(found, key=lambda entry: entry.used_s)


def _entry(path: str, key: str) -> Entry:
    own = f"{path}/{key}"
    used = posix.stat(f"{own}/{USES}")
    size = sum(
        posix.stat(f"{own}/{GUEST}/{name}", follow_symlinks=False).st_blocks * 512
        for name in posix.listdir(f"{own}/{GUEST}")
    )
    return Entry(
        key=key,
        path=own,
        bytes=size,
        hits=int(read_text(f"{own}/{USES}", 32)),
        made_s=int(posix.stat(f"{own}/{STAMPS}").st_mtime),
        used_s=int(used.st_mtime),
    )


def shrink(path: str, limit_bytes: int, keep: str = "") -> list[Entry]:
    """Remove those that were not used for the longest time until so many bytes are left, but for
    one and those that are in use right now; what was removed."""
    known = entries(path)
    total = sum(entry.bytes for entry in known)
    removed = []
    for entry in known:
        if total <= limit_bytes:
            break
        if entry.key != keep and drop(path, entry.key):
            total -= entry.bytes
            removed.append(entry)
    return removed


def drop(path: str, key: str) -> bool:
    """Remove one; False where it is in use, or cannot be removed."""
    place = Place(path, key)
    try:
        if not place.lock(alone=True):
            return False
        place.remove()
    except OSError:
        return False
    finally:
        place.release()
    return True


def sweep(path: str) -> None:
    """Remove what writers that ended too early have left."""
    for name in posix.listdir(path):
        if len(name) == KEY_LENGTH and not exists(f"{path}/{name}/{STAMPS}"):
            drop(path, name)


def manifest_of(entry: Entry) -> Manifest:
    """What is known of a saved guest; raises SnapshotError."""
    saved = Reading(entry.path)
    saved.close()
    return saved.manifest


def verify(entry: Entry) -> None:
    """Read all of it, and compare; raises SnapshotError."""
    place = Place(entry.path.rpartition("/")[0], entry.key)
    try:
        if not place.lock(alone=False):
            raise SnapshotError(f"snapshot '{entry.key}': it is being written or removed")
        saved = place.read()
        try:
            saved.verify()
        finally:
            saved.close()
    except OSError as error:
        raise SnapshotError(f"snapshot '{entry.key}': {reason(error)}") from None
    finally:
        place.release()
