# SPDX-License-Identifier: Apache-2.0
"""`update`: other limits for a container that lives.

CPU, pids and I/O bind at once, pids in a Linux guest, too. A guest's memory is fixed when its
machine is made, so a limit that
it would not fit into is refused: the kernel would kill the monitor for it.
"""

from __future__ import annotations

from urunc import guest_channel
from urunc.bundle.resources import PIDS_MAX, Resources, merge, most_processes, with_tasks
from urunc.cgroup import groups
from urunc.directory import locked
from urunc.errors import StateError, WrongStatusError
from urunc.record import replace
from urunc.state import STOPPED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.state import State


def update(root: str, identifier: str, wanted: Resources) -> None:
    """Write new limits; raises WrongStatusError, StateError, HostError, SpecError."""
    with locked(root, identifier) as state:
        status = state.status()
        if status == STOPPED:
            raise WrongStatusError(f"update '{identifier}': container not running: {status}")
        before = state.read("resources", Resources)
        after = merge(before, wanted)
        _check_memory(state, wanted)
        tasks = state.plan.tasks
        group = groups.of(state)
        if wanted.memory_check_before_update and wanted.memory_limit_bytes:
            _check_use(state, group, wanted.memory_limit_bytes)
        if group.unit:
            _tell_systemd(group, with_tasks(after, tasks))
        group.apply(_to_write(with_tasks(wanted, tasks), with_tasks(after, tasks), group))
        if wanted.pids_limit is not None or PIDS_MAX in wanted.unified:
            guest_channel.limit_processes(state.directory, most_processes(after))
        state.write(resources=after)
        state.save()


def _to_write(wanted: Resources, after: Resources, group: groups.Groups) -> Resources:
    """What was asked for, with what has to be said along with it."""
    changes: dict[str, object] = {}
    if wanted.cpu_quota_us or wanted.cpu_period_us:
        changes["cpu_quota_us"] = after.cpu_quota_us
        if "cpu" not in group.paths:  # v2 says both in one line
            changes["cpu_period_us"] = after.cpu_period_us
    if wanted.memory_swap_bytes and "memory" not in group.paths:
        changes["memory_limit_bytes"] = after.memory_limit_bytes
    if wanted.memory_limit_bytes and "memory" not in group.paths and after.memory_swap_bytes:
        changes["memory_swap_bytes"] = after.memory_swap_bytes
    return replace(wanted, **changes)


def _tell_systemd(group: groups.Groups, after: Resources) -> None:
    from urunc.cgroup import systemd

    bus = systemd.Bus(user=systemd.is_user())
    try:
        bus.set_properties(group.unit, systemd.properties(after, group.paths))
    finally:
        bus.close()


def _check_memory(state: State, wanted: Resources) -> None:
    limit = wanted.memory_limit_bytes
    plan = state.plan
    least = plan.memory_bytes + plan.overhead_bytes
    if limit is not None and 0 <= limit < least:
        raise StateError(
            f"update '{state.id}': a memory limit of {limit} bytes is below the "
            f"{plan.memory_bytes} that the guest has and the {plan.overhead_bytes} that "
            f"{plan.monitor} needs",
            f"a running guest's memory cannot be taken back: {least} at least, or create the "
            "container anew with less memory",
        )


def _check_use(state: State, group: groups.Groups, limit: int) -> None:
    use = group.number(
        "memory", "memory.usage_in_bytes" if "memory" in group.paths else "memory.current"
    )
    if use is not None and 0 < limit < use:
        raise StateError(
            f"update '{state.id}': a memory limit of {limit} bytes is below the {use} in use"
        )
