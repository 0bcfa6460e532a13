# SPDX-License-Identifier: Apache-2.0
"""Detached mounts that volumes are taken from: of file systems that config.json names (an overlay
of Podman's), and id-mapped ones of directories.

Runs in `create`, in the caller's namespaces and with its privilege. Makes descriptors only: a
detached mount is in no mount namespace and ends with its last descriptor (open_tree(2)). Init
attaches them to share them with the guest; copies are read from them.
"""

from __future__ import annotations

import posix
from _signal import SIGKILL
from errno import EINVAL, EIO, EPERM

from urunc.errors import HostError, reason
from urunc.linux import _linux, mounts
from urunc.linux.files import AT_FDCWD, write_bytes
from urunc.linux.namespaces import CLONE_NEWNS, CLONE_NEWUSER, open_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from urunc.storage.facts import Volume

PR_SET_PDEATHSIG = 1
HARMLESS = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
"""On the host nothing in such a mount is executed or opened as a device."""
DONE = b"+"
ANSWER_BYTES = 4096


def open_volumes(volumes: Sequence[Volume], directory: str) -> dict[int, int]:
    """Index of a volume → descriptor of its detached mount, for volumes that need one. `directory`
    is any existing one, to mount on for a moment in another namespace. Raises HostError, leaving
    none open."""
    found: dict[int, int] = {}
    try:
        for index, volume in enumerate(volumes):
            if volume.made.needed:
                found[index] = _open(volume, directory)
    except BaseException:
        for fd in found.values():
            posix.close(fd)
        raise
    return found


def _open(volume: Volume, directory: str) -> int:
    where = f"mount '{volume.destination}'"
    if volume.made.filesystem:
        return _mount(volume, directory, where)
    flags = mounts.OPEN_TREE_CLONE | mounts.OPEN_TREE_CLOEXEC
    try:
        tree = _linux.open_tree(
            AT_FDCWD, volume.source, flags | (mounts.AT_RECURSIVE if volume.recursive else 0)
        )
    except OSError as error:
        raise HostError(f"{where} of '{volume.source}': {reason(error)}") from None
    try:
        made = volume.made
        map_ids(tree, made.uid_map, made.gid_map, where, recursive=made.map_recursive)
    except BaseException:
        posix.close(tree)
        raise
    return tree


def map_ids(tree: int, uid_map: str, gid_map: str, where: str, *, recursive: bool = False) -> None:
    """Make a detached mount id-mapped (mount_setattr(2), MOUNT_ATTR_IDMAP, Linux 5.12). The maps
    are lines as in /proc/PID/uid_map: `ON-DISK SHOWN COUNT`. `where` begins the message of the
    HostError that it raises."""
    namespace = user_namespace(uid_map, gid_map, where)
    flags = mounts.AT_EMPTY_PATH | (mounts.AT_RECURSIVE if recursive else 0)
    try:
        _linux.mount_setattr(tree, "", flags, mounts.MOUNT_ATTR_IDMAP, 0, 0, namespace)
    except OSError as error:
        hint = ""
        if error.errno in (EINVAL, EPERM):
            hint = "its filesystem maps no ids with this kernel, or it is mapped already"
        raise HostError(f"{where}: map ids: {reason(error)}", hint) from None
    finally:
        posix.close(namespace)


def user_namespace(uid_map: str, gid_map: str, where: str) -> int:
    """A descriptor of a new user namespace with these mappings and no process in it; raises
    HostError."""
    hear, tell = posix.pipe()
    end, alive = posix.pipe()
    pid = posix.fork()
    if pid == 0:
        posix.close(alive)
        try:
            _linux.unshare(CLONE_NEWUSER)
            posix.write(tell, DONE)
            # until the parent is done with it or has died: this child has the container's lock, too
            posix.read(end, 1)
        except OSError as error:
            posix.write(tell, str(error.errno).encode())
        finally:
            posix._exit(1)
    posix.close(tell)
    posix.close(end)
    try:
        answer = posix.read(hear, 16)
        if answer != DONE:
            raise OSError(int(answer or EIO), posix.strerror(int(answer or EIO)))
        write_bytes(f"/proc/{pid}/uid_map", uid_map.encode())
        write_bytes(f"/proc/{pid}/gid_map", gid_map.encode())
        return open_namespace(f"/proc/{pid}/ns/user")
    except OSError as error:
        raise HostError(
            f"{where}: a user namespace with its mappings: {reason(error)}",
            "ranges must not overlap; the host may forbid user namespaces (sysctl "
            "user.max_user_namespaces)",
        ) from None
    finally:
        posix.close(hear)
        posix.close(alive)
        posix.kill(pid, SIGKILL)
        posix.waitpid(pid, 0)


def _mount(volume: Volume, directory: str, where: str) -> int:
    """A descriptor of a detached mount of a file system."""

    def mount() -> int:
        made = volume.made
        flags = HARMLESS | made.flags
        _linux.mount(volume.source, directory, made.filesystem, flags, made.data or None)
        return _linux.open_tree(
            AT_FDCWD, directory, mounts.OPEN_TREE_CLONE | mounts.OPEN_TREE_CLOEXEC
        )

    try:
        return elsewhere(mount)
    except OSError as error:
        raise HostError(
            f"{where}: mount {volume.made.filesystem} '{volume.source}' on the host: "
            f"{reason(error)}",
            f"its options are: {volume.made.data}" if volume.made.data else "",
        ) from None


def elsewhere(make: Callable[[], int]) -> int:
    """Call `make` in a child with a private mount namespace, in which it may mount freely, and
    return the descriptor that it returns. Raises the OSError or HostError that `make` raises."""
    from _socket import CMSG_LEN, SCM_RIGHTS, SOL_SOCKET, socketpair

    here, there = socketpair()
    parent = posix.getpid()
    pid = posix.fork()
    if pid == 0:
        _child(make, there.detach(), parent)
    there.close()
    try:
        answer, messages, _, _ = here.recvmsg(ANSWER_BYTES, CMSG_LEN(4))
    finally:
        here.close()
        posix.waitpid(pid, 0)
    for level, kind, content in messages:
        if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
            fd = int.from_bytes(content[:4], "little")
            posix.set_inheritable(fd, False)
            return fd
    number, _, text = answer.decode("utf-8", "replace").partition(" ")
    if number == "0":
        message, _, hint = text.partition("\0")
        raise HostError(message, hint)
    raise OSError(int(number or EIO), posix.strerror(int(number or EIO)))


def _child(make: Callable[[], int], answer: int, parent: int) -> NoReturn:
    from _socket import SCM_RIGHTS, SOL_SOCKET
    from _socket import socket as Socket

    connection = Socket(fileno=answer)
    try:
        _linux.prctl(PR_SET_PDEATHSIG, SIGKILL)
        if posix.getppid() != parent:
            posix._exit(1)
        _linux.unshare(CLONE_NEWNS)
        mounts.make_private()
        rights = [(SOL_SOCKET, SCM_RIGHTS, make().to_bytes(4, "little"))]
        connection.sendmsg([DONE], rights)
    except HostError as error:
        connection.send(f"0 {error.message}\0{error.hint}".encode()[:ANSWER_BYTES])
    except OSError as error:
        connection.send(str(error.errno or EIO).encode())
    finally:
        posix._exit(0)
