# SPDX-License-Identifier: Apache-2.0
"""Mounts: the flags of mount(2), mount_setattr(2) (Linux 5.12) and open_tree(2) (5.2), and three
short uses."""

from __future__ import annotations

import posix
from errno import EINVAL

from urunc.linux import _linux
from urunc.linux.files import AT_FDCWD

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
PROPAGATION = {
    "unbindable": 0x20000,
    "private": MS_PRIVATE,
    "slave": 0x80000,
    "shared": 0x100000,
}
"""mount_namespaces(7)'s kinds → mount(2)'s flags."""

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_RELATIME = 0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR__ATIME = 0x70
"""One of the three; to set one, all are cleared."""
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000

AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 0x1
OPEN_TREE_CLOEXEC = posix.O_CLOEXEC
MNT_DETACH = 2


def make_private() -> None:
    """Make every mount of this namespace private: none propagates to or from the host's
    (mount_namespaces(7))."""
    _linux.mount(None, "/", None, MS_REC | MS_PRIVATE, None)


def make_slaves() -> None:
    """Make every mount of this namespace a slave: mounts propagate from the host's, and none
    back."""
    _linux.mount(None, "/", None, MS_REC | PROPAGATION["slave"], None)


def mount_tmpfs(target: str, flags: int, options: str) -> None:
    """An empty tmpfs at a directory (tmpfs(5): `size=`, `mode=`, `uid=`, `gid=`, `nr_inodes=`)."""
    _linux.mount("tmpfs", target, "tmpfs", flags, options)


def bind(source_fd: int, target: str, attributes: int) -> None:
    """Make an open file or directory appear at `target` too, with MOUNT_ATTR_* from the first
    moment."""
    tree = clone(source_fd)
    try:
        restrict(tree, attributes)
        _linux.move_mount(tree, target)
    finally:
        posix.close(tree)


def clone(source_fd: int, *, recursive: bool = False) -> int:
    """The descriptor of a detached mount of an open file or directory (open_tree(2))."""
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    return _linux.open_tree(source_fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags)


def restrict(
    tree: int,
    attributes: int,
    *,
    recursive: bool = False,
    clear: int = 0,
    top: int = 0,
    top_clear: int = 0,
    propagation: int = 0,
) -> None:
    """Set MOUNT_ATTR_* of a mount and, where `recursive`, of those below it; `top` and `top_clear`
    of the mount alone. `propagation` is one of PROPAGATION's, 0 for what it has."""
    if not recursive and not clear:
        attributes, clear = attributes & ~top_clear | top, top_clear
        top = top_clear = 0
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _linux.mount_setattr(tree, "", flags, attributes, clear, propagation)
    if top or top_clear:
        _linux.mount_setattr(tree, "", AT_EMPTY_PATH, top, top_clear, 0)


def make_read_only(target: str) -> None:
    """Make one mount read-only; those below it keep what they have."""
    _linux.mount_setattr(AT_FDCWD, target, 0, MOUNT_ATTR_RDONLY, 0, 0)


def pivot(new_root: str) -> None:
    """Make a mount point the root, and let go of the old one without a directory for it
    (pivot_root(2))."""
    posix.chdir(new_root)
    _linux.pivot_root(".", ".")
    _linux.umount2(".", MNT_DETACH)
    posix.chdir("/")


def enter() -> None:
    """Make the mount point that the working directory is the root, whatever the root is now."""
    try:
        pivot(".")
    except OSError as error:
        if error.errno != EINVAL:
            raise
        move_root(".")  # an initramfs, which pivot_root(2) refuses


def move_root(new_root: str) -> None:
    """The same where the root is an initramfs: move the mount over it; the old one stays below,
    unreachable."""
    posix.chdir(new_root)
    _linux.mount(".", "/", None, MS_MOVE, None)
    posix.chroot(".")
    posix.chdir("/")
