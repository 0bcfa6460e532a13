# SPDX-License-Identifier: Apache-2.0
"""What a container leaves outside its namespaces: written down before it is made, removed newest
first.

A line of JSON per resource in the container's folder. Removing is idempotent and works from another
process, later, and for what was only half made; a resource that cannot be removed stays in the
journal, so that the next `delete` tries again.
"""

from __future__ import annotations

import posix
from errno import EBUSY, EEXIST, ENOTEMPTY

from urunc import logs
from urunc.errors import HostError, reason
from urunc.jsontext import dumps, loads
from urunc.linux import cgroups
from urunc.linux.files import (
    append,
    exists,
    make_directories,
    open_in_root,
    read_text,
    remove_tree,
    unlink,
    write_whole,
)
from urunc.state import JOURNAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Resource:
    """Something that outlives the container's namespaces. `parameters` are the constructor's, as
    JSON."""

    kind = ""

    def parameters(self) -> dict[str, object]:
        """What the constructor needs to name this resource again."""
        return dict(self.__dict__)

    def make(self) -> None:
        """Bring it about; raises OSError."""
        raise NotImplementedError

    def remove(self) -> None:
        """Take it back, also half made, also twice; raises OSError."""
        raise NotImplementedError


class Journal:
    """The resources of one container, in its folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path = f"{folder}/{JOURNAL}"

    def make(self, resource: Resource) -> None:
        """Record a resource, then make it. A failure leaves the record: `remove_all` takes back the
        half.

        But what the kernel says is there already is another's: then the record goes, before anybody
        removes by it what is not this container's.
        """
        append(self.path, _line(resource))
        try:
            resource.make()
        except OSError as error:
            if error.errno in (EEXIST, EBUSY):
                self._write(self.resources()[:-1])
            raise

    def resources(self) -> list[Resource]:
        """What is recorded, oldest first; a last line that a crash cut short was never made."""
        try:
            text = read_text(self.path, 1 << 24)
        except FileNotFoundError:
            return []
        found = []
        for line in text.splitlines():
            try:
                entry = loads(line)
                kind = entry.pop("kind")
            except (ValueError, KeyError):
                continue
            found.append(_class(kind)(**entry))
        return found

    def remove_all(self) -> None:
        """Remove every resource, newest first; raises HostError after trying all.

        What is removed is forgotten at once: a hook may run for long before the folder goes, and a
        name may be another container's by the time that a `delete` which was killed is repeated.
        """
        self.remove(lambda _resource: True)

    def remove(self, chosen: Callable[[Resource], bool]) -> int:
        """Remove and forget the chosen ones, newest first; returns how many. Raises HostError after
        trying all."""
        failed: list[str] = []
        left: list[Resource] = []
        recorded = self.resources()
        for resource in reversed(recorded):
            if chosen(resource):
                try:
                    resource.remove()
                    continue
                except OSError as error:
                    failed.append(f"{resource.kind}: {reason(error)}")
            left.insert(0, resource)
        if len(left) < len(recorded):
            self._write(left)
        if failed:
            raise HostError(
                f"clean up '{self.path}': {'; '.join(failed)}", "`delete` can be repeated"
            )
        return len(recorded) - len(left)

    def take_back(self, kept: int) -> None:
        """Remove what was recorded after the first `kept` resources.

        One that is recorded among those, too, was there before and was only renewed: it stays. A
        failure is a warning, for the error that led here matters more.
        """
        recorded = self.resources()
        if len(recorded) <= kept:
            return
        before = {_identity(resource) for resource in recorded[:kept]}
        left = recorded[:kept]
        for resource in reversed(recorded[kept:]):
            if _identity(resource) in before:
                continue
            try:
                resource.remove()
            except OSError as error:
                logs.warn(f"take back {resource.kind}: {reason(error)}")
                left.insert(kept, resource)
        self._write(left)

    def _write(self, resources: list[Resource]) -> None:
        if resources:
            write_whole(self.path, b"".join(map(_line, resources)))
        else:
            posix.truncate(self.path, 0)


def _line(resource: Resource) -> bytes:
    return dumps({"kind": resource.kind, **resource.parameters()}).encode() + b"\n"


def _identity(resource: Resource) -> str:
    """All that is recorded of it, but for the path by which its namespace was reached."""
    return dumps({"kind": resource.kind, **resource.parameters(), "namespace": ""})


def _class(kind: str) -> Any:
    if kind in RESOURCES:
        return RESOURCES[kind]
    from urunc.net.resources import RESOURCES as NETWORK

    return NETWORK[kind]


class ControlGroups(Resource):
    """The control groups of the container: one folder in each hierarchy, parents that others share
    left alone."""

    kind = "cgroups"

    def __init__(self, *, paths: list[str], parents: list[str], member: int = 0) -> None:
        self.paths = paths
        self.member = member
        """The process that systemd has put into its groups already, 0 for none."""
        self.parents = parents
        """Folders above that were not there, outermost first; removed only where nobody else uses
        them."""

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

    def _remove(self, path: str) -> None:
        # the processes are dead by now, but the kernel may still be reaping them
        from time import sleep

        for attempt in range(100):
            if cgroups.remove(path):
                return
            for pid in cgroups.pids(path):
                posix.kill(pid, 9)
            sleep(0.001 * min(attempt + 1, 20))
        raise OSError(ENOTEMPTY, f"control group '{path}' still has processes")


class SystemdUnit(Resource):
    """A scope or slice that systemd made for the container: `make` is the record alone, for
    starting it takes what is known only to cgroup/groups.py."""

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

    A file named by the id holds the folder of the container that has it; where that folder is gone
    the reservation is void.
    """

    kind = "user"

    def __init__(self, *, path: str, folder: str) -> None:
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


class FileOwner(Resource):
    """A file of the image that belongs to the monitor's user while the container lives: a disk it
    writes to."""

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
        """uid, gid and mode to give back."""

    def make(self) -> None:
        self._give(self.uid, self.gid, self.before[2] | 0o600)

    def remove(self) -> None:
        self._give(*self.before)

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


class PrivateFolder(Resource):
    """A folder for files of one container: copies, archives, an initrd.

    Its name has the identity of the container's own folder, so what is there already is of a
    container that is no more.
    """

    kind = "files"

    def __init__(self, *, path: str) -> None:
        self.path = path

    def make(self) -> None:
        remove_tree(self.path)
        posix.mkdir(self.path, 0o700)

    def remove(self) -> None:
        remove_tree(self.path)


RESOURCES = {
    cls.kind: cls for cls in (ControlGroups, SystemdUnit, ReservedUser, FileOwner, PrivateFolder)
}
