# SPDX-License-Identifier: Apache-2.0
"""linux.resources → Resources: the limits of a container, from config.json or for `update`.

Pure, except `read`. cgroup/limits.py says which files of a control group they go to.
"""

from __future__ import annotations

from urunc.bundle.document import INT64_MAXIMUM, Object
from urunc.errors import SpecError, reason
from urunc.jsontext import loads
from urunc.linux.files import read_bytes, read_descriptor
from urunc.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

UNLIMITED = -1
LIMIT_BYTES = 1 << 20
"""The largest file that `read` takes."""
UINT64_MAXIMUM = (1 << 64) - 1


@record
class DeviceRate:
    """A number for one block device: a weight, bytes or operations per second."""

    major: int
    minor: int
    value: int


@record
class HugepageLimit:
    """A limit in bytes for huge pages of one size (`2MB`)."""

    page_size: str
    limit_bytes: int


@record
class Resources:
    """The fields of linux.resources (config-linux.md, Control groups): None or empty if absent,
    UNLIMITED (-1) for no limit."""

    memory_limit_bytes: int | None = None
    memory_reservation_bytes: int | None = None
    memory_swap_bytes: int | None = None
    """Memory plus swap, as cgroup v1 counts them; cgroup/limits.py converts it for v2."""
    memory_kernel_tcp_bytes: int | None = None
    memory_swappiness: int | None = None
    memory_disable_oom_killer: bool | None = None
    memory_check_before_update: bool | None = None
    cpu_shares: int | None = None
    cpu_quota_us: int | None = None
    cpu_burst_us: int | None = None
    cpu_period_us: int | None = None
    cpu_realtime_runtime_us: int | None = None
    cpu_realtime_period_us: int | None = None
    cpu_idle: int | None = None
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids_limit: int | None = None
    io_weight: int | None = None
    io_leaf_weight: int | None = None
    io_weight_devices: tuple[DeviceRate, ...] = ()
    io_leaf_weight_devices: tuple[DeviceRate, ...] = ()
    io_read_bps: tuple[DeviceRate, ...] = ()
    io_write_bps: tuple[DeviceRate, ...] = ()
    io_read_iops: tuple[DeviceRate, ...] = ()
    io_write_iops: tuple[DeviceRate, ...] = ()
    hugepages: tuple[HugepageLimit, ...] = ()
    network_class_id: int | None = None
    network_priorities: Mapping[str, int] = {}
    rdma: Mapping[str, str] = {}
    """Device → its line for rdma.max (`hca_handle=2 hca_object=max`)."""
    unified: Mapping[str, str] = {}
    """File of cgroup v2 → value to write."""


def parse(document: Object) -> Resources:
    """The Resources of a `linux.resources` object; raises SpecError."""
    memory, cpu, pids = (document.object(key) for key in ("memory", "cpu", "pids"))
    io, network = document.object("blockIO"), document.object("network")
    swappiness = memory.number("swappiness", maximum=UINT64_MAXIMUM)
    if swappiness is not None and not swappiness <= 100 and swappiness != UINT64_MAXIMUM:
        raise memory.wrong("swappiness", f"{swappiness} is not between 0 and 100")
    return Resources(
        memory_limit_bytes=_limit(memory, "limit"),
        memory_reservation_bytes=_limit(memory, "reservation"),
        memory_swap_bytes=_limit(memory, "swap"),
        memory_kernel_tcp_bytes=_limit(memory, "kernelTCP"),
        memory_swappiness=None if swappiness == UINT64_MAXIMUM else swappiness,
        memory_disable_oom_killer=memory.get("disableOOMKiller", bool),
        memory_check_before_update=memory.get("checkBeforeUpdate", bool),
        cpu_shares=cpu.number("shares", maximum=UINT64_MAXIMUM) or None,
        cpu_quota_us=cpu.number("quota", minimum=UNLIMITED) or None,
        cpu_burst_us=cpu.number("burst", maximum=UINT64_MAXIMUM),
        cpu_period_us=cpu.number("period", maximum=1_000_000) or None,
        cpu_realtime_runtime_us=cpu.number("realtimeRuntime", minimum=UNLIMITED) or None,
        cpu_realtime_period_us=cpu.number("realtimePeriod") or None,
        cpu_idle=cpu.number("idle", minimum=UNLIMITED),
        cpuset_cpus=cpu.text("cpus"),
        cpuset_mems=cpu.text("mems"),
        pids_limit=_limit(pids, "limit"),
        io_weight=io.number("weight", maximum=0xFFFF) or None,
        io_leaf_weight=io.number("leafWeight", maximum=0xFFFF) or None,
        io_weight_devices=_rates(io, "weightDevice", "weight"),
        io_leaf_weight_devices=_rates(io, "weightDevice", "leafWeight"),
        io_read_bps=_rates(io, "throttleReadBpsDevice", "rate"),
        io_write_bps=_rates(io, "throttleWriteBpsDevice", "rate"),
        io_read_iops=_rates(io, "throttleReadIOPSDevice", "rate"),
        io_write_iops=_rates(io, "throttleWriteIOPSDevice", "rate"),
        hugepages=tuple(_hugepages(item) for item in document.objects("hugepageLimits")),
        network_class_id=network.number("classID", maximum=0xFFFFFFFF),
        network_priorities={
            item.text("name", required=True): item.number("priority", maximum=0xFFFFFFFF) or 0
            for item in network.objects("priorities")
        },
        rdma=_rdma(document.object("rdma")),
        unified=_unified(document),
    )


def read(path: str) -> Resources:
    """The Resources of a file with a linux.resources object, `-` for standard input; raises
    SpecError."""
    try:
        content = read_descriptor(0, LIMIT_BYTES) if path == "-" else read_bytes(path, LIMIT_BYTES)
    except OSError as error:
        raise SpecError(f"read resources '{path}': {reason(error)}") from None
    if len(content) > LIMIT_BYTES:
        raise SpecError(f"read resources '{path}': larger than {LIMIT_BYTES} bytes")
    try:
        document = loads(content.decode())
    except ValueError as error:
        raise SpecError(f"read resources '{path}': not JSON: {error}") from None
    return parse(Object(document, "", "resources"))


def merge(old: Resources, new: Resources) -> Resources:
    """`old` with every field that `new` has."""
    present = {
        name: value
        for name, value in new.__dict__.items()
        if value is not None and value not in ("", (), {})
    }
    return replace(old, **present)


PIDS_MAX = "pids.max"


def most_processes(resources: Resources) -> int:
    """The limit of tasks, UNLIMITED if there is none."""
    word = resources.unified.get(PIDS_MAX, "")
    if word.isdecimal():
        return int(word)
    return resources.pids_limit or UNLIMITED


def with_tasks(resources: Resources, tasks: int) -> Resources:
    """`resources` with a limit that leaves room for `tasks` more: those of the monitor, which the
    user's limit does not mean."""
    most = most_processes(resources)
    if most == UNLIMITED:
        return resources
    unified = dict(resources.unified)
    if PIDS_MAX in unified:
        unified[PIDS_MAX] = str(most + tasks)
    return replace(
        resources,
        pids_limit=None if resources.pids_limit is None else most + tasks,
        unified=unified,
    )


def _limit(holder: Object, key: str) -> int | None:
    """A limit, None for 0, which means nothing, as it does to runc."""
    return holder.number(key, UNLIMITED, INT64_MAXIMUM) or None


def _rates(io: Object, key: str, field: str) -> tuple[DeviceRate, ...]:
    found = []
    for item in io.objects(key):
        value = item.number(field, maximum=UINT64_MAXIMUM)
        if value is not None:
            major, minor = item.number("major"), item.number("minor")
            found.append(DeviceRate(major=major or 0, minor=minor or 0, value=value))
    return tuple(found)


def _hugepages(item: Object) -> HugepageLimit:
    size = item.text("pageSize", required=True)
    if not size.rstrip("KMGB").isdecimal():
        raise item.wrong("pageSize", f"'{size}' is not a size such as 2MB")
    return HugepageLimit(
        page_size=size, limit_bytes=item.number("limit", maximum=UINT64_MAXIMUM) or 0
    )


def _rdma(document: Object) -> dict[str, str]:
    found = {}
    for name in document.value:
        item = document.object(name)
        words = [
            f"{word}={value}"
            for key, word in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
            if (value := item.number(key, maximum=0xFFFFFFFF)) is not None
        ]
        if words:
            found[name] = " ".join(words)
    return found


def _unified(document: Object) -> dict[str, str]:
    found = document.text_map("unified")
    for name in found:
        if "/" in name or "." not in name:
            raise document.wrong("unified", f"'{name}' is not a file of a control group")
    return found
