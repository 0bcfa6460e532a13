# SPDX-License-Identifier: Apache-2.0
"""A container's usage of resources, read from its control groups, in the shape of runc's `events
--stats`.

v1 and v2 have the same facts in different files (Documentation/admin-guide/cgroup-v1,
cgroup-v2.rst). Facts that a group lacks are left out. Times are in nanoseconds, sizes in bytes.
"""

from __future__ import annotations

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urunc.cgroup.groups import Groups

UNKNOWN_LIMIT = (1 << 64) - 1
TICK_NS = 10_000_000
"""v1's cpuacct.stat counts in USER_HZ, a hundred a second on every architecture."""


def read(groups: Groups) -> dict[str, Any]:
    """The statistics of a container's groups."""
    found: dict[str, Any] = {
        "cpu": _cpu_v1(groups) if "cpuacct" in groups.paths else _cpu_v2(groups),
        "cpuset": _cpuset(groups),
        "memory": _memory_v1(groups) if "memory" in groups.paths else _memory_v2(groups),
        "pids": {
            "current": _number(groups, "pids", "pids.current"),
            "limit": groups.number("pids", "pids.max") or 0,
        },
        "blkio": _io_v1(groups) if "blkio" in groups.paths else _io_v2(groups),
        "hugetlb": _hugetlb(groups),
        "intel_rdt": {},
        "network_interfaces": None,
    }
    return found


def _number(groups: Groups, controller: str, file: str) -> int:
    return groups.number(controller, file) or 0


def _cpu_v1(groups: Groups) -> dict[str, Any]:
    usage = groups.pairs("cpuacct", "cpuacct.stat")
    throttling = groups.pairs("cpu", "cpu.stat")
    percpu = groups.text("cpuacct", "cpuacct.usage_percpu").split()
    return {
        "usage": {
            "total": _number(groups, "cpuacct", "cpuacct.usage"),
            "percpu": [int(word) for word in percpu],
            "kernel": usage.get("system", 0) * TICK_NS,
            "user": usage.get("user", 0) * TICK_NS,
        },
        "throttling": {
            "periods": throttling.get("nr_periods", 0),
            "throttledPeriods": throttling.get("nr_throttled", 0),
            "throttledTime": throttling.get("throttled_time", 0),
        },
    }


def _cpu_v2(groups: Groups) -> dict[str, Any]:
    stat = groups.pairs("cpu", "cpu.stat")
    return {
        "usage": {
            "total": stat.get("usage_usec", 0) * 1000,
            "kernel": stat.get("system_usec", 0) * 1000,
            "user": stat.get("user_usec", 0) * 1000,
        },
        "throttling": {
            "periods": stat.get("nr_periods", 0),
            "throttledPeriods": stat.get("nr_throttled", 0),
            "throttledTime": stat.get("throttled_usec", 0) * 1000,
        },
    }


def _cpuset(groups: Groups) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, files in (
        ("cpus", ("cpuset.cpus", "cpuset.cpus.effective")),
        ("mems", ("cpuset.mems", "cpuset.mems.effective")),
    ):
        text = next(filter(None, (groups.text("cpuset", file).strip() for file in files)), "")
        numbers: list[int] = []
        for part in text.split(",") if text else []:
            first, _, last = part.partition("-")
            numbers += range(int(first), int(last or first) + 1)
        found[name] = numbers
    return found


def _entry(groups: Groups, usage: str, limit: str, highest: str, failures: int) -> dict[str, int]:
    bound = groups.number("memory", limit)
    return {
        "limit": UNKNOWN_LIMIT if bound is None else bound,
        "usage": _number(groups, "memory", usage),
        "max": _number(groups, "memory", highest),
        "failcnt": failures,
    }


def _memory_v1(groups: Groups) -> dict[str, Any]:
    def entry(name: str) -> dict[str, int]:
        return _entry(
            groups,
            f"{name}.usage_in_bytes",
            f"{name}.limit_in_bytes",
            f"{name}.max_usage_in_bytes",
            _number(groups, "memory", f"{name}.failcnt"),
        )

    raw = groups.pairs("memory", "memory.stat")
    return {
        "cache": raw.get("cache", 0),
        "usage": entry("memory"),
        "swap": entry("memory.memsw"),
        "kernel": entry("memory.kmem"),
        "kernelTCP": entry("memory.kmem.tcp"),
        "raw": raw,
    }


def _memory_v2(groups: Groups) -> dict[str, Any]:
    raw = groups.pairs("memory", "memory.stat")
    events = groups.pairs("memory", "memory.events")
    usage = _entry(groups, "memory.current", "memory.max", "memory.peak", events.get("max", 0))
    swap = _entry(groups, "memory.swap.current", "memory.swap.max", "memory.swap.peak", 0)
    # as v1 counts: with memory
    swap["usage"] += usage["usage"]
    if UNKNOWN_LIMIT not in (swap["limit"], usage["limit"]):
        swap["limit"] += usage["limit"]
    return {"cache": raw.get("file", 0), "usage": usage, "swap": swap, "raw": raw}


def _io_v1(groups: Groups) -> dict[str, Any]:
    found = {}
    for name, files in (
        (
            "ioServiceBytesRecursive",
            ("bfq.io_service_bytes_recursive", "throttle.io_service_bytes"),
        ),
        ("ioServicedRecursive", ("bfq.io_serviced_recursive", "throttle.io_serviced")),
    ):
        texts = (groups.text("blkio", f"blkio.{file}") for file in files)
        text = next((text for text in texts if text.strip() not in ("", "Total 0")), "")
        entries = []
        for line in text.splitlines():
            words = line.split()
            if len(words) == 3 and ":" in words[0]:
                entries.append(_device(words[0], words[1], int(words[2])))
        if entries:
            found[name] = entries
    return found


def _io_v2(groups: Groups) -> dict[str, Any]:
    sizes, counts = [], []
    for line in groups.text("io", "io.stat").splitlines():
        device, *words = line.split()
        values = {word.partition("=")[0]: word.partition("=")[2] for word in words}
        for operation, letter in (("Read", "r"), ("Write", "w")):
            if f"{letter}bytes" in values:
                sizes.append(_device(device, operation, int(values[f"{letter}bytes"])))
                counts.append(_device(device, operation, int(values[f"{letter}ios"])))
    named = (("ioServiceBytesRecursive", sizes), ("ioServicedRecursive", counts))
    return {name: entries for name, entries in named if entries}


def _device(numbers: str, operation: str, value: int) -> dict[str, Any]:
    major, _, minor = numbers.partition(":")
    return {"major": int(major), "minor": int(minor), "op": operation, "value": value}


def _hugetlb(groups: Groups) -> dict[str, Any]:
    directory = groups.directory("hugetlb")
    found = {}
    v1 = "hugetlb" in groups.paths
    ending = ".usage_in_bytes" if v1 else ".current"
    try:
        names = posix.listdir(directory) if directory else []
    except OSError:
        names = []
    for name in names:
        if name.startswith("hugetlb.") and name.endswith(ending) and ".rsvd" not in name:
            stem = name.removesuffix(ending)
            found[stem.removeprefix("hugetlb.")] = {
                "usage": _number(groups, "hugetlb", name),
                "max": _number(groups, "hugetlb", f"{stem}.max_usage_in_bytes") if v1 else 0,
                "failcnt": _number(groups, "hugetlb", f"{stem}.failcnt") if v1 else 0,
            }
    return found
