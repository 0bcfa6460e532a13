# SPDX-License-Identifier: Apache-2.0
"""How much memory a guest gets, and how many vCPUs: of its limits, its annotations, the
configuration. Pure."""

from __future__ import annotations

from urunc.errors import ImageError, RoomError
from urunc.monitors import MIB, Need

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.bundle.image import UnikernelImage
    from urunc.bundle.spec import Spec
    from urunc.config import Config
    from urunc.guests import Guest
    from urunc.monitors import Monitor
    from urunc.plan.host import HostFacts


NO_LIMIT_BYTES = 1 << 62
"""From here on a limit is none: what v1's files say of a group without one is 2**63 less a page
(PAGE_COUNTER_MAX, include/linux/page_counter.h)."""
INITRD_BYTES = 3 * MIB
"""Room for what urunc itself puts into an initrd, its init and the kernel's modules: 2.2 MiB with
Debian 12's cloud kernel at most."""


def least_of(guest: Guest, kernel_bytes: int, initrd_bytes: int, *, own_init: bool) -> int:
    """The least memory, in whole MiB, with which a guest comes to run its application: what its
    kernel takes (elf.Binary.memory_bytes), an initrd as it is loaded and once more as it is
    unpacked, and what the guest works with. Linux with urunc's init unpacks it to a tmpfs, which
    holds no more than half of what is left (init/do_mounts.c, mm/shmem.c). With less a kernel
    cannot even say why it ends."""
    least = kernel_bytes + (3 if own_init else 2) * initrd_bytes + guest.working_mib * MIB
    return -(-least // MIB) * MIB or MIB


def limit_in_words(limit_bytes: int) -> str:
    """A memory limit, rounded up to whole MiB, as engines and config.json take it."""
    limit_mib = -(-limit_bytes // MIB)
    return f"{limit_mib} MiB ({limit_mib * MIB} bytes)"


def memory_of(
    spec: Spec,
    image: UnikernelImage,
    least: int,
    need: Need,
    config: Config,
    monitor: Monitor,
    host: HostFacts,
    warnings: list[str],
    *,
    more: str = "",
) -> int:
    """The guest's memory in bytes, whole MiB: what is asked for, within the limit less the
    monitor's own; and never more than the monitor can give, or the machine has. What is asked for
    is refused above that, what follows from a limit is cut down to it. Less than `least`
    (`least_of`) is refused with the number that would do; `more` says what is not known of it."""
    wanted: int = config.get(f"monitors.{monitor.name}.memory_mib") * MIB
    asked = _memory_asked(spec, image)
    most, whose = _most(monitor, host)
    if asked:
        wanted = asked[0]
        if most and wanted > most:
            raise ImageError(f"{asked[1]} is more than {whose}", f"{most // MIB} MiB at most")
    elif most and wanted > most:
        key = f"monitors.{monitor.name}.memory_mib"
        warnings.append(
            f"{key} of {config.source(key)}: {wanted // MIB} MiB are more than {whose}: the guest "
            f"has {most // MIB} MiB"
        )
        wanted = most
    limit = spec.resources.memory_limit_bytes
    limited = limit is not None and 0 <= limit < NO_LIMIT_BYTES
    if wanted < least and (asked or not limited):
        key = f"monitors.{monitor.name}.memory_mib"
        whose = asked[1] if asked else f"{key} of {config.source(key)}: {wanted // MIB} MiB"
        raise ImageError(
            f"{whose} is less than the guest needs to run",
            f"{least // MIB} MiB at least"
            + f", and a memory limit of {limit_in_words(need.limit_for(least))}" * limited
            + more,
        )
    if limit is None or not limited:
        return wanted
    if need.limit_for(least) > limit:
        raise RoomError(
            f"linux.resources.memory.limit: {limit} bytes are too few: the guest needs "
            f"{least // MIB} MiB to run, and {monitor.name} {need.of(least)} bytes for itself",
            f"{limit_in_words(need.limit_for(least))} at least{more}",
        )
    if asked and need.limit_for(wanted) > limit:
        raise RoomError(
            f"{asked[1]} does not fit into the memory limit of {limit} bytes",
            f"{monitor.name} needs {need.of(wanted)} bytes for itself: raise the limit to "
            f"{limit_in_words(need.limit_for(wanted))}",
        )
    if asked:
        return wanted
    room = need.room_in(limit)
    if most and room > most:
        warnings.append(
            f"linux.resources.memory.limit: {limit} bytes are more than {whose}: the guest has "
            f"{most // MIB} MiB"
        )
        room = most
    return room


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


def _memory_asked(spec: Spec, image: UnikernelImage) -> tuple[int, str] | None:
    """(bytes in whole MiB, who says so) of what is asked for by annotation or by
    vm.hwConfig.memory; None where nothing is."""
    said = spec.machine.memory_bytes if spec.machine else 0
    machine = said // MIB * MIB
    text = image.overrides.get("memory")
    if text is None:
        return (machine, f"config.json: vm.hwConfig.memory: {said}") if said else None
    asked = _mebibytes(text) * MIB
    _check_same("memory", text, asked, machine)
    return asked, f"annotation 'memory': {text}"


def _check_same(key: str, text: str, asked: int, machine: int) -> None:
    if machine and machine != asked:
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


def vcpus_of(
    spec: Spec, image: UnikernelImage, monitor: Monitor, config: Config, warnings: list[str]
) -> int:
    """vCPUs from the CPU quota, rounded up, else the configured number; never more than the monitor
    has."""
    resources = spec.resources
    count: int = config.get(f"monitors.{monitor.name}.vcpus")
    if resources.cpu_quota_us and resources.cpu_quota_us > 0:
        period_us = resources.cpu_period_us or 100_000
        count = -(-resources.cpu_quota_us // period_us)
    asked = image.overrides.get("vcpus")
    machine = spec.machine.vcpus if spec.machine else 0
    count = machine or count
    if asked is not None:
        if not asked.isdecimal() or len(asked) > 9 or int(asked) < 1:
            raise ImageError(f"annotation 'vcpus': '{asked}' is no number above zero")
        count = int(asked)
        _check_same("vcpus", asked, count, machine)
    if count > monitor.max_vcpus:
        if asked is not None or machine or monitor.max_vcpus > 1:
            warnings.append(f"{count} vCPUs wanted, {monitor.name} has {monitor.max_vcpus} at most")
        count = monitor.max_vcpus
    return count
