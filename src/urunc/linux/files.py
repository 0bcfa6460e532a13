# SPDX-License-Identifier: Apache-2.0
"""Files: read whole, written whole or not at all, and opened below a root that no path leads out
of."""

from __future__ import annotations

import posix
from errno import EAGAIN, EEXIST, EINTR, ELOOP, ENOENT

from urunc.linux import _linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

AT_FDCWD = -100

# openat2(2), Linux 5.6
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10
RACES = 128
"""How often a path is tried that the kernel lost sight of."""
LINKS = 8
"""How many links to a log lead on."""

S_IFMT = 0o170000
S_IFDIR = 0o040000
S_IFCHR = 0o020000
S_IFREG = 0o100000
S_IFBLK = 0o060000


def read_bytes(path: str, limit_bytes: int = 1 << 30) -> bytes:
    """A file's content, at most `limit_bytes` and one byte more (so that a caller can tell it is
    longer)."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        return read_descriptor(fd, limit_bytes)
    finally:
        posix.close(fd)


def read_descriptor(fd: int, limit_bytes: int = 1 << 30) -> bytes:
    """What is left to read from a descriptor, bounded as in `read_bytes`."""
    parts = []
    wanted = limit_bytes + 1
    most = 1 << 14  # what most files fit in; more would be asked of the kernel, and given back
    while wanted > 0:
        part = posix.read(fd, min(wanted, most))
        if not part:
            break
        parts.append(part)
        wanted -= len(part)
        most = 1 << 20
    return b"".join(parts)


def read_text(path: str, limit_bytes: int = 1 << 20) -> str:
    """A small file as text; bytes that are not UTF-8 are replaced."""
    return read_bytes(path, limit_bytes).decode("utf-8", "replace")


def read_regular(path: str, limit_bytes: int = 1 << 20) -> str:
    """As `read_text`, of a file that somebody else chose: what is no regular file is empty. A FIFO
    without a writer would be waited for, and a device would do whatever it does."""
    # O_NONBLOCK: open(2) of a FIFO waits; O_NOCTTY: a terminal would become ours
    flags = posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY
    fd = posix.open(path, flags)
    try:
        if posix.fstat(fd).st_mode & S_IFMT != S_IFREG:
            return ""
        return read_descriptor(fd, limit_bytes).decode("utf-8", "replace")
    finally:
        posix.close(fd)


def is_regular(path: str) -> bool:
    """Whether a path leads to a regular file."""
    return posix.stat(path).st_mode & S_IFMT == S_IFREG


def write_all(fd: int, content: bytes) -> None:
    """Every byte of it, however many writes that takes."""
    view = memoryview(content)
    while view:
        view = view[posix.write(fd, view) :]


def write_bytes(path: str, content: bytes) -> None:
    """Write to a file that exists, as kernel interfaces want it: one open, one write."""
    fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
    try:
        write_all(fd, content)
    finally:
        posix.close(fd)


def write_lines(path: str, lines: Iterable[str]) -> None:
    """Write to a file that exists, each line with a write of its own."""
    fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
    try:
        for line in lines:
            write_all(fd, line.encode())
    finally:
        posix.close(fd)


def write_whole(path: str, content: bytes, mode: int = 0o600) -> None:
    """Write a file so that a reader sees the old content or the new, never a part (rename(2))."""
    temporary = f"{path}.{posix.getpid()}.tmp"
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
    try:
        fd = posix.open(temporary, flags, mode)
    except FileExistsError:  # of a process that was killed; or somebody's link, which is not opened
        posix.unlink(temporary)
        fd = posix.open(temporary, flags, mode)
    try:
        try:
            write_all(fd, content)
        finally:
            posix.close(fd)
        posix.rename(temporary, path)
    except OSError:
        unlink(temporary)
        raise


def open_log(path: str, flags: int = 0) -> int:
    """Open a file to append to, made if it is not there (mode 0644); raises OSError.

    A link in its place is followed only if it is root's or the caller's, as fs.protected_symlinks
    has it for some directories (proc_sys_fs(5)); ELOOP for others'.
    """
    flags |= posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT | posix.O_CLOEXEC | posix.O_NOFOLLOW
    for _ in range(LINKS):
        try:
            return posix.open(path, flags, 0o644)
        except OSError as error:
            if error.errno != ELOOP:
                raise
        link = posix.open(path, O_PATH | posix.O_NOFOLLOW | posix.O_CLOEXEC)
        try:
            if posix.fstat(link).st_uid not in (0, posix.geteuid()):
                break
            target = posix.readlink("", dir_fd=link)  # of this very link, whatever is there by now
        finally:
            posix.close(link)
        path = target if target.startswith("/") else f"{path.rpartition('/')[0] or '.'}/{target}"
    raise OSError(ELOOP, "it is somebody else's symbolic link", path)


def append(path: str, content: bytes, mode: int = 0o600) -> None:
    """Add to a file with one write."""
    fd = posix.open(path, posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT | posix.O_CLOEXEC, mode)
    try:
        write_all(fd, content)
    finally:
        posix.close(fd)


def unlink(path: str) -> None:
    """Remove a file; that it is not there is fine."""
    try:
        posix.unlink(path)
    except OSError as error:
        if error.errno != ENOENT:
            raise


def make_directories(path: str, mode: int = 0o755) -> None:
    """`mkdir -p`."""
    try:
        posix.mkdir(path, mode)
    except OSError as error:
        parent = path.rstrip("/").rpartition("/")[0]
        # in /proc a directory that is there says ENOENT, too
        if error.errno == ENOENT and "/" in path.strip("/") and not is_directory(parent):
            make_directories(parent, mode)
            make_directories(path, mode)
        elif error.errno != EEXIST or not is_directory(path):
            raise


def remove_tree(path: str, last: Sequence[str] = ()) -> None:
    """Remove a directory and what is in it, entries of the names in `last` after all others and in
    that order. No symbolic link is followed; that the directory is not there is fine."""
    try:
        entries = list(posix.scandir(path))
    except FileNotFoundError:
        return
    if last:
        entries.sort(key=lambda entry: last.index(entry.name) if entry.name in last else -1)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(entry.path)
        else:
            unlink(entry.path)
    posix.rmdir(path)


def exists(path: str) -> bool:
    """Whether something is at a path (a dangling link is nothing)."""
    try:
        posix.stat(path)
    except OSError:
        return False
    return True


def stamp(path: str) -> str:
    """What changes whenever a file does: its device, inode, size and times of change (mtime, ctime
    in seconds); "" where there is none."""
    try:
        facts = posix.stat(path)
    except OSError:
        return ""
    times = (facts.st_mtime_ns, facts.st_ctime_ns)
    written = (f"{time_ns // 10**9}.{time_ns % 10**9:09}" for time_ns in times)
    return " ".join((f"{facts.st_dev} {facts.st_ino} {facts.st_size}", *written))


def is_directory(path: str) -> bool:
    """Whether a path leads to a directory."""
    try:
        return posix.stat(path).st_mode & S_IFMT == S_IFDIR
    except OSError:
        return False


def is_null(fd: int) -> bool:
    """Whether a descriptor is /dev/null (null(4))."""
    try:
        facts = posix.fstat(fd)
    except OSError:
        return False
    return facts.st_mode & S_IFMT == S_IFCHR and facts.st_rdev == posix.makedev(1, 3)


def open_in_root(root: str, path: str, flags: int = 0) -> int:
    """A close-on-exec descriptor of a path resolved below `root`: `..` and links stay inside
    (openat2(2)).

    `path` may be absolute: it starts at `root`.
    """
    root_fd = posix.open(root, posix.O_DIRECTORY | posix.O_CLOEXEC | O_PATH)
    try:
        for attempt in range(RACES):
            try:
                return _linux.openat2(
                    root_fd, path, flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
                )
            except OSError as error:
                # EAGAIN: something was renamed or mounted on this machine while the kernel followed
                # a `..`, so it cannot be sure that the path stayed inside
                if error.errno not in (EINTR, EAGAIN) or attempt == RACES - 1:
                    raise
        raise AssertionError
    finally:
        posix.close(root_fd)


O_PATH = 0o10000000
