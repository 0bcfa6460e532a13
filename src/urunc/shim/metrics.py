# SPDX-License-Identifier: Apache-2.0
"""What a container uses, as containerd's metrics messages: from its control groups.

Where the machine's controllers are v1's (hybrid, too) that is io.containerd.cgroups.v1.Metrics, on
v2 io.containerd.cgroups.v2.Metrics; clients tell them by the name. A guest's groups are its
monitor's. What a group does not know stays 0. Runs in the shim; reads only.
"""

from __future__ import annotations

import posix

from urunc.cgroup.groups import Groups
from urunc.cgroup.stats import TICK_NS
from urunc.linux import cgroups
from urunc.linux.cgroups import UNIFIED
from urunc.linux.files import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

V1, V2 = "io.containerd.cgroups.v1.Metrics", "io.containerd.cgroups.v2.Metrics"
UNLIMITED = (1 << 64) - 1
UNLIMITED_HANDLES = (1 << 32) - 1
MEASURED = ("cpu", "cpuacct", "memory", "pids", "blkio")
"""v1's controllers that make its message the one to send."""

_MEMORY_COUNTERS = (
    "cache rss rss_huge mapped_file dirty writeback pgpgin pgpgout pgfault pgmajfault "
    "inactive_anon active_anon inactive_file active_file unevictable"
)
_RENAMED = {
    "pgpgin": "pg_pg_in",
    "pgpgout": "pg_pg_out",
    "pgfault": "pg_fault",
    "pgmajfault": "pg_maj_fault",
}
V1_MEMORY = {
    f"{prefix}{name}": f"{prefix}{_RENAMED.get(name, name)}"
    for prefix in ("", "total_")
    for name in _MEMORY_COUNTERS.split()
} | {
    "hierarchical_memory_limit": "hierarchical_memory_limit",
    "hierarchical_memsw_limit": "hierarchical_swap_limit",
}
"""Names in v1's memory.stat → the message's."""
# v2's files have the message's names
V2_MEMORY = (
    "anon file kernel_stack slab sock shmem file_mapped file_dirty file_writeback anon_thp "
    "inactive_anon active_anon inactive_file active_file unevictable slab_reclaimable "
    "slab_unreclaimable pgfault pgmajfault workingset_refault workingset_activate "
    "workingset_nodereclaim pgrefill pgscan pgsteal pgactivate pgdeactivate pglazyfree "
    "pglazyfreed thp_fault_alloc thp_collapse_alloc workingset_refault_anon "
    "workingset_refault_file workingset_activate_anon workingset_activate_file"
)
V2_CPU = (
    "usage_usec user_usec system_usec nr_periods nr_throttled throttled_usec nr_bursts burst_usec"
)
V2_EVENTS = "low high max oom oom_kill oom_group_kill"
V1_IO = {
    "io_service_bytes_recursive": "io_service_bytes",
    "io_serviced_recursive": "io_serviced",
    "io_queued_recursive": "io_queued",
    "io_service_time_recursive": "io_service_time",
    "io_wait_time_recursive": "io_wait_time",
    "io_merged_recursive": "io_merged",
    "io_time_recursive": "time",
    "sectors_recursive": "sectors",
}
"""The message's names → the files', without `blkio.`, the policy and `_recursive`."""


def groups_of(root: str, identifier: str, pid: int) -> Groups:
    """A container's control groups: as urunc recorded them, or those that its process is in and the
    shim is not. Of an ordinary container ask before it starts: it may make groups of its own."""
    from urunc import state

    if state.is_ours(root, identifier):
        from urunc.cgroup.groups import of
        from urunc.errors import StateError

        try:
            recorded = state.load(root, identifier)
        except StateError:
            return groups_of_process(pid)
        if recorded.ready:
            return of(recorded)
    return groups_of_process(pid)


def groups_of_process(pid: int) -> Groups:
    """The control groups that a process is in and this one is not."""
    theirs = {}
    try:
        lines = read_text(f"/proc/{pid}/cgroup").splitlines()
    except OSError:
        return Groups({})
    for line in lines:
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            theirs[name.removeprefix("name=")] = path.rstrip("/")
    paths = {}
    for name, (mount_point, own) in cgroups.hierarchies().items():
        path = theirs.get(name, "")
        if path and path != own.rstrip("/") and not path.startswith("/.."):
            paths[name] = mount_point + path
    return Groups(paths)


def pids(groups: Groups) -> list[int]:
    """Every process of a container, also of groups that it made itself."""
    return _pids_below(groups.directories[-1]) if groups.paths else []


def _pids_below(directory: str) -> list[int]:
    found = cgroups.pids(directory)
    try:
        entries = list(posix.scandir(directory))
    except OSError:
        return found
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            found += _pids_below(entry.path)
    return found


def metrics(groups: Groups) -> tuple[str, dict[str, Any]]:
    """(the message's name, its values) of a container's use."""
    known = groups.paths or cgroups.hierarchies()
    if any(name in known for name in MEASURED):
        return V1, _v1(groups)
    return V2, _v2(groups)


# v1


def _v1(groups: Groups) -> dict[str, Any]:
    memory, oom_control = _memory_v1(groups)
    return {
        "hugetlb": [
            {
                "pagesize": size,
                "usage": _number(groups, "hugetlb", f"hugetlb.{size}.usage_in_bytes"),
                "max": _number(groups, "hugetlb", f"hugetlb.{size}.max_usage_in_bytes"),
                "failcnt": _number(groups, "hugetlb", f"hugetlb.{size}.failcnt"),
            }
            for size in _page_sizes(groups, ".usage_in_bytes")
        ],
        "pids": {
            "current": _number(groups, "pids", "pids.current"),
            "limit": _number(groups, "pids", "pids.max"),
        },
        "cpu": _cpu_v1(groups),
        "memory": memory,
        "blkio": _io_v1(groups),
        "rdma": _rdma(groups),
        "memory_oom_control": oom_control,
    }


def _number(groups: Groups, controller: str, file: str) -> int:
    """v1's message has 0 for `max`."""
    return groups.number(controller, file) or 0


def _cpu_v1(groups: Groups) -> dict[str, Any]:
    throttling = groups.pairs("cpu", "cpu.stat")
    if "cpuacct" in groups.paths:
        counted = groups.pairs("cpuacct", "cpuacct.stat")
        usage = {
            "total": _number(groups, "cpuacct", "cpuacct.usage"),
            "kernel": counted.get("system", 0) * TICK_NS,
            "user": counted.get("user", 0) * TICK_NS,
            "per_cpu": [
                int(word) for word in groups.text("cpuacct", "cpuacct.usage_percpu").split()
            ],
        }
    else:  # v2's cpu.stat counts wherever there is v2
        counted = groups.pairs(UNIFIED, "cpu.stat")
        usage = {
            "total": counted.get("usage_usec", 0) * 1000,
            "kernel": counted.get("system_usec", 0) * 1000,
            "user": counted.get("user_usec", 0) * 1000,
        }
    time_ns = throttling.get("throttled_time", throttling.get("throttled_usec", 0) * 1000)
    return {
        "usage": usage,
        "throttling": {
            "periods": throttling.get("nr_periods", 0),
            "throttled_periods": throttling.get("nr_throttled", 0),
            "throttled_time": time_ns,
        },
    }


def _memory_v1(groups: Groups) -> tuple[dict[str, Any], dict[str, Any]]:
    counted = groups.pairs("memory", "memory.stat")
    found: dict[str, Any] = {
        field: counted[name] for name, field in V1_MEMORY.items() if name in counted
    }
    for field, stem in (
        ("usage", "memory"),
        ("swap", "memory.memsw"),
        ("kernel", "memory.kmem"),
        ("kernel_tcp", "memory.kmem.tcp"),
    ):
        found[field] = {
            "limit": _number(groups, "memory", f"{stem}.limit_in_bytes"),
            "usage": _number(groups, "memory", f"{stem}.usage_in_bytes"),
            "max": _number(groups, "memory", f"{stem}.max_usage_in_bytes"),
            "failcnt": _number(groups, "memory", f"{stem}.failcnt"),
        }
    control = groups.pairs("memory", "memory.oom_control")
    names = ("oom_kill_disable", "under_oom", "oom_kill")
    return found, {name: control.get(name, 0) for name in names}


def _io_v1(groups: Groups) -> dict[str, Any]:
    """The scheduler's numbers; where it has none of a kind, those of the limits' (throttle), which
    count for every disk (blkio-controller.rst)."""
    directory = groups.paths.get("blkio")
    try:
        files = frozenset(posix.listdir(directory)) if directory else frozenset()
    except OSError:
        files = frozenset()
    found: dict[str, Any] = {}
    devices: dict[str, str] = {}
    for field, name in V1_IO.items():
        for policy in ("bfq.", "", "throttle."):
            choices = (f"blkio.{policy}{name}_recursive", f"blkio.{policy}{name}")
            file = next((choice for choice in choices if choice in files), "")
            entries = _entries_v1(groups.text("blkio", file)) if file else []
            if entries:
                devices = devices or _devices()
                for entry in entries:
                    entry["device"] = devices.get(f"{entry['major']}:{entry['minor']}", "")
                found[field] = entries
                break
    return found


def _entries_v1(text: str) -> list[dict[str, Any]]:
    """Lines `8:0 Read 4096` or `8:0 4096`; that of the total is left out."""
    found = []
    for line in text.splitlines():
        device, *middle, value = line.split() or ("", "")
        major, colon, minor = device.partition(":")
        if colon and value.isdecimal():
            found.append(
                {
                    "op": middle[0] if middle else "",
                    "major": int(major),
                    "minor": int(minor),
                    "value": int(value),
                }
            )
    return found


def _devices() -> dict[str, str]:
    """Numbers → paths of the machine's disks (proc_partitions(5))."""
    found: dict[str, str] = {}
    for line in read_text("/proc/partitions").splitlines():
        words = line.split()
        if len(words) == 4 and words[0].isdecimal():
            found.setdefault(f"{words[0]}:{words[1]}", f"/dev/{words[3]}")
    return found


# v2


def _v2(groups: Groups) -> dict[str, Any]:
    found: dict[str, Any] = {
        "pids": {
            "current": _bound(groups, "pids.current"),
            "limit": _bound(groups, "pids.max"),
        },
        "cpu": {
            **_chosen(groups.pairs(UNIFIED, "cpu.stat"), V2_CPU),
            "psi": _pressure(groups, "cpu.pressure"),
        },
        "memory": _memory_v2(groups),
        "rdma": _rdma(groups),
        "io": {"usage": _io_v2(groups), "psi": _pressure(groups, "io.pressure")},
        "hugetlb": [
            {
                "pagesize": size,
                "current": _bound(groups, f"hugetlb.{size}.current"),
                "max": _bound(groups, f"hugetlb.{size}.max"),
                "failcnt": groups.pairs(UNIFIED, f"hugetlb.{size}.events").get("max", 0),
            }
            for size in _page_sizes(groups, ".current")
        ],
    }
    events = _chosen(groups.pairs(UNIFIED, "memory.events"), V2_EVENTS)
    if events:
        found["memory_events"] = events
    return found


def _chosen(counted: dict[str, int], names: str) -> dict[str, int]:
    return {name: counted[name] for name in names.split() if name in counted}


def _bound(groups: Groups, file: str) -> int:
    """v2's message has the highest number for `max`."""
    text = groups.text(UNIFIED, file).strip()
    if text == "max":
        return UNLIMITED
    return int(text) if text.isdecimal() else 0


def _memory_v2(groups: Groups) -> dict[str, Any]:
    found: dict[str, Any] = _chosen(groups.pairs(UNIFIED, "memory.stat"), V2_MEMORY)
    for field, file in (
        ("usage", "memory.current"),
        ("usage_limit", "memory.max"),
        ("max_usage", "memory.peak"),
        ("swap_usage", "memory.swap.current"),
        ("swap_limit", "memory.swap.max"),
        ("swap_max_usage", "memory.swap.peak"),
    ):
        found[field] = _bound(groups, file)
    found["psi"] = _pressure(groups, "memory.pressure")
    return found


def _pressure(groups: Groups, file: str) -> dict[str, Any] | None:
    """Lines `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` (accounting/psi.rst)."""
    found: dict[str, Any] = {}
    for line in groups.text(UNIFIED, file).splitlines():
        kind, *words = line.split()
        values = dict(word.split("=", 1) for word in words if "=" in word)
        if kind in ("some", "full"):
            found[kind] = {
                name: int(value) if name == "total" else float(value)
                for name, value in values.items()
                if name in ("avg10", "avg60", "avg300", "total")
            }
    return found or None


def _io_v2(groups: Groups) -> list[dict[str, int]]:
    found = []
    for line in groups.text(UNIFIED, "io.stat").splitlines():
        device, *words = line.split()
        major, colon, minor = device.partition(":")
        if not colon:
            continue
        entry = {"major": int(major), "minor": int(minor)}
        for word in words:
            name, _, value = word.partition("=")
            if name in ("rbytes", "wbytes", "rios", "wios") and value.isdecimal():
                entry[name] = int(value)
        found.append(entry)
    return found


# both


def _page_sizes(groups: Groups, ending: str) -> list[str]:
    """The sizes of huge pages that a group counts, as its files name them."""
    directory = groups.directory("hugetlb")
    try:
        names = posix.listdir(directory) if directory else []
    except OSError:
        return []
    names = [name[8:] for name in names if name.startswith("hugetlb.") and name.endswith(ending)]
    return sorted(name.removesuffix(ending) for name in names if name.count(".") == 1)


def _rdma(groups: Groups) -> dict[str, Any] | None:
    """Lines `mlx4_0 hca_handle=2 hca_object=max` (cgroup-v1/rdma.rst; the same in v2)."""
    found = {}
    for field, file in (("current", "rdma.current"), ("limit", "rdma.max")):
        entries = []
        for line in groups.text("rdma", file).splitlines():
            device, *words = line.split()
            values = dict(word.split("=", 1) for word in words if "=" in word)
            entries.append(
                {
                    "device": device,
                    "hca_handles": _handles(values.get("hca_handle", "0")),
                    "hca_objects": _handles(values.get("hca_object", "0")),
                }
            )
        found[field] = entries
    return found if any(found.values()) else None


def _handles(text: str) -> int:
    return UNLIMITED_HANDLES if text == "max" else int(text)
