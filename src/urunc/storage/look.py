# SPDX-License-Identifier: Apache-2.0
"""What there is of a container's files for its guest, before anything is decided: its root
filesystem, the mounts and block devices of config.json, and what this machine can make of them.
Reads, and makes nothing."""

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
"""In the path of an emptyDir's directory (pkg/volume/emptydir)."""
PODMANS_OVERLAY = "/userdata/overlay/"
"""In the path of the upper directory of `:O` and `type=image`, which is gone with the container
(containers/common, pkg/overlay)."""
HEX = frozenset("0123456789abcdef")
ENGINE_ID_LETTERS = 64
KINDS = {S_IFDIR: DIRECTORY, S_IFREG: FILE, S_IFBLK: DEVICE, S_IFCHR: NODE}
NEITHER = "neither a file nor a directory"
CLOSED = "a block device that linux.devices does not name"
"""A node alone gives nothing: under runc the device control group keeps it closed, and a container
that may make nodes in a volume (CAP_MKNOD) can make one of any disk of the host's."""
HUGETLBFS, LEAST_HUGE_BYTES = "hugetlbfs", 1 << 20
HUGE = "of huge pages, which are the host's: a guest has none"
UNABLE = {HUGETLBFS: HUGE, "": "of no type, and no bind mount"}
ASSUMED = ("ext4",)
"""What a kernel is taken to mount where nobody says."""


def read_storage(spec: Spec, image: UnikernelImage, guest: Guest, config: Config) -> StorageFound:
    """What was found."""
    device = filesystem = ""
    numbers: tuple[int, ...] = ()
    if image.mount_rootfs:
        from urunc.storage.layers import identify

        source = identify(spec.root)
        device, filesystem = source.device, source.device_filesystem
        numbers = _numbers(posix.stat(device)) if device else ()
    ways = {*guest.root_forms, *guest.volume_ways}
    daemon, rust = virtiofsd.find(config) if "virtiofs" in ways else ("", False)
    return StorageFound(
        device=device,
        device_numbers=numbers,
        device_filesystem=filesystem,
        builders=(*(form for form in DISKS if form in ways and mkfs.find(form)), INITRD),
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
    """What a guest's kernel can mount: what the administrator says, else what its modules are."""
    said: list[str] = config.get(f"guests.{guest.name}.filesystems")
    directory = config.get(f"guests.{guest.name}.modules")
    if said or not directory:
        return tuple(said) or ASSUMED
    from urunc.storage.initrd import known

    needed = {name: guest.modules((name,)) for name in (*DISKS, *SHARES)}
    base = guest.modules(())
    there = known(directory, {word for words in needed.values() for word in words})
    return tuple(name for name, words in needed.items() if set(words) - set(base) <= there)


def _supervised(image: UnikernelImage, guest: Guest, config: Config) -> bool:
    asked: bool = config.get(f"monitors.{image.monitor}.supervisor")
    return asked and guest.init and image.mount_rootfs


def _volume(mount: Mount, spec: Spec) -> VolumeSource:
    if not mount.is_bind() and mount.type != TMPFS:
        return _file_system(mount)
    asked = options.parse(mount)
    device: tuple[int, ...] = ()
    words = asked.words
    read_only = asked.read_only
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
            if kind == DIRECTORY and read_only and asked.recursive and not asked.read_only_below:
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
        recursive=asked.recursive,
        scratch=SCRATCH in mount.source,
        options=words,
        device=device,
        anonymous=kind == DIRECTORY and is_anonymous(mount.source),
        mounted=_whole_filesystem(mount.source) if kind == DIRECTORY and not read_only else "",
        shm=_shm(mount) if kind == DIRECTORY and mount.destination == SHM else (),
        returned=_identity(mount.source) if kind == FILE and not read_only else (),
        attributes=asked.host,
        writable_below=below,
        slave=asked.slave,
        notes=_notes(asked),
        made=_mapped(mount, spec) if kind in (DIRECTORY, FILE) else FOUND,
    )


def _identity(file: str) -> tuple[int, ...]:
    from urunc.storage.termination_message import is_read_back

    if not is_read_back(file):
        return ()
    facts = posix.stat(file)
    return facts.st_dev, facts.st_ino


def _is_of_huge_pages(directory: str) -> bool:
    """An emptyDir of medium HugePages is a hugetlbfs of the host's."""
    if posix.statvfs(directory).f_bsize < LEAST_HUGE_BYTES:
        return False
    from urunc.linux.mountinfo import Mounts

    fd = posix.open(directory, O_PATH | posix.O_CLOEXEC)
    mount = Mounts().of(fd)
    posix.close(fd)
    return mount is not None and mount.kind == HUGETLBFS


def _shm(mount: Mount) -> tuple[str, ...]:
    """Options of a tmpfs like the one that an engine made for a container's shared memory
    (`--shm-size`; `…/shm`), or like an emptyDir in its place; none where there is something in it.
    """
    made = mount.source.endswith("/shm")
    if not made and SCRATCH not in mount.source:
        return ()
    try:
        facts = posix.statvfs(mount.source)
        mode = posix.stat(mount.source).st_mode & 0o7777
        if (not made or mount.source == SHM) and posix.listdir(mount.source):
            return ()
    except OSError:  # another user's, which an ordinary one may not look into
        return ()
    return f"mode={mode:o}", f"size={facts.f_blocks * facts.f_frsize}"


def _file_system(mount: Mount) -> VolumeSource:
    """A mount that is no bind mount: of the guest's kernel, or to be made on the host."""
    read_only, flags, words, data = options.of_file_system(mount)
    own = mount.type in KERNEL_TYPES
    uppers = [word for word in mount.options if word.startswith("upperdir=")]
    if mount.type == "overlay" and not uppers:
        read_only = True  # nobody can write to it
    if mount.type.startswith("cgroup"):
        data = ""  # names a hierarchy of the host's
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
    """By which ids a bind mount's files are to be seen (config.md, mounts): its own mappings, else
    with `idmap` the container's."""
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
    """The mounts below a directory that may be written to, by their paths in it."""
    from urunc.linux.mountinfo import below

    return tuple(path for path, read_only in below(directory) if not read_only)


def _notes(asked: options.MountOptions) -> tuple[str, ...]:
    notes = []
    if asked.unknown:
        notes.append(f"options that a bind mount has no use for: {', '.join(asked.unknown)}")
    return tuple(notes)


def is_anonymous(source: str) -> bool:
    """Whether a directory is a volume that an engine made for an image's VOLUME, wherever that
    engine keeps its files: it has 32 random bytes for a name.

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
    """The block device that is mounted at a directory, as a whole; "" where that is not so."""
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
