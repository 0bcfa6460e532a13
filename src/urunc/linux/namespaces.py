# SPDX-License-Identifier: Apache-2.0
"""Namespaces: their flags, entering one for a moment, and telling two apart; the guard that keeps
changes out of the host's network.

Which network is the host's: the one that PID 1 is in, and the one that this process is at home in.
In a container that has pid namespace and /proc to itself, PID 1 is that container's, and so is
"the host". An ordinary user, and the root of a user namespace, may not see where PID 1 is: the
kernel does not let those into its network namespace either.
"""

from __future__ import annotations

import posix
from errno import EOPNOTSUPP

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

NS_GET_NSTYPE = 0xB703  # ioctl_ns(2), Linux 4.11
RETURNS = 10
"""How often a thread tries to come back from another network namespace."""
CLONE_NEWNS = KINDS["mount"][0]
CLONE_NEWPID = KINDS["pid"][0]
CLONE_NEWNET = KINDS["network"][0]
CLONE_NEWUSER = KINDS["user"][0]


def open_namespace(path: str) -> int:
    """A close-on-exec descriptor of a namespace's file."""
    return posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)


def identity(path: str) -> tuple[int, int]:
    """(device, inode) of a namespace: what a path may later no longer lead to."""
    facts = posix.stat(path)
    return facts.st_dev, facts.st_ino


def identities_of_host(file: str) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """What this process has of a kind of namespace (a file's name under /proc/PID/ns), and what
    PID 1 has; None where that cannot be seen."""
    found: list[tuple[int, int] | None] = []
    for process in ("self", "1"):
        try:
            found.append(identity(f"/proc/{process}/ns/{file}"))
        except OSError:
            found.append(None)
    return found[0], found[1]


_homes: list[tuple[int, int]] = []
"""Where this process came from into the network namespace that it is in for a moment."""


def is_host_network(namespace: tuple[int, int]) -> bool:
    """Whether a network namespace (device, inode) is the host's."""
    own, first = identities_of_host("net")
    return namespace == first or namespace == (_homes[0] if _homes else own)


def in_host_network() -> bool:
    """Whether this thread is in a network namespace that nobody may change: PID 1's, or the one
    that the runtime came from."""
    here = identity("/proc/thread-self/ns/net")
    return here in _homes[:1] or here == identities_of_host("net")[1]


def refuse_host_network() -> None:
    """OSError (EOPNOTSUPP) where this thread is in the host's network namespace."""
    if in_host_network():
        raise host_network_error()


def host_network_error() -> OSError:
    """What a change of the host's network is refused with."""
    return OSError(EOPNOTSUPP, "it is the host's network namespace, in which nothing is changed")


def kind_of(fd: int) -> str:
    """OCI's word for the kind of namespace that a descriptor (also of O_PATH) is of, "" for
    something else."""
    if posix.fstat(fd).st_dev != posix.stat("/proc/self/ns/mnt").st_dev:
        return ""  # not on nsfs: not to be opened
    from fcntl import ioctl

    opened = open_namespace(f"/proc/self/fd/{fd}")
    try:
        number = ioctl(opened, NS_GET_NSTYPE)
    finally:
        posix.close(opened)
    return next((kind for kind, (flag, _) in KINDS.items() if flag == number), "")


def join(path: str, kind: int) -> None:
    """Enter the namespace at a path for good; for pid, the children to come enter it (setns(2))."""
    fd = open_namespace(path)
    try:
        _linux.setns(fd, kind)
    finally:
        posix.close(fd)


def call_in_network(path: str, function: Callable[[], T]) -> T:
    """Call a function in the network namespace at a path and come back, whatever happens.

    Should the kernel have no memory for the way back even when asked again (create_new_namespaces
    in kernel/nsproxy.c), that is an OSError, and who asks later is still told which namespace is
    the host's.

    A network namespace belongs to a thread. The root of a user namespace has no way back into the
    host's: there it is a thread of its own that goes, and ends.
    """
    home = open_namespace("/proc/thread-self/ns/net")
    facts = posix.fstat(home)
    _homes.append((facts.st_dev, facts.st_ino))
    away = False
    try:
        try:
            _linux.setns(home, CLONE_NEWNET)  # is there a way back?
        except PermissionError:
            return _call_in_thread(path, function)
        join(path, CLONE_NEWNET)
        away = True
        try:
            return function()
        finally:
            _come_back(home)
            away = False
    finally:
        if not away:
            _homes.pop()
        posix.close(home)


def _come_back(home: int) -> None:
    for attempt in range(RETURNS):
        try:
            _linux.setns(home, CLONE_NEWNET)
            return
        except OSError:
            if attempt == RETURNS - 1:
                raise


def change_network(path: str, function: Callable[[], T]) -> T:
    """`call_in_network` for a function that changes something; OSError where it is the host's."""

    def change() -> T:
        refuse_host_network()
        return function()

    return call_in_network(path, change)


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
