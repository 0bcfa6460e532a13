# SPDX-License-Identifier: Apache-2.0
"""Files that a running monitor gets to see for a moment: bind mounts in its own mount namespace.

The monitor's root holds nothing that leads to the host's files, and it is not trusted: it is lent
single files, to read or to write, and they are taken back when it is done with them. A child of
ours does both in the monitor's namespaces, since a mount namespace is entered for good. What the
monitor makes of its own /run can only mislead itself.
"""

from __future__ import annotations

import posix
from errno import EBUSY

from urunc.errors import HostError, reason
from urunc.linux import _linux, mounts
from urunc.linux.files import unlink
from urunc.linux.namespaces import CLONE_NEWNS, open_namespace
from urunc.monitors import RUN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from urunc.plan.model import MonitorUser

UMOUNT_NOFOLLOW = 8
RESTRICTED = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
PLACE = f"{RUN}/snapshot"
"""The directory of lent files in the monitor's root."""
LOG = f"{RUN}/console.log"
"""A FIFO there, by which what the guest prints is heard until it is ready."""


def lend(
    pid: int, user: MonitorUser, files: Mapping[str, int], *, read_only: bool
) -> dict[str, str]:
    """Show a monitor of this user's these files (name → descriptor); their paths in its root by
    name. Raises HostError."""
    attributes = RESTRICTED | (mounts.MOUNT_ATTR_RDONLY if read_only else 0)
    trees: dict[str, int] = {}
    places = {name: f"{PLACE}/{name}" for name in files}

    def attach() -> None:
        _take_back(places.values())
        # in a user namespace's file system nobody but its own users can own what is made
        _become(user.uid, user.gid)
        posix.mkdir(PLACE, 0o700)
        for path in places.values():
            flags = posix.O_CREAT | posix.O_EXCL | posix.O_WRONLY | posix.O_NOFOLLOW
            posix.close(posix.open(path, flags, 0o600))
        posix.seteuid(posix.getuid())
        for name, tree in trees.items():
            _linux.move_mount(tree, places[name])

    try:
        for name, fd in files.items():
            trees[name] = mounts.clone(fd)
            mounts.restrict(trees[name], attributes)
        _call_in_mounts(pid, attach)
    except OSError as error:
        raise HostError(f"lend files to the monitor: {reason(error)}") from None
    finally:
        for tree in trees.values():
            posix.close(tree)
    return places


def make_log(pid: int, user: MonitorUser) -> int:
    """The reading end of a FIFO at LOG in the root of an init that is to become the monitor. Raises
    HostError."""

    def make() -> None:
        _become(user.uid, user.gid)
        posix.mkfifo(LOG, 0o600)

    try:
        _call_in_mounts(pid, make)
        return posix.open(
            f"/proc/{pid}/root{LOG}",
            posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC | posix.O_NOFOLLOW,
        )
    except OSError as error:
        raise HostError(f"listen to the guest's console: {reason(error)}") from None


def to_read(fd: int) -> int:
    """A new descriptor of a file, by a read-only mount that is nowhere else: a monitor that runs as
    the file's owner could make another one writable, and open it anew by /proc. Raises
    HostError."""
    try:
        tree = mounts.clone(fd)
        try:
            mounts.restrict(tree, RESTRICTED | mounts.MOUNT_ATTR_RDONLY)
            return posix.open(f"/proc/self/fd/{tree}", posix.O_RDONLY | posix.O_CLOEXEC)
        finally:
            posix.close(tree)
    except OSError as error:
        raise HostError(f"lend files to the monitor: {reason(error)}") from None


def take_back(pid: int, names: tuple[str, ...]) -> None:
    """Take them away again; what the monitor has open or mapped it keeps. Raises HostError."""
    try:
        _call_in_mounts(pid, lambda: _take_back([f"{PLACE}/{name}" for name in names]))
    except OSError as error:
        raise HostError(f"take files back from the monitor: {reason(error)}") from None


def _take_back(paths: Collection[str]) -> None:
    for path in paths:
        try:
            _linux.umount2(path, mounts.MNT_DETACH | UMOUNT_NOFOLLOW)
        except OSError:
            pass  # nothing is mounted there
    facts = posix.stat(RUN)
    _become(facts.st_uid, facts.st_gid)  # a link of the monitor's leads where it may go itself
    try:
        for path in paths:
            unlink(path)
        posix.rmdir(PLACE)
    except FileNotFoundError:
        pass
    finally:
        posix.seteuid(posix.getuid())


def _become(uid: int, gid: int) -> None:
    """Have the monitor's rights to files and no more, until seteuid(2) of the real user."""
    try:
        posix.setgroups([])
    except OSError:
        pass  # denied in a user namespace of an ordinary user, who has no group of root's either
    posix.setegid(gid)
    posix.seteuid(uid)


def _call_in_mounts(pid: int, function: Callable[[], None]) -> None:
    """Call a function in a process's mount namespace, in a child; raises the OSError that it
    met."""
    namespace = open_namespace(f"/proc/{pid}/ns/mnt")  # OSError where it has ended
    try:
        child = posix.fork()
        if not child:
            code = EBUSY
            try:
                _linux.setns(namespace, CLONE_NEWNS)
                function()
                code = 0
            except OSError as error:
                code = error.errno or EBUSY
            finally:
                posix._exit(code)
    finally:
        posix.close(namespace)
    _, status = posix.waitpid(child, 0)
    code = posix.waitstatus_to_exitcode(status)
    if code:
        raise OSError(code, posix.strerror(code) if code > 0 else "the child died")
