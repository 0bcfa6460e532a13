# SPDX-License-Identifier: Apache-2.0
"""How much memory a guest gets, and how many vCPUs: of its limits, its annotations, the
configuration. Pure."""

from __future__ import annotations

from urunc.errors import ImageError, RoomError
from urunc.monitors import MIB, Need

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.config import Config
    from urunc.host import HostFacts
    from urunc.image import UnikernelImage
    from urunc.monitors import Monitor
    from urunc.spec import Spec


NO_LIMIT_BYTES = 1 << 62
"""From here on a limit is none: what v1's files say of a group without one is 2**63 less a page
(PAGE_COUNTER_MAX, include/linux/page_counter.h)."""


def memory_of(
    spec: Spec,
    image: UnikernelImage,
    need: Need,
    config: Config,
    monitor: Monitor,
    host: HostFacts,
    warnings: list[str],
) -> int:
    """The guest's memory in bytes, whole MiB: what is asked for, within the limit less the
    monitor's own; and never more than the monitor can give, or the machine has. What is asked for
    is refused above that, what follows from a limit is cut down to it."""
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
    files = image.kernel.size_bytes + (image.initrd.size_bytes if image.initrd else 0)
    least = -(-files // MIB) * MIB or MIB
    if asked and wanted < least:
        raise ImageError(
            f"{asked[1]} is less than the guest's files take",
            f"{least // MIB} MiB at least",
        )
    limit = spec.resources.memory_limit_bytes
    if limit is None or not 0 <= limit < NO_LIMIT_BYTES:
        return wanted
    if need.limit_for(least) > limit:
        raise RoomError(
            f"linux.resources.memory.limit: {limit} bytes are too few: the guest's files take "
            f"{files}, and {monitor.name} needs {need.of(least)} for itself",
            f"{need.limit_for(least)} at least",
        )
    if asked and need.limit_for(wanted) > limit:
        raise RoomError(
            f"{asked[1]} does not fit into the memory limit of {limit} bytes",
            f"{monitor.name} needs {need.of(wanted)} for itself: raise the limit to "
            f"{need.limit_for(wanted)}",
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
