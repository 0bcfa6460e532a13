# SPDX-License-Identifier: Apache-2.0
"""Records of a container's files: `StorageFound` is what there was before the plan, `Root` and
`Volume` are what the plan wants, `StorageFacts` is what was made.

Field names are those of container.json and of the guests' contract, and stay: there a format is
called `form` and a transport `way`.
"""

from __future__ import annotations

from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.bundle.spec import Mount, Spec
    from urunc.vocabulary import ChannelKind

DISKS = ("erofs", "squashfs", "ext4", "ext2")
"""Formats of a root filesystem or volume that reach the guest as a disk; those of READ_ONLY cannot
be written to."""
READ_ONLY = frozenset(("erofs", "squashfs"))
SHARES = ("virtiofs", "9p")
"""Transports by which the guest sees a directory of the host itself."""
INITRD = "cpio"
LAYER_FORMAT = "ext4"
"""The format of the disk that holds a Linux guest's writable layer."""
ROOT_FORMATS = (*DISKS, *SHARES, INITRD)
"""All the formats of a root filesystem."""

ARCHIVE, IN_INITRD, TMPFS, DEVICE, NODE = "archive", "initrd", "tmpfs", "device", "node"
KERNEL = "kernel"
"""A volume's transports beside SHARES and DISKS: a copy on a disk that urunc's init reads; a copy
in the initrd; a tmpfs in the guest's memory; a block device of the host's; a device node of the
guest's kernel; a file system of that kernel's own (its /proc)."""
DIRECTORY, FILE = "folder", "file"
"""Kinds of volume, in the words of container.json."""
NETWORK_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname")
"""Mounts of engines whose content the guest gets by its command line or its configuration."""
OWN_TYPES = ("proc", "sysfs", "devpts", "mqueue", "cgroup")
SHM = "/dev/shm"
USUAL = {
    "/proc": ("proc", False, frozenset()),
    "/sys": ("sysfs", True, frozenset()),
    "/sys/fs/cgroup": ("cgroup", True, frozenset()),
    "/dev/mqueue": ("mqueue", False, frozenset()),
    "/dev/pts": ("devpts", False, frozenset(("ptmxmode=0666", "mode=0620", "gid=5"))),
}
"""Mounts that a Linux guest has without being asked: destination → (type, read-only, options)."""
KERNEL_TYPES = frozenset(
    (*OWN_TYPES, "binfmt_misc", "bpf", "cgroup2", "configfs", "debugfs", "devtmpfs", "efivarfs",
     "fusectl", "pstore", "ramfs", "rpc_pipefs", "securityfs", "selinuxfs", "tracefs")
)  # fmt: skip
"""File systems that show a kernel's own state, and so the guest kernel's in a guest. Those of other
types are mounted on the host."""
OWN_MOUNTS = ("/dev", SHM, "/dev/pts", "/dev/mqueue", "/proc", "/sys", "/sys/fs/cgroup")
"""Mounts of kernel interfaces that every container has; a guest has its own kernel's."""


@record
class Attributes:
    """MOUNT_ATTR_* to set and clear on a mount and on those below it (mount_setattr(2))."""

    set: int = 0
    clear: int = 0
    set_below: int = 0
    clear_below: int = 0


PLAIN = Attributes()


@record
class Made:
    """A mount that the runtime makes itself before the volume can be used (detached_mounts.py): of
    a file system, or an id-mapped one of a directory."""

    filesystem: str = ""
    """Its type, "" for a directory of the host's."""
    flags: int = 0
    """MS_* of mount(2)."""
    data: str = ""
    """The file system's own options (mount(2), data)."""
    uid_map: str = ""
    gid_map: str = ""
    """Lines as in /proc/PID/uid_map: `ON-DISK SHOWN COUNT`; "" for no mapping."""
    map_recursive: bool = False
    """Whether mounts below it are mapped, too."""

    @property
    def needed(self) -> bool:
        """Whether the runtime has to make a mount at all."""
        return bool(self.filesystem or self.uid_map)


FOUND = Made()


@record
class VolumeSource:
    """A mount of config.json or a device of linux.devices, and what it was found to be: `kind` is
    DIRECTORY, FILE, TMPFS, DEVICE or NODE, or else describes in words what it is instead."""

    destination: str
    source: str
    kind: str
    read_only: bool
    recursive: bool
    """Whether the mounts below it belong to it (rbind)."""
    scratch: bool
    """Whether it lives no longer than its pod (emptyDir), so that writes to it may be lost."""
    options: tuple[str, ...]
    """For the guest's mount, beside `ro`."""
    device: tuple[int, ...]
    """(major, minor) of a DEVICE or a NODE."""
    anonymous: bool = False
    """Whether the engine made the directory only because the image has a VOLUME there."""
    mounted: str = ""
    """The block device whose whole filesystem is mounted here on the host, "" for none."""
    attributes: Attributes = PLAIN
    """Attributes for the host's own mount of it."""
    writable_below: tuple[str, ...] = ()
    """If it is read-only but not recursively: the mounts below it that stay writable, by their
    paths in it."""
    notes: tuple[str, ...] = ()
    """Options that have no effect, in words for the user."""
    slave: bool = False
    """Whether later mounts of the host below it shall appear (rslave)."""
    returned: tuple[int, ...] = ()
    """(device, inode) of a file that the engine reads once the container has ended
    (termination_message.py); empty for any other."""
    shm: tuple[str, ...] = ()
    """Of a directory that serves as shared memory and is still empty: the options of a tmpfs that
    can stand for it."""
    made: Made = FOUND


@record
class StorageFound:
    """What the plan can choose from."""

    device: str
    """The block device that holds the root filesystem and nothing else (devmapper, blockfile), ""
    for none."""
    device_numbers: tuple[int, ...]
    """Its (major, minor); empty for none."""
    device_filesystem: str
    builders: tuple[str, ...]
    """The ROOT_FORMATS that this machine has a program for (INITRD needs none)."""
    filesystems: tuple[str, ...]
    """The ROOT_FORMATS that the guest's kernel is known to mount."""
    virtiofsd: str
    """The path of virtiofsd, "" if there is none."""
    user_namespace: bool
    """Whether the container has one of its own, in which files have other owners."""
    supervisor: str
    """The path of urunc's program that runs a monitor and ends with the exit code of the guest's
    application, "" if the administrator does not ask for it."""
    volumes: tuple[VolumeSource, ...]
    virtiofsd_rust: bool = False
    """Whether it is the virtiofsd in Rust (virtiofsd.py)."""
    may_attach: bool = True
    """Whether the runtime can hand init detached mounts, which init could not make itself in a user
    namespace."""


@record
class Root:
    """How the container's root filesystem reaches the guest."""

    form: str
    """Its format, of ROOT_FORMATS; the filesystem of `device`, if that is not ""."""
    device: str
    """The host's block device that it is on, "" for none."""
    numbers: tuple[int, ...]
    """(major, minor) of the device; empty for none."""
    read_only: bool
    """Whether the container may not write to its root (root.readonly)."""
    copied: bool
    """Whether the guest gets a private copy to write to."""
    reason: str
    """Why this format was chosen, in words for the user."""
    size_mib: int = 0
    """The size of the disk that the guest writes to, a layer above the image or its copy of it. 0:
    the layer is in the guest's memory, the copy is as large as the image."""
    others: tuple[str, ...] = ()
    """Other formats of DISKS that would do, to fall back on when this one cannot hold all of the
    tree."""

    @property
    def layer_on_disk(self) -> bool:
        """Whether the writable layer is on a disk of its own beside that of the image."""
        return bool(self.size_mib) and not self.copied


@record
class Volume:
    """One volume of the guest; fields without a word here are as in VolumeSource."""

    destination: str
    source: str
    kind: str
    way: str
    """Its transport: one of SHARES or DISKS, or ARCHIVE, IN_INITRD, TMPFS, DEVICE, NODE, KERNEL."""
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
    """A disk of the guest that holds a root filesystem or volumes: `source` is the host's path of a
    file or (with `device`) of a block device, `target` its path in the monitor's root."""

    source: str
    target: str
    device: tuple[int, ...]
    """(major, minor); empty for a file."""
    read_only: bool
    filesystem: str
    name: str
    """Its name for a guest that declares its disks (a Solo5 manifest)."""
    mount_point: str
    """`/` for the root filesystem, "" for a disk that is not mounted by itself."""


@record
class StorageFacts:
    """What was made of a container's files. Indices are those of `disks`, -1 for none."""

    initrd: str
    """The host's path of an initrd that was made, "" for none."""
    disks: tuple[StoredDisk, ...]
    archive: int
    """The index of the disk with copied volumes and the files of the container's writable layer."""
    layer: bool
    """Whether that disk holds files of the writable layer."""
    opaque: tuple[str, ...]
    """Opaque directories of that layer, which hide those of lower layers (overlayfs)."""
    upper: int = -1
    """The index of the disk for the guest's own writable layer."""
    returned: int = -1
    """The index of the disk for the termination message."""


NO_STORAGE = StorageFacts(initrd="", disks=(), archive=-1, layer=False, opaque=())


def channel_of(monitor_channel: ChannelKind, supervisor: str) -> ChannelKind:
    """How urunc's init talks to the host, "" for not at all: behind a vsock the supervisor has to
    listen."""
    return "" if monitor_channel == "vsock" and not supervisor else monitor_channel


def volume_mounts(spec: Spec, *, init: bool, tmpfs: bool) -> list[Mount]:
    """The mounts of config.json that the guest has to get as volumes: all but those that every
    container has. The tmpfs that engines mount at /run and /dev/shm count only for a guest that
    mounts file systems in memory (`tmpfs`). `init`: whether urunc's init can be the guest's first
    program."""
    return [
        mount
        for mount in spec.mounts
        if mount.destination not in NETWORK_FILES
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
    """Whether a Linux guest has this mount of OWN_TYPES by itself, with the same options."""
    usual = USUAL.get(mount.destination)
    if not usual or usual[0] != mount.type:
        return False
    _, read_only, data = usual
    values = {word for word in mount.options if "=" in word}
    return ("ro" in mount.options) == read_only and values <= data


def share_of(root: Root | None, volumes: tuple[Volume, ...]) -> str:
    """The transport of SHARES that a container uses, "" for none."""
    if root and root.form in SHARES:
        return root.form
    return next((volume.way for volume in volumes if volume.way in SHARES), "")


def disk_count(root: Root | None, volumes: tuple[Volume, ...]) -> int:
    """How many disks a guest that declares its disks (a Solo5 manifest) gets beside its image's."""
    return sum(volume.way in DISKS for volume in volumes) + bool(root and root.form in DISKS)


def filesystems_of(root: Root | None, volumes: tuple[Volume, ...]) -> tuple[str, ...]:
    """The types of file systems that a guest with urunc's init has to mount."""
    named = [root.form] if root and root.form in DISKS else []
    named += [LAYER_FORMAT] if root and root.layer_on_disk else []
    named += [share_of(root, volumes)]
    # a read-only root needs overlay too: for mount points that it does not have
    return tuple(name for name in dict.fromkeys((*named, "overlay")) if name)
