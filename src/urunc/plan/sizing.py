# SPDX-License-Identifier: Apache-2.0
"""How much memory a guest gets, how many vCPUs, and how large a disk to write to: of its limits,
its annotations, the configuration. Pure."""

from __future__ import annotations

from urunc.errors import ImageError, RoomError
from urunc.monitors import MIB, Need
from urunc.storage.facts import IN_INITRD, INITRD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.bundle.image import UnikernelImage
    from urunc.bundle.spec import Spec
    from urunc.guests import Guest
    from urunc.monitors import Monitor
    from urunc.plan.model import HostFacts, Inputs
    from urunc.storage.facts import Root, Volume

NO_LIMIT_BYTES = 1 << 62
"""From here on a limit is none: what v1's files say of a group without one is 2**63 less a page
(PAGE_COUNTER_MAX, include/linux/page_counter.h)."""
INITRD_BYTES = 3 * MIB
"""Room for what urunc itself puts into an initrd, its init and the kernel's modules: 2.2 MiB with
Debian 12's cloud kernel at most."""

UNITS = {"": 1, "M": 1, "Mi": 1, "MiB": 1, "G": 1024, "Gi": 1024, "GiB": 1024}
"""Of the annotation `rootfsSize`, in MiB."""


def least_of(guest: Guest, kernel_bytes: int, initrd_bytes: int, *, own_init: bool) -> int:
    """The least memory, in whole MiB, with which a guest comes to run its application: what its
    kernel takes (elf.Binary.memory_bytes), an initrd as it is loaded and once more as it is
    unpacked, and what the guest works with. Linux with urunc's init unpacks it to a tmpfs, which
    holds no more than half of what is left (init/do_mounts.c, mm/shmem.c). With less a kernel
    cannot even say why it ends."""
    least = kernel_bytes * (100 + guest.working_percent) // 100 + guest.working_mib * MIB
    least += (3 if own_init else 2) * initrd_bytes
    return -(-least // MIB) * MIB or MIB


def limit_in_words(limit_bytes: int) -> str:
    """A memory limit, rounded up to whole MiB, as engines and config.json take it."""
    limit_mib = -(-limit_bytes // MIB)
    return f"{limit_mib} MiB ({limit_mib * MIB} bytes)"


def memory_of(
    given: Inputs, root: Root | None, volumes: tuple[Volume, ...], need: Need
) -> tuple[int, list[str]]:
    """(the guest's memory in bytes, whole MiB, warnings): what is asked for, within the limit less
    the monitor's own; and never more than the monitor can give, or the machine has. What is asked
    for is refused above that, what follows from a limit is cut down to it. Less than `least_of`
    is refused with the number that would do."""
    least, more = _least(given, root, volumes)
    wanted, source, warnings = _wanted(given)
    limit = given.spec.resources.memory_limit_bytes
    if limit is None or not 0 <= limit < NO_LIMIT_BYTES:
        if wanted < least:
            raise _too_little(given, wanted, source, least, more)
        return wanted, warnings
    if source and wanted < least:
        enough = limit_in_words(need.limit_for(least))
        raise _too_little(given, wanted, source, least, f", and a memory limit of {enough}{more}")
    if need.limit_for(least) > limit:
        raise RoomError(
            f"linux.resources.memory.limit: {limit} bytes are too few: the guest needs "
            f"{least // MIB} MiB to run, and {given.monitor.name} {need.of(least)} bytes for "
            "itself",
            f"{limit_in_words(need.limit_for(least))} at least{more}",
        )
    if source:
        if need.limit_for(wanted) > limit:
            raise RoomError(
                f"{source} does not fit into the memory limit of {limit} bytes",
                f"{given.monitor.name} needs {need.of(wanted)} bytes for itself: raise the limit "
                f"to {limit_in_words(need.limit_for(wanted))}",
            )
        return wanted, warnings
    room = need.room_in(limit)
    most, whose = _most(given.monitor, given.host)
    if most and room > most:
        warnings.append(
            f"linux.resources.memory.limit: {limit} bytes are more than {whose}: the guest has "
            f"{most // MIB} MiB"
        )
        room = most
    return room, warnings


def _least(given: Inputs, root: Root | None, volumes: tuple[Volume, ...]) -> tuple[int, str]:
    """(`least_of` this guest, what is not known of it so far, in words)."""
    image, guest = given.image, given.guest
    managed = guest.init and root is not None
    initrd_bytes = image.initrd.size_bytes if image.initrd else 0
    initrd_bytes += INITRD_BYTES if managed else 0
    kernel_bytes = image.binary.memory_bytes or image.kernel.size_bytes
    grows = (root and root.form == INITRD) or any(item.way == IN_INITRD for item in volumes)
    more = ", and more for the files that go into its initrd" if grows else ""
    return least_of(guest, kernel_bytes, initrd_bytes, own_init=managed), more


def _wanted(given: Inputs) -> tuple[int, str, list[str]]:
    """(the guest's memory if there is no limit, who asks for it or "" where it is the
    configuration's, warnings); raises ImageError."""
    monitor, config = given.monitor, given.config
    most, whose = _most(monitor, given.host)
    requested = _requested(given.spec, given.image)
    if requested:
        wanted, source = requested
        if most and wanted > most:
            raise ImageError(f"{source} is more than {whose}", f"{most // MIB} MiB at most")
        return wanted, source, []
    key = f"monitors.{monitor.name}.memory_mib"
    wanted = config.get(key) * MIB
    if not most or wanted <= most:
        return wanted, "", []
    warning = (
        f"{key} of {config.source(key)}: {wanted // MIB} MiB are more than {whose}: the guest has "
        f"{most // MIB} MiB"
    )
    return most, "", [warning]


def _too_little(given: Inputs, wanted: int, source: str, least: int, more: str) -> ImageError:
    key = f"monitors.{given.monitor.name}.memory_mib"
    who = source or f"{key} of {given.config.source(key)}: {wanted // MIB} MiB"
    return ImageError(
        f"{who} is less than the guest needs to run", f"{least // MIB} MiB at least{more}"
    )


def _most(monitor: Monitor, host: HostFacts) -> tuple[int, str]:
    """(the most memory in whole MiB that a guest can have, 0 for no bound; who says so)."""
    bounds = [
        (most // MIB * MIB, whose)
        for most, whose in (
            (
                monitor.most_memory_bytes(host.program, host.architecture),
                f"{monitor.name} {host.program.version}".rstrip() + " can give to a guest",
            ),
            (host.memory_bytes, "this machine has"),
        )
        if most
    ]
    return min(bounds, default=(0, ""))


def _requested(spec: Spec, image: UnikernelImage) -> tuple[int, str] | None:
    """(bytes in whole MiB, who says so) of what is asked for by annotation or by
    vm.hwConfig.memory; None where nothing is."""
    exact = spec.machine.memory_bytes if spec.machine else 0
    machine = exact // MIB * MIB
    text = image.overrides.get("memory")
    if text is None:
        return (machine, f"config.json: vm.hwConfig.memory: {exact}") if exact else None
    requested = _mebibytes(text) * MIB
    _check_same("memory", text, requested, machine)
    return requested, f"annotation 'memory': {text}"


def _check_same(key: str, text: str, requested: int, machine: int) -> None:
    if machine and machine != requested:
        raise ImageError(
            f"annotation '{key}': {text} is not what vm.hwConfig.{key} of config.json says",
            "leave one of them out",
        )


def _mebibytes(text: str) -> int:
    number = text.removesuffix("MiB").removesuffix("Mi").removesuffix("M")
    if not number.isdecimal() or len(number) > 9 or not 0 < int(number) < 1 << 24:
        raise ImageError(
            f"annotation 'memory': '{text}' is no size", "whole MiB, for example 256Mi"
        )
    return int(number)


def vcpus_of(given: Inputs) -> tuple[int, list[str]]:
    """(vCPUs, warnings): from the CPU quota, rounded up, else the configured number; never more
    than the monitor has."""
    spec, monitor = given.spec, given.monitor
    resources = spec.resources
    count: int = given.config.get(f"monitors.{monitor.name}.vcpus")
    if resources.cpu_quota_us and resources.cpu_quota_us > 0:
        period_us = resources.cpu_period_us or 100_000
        count = -(-resources.cpu_quota_us // period_us)
    requested = given.image.overrides.get("vcpus")
    machine = spec.machine.vcpus if spec.machine else 0
    count = machine or count
    if requested is not None:
        if not requested.isdecimal() or len(requested) > 9 or int(requested) < 1:
            raise ImageError(f"annotation 'vcpus': '{requested}' is no number above zero")
        count = int(requested)
        _check_same("vcpus", requested, count, machine)
    most = monitor.max_vcpus
    if count <= most:
        return count, []
    if requested is None and not machine and most == 1:
        return most, []
    return most, [f"{count} vCPUs wanted, {monitor.name} has {most} at most"]


def rootfs_size_of(given: Inputs) -> tuple[int, bool]:
    """(MiB of the disk that the guest writes to, whether it is this container that asks for it);
    (0, False) where nobody does. Raises ImageError."""
    config = given.config
    text = given.image.overrides.get("rootfsSize", "")
    if not text:
        return config.get("storage.rootfs_size_mib"), False
    from urunc.config import LEAST_ROOTFS_MIB

    digits = text.rstrip("MGiB")
    unit = text[len(digits) :]
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 9 or unit not in UNITS:
        raise ImageError(
            f"annotation 'rootfsSize': '{text}' is no size",
            "whole MiB or GiB, for example 512Mi or 2Gi",
        )
    size_mib = int(digits) * UNITS[unit]
    limit_mib = config.get("storage.rootfs_size_limit_mib")
    if size_mib > limit_mib:
        raise ImageError(
            f"annotation 'rootfsSize': {text} is more than this machine allows ({limit_mib} MiB)",
            f"storage.rootfs_size_limit_mib, {config.source('storage.rootfs_size_limit_mib')}",
        )
    if size_mib < LEAST_ROOTFS_MIB:
        raise ImageError(f"annotation 'rootfsSize': {text} is less than {LEAST_ROOTFS_MIB} MiB")
    return size_mib, True
