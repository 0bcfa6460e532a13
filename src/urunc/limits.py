# SPDX-License-Identifier: Apache-2.0
"""The container's control groups: where they are, and what its resources write into them.

cgroupfs only; v1, v2, hybrid, or none (then a container with limits is refused and one without
runs).
"""

from __future__ import annotations

from urunc.errors import HostError, SpecError, reason
from urunc.journal import ControlGroups
from urunc.linux import cgroups
from urunc.linux.cgroups import UNIFIED
from urunc.linux.files import exists, write_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.journal import Journal
    from urunc.spec import Resources, Spec


def make(identifier: str, spec: Spec, journal: Journal) -> list[str]:
    """Make the container's groups with its limits and return their folders; raises HostError."""
    hierarchies = cgroups.hierarchies()
    groups = {
        name: _folder(mount_point, own, spec.cgroups_path, identifier)
        for name, (mount_point, own) in hierarchies.items()
    }
    limits = _limits(spec.resources, unified="memory" not in groups)
    if not groups:
        if limits:
            raise HostError(
                "linux.resources: this machine has no control groups to enforce limits with"
            )
        return []
    resource = ControlGroups(
        paths=list(groups.values()),
        parents=[path for folder in groups.values() for path in _missing_parents(folder)],
    )
    try:
        journal.make(resource)
    except OSError as error:
        if (
            error.errno in (13, 30) and not limits
        ):  # EACCES, EROFS: control groups are not ours to use here
            return []
        hint = "" if error.filename else "choose another linux.cgroupsPath"
        raise HostError(
            f"make control group: {error.strerror}: {error.filename or spec.cgroups_path}", hint
        ) from None
    if "memory" not in groups and UNIFIED in groups:
        mount_point = hierarchies[UNIFIED][0]
        for path in (mount_point, *(p for p in resource.parents if p.startswith(mount_point))):
            cgroups.enable_controllers(path)
    for controller, file, value in limits:
        folder = groups.get(controller) or groups.get(UNIFIED, "")
        try:
            write_bytes(f"{folder}/{file}", value.encode())
        except OSError as error:
            raise HostError(f"limit '{file}' to {value}: {reason(error)}") from None
    return resource.paths


def _folder(mount_point: str, own: str, asked: str, identifier: str) -> str:
    if not asked:
        return f"{mount_point}/urunc-{identifier}"
    if ":" in asked and not asked.startswith("/"):
        raise SpecError(
            f"config.json: linux.cgroupsPath: '{asked}' is a systemd path, "
            "which this version does not support"
        )
    parts = asked.split("/")
    if ".." in parts or not asked.strip("/"):
        raise SpecError(
            f"config.json: linux.cgroupsPath: '{asked}' does not name a group of its own"
        )
    if asked.startswith("/"):
        return mount_point + asked.rstrip("/")
    return f"{mount_point}{own.rstrip('/')}/{asked.rstrip('/')}"


def _missing_parents(folder: str) -> list[str]:
    missing: list[str] = []
    parent = folder.rpartition("/")[0]
    while parent and not exists(parent):
        missing.insert(0, parent)
        parent = parent.rpartition("/")[0]
    return missing


def _limits(resources: Resources, *, unified: bool) -> list[tuple[str, str, str]]:
    """(controller, file, value) of each limit (cgroup-v1/*.rst; cgroup-v2.rst)."""
    limits = []
    memory, shares = resources.memory_limit_bytes, resources.cpu_shares
    quota_us, period_us = resources.cpu_quota_us, resources.cpu_period_us
    if memory:
        limits.append(("memory", "memory.max" if unified else "memory.limit_in_bytes", str(memory)))
    if shares:
        # the specification's conversion: [2, 262144] → [1, 10000]
        weight = 1 + (max(shares, 2) - 2) * 9999 // 262142
        limits.append(
            ("cpu", "cpu.weight", str(weight)) if unified else ("cpu", "cpu.shares", str(shares))
        )
    if quota_us or period_us:
        if unified:
            limits.append(("cpu", "cpu.max", f"{quota_us or 'max'} {period_us or 100_000}"))
        else:
            if period_us:
                limits.append(("cpu", "cpu.cfs_period_us", str(period_us)))
            if quota_us:
                limits.append(("cpu", "cpu.cfs_quota_us", str(quota_us)))
    if resources.cpuset_cpus:
        limits.append(("cpuset", "cpuset.cpus", resources.cpuset_cpus))
    if resources.cpuset_mems:
        limits.append(("cpuset", "cpuset.mems", resources.cpuset_mems))
    if resources.pids_limit:
        limits.append(("pids", "pids.max", str(resources.pids_limit)))
    return limits
