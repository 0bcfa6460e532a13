# SPDX-License-Identifier: Apache-2.0
"""The directory of images that containers share: `storage.cache` of the configuration.

An entry is a file NAME that is never written to again, and NAME.json with facts by which it is
checked before each use. NAME.tmp is being built: the builder and the programs that it runs hold a
flock(2) on it, which tells a live one from a leftover. Only root can read the directory (0700),
since it holds the content of images; a monitor sees an entry by a bind mount of the file.
"""

from __future__ import annotations

import posix
from fcntl import LOCK_EX, LOCK_NB, flock
from time import time

from urunc.errors import HostError, reason
from urunc.jsontext import dumps, loads
from urunc.linux.files import make_directories, read_text, unlink, write_all
from urunc.record import record
from urunc.storage.layers import digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from urunc.config import Config


WRITABLE = ("ext2", "ext4")

FACTS = ".json"
TEMPORARY = ".tmp"
SCRATCH = "mnt"
"""An empty directory for builders to mount on, each in its own mount namespace."""
TREES = "trees"
"""The directory of trees' signatures and keys (trees.py)."""
TREES_KEPT_S = 30 * 86400
DEFAULT = "/var/lib/urunc/cache"
CHECKED_BYTES = 4096
"""How much of an image's beginning and of its end is compared; superblocks are there."""
RECENT_S = 60
"""An entry used within this time may not be open in its container yet: `shrink` keeps it."""
OPEN = posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW
MIB = 1 << 20


@record
class CacheEntry:
    """An image in the cache."""

    name: str
    path: str
    size_bytes: int
    disk_bytes: int
    """Its blocks on the disk, in bytes; less than `size_bytes` for an image with holes."""
    made_s: int
    """Seconds since the Epoch, as in `used_s`."""
    used_s: int
    source: str
    """The root filesystem that it was built from."""
    omitted: tuple[str, ...]
    """What the image's format could not hold of it, in words for the user."""


def location(config: Config) -> str:
    """The path of the cache's directory, which may not exist yet. An ordinary user has one of their
    own (XDG Base Directory Specification), unless the configuration names one."""
    path: str = config.get("storage.cache")
    if path != DEFAULT:
        return path
    if posix.geteuid() == 0:
        from urunc.linux.cgroups import in_user_namespace

        if not in_user_namespace():
            return path
    environment = {
        name: posix.environ.get(name.encode(), b"").decode("utf-8", "surrogateescape")
        for name in ("XDG_CACHE_HOME", "HOME")
    }
    if environment["XDG_CACHE_HOME"].startswith("/"):
        return f"{environment['XDG_CACHE_HOME']}/urunc"
    return f"{environment['HOME']}/.cache/urunc" if environment["HOME"] else path


def directory(config: Config) -> str:
    """The path of the cache's directory, which is made if it is missing. Raises HostError if others
    could write to it."""
    path = location(config)
    own_directory(path, "cache", "storage.cache")
    return path


def own_directory(path: str, what: str, setting: str) -> None:
    """Make a private directory if it is missing; raises HostError if others could write to it.
    `what` and `setting` (its configuration key) are for the message."""
    hint = f"{setting} in the configuration names another directory"
    try:
        try:
            facts = posix.stat(path)
        except FileNotFoundError:
            make_directories(path.rpartition("/")[0] or "/")
            make_directories(path, 0o700)
            facts = posix.stat(path)
    except OSError as error:
        raise HostError(f"{what} '{path}': {reason(error)}", hint) from None
    if facts.st_uid != posix.geteuid() or facts.st_mode & 0o022:
        raise HostError(f"{what} '{path}': others may write to it", hint)


def find(path: str, name: str) -> CacheEntry | None:
    """The entry `name` of the cache at `path`, None if there is none or if the file is not the one
    that was put there, to go by its size, its times and both its ends."""
    try:
        fd = posix.open(f"{path}/{name}", OPEN)
    except OSError:
        return None
    try:
        facts = posix.fstat(fd)
        known = loads(read_text(f"{path}/{name}{FACTS}"))
        used_s = int(posix.stat(f"{path}/{name}{FACTS}").st_mtime)
        if known["check"] != _check(fd, facts):
            return None
        return CacheEntry(
            name=name,
            path=f"{path}/{name}",
            size_bytes=facts.st_size,
            disk_bytes=facts.st_blocks * 512,
            made_s=int(known["made"]),
            used_s=used_s,
            source=str(known["source"]),
            omitted=tuple(map(str, known["omitted"])),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    finally:
        posix.close(fd)


def touch(entry: CacheEntry) -> None:
    """Record the use of an entry, by the modification time of its NAME.json; the image's own times
    are for readers."""
    try:
        posix.utime(entry.path + FACTS)
    except OSError:
        pass  # removed just now, as opening it will tell


def _check(fd: int, facts: posix.stat_result) -> str:
    size = facts.st_size
    ends = (
        posix.pread(fd, CHECKED_BYTES, 0),
        posix.pread(fd, CHECKED_BYTES, max(size - CHECKED_BYTES, 0)),
    )
    return digest(str(size), str(facts.st_mtime_ns), *(end.hex() for end in ends))


def lock(path: str, name: str) -> int:
    """A descriptor of NAME.tmp, empty and locked; waits while another process builds the same."""
    temporary = f"{path}/{name}{TEMPORARY}"
    flags = posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC | posix.O_NOFOLLOW
    while True:
        fd = posix.open(temporary, flags, 0o600)
        try:
            flock(fd, LOCK_EX)
            if _is(temporary, fd):
                posix.ftruncate(fd, 0)
                return fd
        except BaseException:
            posix.close(fd)
            raise
        posix.close(fd)  # it has become the entry, or was removed as a leftover


def commit(path: str, name: str, fd: int, source: str, omitted: Sequence[str] = ()) -> None:
    """Turn the locked NAME.tmp into the entry NAME, synchronized to the disk."""
    posix.fchmod(fd, 0o444)
    posix.fsync(fd)
    known = {
        "made": int(time()),
        "source": source.encode("utf-8", "backslashreplace").decode(),
        "omitted": omitted,
        "check": _check(fd, posix.fstat(fd)),
    }
    # a reader that sees half of it finds no entry, and waits for the lock
    facts = posix.open(
        f"{path}/{name}{FACTS}",
        posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC | posix.O_NOFOLLOW,
        0o600,
    )
    try:
        write_all(facts, dumps(known).encode())
    finally:
        posix.close(facts)
    posix.rename(f"{path}/{name}{TEMPORARY}", f"{path}/{name}")


def abandon(path: str, name: str) -> None:
    """Remove the NAME.tmp that this process has locked."""
    unlink(f"{path}/{name}{TEMPORARY}")


def entries(path: str) -> list[CacheEntry]:
    """All entries, the least recently used first."""
    names = [name for name in _names(path) if not name.endswith((FACTS, TEMPORARY))]
    found = [find(path, name) for name in names]
    return sorted((entry for entry in found if entry), key=lambda entry: (entry.used_s, entry.name))


def sweep(path: str) -> list[str]:
    """Remove damaged entries and the leftovers of builders that died; the names of the removed
    files."""
    names = _names(path)
    found = []
    for name in sorted(names):
        base = name.removesuffix(TEMPORARY).removesuffix(FACTS)
        if name.endswith(TEMPORARY):
            if _remove_idle(f"{path}/{name}"):
                found.append(name)
        elif base + TEMPORARY not in names and (
            base not in names if name.endswith(FACTS) else not find(path, name)
        ):
            unlink(f"{path}/{name}")
            found.append(name)
    forget_trees(path, TREES_KEPT_S)
    return found


def forget_trees(path: str, unused_s: int) -> None:
    """Remove the records of trees that were not used for `unused_s` seconds."""
    directory = f"{path}/{TREES}"
    try:
        names = posix.listdir(directory)
    except FileNotFoundError:
        return
    for name in names:
        try:
            if posix.stat(f"{directory}/{name}").st_mtime <= time() - unused_s:
                unlink(f"{directory}/{name}")
        except FileNotFoundError:
            pass


def remove(entry: CacheEntry) -> None:
    """Remove an entry. Containers that have its file open keep it until they end."""
    unlink(entry.path)
    unlink(entry.path + FACTS)


def shrink(path: str, limit_bytes: int, *, recent_s: int = RECENT_S) -> list[CacheEntry]:
    """Remove the least recently used entries until the rest take `limit_bytes` of the disk at most,
    but none that was used within `recent_s` seconds; returns those removed. A limit below zero
    removes all."""
    known = entries(path)
    used_bytes = sum(entry.disk_bytes for entry in known)
    removed = []
    for entry in known:
        if used_bytes <= limit_bytes or (recent_s and entry.used_s > time() - recent_s):
            break
        remove(entry)
        used_bytes -= entry.disk_bytes
        removed.append(entry)
    return removed


def _names(path: str) -> set[str]:
    try:
        return set(posix.listdir(path)) - {SCRATCH, TREES}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise HostError(f"cache '{path}': {reason(error)}") from None


def _remove_idle(path: str) -> bool:
    """Remove a temporary file unless its lock is held; whether it was removed."""
    try:
        fd = posix.open(path, OPEN)
    except OSError:
        return False
    try:
        flock(fd, LOCK_EX | LOCK_NB)
        if not _is(path, fd):
            return False
        # removed under the lock: a process that waits for it then sees that, and makes another
        unlink(path)
        return True
    except OSError:
        return False
    finally:
        posix.close(fd)


def _is(path: str, fd: int) -> bool:
    """Whether a path still leads to the file of a descriptor."""
    try:
        there, here = posix.stat(path), posix.fstat(fd)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


@record
class FilesystemImage:
    """An image that can be given to guests, read-only."""

    path: str
    size_bytes: int
    key: str
    """Identifies the content; "" for an image outside the cache."""
    built: bool
    """Whether it was built just now."""
    omitted: tuple[str, ...] = ()
    """What the format could not hold of the tree, in words for the user."""


def of_entry(entry: CacheEntry, key: str) -> FilesystemImage:
    """A cache entry as a FilesystemImage."""
    return FilesystemImage(
        path=entry.path,
        size_bytes=entry.size_bytes,
        key=key,
        built=False,
        omitted=entry.omitted,
    )
