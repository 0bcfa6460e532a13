# SPDX-License-Identifier: Apache-2.0
"""Identifies a container's root filesystem: the layers of an overlay, a block device of its own, or
just a directory.

Runs in `create`, in the caller's mount namespace; reads only. An engine never changes a layer that
containers use, but an image's author chooses every name, size and time inside it. So a layer is
identified by what the kernel alone writes (device, inode, ctime), and not walked.
"""

from __future__ import annotations

import posix
from _blake2 import blake2b

from urunc.errors import HostError, reason
from urunc.linux.files import (
    O_PATH,
    S_IFBLK,
    S_IFDIR,
    S_IFMT,
    S_IFREG,
    is_directory,
    read_text,
)
from urunc.linux.mountinfo import MountInfo, Mounts, unescape
from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

KEY_BYTES = 20
LISTED_ENTRIES = 64
"""How many entries of the topmost layer are looked at."""
S_IFLNK = 0o120000

BLOCK_FILESYSTEMS = frozenset(("btrfs", "erofs", "ext2", "ext3", "ext4", "squashfs", "xfs"))
IMAGE_FILESYSTEMS = frozenset(("cramfs", "erofs", "iso9660", "romfs", "squashfs"))
"""File systems of mounted images, whose author chooses inodes and times, as a FUSE server does."""
KEPT_OPTIONS = ("metacopy", "redirect_dir", "userxattr", "verity")
"""Options of overlay that change how layers are read (overlayfs.rst)."""
OWN_NOTES = frozenset(
    f"{space}.overlay.{name}"
    for space in ("trusted", "user")
    for name in ("impure", "nlink", "origin", "uuid")
)
"""Extended attributes in which overlay notes inodes; they differ between equal layers."""


@record
class Source:
    """The origin of a root filesystem's content."""

    kind: str
    """`layers`, `device` or `tree`."""
    root: str
    """The root filesystem's own path."""
    key: str = ""
    """Identifies the content of all layers; "" for `device` and `tree`, whose content is known only
    after reading it."""
    lowers: tuple[str, ...] = ()
    """Overlay's lower directories, the topmost first, absolute."""
    upper: str = ""
    """Overlay's writable directory, absolute; "" for none."""
    options: tuple[str, ...] = ()
    """Options that another overlay of the same layers needs."""
    device: str = ""
    """Path of the block device."""
    device_filesystem: str = ""
    """Its filesystem's type, as mount(2) has it."""


def identify(root: str) -> Source:
    """The source of the root filesystem at a path; raises HostError if it cannot be opened."""
    mounts = Mounts()
    try:
        fd = posix.open(root, O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
        try:
            path = posix.readlink(f"/proc/self/fd/{fd}")
            mount = mounts.of(fd)
        finally:
            posix.close(fd)
    except OSError as error:
        raise HostError(f"root filesystem '{root}': {reason(error)}") from None
    tree = Source(kind="tree", root=path)
    if mount is None or mount.point != path or mount.root != "/":
        return tree  # a directory of a larger file system
    if mount.kind == "overlay":
        return _overlay(mount, mounts) or tree
    if mount.kind in BLOCK_FILESYSTEMS and (device := _device(mount)):
        return Source(kind="device", root=path, device=device, device_filesystem=mount.kind)
    return tree


def digest(*parts: str) -> str:
    """A hash of a list of texts: 40 hexadecimal digits (BLAKE2b)."""
    # each with its length, so that no two lists are the same text
    whole = "".join(f"{len(part)} {part}" for part in parts)
    return blake2b(whole.encode("utf-8", "surrogateescape"), digest_size=KEY_BYTES).hexdigest()


def _overlay(mount: MountInfo, mounts: Mounts) -> Source | None:
    """The layers of an overlay; None if one cannot be found or identified."""
    lowers: list[str] = []
    upper = ""
    kept = []
    for option in mount.options.split(","):
        name, _, value = option.partition("=")
        value = unescape(value)
        if name == "lowerdir":
            lowers += _split(value)
        elif name == "lowerdir+":  # each by itself, as it is (Linux 6.7)
            lowers.append(value)
        elif name == "datadir+":
            lowers.append("")
        elif name == "upperdir":
            upper = value
        elif name in KEPT_OPTIONS:
            kept.append(option)
    if not all(lowers):
        return None  # data-only layers, which files of other layers refer to
    found = _absolute((upper, *lowers), mount.point)
    if not found and "\\" in upper:
        # mount(2) takes a comma in it after a backslash, which stays there
        found = _absolute((":".join(_split(upper)), *lowers), mount.point)
    if not found:
        return None
    upper, *lowers = found
    identities: list[str] = []
    devices: dict[int, str | None] = {}
    for number, lower in enumerate(lowers):
        try:
            identity = (number == 0 and _listing(lower)) or _identity(lower, mounts, devices)
        except OSError:
            return None
        if not identity:
            return None
        identities.append(identity)
    return Source(
        kind="layers",
        root=mount.point,
        key=digest("layers", *kept, *identities),
        lowers=tuple(lowers),
        upper=upper,
        options=tuple(kept),
    )


def _absolute(paths: Sequence[str], point: str) -> list[str]:
    """An overlay's directories, the upper one (or "") first, as absolute paths; empty if one of
    them is not found.

    An engine with many layers names them relative to a directory it was in: one above the upper
    directory (containerd) or the mount point (Docker).
    """
    relative = [path for path in paths if path and not path.startswith("/")]
    places = [*_above(paths[0]), *_above(point)] if relative else []
    fits = (place for place in places if all(is_directory(f"{place}/{path}") for path in relative))
    place = next(fits, "")
    found = [f"{place}/{path}" if path in relative else path for path in paths]
    missing = relative and not place
    return [] if missing or not all(is_directory(path) for path in found if path) else found


def _above(path: str) -> list[str]:
    """The directories above an absolute path, the nearest first, without the root."""
    parts = path.split("/")[:-1] if path.startswith("/") else []
    return ["/".join(parts[:count]) for count in range(len(parts), 1, -1)]


def _identity(path: str, mounts: Mounts, devices: dict[int, str | None]) -> str:
    """A text that identifies a layer by its directory alone; "" if none can. `devices` caches
    `_backing` by st_dev."""
    facts = posix.stat(path)
    if facts.st_dev not in devices:
        fd = posix.open(path, O_PATH | posix.O_CLOEXEC)
        try:
            devices[facts.st_dev] = _backing(mounts.of(fd))
        finally:
            posix.close(fd)
    backing = devices[facts.st_dev]
    if backing is None:
        return ""
    return f"{facts.st_dev} {facts.st_ino} {facts.st_mtime_ns} {facts.st_ctime_ns} {backing}"


def _backing(mount: MountInfo | None) -> str | None:
    """A text that identifies the image file behind a mount; "" for a filesystem whose inodes and
    times the kernel alone writes, None if they mean nothing."""
    if mount is None or mount.kind.startswith("fuse"):
        return None
    if mount.kind not in IMAGE_FILESYSTEMS:
        return ""
    path = mount.source
    if path.startswith("/dev/loop"):
        # the kernel's number and not the name, which is what mount(2) was given
        path = read_text(f"/sys/dev/block/{mount.device}/loop/backing_file").removesuffix("\n")
    facts = posix.stat(path)
    if not path.startswith("/") or facts.st_mode & S_IFMT != S_IFREG:
        return None
    return f"{facts.st_dev} {facts.st_ino} {facts.st_size} {facts.st_ctime_ns}"


def _device(mount: MountInfo) -> str:
    """The path of the mounted block device, "" if none is found."""
    for path in (mount.source, f"/dev/block/{mount.device}"):
        try:
            facts = posix.stat(path)
        except OSError:
            continue
        number = f"{posix.major(facts.st_rdev)}:{posix.minor(facts.st_rdev)}"
        if facts.st_mode & S_IFMT == S_IFBLK and number == mount.device:
            return path
    return ""


def _listing(directory: str) -> str:
    """The content of a layer that has at most LISTED_ENTRIES entries and only empty files, without
    times; "" for any other layer.

    Docker makes such a layer of mount points for each container; its inode would never be seen
    twice.
    """
    lines = [_line(".", directory, posix.stat(directory))]
    pending = [""]
    while pending:
        below = pending.pop()
        with posix.scandir(f"{directory}/{below}") as entries:
            for entry in entries:
                path = below + entry.name
                facts = entry.stat(follow_symlinks=False)
                kind = facts.st_mode & S_IFMT
                if len(lines) > LISTED_ENTRIES or (kind == S_IFREG and facts.st_size):
                    return ""
                if kind == S_IFDIR:
                    pending.append(f"{path}/")
                lines.append(_line(path, f"{directory}/{path}", facts))
    return "\n".join(sorted(lines))


def _line(name: str, path: str, facts: posix.stat_result) -> str:
    target = posix.readlink(path) if facts.st_mode & S_IFMT == S_IFLNK else ""
    attributes = [
        (key, posix.getxattr(path, key, follow_symlinks=False))
        for key in sorted(posix.listxattr(path, follow_symlinks=False))
        if key not in OWN_NOTES
    ]
    return ascii(
        (name, facts.st_mode, facts.st_uid, facts.st_gid, facts.st_rdev, target, attributes)
    )


def _split(value: str) -> list[str]:
    """The directories of a `lowerdir` option: a backslash takes the next character as it is
    (overlayfs.rst); before directories for data alone there is an empty one."""
    found = [""]
    letters = iter(value)
    for letter in letters:
        if letter == ":":
            found.append("")
        else:
            found[-1] += next(letters, "") if letter == "\\" else letter
    return found
