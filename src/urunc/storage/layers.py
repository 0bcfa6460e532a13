# SPDX-License-Identifier: Apache-2.0
"""What a container's root filesystem is made of, as the kernel tells it: overlay's layers, a block
device of its own, or just a directory.

Runs in `create`, in the caller's mount namespace; reads, and makes nothing. Directories that hold
layers belong to the engine, and it never changes one that containers stand on; what is in a layer
belongs to the image's author, who can choose every name, size and time in it. So a layer is known
by what the kernel alone writes (device, inode, time of change) and no layer is walked.
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
"""So many entries of the topmost layer are looked at."""
S_IFLNK = 0o120000

BLOCK_FILESYSTEMS = frozenset(("btrfs", "erofs", "ext2", "ext3", "ext4", "squashfs", "xfs"))
IMAGE_FILESYSTEMS = frozenset(("cramfs", "erofs", "iso9660", "romfs", "squashfs"))
"""Inodes and times in these come from the file that is mounted, so from its author; a FUSE server
chooses them, too."""
KEPT_OPTIONS = ("metacopy", "redirect_dir", "userxattr", "verity")
"""What of overlay's options changes how layers are read (overlayfs.rst)."""
OWN_NOTES = frozenset(
    f"{space}.overlay.{name}"
    for space in ("trusted", "user")
    for name in ("impure", "nlink", "origin", "uuid")
)
"""Extended attributes in which overlay remembers inodes: they differ where contents do not."""


@record
class Source:
    """Where a root filesystem's content comes from."""

    kind: str
    """`layers`, `device` or `tree`."""
    root: str
    """The root filesystem's own path."""
    key: str = ""
    """Names the content of all layers; "" where there are none, and only reading it all tells."""
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
    """What a container's root filesystem is; raises HostError where it cannot be looked at."""
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
        return tree  # a directory of something that is more than this root filesystem
    if mount.kind == "overlay":
        return _overlay(mount, mounts) or tree
    if mount.kind in BLOCK_FILESYSTEMS and (device := _device(mount)):
        return Source(kind="device", root=path, device=device, device_filesystem=mount.kind)
    return tree


def digest(*parts: str) -> str:
    """A name for some texts: hexadecimal, 40 characters."""
    # each with its length, so that no two lists are the same text
    whole = "".join(f"{len(part)} {part}" for part in parts)
    return blake2b(whole.encode("utf-8", "surrogateescape"), digest_size=KEY_BYTES).hexdigest()


def _overlay(mount: MountInfo, mounts: Mounts) -> Source | None:
    """The layers of an overlay; None where one cannot be found, or cannot be told from others."""
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
        return None  # with directories for data alone, which files in layers name
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
    """An overlay's directories, the upper one (or "") first, by absolute paths; none where one of
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
    """The directories that an absolute path leads through, the nearest first, without the root."""
    parts = path.split("/")[:-1] if path.startswith("/") else []
    return ["/".join(parts[:count]) for count in range(len(parts), 1, -1)]


def _identity(path: str, mounts: Mounts, devices: dict[int, str | None]) -> str:
    """What names a layer without looking into it; "" where nothing does. `devices` remembers what
    is known of filesystems."""
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
    """What names the file that is mounted as an image; "" for a filesystem that the kernel alone
    writes to, None where inodes and times say nothing."""
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
    """The path of the block device that is mounted; "" where it has none."""
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
    """All that there is in a layer of few entries and empty files, but for times; "" where it holds
    more.

    Docker makes such a layer for each container, with mount points: by its inode it would never be
    met again.
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
