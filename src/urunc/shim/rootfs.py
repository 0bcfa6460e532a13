# SPDX-License-Identifier: Apache-2.0
"""A container's root filesystem from the mounts that containerd names.

An option word is a flag of mount(2) or goes to the filesystem as it is, as in mount(8). Runs in a
worker of the shim with root's privilege, in the host's mount namespace. containerd is trusted; what
a layer holds is not: a target never leads out of the bundle.
"""

from __future__ import annotations

import posix
from errno import EBUSY
from time import sleep

from urunc.errors import HostError, reason
from urunc.linux import _linux, mounts
from urunc.linux.files import AT_FDCWD, O_PATH, make_directories, open_in_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_SILENT = 0x8000

# mount(8)'s words → (flags to set, flags to clear) of mount(2)
WORDS = {
    "async": (0, 0x10),
    "atime": (0, 0x400),
    "bind": (MS_BIND, 0),
    "defaults": (0, 0),
    "dev": (0, mounts.MS_NODEV),
    "diratime": (0, 0x800),
    "dirsync": (0x80, 0),
    "exec": (0, mounts.MS_NOEXEC),
    "lazytime": (0x2000000, 0),
    "mand": (0x40, 0),
    "noatime": (0x400, 0),
    "nodev": (mounts.MS_NODEV, 0),
    "nodiratime": (0x800, 0),
    "noexec": (mounts.MS_NOEXEC, 0),
    "nolazytime": (0, 0x2000000),
    "nomand": (0, 0x40),
    "norelatime": (0, 0x200000),
    "nostrictatime": (0, 0x1000000),
    "nosuid": (mounts.MS_NOSUID, 0),
    "nosymfollow": (0x100, 0),
    "rbind": (MS_BIND | mounts.MS_REC, 0),
    "relatime": (0x200000, 0),
    "remount": (MS_REMOUNT, 0),
    "ro": (mounts.MS_RDONLY, 0),
    "rw": (0, mounts.MS_RDONLY),
    "silent": (MS_SILENT, 0),
    "strictatime": (0x1000000, 0),
    "suid": (0, mounts.MS_NOSUID),
    "sync": (0x10, 0),
}
# flags of one mount, as mount_setattr(2) knows them: (flag, what to set, what to clear before)
ATTRIBUTES = (
    (mounts.MS_RDONLY, mounts.MOUNT_ATTR_RDONLY, 0),
    (mounts.MS_NOSUID, mounts.MOUNT_ATTR_NOSUID, 0),
    (mounts.MS_NODEV, mounts.MOUNT_ATTR_NODEV, 0),
    (mounts.MS_NOEXEC, mounts.MOUNT_ATTR_NOEXEC, 0),
    (0x400, 0x10, 0x70),  # noatime, of the times one
    (0x200000, 0, 0x70),
    (0x1000000, 0x20, 0x70),
    (0x800, 0x80, 0),
    (0x100, 0x200000, 0),
)
PAGE_BYTES = 4096
PAGE_SPARE_BYTES = 512

# loop(4); include/uapi/linux/loop.h
LOOP_CTL_GET_FREE, LOOP_CONFIGURE = 0x4C82, 0x4C0A
LO_FLAGS_READ_ONLY, LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO = 1, 4, 16
LOOP_TRIES = 20


class RootfsOptions:
    """A mount's option words, sorted."""

    def __init__(self, words: Sequence[str], kind: str = "") -> None:
        """Raises HostError for what only containerd itself can do."""
        self.flags = {"bind": MS_BIND, "rbind": MS_BIND | mounts.MS_REC}.get(kind, 0)
        self.cleared = 0
        self.propagation: list[int] = []
        self.loop = False
        self.direct = False
        self.maps: dict[str, str] = {}
        """`uidmap` and `gidmap` → what /proc/PID/uid_map would have."""
        self.data: list[str] = []
        """What the filesystem gets."""
        for word in words:
            name = word.removeprefix("r")
            if word in WORDS:
                on, off = WORDS[word]
                self.flags = self.flags & ~off | on
                self.cleared = self.cleared & ~on | off
            elif word in mounts.PROPAGATION:
                self.propagation.append(mounts.PROPAGATION[word])
            elif name in mounts.PROPAGATION:
                self.propagation.append(mounts.PROPAGATION[name] | mounts.MS_REC)
            elif word == "loop":
                self.loop = True
            elif word.startswith(("uidmap=", "gidmap=")):
                from urunc.shim.mapped import lines

                self.maps[word[: len("uidmap")]] = lines(word)
            elif word.startswith(("X-containerd.", "loop=")):
                raise HostError(
                    f"mount option '{word}': not known to this shim",
                    "containerd's mount manager handles such options, where it is enabled",
                )
            else:
                self.data.append(word)
        if len(self.maps) == 1 or (self.maps and self.loop):
            raise HostError(
                f"mount option '{min(self.maps)}=': not without the other one, nor with a loop"
            )
        if self.loop and "direct-io" in self.data:
            self.data.remove("direct-io")
            self.direct = True

    def attributes(self) -> tuple[int, int]:
        """(set, clear) of mount_setattr(2). What is not said stays; what is to be cleared is so by
        a remount only, for a flag may be locked (mount_namespaces(7))."""
        on = off = 0
        for flag, setting, before in ATTRIBUTES:
            if self.flags & flag:
                on |= setting
                off |= before
            elif self.cleared & flag and self.flags & MS_REMOUNT and not before:
                off |= setting
        return on, off


def shorten(data: Sequence[str]) -> tuple[str, list[str]]:
    """(directory, options): overlay's lower directories by names relative to the directory they
    share, for one page is all that mount(2) takes; ("", the same) where they share none."""
    index = next((n for n, option in enumerate(data) if option.startswith("lowerdir=")), -1)
    if index < 0:
        return "", list(data)
    # a colon in a name has a backslash before it (overlayfs.rst)
    layers = data[index].removeprefix("lowerdir=").replace("\\:", "\0").split(":")
    low, high = min(layers), max(layers)
    length = 0
    while length < len(low) and low[length] == high[length]:
        length += 1
    directory = low[:length].rpartition("/")[0]
    names = [layer[len(directory) + 1 :] for layer in layers]
    if not directory.startswith("/") or "\\" in directory or "\0" in directory or not all(names):
        return "", list(data)
    short = "lowerdir=" + ":".join(names).replace("\0", "\\:")
    return directory, [*data[:index], short, *data[index + 1 :]]


def mount_all(wanted: Sequence[Mapping[str, Any]], target: str) -> None:
    """Mount containerd's mounts (type, source, target, options) at a directory of a bundle, in
    order; raises HostError, and then none of them is there."""
    if not wanted:
        return
    make_directories(target, 0o711)
    done: list[str] = []
    try:
        for item in wanted:
            below = str(item.get("target") or "")
            _mount(item, target, below)
            done.append(below)
    except BaseException:
        for below in reversed(done):
            _detach(target, below)
        raise


def _detach(target: str, below: str) -> None:
    try:
        _at(target, below, lambda path: _linux.umount2(path, mounts.MNT_DETACH))
    except OSError:
        pass  # why it failed before is what counts


def _at(target: str, below: str, work: Callable[[str], None]) -> None:
    """Do something with a path below the target as it is now, with all that is mounted there."""
    bundle, _, name = target.rstrip("/").rpartition("/")
    root = open_in_root(bundle or "/", name, O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    try:
        if not below.strip("/"):
            work(f"/proc/self/fd/{root}")
            return
        fd = open_in_root(f"/proc/self/fd/{root}", below, O_PATH | posix.O_CLOEXEC)
        try:
            work(f"/proc/self/fd/{fd}")
        finally:
            posix.close(fd)
    finally:
        posix.close(root)


def _mount(item: Mapping[str, Any], target: str, below: str) -> None:
    kind, source = str(item.get("type") or ""), str(item.get("source") or "")
    what = f"mount '{source}' ({kind}) at '{target}{'/' if below else ''}{below.lstrip('/')}'"
    if kind.startswith(("fuse.", "fuse3.")):
        raise HostError(f"{what}: this shim has no FUSE helper", "use another snapshotter")
    options = RootfsOptions(item.get("options") or (), kind)
    mounted = False
    try:
        if not options.flags & MS_REMOUNT:
            if options.maps:
                _map(kind, source, target, below, options)
            else:
                _at(target, below, lambda path: _make(kind, source, path, options))
            mounted = True
        elif options.data or not options.flags & MS_BIND:
            flags, data = options.flags & ~MS_BIND, ",".join(options.data)
            _at(target, below, lambda path: _linux.mount(None, path, None, flags, data))
        if options.flags & MS_BIND:
            on, off = options.attributes()
            if on or off:
                _at(target, below, lambda path: _set(path, on, off))
        for change in options.propagation:
            _at(target, below, lambda path: _linux.mount(None, path, None, change, None))  # noqa: B023 (called at once)
    except (OSError, HostError) as error:
        if mounted:
            _detach(target, below)
        if isinstance(error, HostError):
            raise
        raise HostError(f"{what}: {reason(error)}") from None


def _map(kind: str, source: str, target: str, below: str, options: RootfsOptions) -> None:
    from urunc.shim.mapped import make

    maps = options.maps["uidmap"], options.maps["gidmap"]
    directory = target.rstrip("/").rpartition("/")[0] or "/"
    tree = make(kind, source, options.flags, options.data, maps, directory)
    try:
        # move_mount(2) does not follow a link, which the path of a descriptor is
        _at(target, below, lambda path: _in_directory(path, lambda: _linux.move_mount(tree, ".")))
    finally:
        posix.close(tree)


def _set(path: str, on: int, off: int) -> None:
    _linux.mount_setattr(AT_FDCWD, path, 0, on, off, 0)


def _make(kind: str, source: str, path: str, options: RootfsOptions) -> None:
    flags = options.flags
    if flags & MS_BIND:
        # with MS_BIND the kernel heeds MS_REC only; the rest follows, for this mount alone
        _linux.mount(source, path, None, flags & (MS_BIND | mounts.MS_REC), None)
        return
    directory, data = "", options.data
    if kind == "overlay" and _size(data) >= PAGE_BYTES - PAGE_SPARE_BYTES:
        directory, data = shorten(data)
    if _size(data) >= PAGE_BYTES:
        raise HostError(
            f"mount ({kind}): {_size(data)} bytes of options, and mount(2) takes a page",
            "an image of fewer layers, or one whose snapshots lie in one directory",
        )
    device = -1
    if options.loop:
        device, source = _attach(source, read_only=bool(flags & 1), direct=options.direct)
    try:
        if directory:
            _in_directory(
                directory, lambda: _linux.mount(source, path, kind, flags, ",".join(data))
            )
        else:
            _linux.mount(source, path, kind or None, flags, ",".join(data))
    finally:
        if device >= 0:
            posix.close(device)


def _size(data: Sequence[str]) -> int:
    return sum(map(len, (option.encode("utf-8", "surrogateescape") for option in data))) + len(data)


def _in_directory(directory: str, work: Callable[[], None]) -> None:
    """Do something with another working directory; this process has one thread."""
    before = posix.open(".", O_PATH | posix.O_CLOEXEC)
    try:
        posix.chdir(directory)
        try:
            work()
        finally:
            posix.fchdir(before)
    finally:
        posix.close(before)


def _attach(file: str, *, read_only: bool, direct: bool) -> tuple[int, str]:
    """(descriptor, path) of a loop device with a file; it lets go of the file when it is unmounted
    and the descriptor closed. Linux 5.8."""
    from _struct import pack
    from fcntl import ioctl

    mode = posix.O_CLOEXEC | (posix.O_RDONLY if read_only else posix.O_RDWR)
    flags = LO_FLAGS_AUTOCLEAR | (LO_FLAGS_READ_ONLY if read_only else 0)
    flags |= LO_FLAGS_DIRECT_IO if direct else 0
    control = backing = -1
    try:
        backing = posix.open(file, mode)
        control = posix.open("/dev/loop-control", posix.O_RDWR | posix.O_CLOEXEC)
        # struct loop_config: fd, block_size, struct loop_info64 (lo_flags, lo_file_name), reserved
        name = file.encode("utf-8", "surrogateescape")[:63]
        config = pack("=II52xI64s112x64x", backing, 0, flags, name)
        for attempt in range(LOOP_TRIES):
            path = f"/dev/loop{ioctl(control, LOOP_CTL_GET_FREE)}"
            device = posix.open(path, mode)
            try:
                ioctl(device, LOOP_CONFIGURE, config)
                return device, path
            except OSError as error:  # EBUSY: somebody else was faster
                posix.close(device)
                if error.errno != EBUSY or attempt == LOOP_TRIES - 1:
                    raise
                sleep(0.001 * attempt)
        raise AssertionError
    except OSError as error:
        raise HostError(f"loop device for '{file}': {reason(error)}") from None
    finally:
        for fd in (control, backing):
            if fd >= 0:
                posix.close(fd)
