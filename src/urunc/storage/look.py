# SPDX-License-Identifier: Apache-2.0
"""Looks at a container's files before anything is decided: its root filesystem, the mounts and
block devices of config.json, and the programs that this machine has for them. Reads only."""

from __future__ import annotations

import posix

from urunc import programs
from urunc.errors import HostError, SpecError
from urunc.linux import cgroups
from urunc.linux.files import O_PATH, S_IFBLK, S_IFCHR, S_IFDIR, S_IFMT, S_IFREG
from urunc.storage import kernel_devices, mkfs, options, virtiofsd
from urunc.storage.facts import (
    DEVICE,
    DIRECTORY,
    DISKS,
    FILE,
    FOUND,
    INITRD,
    KERNEL,
    KERNEL_TYPES,
    NODE,
    ROOT_FORMATS,
    SHARES,
    SHM,
    TMPFS,
    Made,
    StorageFound,
    VolumeSource,
    volume_mounts,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.bundle.image import UnikernelImage
    from urunc.bundle.namespaces import IdMapping
    from urunc.bundle.spec import Mount, Spec
    from urunc.config import Config
    from urunc.guests import Guest

SCRATCH = "/kubernetes.io~empty-dir/"
"""A part of the path of an emptyDir's directory (pkg/volume/emptydir)."""
PODMANS_OVERLAY = "/userdata/overlay/"
"""A part of the path of the upper directory that Podman makes for `:O` and `type=image`, and
removes with the container (containers/common, pkg/overlay)."""
HEX = frozenset("0123456789abcdef")
ENGINE_ID_LETTERS = 64
KINDS = {S_IFDIR: DIRECTORY, S_IFREG: FILE, S_IFBLK: DEVICE, S_IFCHR: NODE}
NEITHER = "neither a file nor a directory"
CLOSED = "a block device that linux.devices does not name"
"""A node of a disk in a volume does not entitle to the disk: under runc the device control group
denies it, and a container with CAP_MKNOD could make a node of any of the host's disks."""
HUGETLBFS, LEAST_HUGE_BYTES = "hugetlbfs", 1 << 20
HUGE = "of huge pages, which are the host's: a guest has none"
UNABLE = {HUGETLBFS: HUGE, "": "of no type, and no bind mount"}
ASSUMED = ("ext4",)
"""File systems that a guest's kernel is assumed to mount unless the configuration tells more."""


def read_storage(spec: Spec, image: UnikernelImage, guest: Guest, config: Config) -> StorageFound:
    """Look at a container's files; raises HostError, ImageError and SpecError."""
    device = filesystem = ""
    numbers: tuple[int, ...] = ()
    if image.mount_rootfs:
        from urunc.storage.layers import identify

        source = identify(spec.root)
        device, filesystem = source.device, source.device_filesystem
        numbers = _numbers(posix.stat(device)) if device else ()
    usable = {*guest.root_forms, *guest.volume_ways}
    daemon, rust = virtiofsd.find(config) if "virtiofs" in usable else ("", False)
    return StorageFound(
        device=device,
        device_numbers=numbers,
        device_filesystem=filesystem,
        builders=(*(name for name in DISKS if name in usable and mkfs.find(name)), INITRD),
        filesystems=filesystems(guest, config) if guest.init else ROOT_FORMATS,
        virtiofsd=daemon,
        virtiofsd_rust=rust,
        user_namespace="user" in spec.namespaces,
        may_attach=posix.geteuid() == 0 and not cgroups.in_user_namespace(),
        supervisor=programs.path("supervisor") if _supervised(image, guest, config) else "",
        volumes=(
            *(
                _volume(mount, spec)
                for mount in volume_mounts(spec, init=guest.init, tmpfs=TMPFS in guest.volume_ways)
            ),
            *_devices(spec),
            *(_nodes(spec, guest, config) if guest.init and image.mount_rootfs else ()),
        ),
    )


def filesystems(guest: Guest, config: Config) -> tuple[str, ...]:
    """The file systems that a guest's kernel can mount: those of the configuration, or else those
    that its modules directory has; ASSUMED if neither is configured."""
    configured: list[str] = config.get(f"guests.{guest.name}.filesystems")
    directory = config.get(f"guests.{guest.name}.modules")
    if configured or not directory:
        return tuple(configured) or ASSUMED
    from urunc.storage.initrd import known

    needed = {name: guest.modules((name,)) for name in (*DISKS, *SHARES)}
    base = guest.modules(())
    there = known(directory, {word for words in needed.values() for word in words})
    return tuple(name for name, words in needed.items() if set(words) - set(base) <= there)


def _supervised(image: UnikernelImage, guest: Guest, config: Config) -> bool:
    enabled: bool = config.get(f"monitors.{image.monitor}.supervisor")
    return enabled and guest.init and image.mount_rootfs


def _volume(mount: Mount, spec: Spec) -> VolumeSource:
    if not mount.is_bind() and mount.type != TMPFS:
        return _file_system(mount)
    parsed = options.parse(mount)
    device: tuple[int, ...] = ()
    words = parsed.words
    read_only = parsed.read_only
    below: tuple[str, ...] = ()
    if mount.is_bind():
        try:
            facts = posix.stat(mount.source)
            kind = KINDS.get(facts.st_mode & S_IFMT, NEITHER)
            if kind == NODE:
                device, words = (
                    _numbers(facts),
                    kernel_devices.options(facts.st_mode, facts.st_uid, facts.st_gid),
                )
                kind = NODE if device in kernel_devices.MODULES else NEITHER
            if kind == DEVICE:
                device = _numbers(facts)
                named = [
                    it
                    for it in spec.devices
                    if it.named and (it.type, it.major, it.minor) == ("b", *device)
                ]
                kind = DEVICE if named else CLOSED
                read_only = read_only or all(it.read_only for it in named)
            if kind == DIRECTORY and _is_of_huge_pages(mount.source):
                kind = HUGE
            if kind == DIRECTORY and read_only and parsed.recursive and not parsed.read_only_below:
                below = _writable_below(mount.source)
        except OSError as error:
            kind = f"not to be had: {error.strerror}"
    else:
        kind = TMPFS
    return VolumeSource(
        destination=mount.destination,
        source=mount.source if mount.is_bind() else "",
        kind=kind,
        read_only=read_only,
        recursive=parsed.recursive,
        scratch=SCRATCH in mount.source,
        options=words,
        device=device,
        anonymous=kind == DIRECTORY and is_anonymous(mount.source),
        mounted=_whole_filesystem(mount.source) if kind == DIRECTORY and not read_only else "",
        shm=_shm(mount) if kind == DIRECTORY and mount.destination == SHM else (),
        returned=_identity(mount.source) if kind == FILE and not read_only else (),
        attributes=parsed.host,
        writable_below=below,
        slave=parsed.slave,
        notes=_notes(parsed),
        made=_mapped(mount, spec) if kind in (DIRECTORY, FILE) else FOUND,
    )


def _identity(file: str) -> tuple[int, ...]:
    from urunc.storage.termination_message import is_read_back

    if not is_read_back(file):
        return ()
    facts = posix.stat(file)
    return facts.st_dev, facts.st_ino


def _is_of_huge_pages(directory: str) -> bool:
    """Whether a directory is on the host's hugetlbfs, as an emptyDir of medium HugePages is."""
    if posix.statvfs(directory).f_bsize < LEAST_HUGE_BYTES:
        return False
    from urunc.linux.mountinfo import Mounts

    fd = posix.open(directory, O_PATH | posix.O_CLOEXEC)
    mount = Mounts().of(fd)
    posix.close(fd)
    return mount is not None and mount.kind == HUGETLBFS


def _shm(mount: Mount) -> tuple[str, ...]:
    """Options of a tmpfs in place of the one that an engine made for a container's shared memory
    (`--shm-size`; `…/shm`), or of an emptyDir that serves as such; empty if it has entries.
    """
    made = mount.source.endswith("/shm")
    if not made and SCRATCH not in mount.source:
        return ()
    try:
        facts = posix.statvfs(mount.source)
        mode = posix.stat(mount.source).st_mode & 0o7777
        if (not made or mount.source == SHM) and posix.listdir(mount.source):
            return ()
    except OSError:  # another user's directory
        return ()
    return f"mode={mode:o}", f"size={facts.f_blocks * facts.f_frsize}"


def _file_system(mount: Mount) -> VolumeSource:
    """A mount that is neither a bind mount nor a tmpfs: of the guest's kernel, or of a file system
    to be mounted on the host."""
    read_only, flags, words, data = options.of_file_system(mount)
    own = mount.type in KERNEL_TYPES
    uppers = [word for word in mount.options if word.startswith("upperdir=")]
    if mount.type == "overlay" and not uppers:
        read_only = True  # an overlay without an upper directory
    if mount.type.startswith("cgroup"):
        data = ""  # the name of a hierarchy of the host's
    kind = KERNEL if own else DIRECTORY
    if mount.type in UNABLE:
        kind = UNABLE[mount.type]
    return VolumeSource(
        destination=mount.destination,
        source=mount.type if own else mount.source,
        kind=kind,
        read_only=read_only,
        recursive=False,
        scratch=mount.type == "overlay" and any(PODMANS_OVERLAY in word for word in uppers),
        options=(*words, *([data] if own and data else [])),
        device=(),
        made=FOUND if own else Made(filesystem=mount.type, flags=flags, data=data),
    )


def _mapped(mount: Mount, spec: Spec) -> Made:
    """The id-mapped mount that a bind mount asks for (config.md, mounts): by its own mappings, or
    with `idmap` by the container's. Raises SpecError if there are none."""
    words = options.IDENTITIES.intersection(mount.options)
    if not words and not mount.uid_mappings:
        return FOUND
    users, groups = mount.uid_mappings, mount.gid_mappings
    if not users:
        from urunc.ids import ids_of

        ids = ids_of(spec.namespaces, spec.uid_mappings, spec.gid_mappings)
        users, groups = ids.users.ranges, ids.groups.ranges
    if not users:
        raise SpecError(
            f"config.json: mounts: '{mount.destination}': option '{min(words)}': neither the mount "
            "nor the container has id mappings",
            "add uidMappings and gidMappings",
        )
    return Made(uid_map=_lines(users), gid_map=_lines(groups), map_recursive="ridmap" in words)


def _lines(ranges: tuple[IdMapping, ...]) -> str:
    return "".join(f"{item.container} {item.host} {item.size}\n" for item in ranges)


def _writable_below(directory: str) -> tuple[str, ...]:
    """The writable mounts below a directory, by their paths in it."""
    from urunc.linux.mountinfo import below

    return tuple(path for path, read_only in below(directory) if not read_only)


def _notes(parsed: options.MountOptions) -> tuple[str, ...]:
    notes = []
    if parsed.unknown:
        notes.append(f"options without effect on a bind mount: {', '.join(parsed.unknown)}")
    return tuple(notes)


def is_anonymous(source: str) -> bool:
    """Whether a directory is a volume that an engine made for an image's VOLUME, to go by its path:
    its name is 32 random bytes in hexadecimal.

    Docker, Podman and nerdctl: `volumes/…/NAME/_data`; containerd's CRI: `containers/ID/volumes/
    NAME` (internal/cri/server, volumeMounts); CRI-O with image_volumes "bind": `userdata/mounts/
    NAME` (server/container_create, addImageVolumes).
    """
    *above, name = source.rstrip("/").split("/")
    if name == "_data" and above:
        *above, name = above
        return "volumes" in above and _is_engine_id(name)
    directory, owner = ([*above[::-1], "", ""])[:2]
    known = (directory == "volumes" and _is_engine_id(owner)) or (
        (directory, owner) == ("mounts", "userdata")
    )
    return known and _is_engine_id(name)


def _is_engine_id(name: str) -> bool:
    return len(name) == ENGINE_ID_LETTERS and HEX.issuperset(name)


def _whole_filesystem(source: str) -> str:
    """The block device whose whole file system is mounted at a directory, "" for none."""
    try:
        if posix.stat(source).st_dev == posix.stat(f"{source}/..").st_dev:
            return ""
        from urunc.storage.layers import identify

        return identify(source).device
    except (HostError, OSError):
        return ""


def _numbers(facts: posix.stat_result) -> tuple[int, int]:
    return posix.major(facts.st_rdev), posix.minor(facts.st_rdev)


def _nodes(spec: Spec, guest: Guest, config: Config) -> list[VolumeSource]:
    return kernel_devices.find(spec, config.get(f"guests.{guest.name}.modules"))


def _devices(spec: Spec) -> list[VolumeSource]:
    """Block devices of linux.devices (a pod's volumeDevices, `--device`)."""
    return [
        VolumeSource(
            destination=device.path,
            source="",
            kind=DEVICE,
            read_only=device.read_only,
            recursive=False,
            scratch=False,
            options=kernel_devices.options(device.mode, device.uid, device.gid),
            device=(device.major, device.minor),
        )
        for device in spec.devices
        if device.type == "b" and device.named
    ]
