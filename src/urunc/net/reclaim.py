# SPDX-License-Identifier: Apache-2.0
"""Removes what stopped containers have left in a network namespace, to make way for a successor.

A pod's namespace outlives its containers, and engines keep a stopped container for its logs until
after its successor has started. Runs in `create` and `start` after they failed to connect the
guest; they hold the lock of their own container, and this waits for no other.
"""

from __future__ import annotations

import posix

from urunc import logs
from urunc.directory import Directory
from urunc.errors import Error
from urunc.journal import Journal, Resource
from urunc.net.resources import KINDS, NetworkResource
from urunc.state import STOPPED, is_ours, load


def reclaim(own: str, device: int, inode: int) -> bool:
    """Remove what stopped containers have in the namespace (`device`, `inode`); whether there was
    anything. `own` is the directory of the caller's container; the others are beside it."""
    root, _, identifier = own.rpartition("/")
    stopped: list[Directory] = []
    needed: set[tuple[object, ...]] = set()
    try:
        for other in sorted(posix.listdir(root)):
            recorded = _in_namespace(f"{root}/{other}", device, inode)
            if not recorded:
                continue
            directory = Directory(root, other)
            if other != identifier and _lock_if_stopped(directory):
                stopped.append(directory)
            else:
                needed.update(map(_name, recorded))
        return sum(_take(directory, device, inode, needed) for directory in stopped) > 0
    finally:
        for directory in stopped:
            directory.unlock()


def _in_namespace(directory: str, device: int, inode: int) -> list[Resource]:
    root, _, identifier = directory.rpartition("/")
    if not is_ours(root, identifier):
        return []
    try:
        recorded = Journal(directory, KINDS.get).resources()
    except (OSError, LookupError, TypeError) as error:  # written by another version
        logs.detail(f"read journal of '{identifier}': {error!r}")
        return []
    return [resource for resource in recorded if _is_there(resource, device, inode)]


def _is_there(resource: Resource, device: int, inode: int) -> bool:
    if not isinstance(resource, NetworkResource):
        return False
    return (resource.device, resource.inode) == (device, inode)


def _name(resource: Resource) -> tuple[object, ...]:
    """What identifies a resource to the kernel within its namespace."""
    values = resource.parameters()
    return (resource.kind, *(values.get(key) for key in ("name", "index", "family", "table")))


def _lock_if_stopped(directory: Directory) -> bool:
    """Lock the directory of a container that has stopped since this machine booted; False, without
    the lock, for any other, since an earlier boot's namespace was another one."""
    try:
        if not directory.lock(wait=False):
            return False
        state = load(directory.path.rpartition("/")[0], directory.identifier)
        if state.status() == STOPPED and state.is_of_this_boot():
            return True
    except (Error, LookupError) as error:
        logs.detail(f"read state of '{directory.identifier}': {error!r}")
    directory.unlock()
    return False


def _take(directory: Directory, device: int, inode: int, needed: set[tuple[object, ...]]) -> int:
    """Remove a stopped container's resources; how many there were. Those that a living container
    has, too, are kept: inodes and names are reused, and a `delete` may have been killed."""

    def chosen(resource: Resource) -> bool:
        return _is_there(resource, device, inode) and _name(resource) not in needed

    try:
        count = Journal(directory.path, KINDS.get).remove(chosen)
    except Error as error:
        logs.warn(error.message)
        return 0
    if count:
        logs.detail(f"container '{directory.identifier}' has stopped: its network is removed")
    return count
