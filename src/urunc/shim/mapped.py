# SPDX-License-Identifier: Apache-2.0
"""Mounts of containerd's whose files belong to other ids: `uidmap=` and `gidmap=` of a snapshotter
for a container with a user namespace, in place of a copy with other owners (containerd 2,
core/mount/mount_idmapped_linux.go).

An overlay cannot be mapped: its lower directories are, one by one, and its upper directory has the
ids already. All is mounted in a namespace of nobody's and comes from there as one mount.
"""

from __future__ import annotations

import posix

from urunc.errors import HostError
from urunc.linux import _linux, mounts
from urunc.linux.files import AT_FDCWD
from urunc.storage.detached_mounts import elsewhere, map_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

CLONE = mounts.OPEN_TREE_CLONE | mounts.OPEN_TREE_CLOEXEC
LOWER = "idmapped-"
"""Before a number: a lower directory's name, which the kernel shows later. No directory may be
taken for it (storage/layers.py looks for relative ones)."""


def lines(word: str) -> str:
    """`CONTAINER:HOST:SIZE`, several with commas, as /proc/PID/uid_map has them; raises
    HostError."""
    name, _, value = word.partition("=")
    found = []
    for part in value.split(","):
        numbers = part.split(":")
        if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
            raise HostError(f"mount option '{word}': no {name} of CONTAINER:HOST:SIZE")
        found.append(" ".join(numbers) + "\n")
    return "".join(found)


def make(
    kind: str, source: str, flags: int, data: Sequence[str], maps: tuple[str, str], directory: str
) -> int:
    """A descriptor of the mount, attached nowhere; `directory` is any that is there. Raises OSError
    and HostError."""
    where = f"mount '{source}' ({kind or 'bind'})"
    if flags & mounts.MS_BIND:
        recursive = mounts.AT_RECURSIVE if flags & mounts.MS_REC else 0
        tree = _linux.open_tree(AT_FDCWD, source, CLONE | recursive)
        try:
            map_ids(tree, *maps, where, recursive=bool(recursive))
        except BaseException:
            posix.close(tree)
            raise
        return tree
    if kind == "overlay":
        return elsewhere(lambda: _overlay(source, flags, data, maps, directory))

    def alone() -> int:
        _linux.mount(source, directory, kind or None, flags, ",".join(data))
        tree = _linux.open_tree(AT_FDCWD, directory, CLONE)
        map_ids(tree, *maps, where)
        return tree

    return elsewhere(alone)


def _overlay(
    source: str, flags: int, data: Sequence[str], maps: tuple[str, str], directory: str
) -> int:
    _linux.mount("tmpfs", directory, "tmpfs", 0, "size=1m,mode=0700")
    posix.chdir(directory)
    words = []
    for word in data:
        name, _, value = word.partition("=")
        if name != "lowerdir":
            words.append(word)
            continue
        # a colon in a name has a backslash before it (overlayfs.rst)
        lowers = [part.replace("\0", ":") for part in value.replace("\\:", "\0").split(":")]
        for number, lower in enumerate(lowers):
            tree = _linux.open_tree(AT_FDCWD, lower, CLONE)
            map_ids(tree, *maps, f"layer '{lower}'")
            posix.mkdir(f"{LOWER}{number}")
            _linux.move_mount(tree, f"{LOWER}{number}")
            posix.close(tree)
        names = ":".join(f"{LOWER}{number}" for number in range(len(lowers)))
        words.append(f"lowerdir={names}")
    posix.mkdir("root")
    _linux.mount(source, "root", "overlay", flags, ",".join(words))
    return _linux.open_tree(AT_FDCWD, "root", CLONE)
