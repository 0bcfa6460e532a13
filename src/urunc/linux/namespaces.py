# SPDX-License-Identifier: Apache-2.0
"""Namespaces: their flags, entering one for a moment, and telling two apart."""

from __future__ import annotations

import posix

from urunc.linux import _linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

# OCI's word for it → (flag of clone3(2) and setns(2), file under /proc/PID/ns)
KINDS = {
    "mount": (0x00020000, "mnt"),
    "cgroup": (0x02000000, "cgroup"),
    "uts": (0x04000000, "uts"),
    "ipc": (0x08000000, "ipc"),
    "user": (0x10000000, "user"),
    "pid": (0x20000000, "pid"),
    "network": (0x40000000, "net"),
    "time": (0x00000080, "time"),
}

CLONE_NEWNS = KINDS["mount"][0]
CLONE_NEWPID = KINDS["pid"][0]
CLONE_NEWNET = KINDS["network"][0]


def open_namespace(path: str) -> int:
    """A close-on-exec descriptor of a namespace's file."""
    return posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)


def identity(path: str) -> tuple[int, int]:
    """(device, inode) of a namespace: what a path may later no longer lead to."""
    facts = posix.stat(path)
    return facts.st_dev, facts.st_ino


def join(path: str, kind: int) -> None:
    """Enter the namespace at a path for good; for pid, the children to come enter it (setns(2))."""
    fd = open_namespace(path)
    try:
        _linux.setns(fd, kind)
    finally:
        posix.close(fd)


def call_in_network(path: str, function: Callable[[], T]) -> T:
    """Call a function in the network namespace at a path and come back, whatever happens.

    A network namespace belongs to a thread. The root of a user namespace has no way back into the
    host's: there it is a thread of its own that goes, and ends.
    """
    home = open_namespace("/proc/thread-self/ns/net")
    try:
        try:
            _linux.setns(home, CLONE_NEWNET)  # is there a way back?
        except PermissionError:
            return _call_in_thread(path, function)
        join(path, CLONE_NEWNET)
        try:
            return function()
        finally:
            _linux.setns(home, CLONE_NEWNET)
    finally:
        posix.close(home)


def _call_in_thread(path: str, function: Callable[[], T]) -> T:
    from _thread import allocate_lock, start_new_thread

    results: list[T] = []
    failures: list[BaseException] = []
    running = allocate_lock()

    def call() -> None:
        try:
            join(path, CLONE_NEWNET)
            results.append(function())
        except BaseException as error:
            failures.append(error)
        finally:
            running.release()

    running.acquire()
    start_new_thread(call, ())
    running.acquire()
    if failures:
        raise failures[0]
    return results[0]


def maps_of(path: str) -> list[list[tuple[int, int, int]]]:
    """The id maps, users' and groups', of the user namespace at a path, as lines of (inside,
    outside, size); outside is this process's view (user_namespaces(7))."""
    from urunc.linux.files import read_descriptor, read_text

    # a child enters it and waits, so that its maps can be read from out here, in our ids
    ready, tell = posix.pipe()
    hold, let_go = posix.pipe()
    child = posix.fork()
    if child == 0:
        problem = 0
        try:
            posix.close(let_go)
            join(path, KINDS["user"][0])
        except OSError as error:
            problem = error.errno or 1
        posix.write(tell, bytes((problem,)))
        posix.read(hold, 1)
        posix._exit(0)
    posix.close(tell)
    posix.close(hold)
    try:
        answer = read_descriptor(ready, 0)
        if answer != b"\0":
            raise OSError(answer[0] if answer else 1, posix.strerror(answer[0] if answer else 1))
        found = []
        for name in ("uid_map", "gid_map"):
            lines = [line.split() for line in read_text(f"/proc/{child}/{name}").splitlines()]
            found.append([(int(words[0]), int(words[1]), int(words[2])) for words in lines])
        return found
    finally:
        posix.close(ready)
        posix.close(let_go)
        posix.waitpid(child, 0)
