# SPDX-License-Identifier: Apache-2.0
"""What was found out about a container's files, what is wanted of them for its guest, and what was
made, as plain records: `Found` before the plan, `Root` and `Volume` in it, `StorageFacts` after."""

from __future__ import annotations

from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.bundle.spec import Mount, Spec

DISKS = ("erofs", "squashfs", "ext4", "ext2")
"""Forms of the container's root filesystem that are disks; those of READ_ONLY cannot be written."""
READ_ONLY = frozenset(("erofs", "squashfs"))
SHARES = ("virtiofs", "9p")
"""Forms that are directories of the host's, which the guest sees as they are."""
INITRD = "cpio"
LAYER_FORM = "ext4"
"""Of the disk for what a Linux guest writes."""
FORMS = (*DISKS, *SHARES, INITRD)

ARCHIVE, IN_INITRD, TMPFS, DEVICE, NODE = "archive", "initrd", "tmpfs", "device", "node"
KERNEL = "kernel"
"""Ways of a volume beside SHARES and DISKS: copied onto a disk that urunc's init reads, copied into
the initrd; made in the guest's memory; a block device as it is; a node of the guest's kernel; a
file system of that kernel's own (its /proc)."""
DIRECTORY, FILE = "folder", "file"
"""Kinds of volume; as state.json has always had them."""
TOLD = ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname")
"""What of an engine's mounts reaches a guest as words, or in its configuration."""
OWN_TYPES = ("proc", "sysfs", "devpts", "mqueue", "cgroup")
SHM = "/dev/shm"
USUAL = {
    "/proc": ("proc", False, frozenset()),
    "/sys": ("sysfs", True, frozenset()),
    "/sys/fs/cgroup": ("cgroup", True, frozenset()),
    "/dev/mqueue": ("mqueue", False, frozenset()),
    "/dev/pts": ("devpts", False, frozenset(("ptmxmode=0666", "mode=0620", "gid=5"))),
}
"""Where a Linux guest has them without being asked → (type, read-only, options of its own)."""
KERNEL_TYPES = frozenset(
    (*OWN_TYPES, "binfmt_misc", "bpf", "cgroup2", "configfs", "debugfs", "devtmpfs", "efivarfs",
     "fusectl", "pstore", "ramfs", "rpc_pipefs", "securityfs", "selinuxfs", "tracefs")
)  # fmt: skip
"""File systems that show what a kernel has: in a guest, that one's. (Types of others are mounted on
the host.)"""
OWN_MOUNTS = ("/dev", SHM, "/dev/pts", "/dev/mqueue", "/proc", "/sys", "/sys/fs/cgroup")
"""What a runtime mounts for every container's own kernel interfaces: a guest has a kernel."""


@record
class Attributes:
    """What mount_setattr(2) is told, for a mount and for those below it: MOUNT_ATTR_*."""

    set: int = 0
    clear: int = 0
    set_below: int = 0
    clear_below: int = 0


PLAIN = Attributes()


@record
class Made:
    """What the runtime has to mount itself before there is a directory (detached_mounts.py): a file
    system, or a directory whose files shall belong to other ids."""

    filesystem: str = ""
    """Its type, "" where it is a directory of the host's."""
    flags: int = 0
    """MS_* of mount(2)."""
    data: str = ""
    """What the file system is told."""
    uid_map: str = ""
    gid_map: str = ""
    """As /proc/PID/uid_map has it: on the disk, as seen on the host, count; "" for no mapping."""
    map_recursive: bool = False
    """Whether it holds for what is mounted below, too."""

    @property
    def needed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.filesystem or self.uid_map)


FOUND = Made()


@record
class VolumeSource:
    """A mount of config.json, or a device of linux.devices, looked at: `kind` is DIRECTORY, FILE,
    TMPFS, DEVICE or NODE, else what it is instead, in words."""

    destination: str
    source: str
    kind: str
    read_only: bool
    recursive: bool
    """Whether what is mounted below it belongs to it (rbind)."""
    scratch: bool
    """A directory that lives no longer than its pod (emptyDir): what is written there may be
    lost."""
    options: tuple[str, ...]
    """For the guest's mount, beside `ro`."""
    device: tuple[int, ...]
    """(major, minor) of a DEVICE or a NODE."""
    anonymous: bool = False
    """A directory that the engine made because the image says VOLUME: nobody has chosen it."""
    mounted: str = ""
    """The block device of which this is the whole filesystem, mounted on the host, "" for none."""
    attributes: Attributes = PLAIN
    """What the host's own mount of it shall be."""
    writable_below: tuple[str, ...] = ()
    """Where it is read-only alone: the mounts below it that are not, by their paths in it."""
    notes: tuple[str, ...] = ()
    """What of its options has no effect, in words."""
    slave: bool = False
    """Whether what is mounted below it on the host later shall appear."""
    returned: tuple[int, ...] = ()
    """(device, inode) of a file that the engine reads once the container has ended; empty for any
    other."""
    shm: tuple[str, ...] = ()
    """Of a directory that is to be shared memory, and holds nothing that others left there: the
    options of a tmpfs like it."""
    made: Made = FOUND


@record
class StorageFound:
    """What there is to choose from."""

    device: str
    """The block device that the root filesystem is alone on (devmapper, blockfile), "" for none."""
    device_numbers: tuple[int, ...]
    """Its (major, minor); empty for none."""
    device_filesystem: str
    builders: tuple[str, ...]
    """Of FORMS those that this machine has a program for (INITRD needs none)."""
    filesystems: tuple[str, ...]
    """Of FORMS those that the guest's kernel is known to mount."""
    virtiofsd: str
    """The program's path, "" where there is none."""
    user_namespace: bool
    """Whether the container has one of its own: files' owners are other ids there."""
    supervisor: str
    """urunc's program that runs a monitor and ends as the guest's application did, where the
    administrator asks for it, else ""."""
    volumes: tuple[VolumeSource, ...]
    virtiofsd_rust: bool = False
    """Which of the two it is (virtiofsd.py)."""
    may_attach: bool = True
    """Whether the runtime can hand init mounts that init could not make in a user namespace."""


@record
class Root:
    """How the container's root filesystem reaches the guest: its form (of FORMS), or the block
    device that it is on (`form` is that one's filesystem)."""

    form: str
    device: str
    numbers: tuple[int, ...]
    """(major, minor) of the device; empty for none."""
    read_only: bool
    """Whether the container's root is to be read alone (root.readonly)."""
    copied: bool
    """Whether the guest gets a copy of its own, to write to."""
    reason: str
    size_mib: int = 0
    """Of the disk that the guest writes to: its layer above the image, or its copy. 0: its layer is
    in its memory, its copy as large as the image."""
    others: tuple[str, ...] = ()
    """Of DISKS the forms that fit as well, for a tree of which this one cannot hold all."""

    @property
    def layer_on_disk(self) -> bool:
        """Whether there is a disk for what the guest writes beside that of the image."""
        return bool(self.size_mib) and not self.copied


@record
class Volume:
    """One volume of the guest and its way: of SHARES, DISKS, or ARCHIVE, IN_INITRD, TMPFS,
    DEVICE, NODE."""

    destination: str
    source: str
    kind: str
    way: str
    read_only: bool
    recursive: bool
    options: tuple[str, ...]
    device: tuple[int, ...]
    attributes: Attributes = PLAIN
    writable_below: tuple[str, ...] = ()
    slave: bool = False
    returned: tuple[int, ...] = ()
    made: Made = FOUND


@record
class StoredDisk:
    """A disk that was made or taken over: a file of the host's, or (with `device`) a block device,
    and where the monitor finds it."""

    source: str
    target: str
    device: tuple[int, ...]
    """(major, minor); empty for a file."""
    read_only: bool
    filesystem: str
    name: str
    """By which a guest that declares its disks knows it."""
    mount_point: str
    """`/` for the root filesystem, "" for what is not mounted by itself."""


@record
class StorageFacts:
    """What a guest's files became."""

    initrd: str
    """The host's path of an initrd that was made, "" where none was."""
    disks: tuple[StoredDisk, ...]
    archive: int
    """The index of the disk with copied volumes and the writable layer, -1 for none."""
    layer: bool
    """Whether files of the container's writable layer are in it."""
    opaque: tuple[str, ...]
    """Directories of that layer that hide what is below them (overlayfs)."""
    upper: int = -1
    """The index of the disk for what the guest writes, -1 for none."""
    returned: int = -1
    """The index of the disk for a file that is given back at the end, -1 for none."""


NO_STORAGE = StorageFacts(initrd="", disks=(), archive=-1, layer=False, opaque=())


def channel_of(monitor_channel: str, supervisor: str) -> str:
    """How urunc's init talks to the host: a vsock needs somebody who listens."""
    return "" if monitor_channel == "vsock" and not supervisor else monitor_channel


def volume_mounts(spec: Spec, *, init: bool, tmpfs: bool) -> list[Mount]:
    """The mounts that are more than what every container has. An empty /run, which containerd's
    clients ask for always, is nothing to a guest without such file systems; neither is shared
    memory of its own. `init`: whether urunc's init can be the guest's first program; `tmpfs`:
    whether it mounts file systems in memory."""
    return [
        mount
        for mount in spec.mounts
        if mount.destination not in TOLD
        and (mount.type not in OWN_TYPES or (init and not _is_usual(mount)))
        and (
            mount.destination not in OWN_MOUNTS
            or mount.is_bind()
            or mount.type in OWN_TYPES
            or (tmpfs and (mount.destination, mount.type) == (SHM, TMPFS))
        )
        and (tmpfs or (mount.destination, mount.type) != ("/run", TMPFS))
    ]


def _is_usual(mount: Mount) -> bool:
    """Whether a mount of OWN_TYPES is where a Linux guest has it, and as it has it."""
    usual = USUAL.get(mount.destination)
    if not usual or usual[0] != mount.type:
        return False
    _, read_only, data = usual
    said = {word for word in mount.options if "=" in word}
    return ("ro" in mount.options) == read_only and said <= data


def share_of(root: Root | None, volumes: tuple[Volume, ...]) -> str:
    """Of SHARES the kind that a container uses, "" for none."""
    if root and root.form in SHARES:
        return root.form
    return next((volume.way for volume in volumes if volume.way in SHARES), "")


def disk_count(root: Root | None, volumes: tuple[Volume, ...]) -> int:
    """How many disks a guest that declares its disks gets beside those of its image."""
    return sum(volume.way in DISKS for volume in volumes) + bool(root and root.form in DISKS)


def filesystems_of(root: Root | None, volumes: tuple[Volume, ...]) -> tuple[str, ...]:
    """What a guest with urunc's init has to mount."""
    named = [root.form] if root and root.form in DISKS else []
    named += [LAYER_FORM] if root and root.layer_on_disk else []
    named += [share_of(root, volumes)]
    # a root that is only read needs it too, where a mount's place is not there
    return tuple(name for name in dict.fromkeys((*named, "overlay")) if name)
