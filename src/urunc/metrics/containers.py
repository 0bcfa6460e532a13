# SPDX-License-Identifier: Apache-2.0
"""The containers that there are, by their records, and what their monitors use, by their control
groups."""

from __future__ import annotations

import posix
from collections import Counter

from urunc.cgroup import groups, stats
from urunc.errors import Error
from urunc.linux.files import is_directory
from urunc.metrics.exposition import Family
from urunc.state import RUNNING, is_ours, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from urunc.state import State

ENGINES = (
    "/run/containerd/urunc",
    "/run/containerd/runc",
    "/run/docker/runtime-runc",
    "/run/docker/runtime-urunc",
)
"""Directories below which engines have a --root for each of their namespaces: urunc's own shim,
runc's with `BinaryName`, and Docker by either name."""


def roots(own: str) -> list[str]:
    """Where there may be containers: `own`, and below ENGINES."""
    found = [own]
    for directory in ENGINES:
        try:
            found += sorted(f"{directory}/{name}" for name in posix.listdir(directory))
        except OSError:
            pass
    return list(dict.fromkeys(filter(is_directory, found)))


def families(places: Iterable[str]) -> list[Family]:
    """Of all containers below these roots; what cannot be read, or goes meanwhile, is left out."""
    there = Family("urunc_containers", "gauge", "Unikernels' containers that there are.")
    memory = Family(
        "urunc_container_memory_bytes", "gauge",
        "What the container's control group uses: guest, monitor, page cache.",
    )  # fmt: skip
    guest = Family("urunc_guest_memory_bytes", "gauge", "The memory that the guest was given.")
    cpu = Family("urunc_container_cpu_seconds_total", "counter", "CPU time of the container.")
    kills = Family(
        "urunc_container_oom_kills_total", "counter", "Processes killed at the memory limit."
    )
    counts: Counter[tuple[str, str, str]] = Counter()
    for state in _states(places):
        plan, status = state.plan, state.status()
        kind = state.document["plan"]["guest"]
        counts[kind, plan.monitor, status] += 1
        if status != RUNNING:
            continue
        labels = {"container": state.id, "guest": kind, "monitor": plan.monitor}
        guest.add(plan.memory_bytes, **labels)
        try:
            data = stats.read(groups.of(state))
            memory.add(data["memory"]["usage"]["usage"], **labels)
            cpu.add(data["cpu"]["usage"]["total"] / 1e9, **labels)
            kills.add(_kills(state), **labels)
        except (Error, OSError, KeyError):
            pass  # it has no control group, or has ended
    for (kind, monitor, found), count in sorted(counts.items()):
        there.add(count, guest=kind, monitor=monitor, status=found)
    return [there, guest, memory, cpu, kills]


def _kills(state: State) -> int:
    from urunc.linux.cgroups import oom_kills

    return oom_kills(state.group_paths)


def _states(places: Iterable[str]) -> Iterator[State]:
    for root in places:
        for name in sorted(posix.listdir(root)):
            try:
                if is_ours(root, name):
                    yield load(root, name)
            except (Error, OSError):
                continue
