# SPDX-License-Identifier: Apache-2.0
"""Whether an image's kernel, its guest and its monitor go together on this machine, by what the
monitor runs it (KVM, emulation), and whether each device that it declares has its disk. Pure."""

from __future__ import annotations

from urunc.bundle.image import meant
from urunc.errors import HostError, ImageError
from urunc.storage.facts import DISKS, disk_count

FILES = ("initrd", "block", "mountRootfs")
"""The keys that give a guest its files."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.bundle.elf import Binary
    from urunc.bundle.image import UnikernelImage
    from urunc.config import Config
    from urunc.guests import Guest
    from urunc.monitors import Monitor
    from urunc.plan.model import HostFacts, Inputs
    from urunc.storage.facts import Root, StorageFound, Volume
    from urunc.vocabulary import Accelerator


def check_pair(given: Inputs) -> None:
    """Raises ImageError or HostError where they do not."""
    guest, monitor, host, config = given.guest, given.monitor, given.host, given.config
    if guest.monitors and monitor.name not in guest.monitors:
        raise ImageError(
            f"annotation 'hypervisor': {guest.name} does not run on {monitor.name}",
            f"it runs on: {', '.join(sorted(guest.monitors))}",
        )
    check_program(monitor, host, config)
    check_kernel(given.image.binary, given.image.kernel.path, monitor, host.architecture)
    _check_files(given.image, guest, monitor)


def check_program(monitor: Monitor, host: HostFacts, config: Config) -> None:
    """Whether a monitor runs on this machine, and is of a version that will do; raises
    HostError."""
    if host.architecture not in monitor.architectures:
        known = ", ".join(sorted(monitor.architectures))
        raise HostError(
            f"monitor '{monitor.name}': does not run on {host.architecture}", f"known: {known}"
        )
    version = host.program.version
    wanted = config.get(f"monitors.{monitor.name}.version")
    if wanted and version != wanted and not version.startswith(wanted + "."):
        source = config.source(f"monitors.{monitor.name}.version")
        raise HostError(
            f"monitor '{monitor.name}': version {version} is not {wanted}", f"set in {source}"
        )
    if version and tuple(map(int, version.split("."))) < monitor.minimum_version:
        least = ".".join(map(str, monitor.minimum_version))
        raise HostError(
            f"monitor '{monitor.name}': version {version} of '{host.program.path}' is too old",
            f"{least} at least",
        )


def check_kernel(binary: Binary, path: str, monitor: Monitor, architecture: str) -> None:
    """Whether a monitor boots a kernel on a machine; raises ImageError."""
    if not binary.format:
        raise ImageError(f"unikernel '{path}': neither an ELF file nor a Linux kernel image")
    runs = {architecture, *(("i386",) if architecture == "x86_64" else ())}
    if binary.machine not in runs:
        raise ImageError(
            f"unikernel '{path}': built for {binary.machine}, this machine is {architecture}"
        )
    if binary.format not in monitor.formats.get(architecture, ()):
        hint = (
            "Firecracker wants the uncompressed ELF kernel (vmlinux)"
            if binary.format == "bzimage"
            else ""
        )
        raise ImageError(
            f"unikernel '{path}': {monitor.name} does not boot a kernel of format {binary.format}",
            hint,
        )
    if binary.solo5_target != monitor.solo5_target:
        built = (
            f"built for Solo5's {binary.solo5_target}"
            if binary.solo5_target
            else "not built for Solo5"
        )
        hint = "build it for this target"
        if binary.solo5_target in ("hvt", "spt"):
            hint = f"set the annotation hypervisor to {binary.solo5_target}, or {hint}"
        raise ImageError(f"unikernel '{path}': {built}, asked to run on {monitor.name}", hint)


def _check_files(image: UnikernelImage, guest: Guest, monitor: Monitor) -> None:
    if image.initrd and not monitor.takes_initrd:
        raise ImageError(f"annotation 'initrd': {monitor.name} has none", "use 'block'")
    for file, word in ((image.initrd, "initrd"), (image.blocks, "block")):
        if file and word not in guest.storage:
            known = ", ".join(sorted(guest.storage)) or "none"
            raise ImageError(
                f"annotation '{word}': {guest.name} cannot use it", f"it takes: {known}"
            )


def accelerator_of(given: Inputs) -> tuple[Accelerator, str, list[str]]:
    """("kvm", "tcg" or "none", why, warnings); raises ImageError or HostError."""
    monitor, host, overrides = given.monitor, given.host, given.image.overrides
    wanted, source = given.config.get(f"monitors.{monitor.name}.accelerator"), "configuration"
    if "accelerator" in overrides:
        wanted, source = overrides["accelerator"], "annotation"
    if wanted not in ("auto", "kvm", "tcg"):
        raise ImageError(
            f"annotation 'accelerator': '{wanted}' is unknown", "known: auto, kvm, tcg"
        )
    if not monitor.needs_kvm and not monitor.can_emulate:
        why = f"{monitor.name} needs no virtualization"
        if source == "annotation" and wanted != "auto":
            return "none", why, [f"annotation 'accelerator': '{wanted}' is without effect: {why}"]
        return "none", why, []
    if wanted == "tcg":
        if not monitor.can_emulate:
            raise ImageError(f"accelerator 'tcg': {monitor.name} cannot emulate, it needs KVM")
        return "tcg", f"asked for by {source}", []
    if not host.kvm.problem:
        return "kvm", "/dev/kvm opens", []
    if monitor.can_emulate and wanted == "auto":
        why = f"/dev/kvm: {host.kvm.problem}"
        return "tcg", why, [f"{why}: {monitor.name} emulates (TCG), many times slower"]
    raise HostError(
        f"monitor '{monitor.name}': needs KVM, but /dev/kvm: {host.kvm.problem}",
        "load the kvm module or enable virtualization in the firmware (or nested, on a virtual "
        "machine); without KVM use qemu or spt",
    )


def devices_of(given: Inputs, stored: int) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """(names of the declared net devices or None, names of all disks: the image's and those that
    are `stored` for the container)."""
    image, guest = given.image, given.guest
    devices = guest.devices(image.binary)
    count = len(image.blocks) + stored
    if devices.blocks is None:
        return devices.nets, ("",) * count
    if len(devices.blocks) > count:
        names = ", ".join(f"'{name}'" for name in devices.blocks)
        raise ImageError(
            f"unikernel '{image.kernel.path}': declares the block devices {names}, "
            f"but {count} given",
            _missing_disks(guest, given.found),
        )
    if count > len(devices.blocks):
        declared = f"{len(devices.blocks)} block devices" if devices.blocks else "no block device"
        what, remedy = "annotation 'block'", "remove the annotation 'block'"
        if not image.blocks:
            what, remedy = "root filesystem (mountRootfs)", "leave mountRootfs out"
        raise ImageError(
            f"{what}: the unikernel '{image.kernel.path}' declares {declared}"
            + (f", {count} given" if devices.blocks else ""),
            f"give as many as the guest's manifest declares: {remedy}, or declare the device",
        )
    return devices.nets, devices.blocks


def _missing_disks(guest: Guest, found: StorageFound | None) -> str:
    """What to do about a declared device without a disk."""
    from urunc.plan.declared_disks import is_orchestrated

    hint = "name a block image by the annotation 'block'"
    if not any(way in DISKS for way in guest.volume_ways):
        return hint
    hint += ", or mount a directory"
    sources = found.volumes if found else ()
    engines = [source.destination for source in sources if is_orchestrated(source.destination)]
    return f"{hint} (what engines mount is none: {', '.join(engines)})" if engines else hint


def check_root(
    given: Inputs, parameters: tuple[str, ...], root: Root | None, volumes: tuple[Volume, ...]
) -> list[str]:
    """Of a guest whose kernel wants a root filesystem (Linux) and is given no file and no disk at
    all. Refused where a key was most likely meant to give it one; else the kernel has to have one
    built in (CONFIG_INITRAMFS_SOURCE), which nobody sees from outside, and there is a warning."""
    image, guest = given.image, given.guest
    if not guest.init or root or image.initrd or image.blocks or disk_count(root, volumes):
        return []
    if any(word.startswith("root=") for word in parameters):
        return []  # by the network, or a device of the administrator's own
    ways = "give it one of 'initrd', 'block' and 'mountRootfs' (the container's own)"
    remark = meant(image.remarks, (*FILES, "useDMBlock"))
    if remark:
        raise ImageError(f"{guest.name}: no root filesystem: {remark}", ways)
    return [
        f"{guest.name}: no root filesystem: its kernel must have one built in "
        f"(CONFIG_INITRAMFS_SOURCE), or it panics; else {ways}"
    ]
