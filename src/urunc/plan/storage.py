# SPDX-License-Identifier: Apache-2.0
"""Which way the container's root filesystem and its volumes take to the guest. Pure.

The first format that guest, monitor and machine all have wins: what the annotation or the image
says, the administrator's order, else the guest's own, cheapest first. What cannot be given is an
error if the user asked for it, and a warning if engines add it to every container.
"""

from __future__ import annotations

from urunc.errors import ImageError
from urunc.plan.declared_disks import engines_init, is_orchestrated, match, parse_disks
from urunc.record import replace
from urunc.storage.facts import (
    ARCHIVE,
    DEVICE,
    DIRECTORY,
    DISKS,
    FILE,
    IN_INITRD,
    INITRD,
    KERNEL,
    LAYER_FORMAT,
    NODE,
    OWN_MOUNTS,
    ROOT_FORMATS,
    SHARES,
    SHM,
    TMPFS,
    Root,
    StorageFound,
    Volume,
    VolumeSource,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.bundle.image import UnikernelImage
    from urunc.guests import Guest
    from urunc.monitors import Monitor
    from urunc.plan.model import Inputs

LATE = "what is mounted below it on the host after create does not appear"
AUTO, COPY, IGNORE = "auto", "copy", "ignore"
VOLUME_CHOICES = (AUTO, COPY, IGNORE)
"""The annotation `volumes`: COPY has volumes copied that can be written to, IGNORE leaves out all
mounts."""
PROC = "/proc"
PROC_FILES = frozenset(
    ("/cpuinfo", "/diskstats", "/loadavg", "/meminfo", "/slabinfo", "/stat", "/swaps", "/uptime",
     "/sys/kernel/ns_last_pid", "/sys/crypto/fips_enabled")
)  # fmt: skip
"""What may be mounted below it (runc, libcontainer/rootfs_linux.go, checkProcMount)."""
NOT_GIVEN = f"leave it out; or the annotation 'volumes: {IGNORE}' leaves all mounts out"
"""What a user can do about what a guest has no way to."""


def choose_storage(given: Inputs) -> tuple[Root | None, tuple[Volume, ...], list[str]]:
    """(the root filesystem's way, the volumes in the order of the mounts, warnings); raises
    ImageError."""
    image, guest, found = given.image, given.guest, given.found
    assert found
    root: Root | None = None
    warnings: list[str] = []
    if image.mount_rootfs:
        root, warnings = _choose_root(given, found)
    elif "rootfsSize" in image.overrides:
        raise ImageError(
            "annotation 'rootfsSize': the container's root filesystem is not the guest's",
            "leave it out, or say mountRootfs",
        )
    elif "rootfs" in image.overrides:
        _formats(given)
        warnings = [
            "annotation 'rootfs': without effect: the container's root filesystem is not the "
            "guest's (mountRootfs)"
        ]
    if not (root and guest.init):  # its program is not the guest's, and nothing to be missed
        own = engines_init(given.spec)
        others = tuple(source for source in found.volumes if source.destination != own)
        found = replace(found, volumes=others)
    volumes, more = _choose_volumes(given, found, root)
    return root, volumes, [*warnings, *more]


def _choose_root(given: Inputs, found: StorageFound) -> tuple[Root, list[str]]:
    """(the root filesystem's way, warnings); raises ImageError where there is none."""
    spec, guest, monitor = given.spec, given.guest, given.monitor
    formats, why = _formats(given)
    size_mib, demanded, warnings = _writable_size(given)
    # on the device files have the host's ids, and the size is the device's
    usable = found.device and not found.user_namespace and not demanded
    if len(formats) > 1 and usable and found.device_filesystem in formats:
        formats = tuple(dict.fromkeys((found.device_filesystem, *formats)))  # it is there already
    refusals = {}
    for form in formats:
        taken = bool(usable and found.device_filesystem == form)
        problem = _format_problem(form, given, found, built=not taken)
        unsized = "" if problem or not size_mib else _unsized(form, guest, found, taken=taken)
        if problem or (unsized and demanded):
            refusals[form] = problem or unsized
            continue
        if taken:
            reason = f"the block device '{found.device}' that it is on"
        else:
            reason = why if len(formats) == 1 else f"the first that fits, {why}"
        writes = not spec.root_read_only or monitor.opens_for_writing
        root = Root(
            form=form,
            device=found.device if taken else "",
            numbers=found.device_numbers if taken else (),
            read_only=spec.root_read_only,
            copied=writes and form in DISKS and not taken and not guest.init,
            reason=reason,
            size_mib=0 if unsized else size_mib,
            others=tuple(
                other
                for other in formats[formats.index(form) + 1 :]
                if form in DISKS and other in DISKS and guest.init and not taken
                if not _format_problem(other, given, found, built=True)
            ),
        )
        return root, warnings
    if not guest.root_forms:
        raise ImageError(
            f"root filesystem: {guest.name} takes none of the container's", "leave mountRootfs out"
        )
    raise ImageError(
        f"root filesystem: no way to give it to {guest.name} on {monitor.name}"
        + (f" with a disk of {size_mib} MiB (annotation 'rootfsSize'): " if demanded else ": ")
        + "; ".join(f"{form}: {problem}" for form, problem in refusals.items())
    )


def _writable_size(given: Inputs) -> tuple[int, bool, list[str]]:
    """(MiB of the disk for what the guest writes or 0, whether it must have one, warnings)."""
    from urunc.plan.sizing import rootfs_size_of

    size_mib, demanded = rootfs_size_of(given)
    if size_mib and given.spec.root_read_only:
        warning = "annotation 'rootfsSize': the root filesystem is read-only"
        return 0, False, [warning] if demanded else []
    return size_mib, demanded, []


def _unsized(form: str, guest: Guest, found: StorageFound, *, taken: bool) -> str:
    """Why a guest has no disk of a given size to write to, with its root filesystem in a form; ""
    where it can have one."""
    if taken or form == "virtiofs":
        return "the guest writes to the container's root filesystem itself, which no size bounds"
    if not guest.init:
        return "" if form in DISKS else f"what {guest.name} writes stays in its memory"
    if LAYER_FORMAT not in found.filesystems:
        return f"the kernel is not known to mount {LAYER_FORMAT}, for a disk of that size"
    if LAYER_FORMAT not in found.builders:
        return f"this machine has no program to make {LAYER_FORMAT}, for a disk of that size"
    return ""


def _formats(given: Inputs) -> tuple[tuple[str, ...], str]:
    """(formats of the root filesystem in the order to try, who says so)."""
    image, config = given.image, given.config
    for text, source in (
        (image.overrides.get("rootfs", ""), "annotation 'rootfs'"),
        (image.rootfs, "the image's 'rootfs'"),
    ):
        if text and text != AUTO:
            if text not in ROOT_FORMATS:
                known = ", ".join((AUTO, *ROOT_FORMATS))
                raise ImageError(f"{source}: '{text}' is unknown", f"known: {known}")
            return (text,), f"asked for by {source}"
    listed = tuple(config.get("storage.rootfs"))
    if listed:
        return listed, f"in the order of {config.source('storage.rootfs')}"
    return given.guest.root_forms, f"in {given.guest.name}'s order"


def _format_problem(form: str, given: Inputs, found: StorageFound, *, built: bool) -> str:
    """Why a format does not do, "" where it does."""
    guest, monitor = given.guest, given.monitor
    if form not in guest.root_forms:
        return f"{guest.name} cannot use it"
    if guest.init and form != INITRD and form not in found.filesystems:
        return "the kernel is not known to mount it"
    if form in SHARES:
        return _share_problem(form, monitor, found)
    if form == INITRD:
        return "" if monitor.takes_initrd else f"{monitor.name} takes no initrd"
    if not monitor.max_disks:
        return f"{monitor.name} has no disks"
    if built and form not in found.builders:
        return "this machine has no program to make it"
    return ""


def _share_problem(form: str, monitor: Monitor, found: StorageFound) -> str:
    if found.user_namespace and not found.may_attach:
        return (
            "no directories are shared with a container in a user namespace of an ordinary user's"
        )
    if form not in monitor.shares:
        return f"{monitor.name} shares no directories by it"
    if form == "virtiofs" and not found.virtiofsd:
        return "virtiofsd is not installed, or too old"
    return ""


def _choose_volumes(
    given: Inputs, found: StorageFound, root: Root | None
) -> tuple[tuple[Volume, ...], list[str]]:
    """(the volumes in the order of the mounts, warnings); raises ImageError for what was asked for
    and cannot be given."""
    image, guest, monitor = given.image, given.guest, given.monitor
    warnings: list[str] = []
    choice = image.overrides.get("volumes", AUTO)
    if choice not in VOLUME_CHOICES:
        known = ", ".join(VOLUME_CHOICES)
        raise ImageError(f"annotation 'volumes': '{choice}' is unknown", f"known: {known}")
    share = _shared_transport(guest, monitor, found, root)
    if root and TMPFS in guest.volume_ways:
        found = replace(found, volumes=tuple(_as_memory(source, share) for source in found.volumes))
    requested = parse_disks(image.overrides.get("disks", ""))
    ways = [
        _transport(source, guest, monitor, share, root, choice, requested)
        for source in found.volumes
    ]
    declared = guest.devices(image.binary).blocks
    taken = len(image.blocks) + bool(root and root.form in DISKS)
    devices = _assigned(found, ways, declared, taken, requested)
    volumes: list[tuple[Volume, str]] = []
    missing: list[str] = []
    lost: list[str] = []
    for index, (source, (way, problem)) in enumerate(zip(found.volumes, ways, strict=True)):
        hint, device = _advice(source) if way else NOT_GIVEN, devices.get(index, "")
        if way in DISKS and declared is not None and not device:
            problem, hint = _no_device(image, declared)
        if not problem and _is_copy(way) and not _may_copy(source, choice):
            problem = f"can be copied only, and what {guest.name} writes to the copy would be lost"
        if not problem:
            volumes.append((_volume(source, way), device))
            warnings += [f"mount '{source.destination}': {note}" for note in source.notes]
            if source.slave and way not in SHARES:
                warnings.append(f"mount '{source.destination}': {LATE}")
            if _is_lost(source, way):
                lost.append(source.destination)
        elif choice == IGNORE or _may_be_missing(source):
            if source.kind not in (TMPFS, KERNEL) or source.destination not in OWN_MOUNTS:
                missing.append(source.destination)
        else:
            what = f"mount '{source.destination}' of '{source.source}'"
            if not source.source:
                what = f"linux.devices: '{source.destination}'"
            raise ImageError(f"{what}: {problem}", hint)
    if lost:
        warnings.append(
            f"mounts that are copied: what the guest writes to {', '.join(lost)} does not reach "
            "the engine's volume and is lost at its end"
        )
    if missing:
        warnings.append(f"mounts that the guest does not see: {', '.join(missing)}")
    return _in_order(volumes, declared or ()), warnings


def _as_memory(source: VolumeSource, share: str) -> VolumeSource:
    """Shared memory is a guest's own, and counts as its memory: nobody outside could map it. What
    the user has put there, to be seen by others too, is shared where that can be."""
    chosen = source.scratch or source.source == SHM
    if not source.shm or (chosen and share == "virtiofs"):
        return source
    words = (*source.options, *source.shm)
    return replace(source, kind=TMPFS, source="", options=words, anonymous=False, mounted="")


def _assigned(
    found: StorageFound,
    ways: list[tuple[str, str]],
    declared: tuple[str, ...] | None,
    taken: int,
    requested: dict[str, str],
) -> dict[int, str]:
    """index of a mount → the declared device whose disk it becomes; raises ImageError."""
    if requested and declared is None:
        raise ImageError("annotation 'disks': the unikernel declares no block devices by name")
    disks = [index for index, (way, _) in enumerate(ways) if way in DISKS]
    sources = [found.volumes[index] for index in disks]
    places = match(sources, declared or (), taken, requested)
    return {disks[place]: device for place, device in places.items()}


def _no_device(image: UnikernelImage, declared: tuple[str, ...]) -> tuple[str, str]:
    """(what is the matter with a mount that no device is left for, what to do)."""
    path = image.kernel.path
    problem = f"the unikernel '{path}' declares no block device for it"
    if declared:
        names = ", ".join(f"'{name}'" for name in declared)
        problem = f"the unikernel '{path}' declares {names}, and each has its disk"
    return problem, (
        "declare a block device for each mount in the guest's manifest; or mount less; or the "
        f"annotation 'volumes: {IGNORE}' leaves all mounts out"
    )


def _in_order(volumes: list[tuple[Volume, str]], declared: tuple[str, ...]) -> tuple[Volume, ...]:
    """Those that are disks of declared devices in the order of these, which is the machine's."""
    disks = iter(
        sorted((pair for pair in volumes if pair[1]), key=lambda pair: declared.index(pair[1]))
    )
    return tuple(next(disks)[0] if device else volume for volume, device in volumes)


def _may_be_missing(source: VolumeSource) -> bool:
    """Whether a guest may go without: nobody has asked for it, or there is nothing in it."""
    return _orchestrated(source) or source.anonymous or source.kind in (TMPFS, KERNEL)


def _is_copy(way: str) -> bool:
    return way not in (TMPFS, DEVICE, KERNEL, NODE, *SHARES)


def _is_lost(source: VolumeSource, way: str) -> bool:
    """Whether a guest may write to what is a copy, and nobody is to be expected to know."""
    return _is_copy(way) and not source.read_only and not _orchestrated(source)


def _advice(source: VolumeSource) -> str:
    """What a user can do about a mount that cannot be given."""
    choices = f"the annotation 'volumes' says what to do with it: {COPY} or {IGNORE}"
    if not source.mounted:
        return f"mount it read-only; or {choices}"
    return (
        f"it is the filesystem of the block device '{source.mounted}', which the host has mounted "
        "and no second kernel may: a claim with 'volumeMode: Block' (volumeDevices), or --device "
        "with nothing mounted, gives the guest the device itself; QEMU with virtiofsd shares the "
        f"directory; or mount it read-only; or {choices}"
    )


def _shared_transport(
    guest: Guest, monitor: Monitor, found: StorageFound, root: Root | None
) -> str:
    """The kind by which directories are shared; one for the whole container."""
    if root and root.form in SHARES:
        return root.form
    for kind in guest.volume_ways:
        known = not guest.init or kind in found.filesystems
        if kind in SHARES and known and not _share_problem(kind, monitor, found):
            return kind
    return ""


def _transport(
    source: VolumeSource,
    guest: Guest,
    monitor: Monitor,
    share: str,
    root: Root | None,
    choice: str,
    requested: dict[str, str],
) -> tuple[str, str]:
    """(way, "") or ("", why there is none); `requested` has the mounts that are to be disks."""
    if choice == IGNORE and (source.kind != DEVICE or source.source):
        return "", "all mounts are left out"
    ways = guest.volume_ways if root or not guest.init else ()
    if source.kind == NODE and NODE not in ways:
        return "", "it is neither a file nor a directory"
    if source.kind not in (DIRECTORY, FILE, TMPFS, DEVICE, KERNEL, NODE):
        return "", f"it is {source.kind}"
    if source.destination == "/" and guest.init:
        return "", "it would hide the container's root filesystem"
    if guest.init and source.kind != KERNEL and _in_proc(source.destination):
        return "", "it would cover what is the guest's kernel's, as runc says as well"
    if not ways:
        return "", f"{guest.name} takes no volumes" + (
            " but by urunc's init, with mountRootfs" if guest.init else ""
        )
    if source.kind == KERNEL:
        name = source.source
        return (KERNEL, "") if guest.init else ("", f"{guest.name} has no file system '{name}'")
    if source.kind in (TMPFS, DEVICE, NODE):
        known = source.kind in ways
        return (source.kind, "") if known else ("", f"{guest.name} takes no {source.kind}")
    # by 9p it is the monitor's user who reads and writes: a copy has owners and modes
    # an initrd is extracted below a root that is a share, and would be hidden by it
    in_initrd = monitor.takes_initrd and not (root and root.form in SHARES)
    copies = ARCHIVE in ways or (IN_INITRD in ways and in_initrd)
    better = share == "9p" and copies and _may_copy(source, choice)
    if share and not better and (source.kind == DIRECTORY or guest.init):
        return share, ""
    for way in ways:
        if way == ARCHIVE or (way == IN_INITRD and in_initrd):
            return way, ""
        # what an engine mounts by itself is nobody's data
        own = _orchestrated(source) and source.destination.rstrip("/") not in requested
        if way in DISKS and source.kind == DIRECTORY and not own:
            return way, ""
    return "", f"{guest.name} on {monitor.name} has no way to it"


def _in_proc(destination: str) -> bool:
    below = destination.startswith(f"{PROC}/")
    return destination == PROC or (below and destination.removeprefix(PROC) not in PROC_FILES)


def _may_copy(source: VolumeSource, choice: str) -> bool:
    return (
        source.read_only
        or source.scratch
        or source.anonymous
        or choice == COPY
        or _orchestrated(source)
    )


def _orchestrated(source: VolumeSource) -> bool:
    return bool(source.returned) or is_orchestrated(source.destination)


def _volume(source: VolumeSource, way: str) -> Volume:
    return Volume(
        destination=source.destination,
        source=source.source,
        kind=source.kind,
        way=way,
        read_only=source.read_only,
        recursive=source.recursive,
        options=source.options,
        device=source.device,
        attributes=source.attributes,
        writable_below=source.writable_below,
        slave=source.slave and way in SHARES,
        returned=source.returned if way == ARCHIVE else (),
        made=source.made,
    )
