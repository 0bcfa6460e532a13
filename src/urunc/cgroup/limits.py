# SPDX-License-Identifier: Apache-2.0
"""Resources in the words of control groups: which file of which controller gets which value.

Pure. A controller is v1's where the host has it mounted so, else v2's: a hybrid host has both
(Documentation/admin-guide/cgroup-v1, cgroup-v2.rst). cgroup/groups.py writes what this says.
"""

from __future__ import annotations

from urunc.bundle.resources import UNLIMITED
from urunc.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from urunc.bundle.resources import DeviceRate, Resources

    Line = tuple[tuple[str, str], ...]
    """One setting: the choices of (file, value), of which the first whose file exists is written;
    an empty file as the last choice: it may be left out."""

DEFAULT_PERIOD_US = 100_000


def lines(resources: Resources, v1: Collection[str]) -> list[tuple[str, Line]]:
    """(controller, setting) in the order to write them.

    `v1` are the controllers that have a v1 hierarchy. Raises SpecError for what the controller's
    version cannot say.
    """
    found: list[tuple[str, Line]] = []
    for controller, (first, second) in CONTROLLERS.items():
        say = first if controller in v1 else second
        found += [(controller, line) for line in say(resources)]
    for name, value in resources.unified.items():
        controller = name.partition(".")[0]
        if controller in v1 and controller != "cgroup":
            raise SpecError(
                f"linux.resources.unified: '{name}': the {controller} controller of this machine "
                "is cgroup v1's",
                "unified is for cgroup v2; use the named fields",
            )
        found.append((controller, ((name, value),)))
    return found


def passed_over(resources: Resources, v1: Collection[str]) -> list[str]:
    """The fields that v2 has no file for, where their controller is v2's: nothing limits by them,
    as with runc."""
    said = {
        "memory.swappiness": resources.memory_swappiness,
        "memory.kernelTCP": resources.memory_kernel_tcp_bytes,
        "memory.disableOOMKiller": resources.memory_disable_oom_killer or None,
        "blockIO.leafWeight": resources.io_leaf_weight,
        "blockIO.weightDevice.leafWeight": resources.io_leaf_weight_devices or None,
        "network.classID": resources.network_class_id,
        "network.priorities": resources.network_priorities or None,
    }
    homes = {"blockIO": "blkio", "network.classID": "net_cls", "network.priorities": "net_prio"}
    return [
        f"linux.resources.{key}: cgroup v2 has no such limit"
        for key, value in said.items()
        if value is not None
        and homes.get(key, homes.get(head := key.split(".")[0], head)) not in v1
    ]


def cpu_weight(shares: int) -> int:
    """cpu.weight for v1's shares: the specification's line from [2, 262144] to [1, 10000]."""
    return 1 + (min(max(shares, 2), 262_144) - 2) * 9_999 // 262_142


def io_weight(weight: int) -> int:
    """io.weight for v1's weight: from [10, 1000] to [1, 10000]."""
    return 1 + (weight - 10) * 9_999 // 990


def swap_bytes(resources: Resources) -> int | None:
    """v2's memory.swap.max, which counts swap alone, for the specification's memory and swap
    together."""
    swap, memory = resources.memory_swap_bytes, resources.memory_limit_bytes
    if swap is None:
        # no limit for memory means none for both together, or the old one would still hold
        return UNLIMITED if memory == UNLIMITED else None
    if swap == UNLIMITED:
        return UNLIMITED
    if memory is None or memory == UNLIMITED:
        raise SpecError(
            f"linux.resources.memory.swap: {swap} without a limit for memory",
            "it is memory and swap together: set memory.limit too",
        )
    if swap < memory:
        raise SpecError(f"linux.resources.memory.swap: {swap} is below the memory limit {memory}")
    return swap - memory


def _memory_v1(resources: Resources) -> list[Line]:
    both = resources.memory_swap_bytes
    limit = resources.memory_limit_bytes
    if both is None and limit == UNLIMITED:
        both = UNLIMITED
    if both is not None and both > 0 and limit and both < limit:
        raise SpecError(f"linux.resources.memory.swap: {both} is below the memory limit {limit}")
    found: list[Line] = []
    for file, value in (
        ("memory.limit_in_bytes", limit),
        ("memory.memsw.limit_in_bytes", both),
        ("memory.soft_limit_in_bytes", resources.memory_reservation_bytes),
        ("memory.kmem.tcp.limit_in_bytes", resources.memory_kernel_tcp_bytes),
        ("memory.swappiness", resources.memory_swappiness),
    ):
        if value is not None:
            found.append(((file, str(value)),))
    if resources.memory_disable_oom_killer:
        found.append((("memory.oom_control", "1"),))
    return found


def _memory_v2(resources: Resources) -> list[Line]:
    found: list[Line] = []
    for file, value in (
        ("memory.swap.max", swap_bytes(resources)),
        ("memory.max", resources.memory_limit_bytes),
        ("memory.low", resources.memory_reservation_bytes),
    ):
        if value is not None:
            found.append(((file, _or_max(value)),))
    return found


def _cpu_v1(resources: Resources) -> list[Line]:
    found: list[Line] = []
    for file, value in (
        ("cpu.shares", resources.cpu_shares),
        ("cpu.rt_period_us", resources.cpu_realtime_period_us),
        ("cpu.rt_runtime_us", resources.cpu_realtime_runtime_us),
        ("cpu.cfs_period_us", resources.cpu_period_us),
        ("cpu.cfs_quota_us", resources.cpu_quota_us),
        ("cpu.cfs_burst_us", resources.cpu_burst_us),
        ("cpu.idle", resources.cpu_idle),
    ):
        if value is not None:
            found.append(((file, str(value)),))
    return found


def _cpu_v2(resources: Resources) -> list[Line]:
    if resources.cpu_realtime_runtime_us or resources.cpu_realtime_period_us:
        raise SpecError(
            "linux.resources.cpu: realtimeRuntime and realtimePeriod are cgroup v1's, "
            "and this machine's cpu controller is v2's"
        )
    found: list[Line] = []
    if resources.cpu_idle is not None:
        found.append((("cpu.idle", str(resources.cpu_idle)),))
    if resources.cpu_shares:
        found.append((("cpu.weight", str(cpu_weight(resources.cpu_shares))),))
    if resources.cpu_quota_us or resources.cpu_period_us:
        quota, period = resources.cpu_quota_us, resources.cpu_period_us or DEFAULT_PERIOD_US
        found.append((("cpu.max", f"{_or_max(quota or UNLIMITED)} {period}"),))
    if resources.cpu_burst_us is not None:
        found.append((("cpu.max.burst", str(resources.cpu_burst_us)),))
    return found


def _cpuset(resources: Resources) -> list[Line]:
    named = (("cpuset.cpus", resources.cpuset_cpus), ("cpuset.mems", resources.cpuset_mems))
    return [((file, value),) for file, value in named if value]


def _pids(resources: Resources) -> list[Line]:
    limit = resources.pids_limit
    return [] if limit is None else [(("pids.max", _or_max(limit)),)]


def _io_v1(resources: Resources) -> list[Line]:
    found: list[Line] = []
    if resources.io_weight:
        found.append(_either("blkio.weight", "blkio.bfq.weight", str(resources.io_weight)))
    if resources.io_leaf_weight:
        found.append((("blkio.leaf_weight", str(resources.io_leaf_weight)),))
    found += [
        _either("blkio.weight_device", "blkio.bfq.weight_device", _rate(rate))
        for rate in resources.io_weight_devices
    ]
    for file, rates in (
        ("leaf_weight_device", resources.io_leaf_weight_devices),
        ("throttle.read_bps_device", resources.io_read_bps),
        ("throttle.write_bps_device", resources.io_write_bps),
        ("throttle.read_iops_device", resources.io_read_iops),
        ("throttle.write_iops_device", resources.io_write_iops),
    ):
        found += [((f"blkio.{file}", _rate(rate)),) for rate in rates]
    return found


def _io_v2(resources: Resources) -> list[Line]:
    found: list[Line] = []
    if resources.io_weight:
        # io.weight is of the iocost policy, io.bfq.weight of the scheduler with v1's own range
        weight = resources.io_weight
        found.append(
            (("io.bfq.weight", str(weight)), ("io.weight", f"default {io_weight(weight)}"))
        )
    found += [(("io.bfq.weight", _rate(rate)),) for rate in resources.io_weight_devices]
    for word, rates in (
        ("rbps", resources.io_read_bps),
        ("wbps", resources.io_write_bps),
        ("riops", resources.io_read_iops),
        ("wiops", resources.io_write_iops),
    ):
        for rate in rates:
            value = _or_max(rate.value or UNLIMITED)
            found.append((("io.max", f"{rate.major}:{rate.minor} {word}={value}"),))
    return found


def _hugetlb_v1(resources: Resources) -> list[Line]:
    found: list[Line] = []
    for limit in resources.hugepages:
        value = str(limit.limit_bytes)
        found.append(((f"hugetlb.{limit.page_size}.limit_in_bytes", value),))
        found.append(((f"hugetlb.{limit.page_size}.rsvd.limit_in_bytes", value), ("", "")))
    return found


def _hugetlb_v2(resources: Resources) -> list[Line]:
    found: list[Line] = []
    for limit in resources.hugepages:
        value = str(limit.limit_bytes)
        found.append(((f"hugetlb.{limit.page_size}.max", value),))
        found.append(((f"hugetlb.{limit.page_size}.rsvd.max", value), ("", "")))
    return found


def _rdma(resources: Resources) -> list[Line]:
    return [(("rdma.max", f"{device} {words}"),) for device, words in resources.rdma.items()]


def _network_class_v1(resources: Resources) -> list[Line]:
    identifier = resources.network_class_id
    return [] if identifier is None else [(("net_cls.classid", str(identifier)),)]


def _network_priority_v1(resources: Resources) -> list[Line]:
    priorities = resources.network_priorities.items()
    return [(("net_prio.ifpriomap", f"{name} {priority}"),) for name, priority in priorities]


def _network_v2(resources: Resources) -> list[Line]:
    # cgroup v2 has neither; `passed_over` says so
    return []


# controller → how v1 says it, how v2 says it
CONTROLLERS: dict[
    str, tuple[Callable[[Resources], list[Line]], Callable[[Resources], list[Line]]]
] = {
    "cpuset": (_cpuset, _cpuset),
    "memory": (_memory_v1, _memory_v2),
    "cpu": (_cpu_v1, _cpu_v2),
    "pids": (_pids, _pids),
    "blkio": (_io_v1, _io_v2),
    "hugetlb": (_hugetlb_v1, _hugetlb_v2),
    "rdma": (_rdma, _rdma),
    "net_cls": (_network_class_v1, _network_v2),
    "net_prio": (_network_priority_v1, _network_v2),
}


def _either(first: str, second: str, value: str) -> Line:
    return (first, value), (second, value)


def _rate(rate: DeviceRate) -> str:
    return f"{rate.major}:{rate.minor} {rate.value}"


def _or_max(value: int) -> str:
    return "max" if value < 0 else str(value)
