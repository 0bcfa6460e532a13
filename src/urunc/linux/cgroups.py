# SPDX-License-Identifier: Apache-2.0
"""Control groups by cgroupfs: v1, v2, hybrid or none. Which files to write is the caller's
business.

A container has one directory per v1 hierarchy and one in the v2 tree where that has controllers
(cgroups(7); Documentation/admin-guide/cgroup-v2.rst).
"""

from __future__ import annotations

import posix
from errno import EBUSY, ENOTSUP, ETIMEDOUT

from urunc.linux.files import (
    exists,
    make_directories,
    read_bytes,
    read_text,
    write_bytes,
)

ROOT = "/sys/fs/cgroup"
UNIFIED = ""
"""The key of the v2 tree among the hierarchies."""


def hierarchies() -> dict[str, tuple[str, str]]:
    """{controller: (mount point, this process's path below it)}; v1's named hierarchy is "systemd".

    Controllers that share a v1 mount have the same mount point. Only mount points in their usual
    places are seen: reading every mount of a busy node takes milliseconds.
    """
    found: dict[str, tuple[str, str]] = {}
    for line in read_text("/proc/self/cgroup").splitlines():
        _, controllers, own = line.split(":", 2)
        shared = ""
        for name in controllers.split(","):
            name = name.removeprefix("name=")
            directories = [f"{ROOT}/{name}"] if name else [ROOT, f"{ROOT}/unified"]
            for directory in directories:
                if shared or exists(f"{directory}/cgroup.procs"):
                    shared = shared or directory
                    found[name] = (shared, own)
                    break
    return found


def in_user_namespace() -> bool:
    """Whether this process's ids are another namespace's (user_namespaces(7))."""
    return read_bytes("/proc/self/uid_map", 4096).split() != [b"0", b"0", b"4294967295"]


def parents(path: str, mount_point: str) -> list[str]:
    """A group and those above it up to the mount point, which comes first."""
    found = [path]
    while len(path) > len(mount_point):
        path = path.rpartition("/")[0]
        found.insert(0, path)
    return found


def make(path: str) -> None:
    """Make a control group; on v1 cpuset copies its parent's cpus and memory nodes, else nothing
    may join."""
    make_directories(path)
    if exists(f"{path}/cpuset.cpus") and exists(f"{path}/cpuset.cpu_exclusive"):
        _inherit_cpuset(path)


def _inherit_cpuset(path: str) -> None:
    parent = path.rpartition("/")[0]
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not read_bytes(f"{path}/{name}").strip():
            if not read_bytes(f"{parent}/{name}").strip():
                _inherit_cpuset(parent)
            write_bytes(f"{path}/{name}", read_bytes(f"{parent}/{name}").strip())


def enable_controllers(path: str) -> None:
    """On v2, enable every controller of a group for the groups below it
    (cgroup.subtree_control)."""
    for controller in read_text(f"{path}/cgroup.controllers").split():
        try:
            write_bytes(f"{path}/cgroup.subtree_control", f"+{controller}".encode())
        except OSError:
            # a group with processes of its own may not hand some down: a limit's write will tell
            continue


def join(path: str, pid: int) -> None:
    """Move a process, by its pid, into a group; raises OSError."""
    write_bytes(f"{path}/cgroup.procs", str(pid).encode())


def join_alone(path: str) -> None:
    """Move the calling process, which has one thread, into a v1 group; raises OSError.

    A thread that moves itself alone needs no lock of the whole kernel's (cgroup_procs_write_start
    in kernel/cgroup/cgroup.c, since Linux 5.5), which takes a grace period to get (RCU; 8 to 13 ms
    where it was measured).
    """
    write_bytes(f"{path}/tasks", b"0")


class Joiner:
    """A child that puts another process into groups, while the caller goes on.

    The first write to a cgroup.procs waits for a grace period of the kernel's (see `join_alone`),
    with the lock that making a group needs: so this comes after the groups are made.
    """

    def __init__(self, paths: list[str], pid: int) -> None:
        self._pid = posix.fork() if paths else 0
        if self._pid or not paths:
            return
        code = 0
        try:
            for path in paths:
                join(path, pid)
        except OSError as error:
            code = error.errno or 255
        finally:
            posix._exit(code)

    def finish(self) -> None:
        """Wait until it is done; raises OSError where it could not be."""
        if self._pid:
            pid, self._pid = self._pid, 0
            code = posix.waitstatus_to_exitcode(posix.waitpid(pid, 0)[1])
            if code:
                raise OSError(code, posix.strerror(code))


def pids(path: str) -> list[int]:
    """The processes of a group; none where the group is gone."""
    try:
        return [int(word) for word in read_bytes(f"{path}/cgroup.procs").split()]
    except OSError:
        return []


def remove(path: str) -> bool:
    """Remove a group without its parents; False while a process is still in it; gone already is
    fine."""
    try:
        posix.rmdir(path)
    except OSError as error:
        if error.errno == EBUSY:
            return False
        if exists(path):
            raise
    return True


def _freezer(paths: dict[str, str]) -> tuple[str, bool]:
    """(directory, whether it is v1's) of the group that freezes; ("", False) where there is
    none."""
    if "freezer" in paths:
        return paths["freezer"], True
    return paths.get(UNIFIED, ""), False


def freezer(paths: dict[str, str]) -> tuple[str, str]:
    """The file that says whether the groups are frozen, and what is in it while they are not;
    ("", "") where there is none."""
    directory, v1 = _freezer(paths)
    if not directory:
        return "", ""
    if v1:
        return f"{directory}/freezer.state", "THAWED"
    return f"{directory}/cgroup.freeze", "0"


def frozen(paths: dict[str, str]) -> bool:
    """Whether the groups are frozen; False where they are gone."""
    file, thawed = freezer(paths)
    try:
        return bool(file) and read_text(file, 64).strip() != thawed
    except OSError:
        return False


def freeze(paths: dict[str, str], *, on: bool, timeout_s: float = 10) -> None:
    """Stop every process of the groups, or let them go on; raises OSError, ETIMEDOUT too.

    v1 may stay at FREEZING while a process forks: it is thawed a moment and asked again
    (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst).
    """
    from time import monotonic, sleep

    directory, v1 = _freezer(paths)
    if not directory:
        raise OSError(ENOTSUP, posix.strerror(ENOTSUP))
    end = monotonic() + timeout_s
    wanted = (b"FROZEN" if on else b"THAWED") if v1 else (b"1" if on else b"0")
    file = f"{directory}/freezer.state" if v1 else f"{directory}/cgroup.freeze"
    tries = 0
    while True:
        write_bytes(file, wanted)
        for _ in range(50):
            if v1:
                done = read_bytes(file, 64).strip() == wanted
            else:
                done = b"frozen " + wanted in read_bytes(f"{directory}/cgroup.events", 4096)
            if done:
                return
            sleep(0.0005)
        tries += 1
        if monotonic() > end:
            if on:
                write_bytes(file, b"THAWED" if v1 else b"0")
            raise OSError(ETIMEDOUT, posix.strerror(ETIMEDOUT))
        if v1 and on and tries % 4 == 0:
            write_bytes(file, b"THAWED")
            sleep(0.001)


def oom_file(paths: dict[str, str]) -> str:
    """The file that counts processes killed for want of memory."""
    v1 = paths.get("memory")
    return f"{v1}/memory.oom_control" if v1 else f"{paths.get(UNIFIED, '')}/memory.events"


def oom_kills(paths: dict[str, str]) -> int:
    """How many processes of the groups were killed for want of memory (`oom_kill` of v1's
    memory.oom_control and v2's memory.events); 0 where the groups are gone."""
    try:
        words = read_text(oom_file(paths)).split()
    except OSError:
        return 0
    pairs = dict(zip(words[::2], words[1::2], strict=False))
    return int(pairs.get("oom_kill", 0))
