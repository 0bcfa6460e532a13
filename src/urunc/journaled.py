# SPDX-License-Identifier: Apache-2.0
"""The kinds of resources in a journal: control groups, user ids and files here, those of a network
in net/resources.py.

They are in one module because `delete` needs most of them, and each import takes time.
"""

from __future__ import annotations

import posix
from errno import EBUSY, ENOTEMPTY

from urunc.journal import Resource
from urunc.linux import cgroups
from urunc.linux.files import exists, make_directories, open_in_root, read_text, remove_tree, unlink


class ControlGroups(Resource):
    """A container's control groups: one directory in each hierarchy, and the parents that were made
    for it."""

    kind = "cgroups"

    def __init__(self, *, paths: list[str], parents: list[str], member: int = 0) -> None:
        self.paths = paths
        self.member = member
        """A process that systemd has put into the groups already, 0 for none."""
        self.parents = parents
        """Parents that did not exist, outermost first; removed unless other groups are in them."""

    def make(self) -> None:
        for path in self.paths:
            if set(cgroups.pids(path)) - {self.member}:
                raise OSError(EBUSY, f"control group '{path}' has processes of others")
        for path in (*self.parents, *self.paths):
            cgroups.make(path)

    def remove(self) -> None:
        for path in self.paths:
            self._remove(path)
        for path in reversed(self.parents):
            cgroups.remove(path)

    def removal(self) -> list[tuple[str, ...]]:
        groups = (("group", path) for path in self.paths)
        return [*groups, *(("parent", path) for path in reversed(self.parents))]

    def _remove(self, path: str) -> None:
        # the processes are dead by now, but the kernel may still be reaping them
        from time import sleep

        for attempt in range(100):
            if cgroups.remove(path):
                return
            for pid in cgroups.pids(path):
                _kill(pid)
            sleep(0.001 * min(attempt + 1, 20))
        raise OSError(ENOTEMPTY, f"control group '{path}' still has processes")


def _kill(pid: int) -> None:
    try:
        if pid:  # 0: a process that this one's pid namespace does not show
            posix.kill(pid, 9)
    except ProcessLookupError:
        pass  # that is all right


class SystemdUnit(Resource):
    """A scope or slice that systemd makes for the container. `make` only records it, since starting
    it takes facts that only cgroup/groups.py has."""

    kind = "unit"

    def __init__(self, *, name: str, user: bool) -> None:
        self.name = name
        self.user = user

    def make(self) -> None:
        pass

    def remove(self) -> None:
        from urunc.cgroup import systemd

        bus = systemd.Bus(user=self.user)
        try:
            bus.stop_unit(self.name)
        finally:
            bus.close()


class ReservedUser(Resource):
    """A user id that no other container of this machine has, whatever its --root.

    A file named after the id holds the path of its container's directory; without that directory
    the reservation is void.
    """

    kind = "user"

    def __init__(self, *, path: str, folder: str) -> None:
        """`folder`: the container's directory; the name is the journal's."""
        self.path = path
        self.folder = folder

    def make(self) -> None:
        make_directories(self.path.rpartition("/")[0], 0o700)
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
        try:
            fd = posix.open(self.path, flags, 0o600)
        except FileExistsError:
            if exists(read_text(self.path)):
                raise
            unlink(self.path)
            fd = posix.open(self.path, flags, 0o600)
        posix.write(fd, self.folder.encode())
        posix.close(fd)

    def remove(self) -> None:
        try:
            if read_text(self.path) == self.folder:
                unlink(self.path)
        except FileNotFoundError:
            pass

    def removal(self) -> list[tuple[str, ...]]:
        return [("file", self.path, self.folder)]


class FileOwner(Resource):
    """A file of the image, a disk to write to, that is owned by the monitor's user while the
    container lives."""

    kind = "owner"

    def __init__(
        self, *, root: str, path: str, inode: int, uid: int, gid: int, before: list[int]
    ) -> None:
        self.root = root
        self.path = path
        self.inode = inode
        self.uid = uid
        self.gid = gid
        self.before = before
        """uid, gid and mode to restore."""

    def make(self) -> None:
        self._give(self.uid, self.gid, self.before[2] | 0o600)

    def remove(self) -> None:
        self._give(*self.before)

    def removal(self) -> list[tuple[str, ...]]:
        return [("owner", self.root, self.path, str(self.inode), *map(str, self.before))]

    def _give(self, uid: int, gid: int, mode: int) -> None:
        try:
            fd = open_in_root(self.root, self.path, posix.O_RDONLY | posix.O_NONBLOCK)
        except FileNotFoundError:
            return
        try:
            if posix.fstat(fd).st_ino == self.inode:
                posix.fchown(fd, uid, gid)
                posix.fchmod(fd, mode)
        finally:
            posix.close(fd)


class PrivateDirectory(Resource):
    """A directory for the files of one container: copies, archives, an initrd.

    Its name has the identity of the container's own directory, so an existing one is left from a
    container that is gone.
    """

    kind = "files"

    def __init__(self, *, path: str) -> None:
        self.path = path

    def make(self) -> None:
        remove_tree(self.path)
        posix.mkdir(self.path, 0o700)

    def remove(self) -> None:
        remove_tree(self.path)

    def removal(self) -> list[tuple[str, ...]]:
        return [("tree", self.path)]


KINDS: dict[str, type[Resource]] = {
    cls.kind: cls for cls in (ControlGroups, SystemdUnit, ReservedUser, FileOwner, PrivateDirectory)
}


def resource_class(kind: str) -> type[Resource] | None:
    """The class of a kind of resource, None for an unknown one: Journal's `registry`."""
    if kind in KINDS:
        return KINDS[kind]
    if kind == "devices":
        from urunc.net.host_devices import MovedDevices

        return MovedDevices
    from urunc.net.resources import KINDS as NETWORK

    return NETWORK.get(kind)
