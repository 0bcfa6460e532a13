# SPDX-License-Identifier: Apache-2.0
"""Attributes of a process that another process can set by its pid: scheduling, the OOM score.

Runs in the runtime, on a waiting init, with the host's privilege, which init lacks in a user
namespace. execve keeps the attributes for the monitor.
"""

from __future__ import annotations

from urunc import logs
from urunc.errors import HostError, reason
from urunc.linux import _linux
from urunc.linux.files import write_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.bundle.spec import Spec


def apply(pid: int, spec: Spec) -> None:
    """Set oomScoreAdj, ioPriority and scheduler of config.json's process; raises HostError."""
    if spec.oom_score_adj is not None:
        _set_oom_score(pid, spec.oom_score_adj)
    if spec.io_priority:
        kind, level = spec.io_priority
        try:
            _linux.ioprio_set(pid, kind << 13 | level)
        except OSError as error:
            raise HostError(f"process.ioPriority: {reason(error)}") from None
    if spec.scheduler:
        from urunc.bundle.scheduling import SCHEDULER_FLAGS, SCHEDULERS

        item = spec.scheduler
        flags = sum(1 << SCHEDULER_FLAGS.index(flag) for flag in item.flags)
        try:
            _linux.sched_setattr(
                pid, SCHEDULERS.index(item.policy), flags, item.nice, item.priority,
                item.runtime_ns, item.deadline_ns, item.period_ns,
            )  # fmt: skip
        except OSError as error:
            raise HostError(f"process.scheduler: {item.policy}: {reason(error)}") from None


def describe(spec: Spec) -> list[str]:
    """A line for people for each attribute that `apply` sets."""
    lines = [] if spec.oom_score_adj is None else [f"oom_score_adj {spec.oom_score_adj}"]
    if spec.io_priority:
        from urunc.bundle.scheduling import IO_CLASSES

        kind, level = spec.io_priority
        lines.append(f"{IO_CLASSES[kind - 1]} {level}")
    if spec.scheduler:
        item = spec.scheduler
        words = [item.policy, f"nice {item.nice}", *item.flags]
        words += [f"priority {item.priority}"] if item.priority else []
        if item.runtime_ns:
            words.append(f"{item.runtime_ns} of {item.period_ns} ns, by {item.deadline_ns} ns")
        lines.append(" ".join(words))
    return lines


def _set_oom_score(pid: int, value: int) -> None:
    try:
        write_bytes(f"/proc/{pid}/oom_score_adj", str(value).encode())
    except PermissionError:
        # lowering it takes CAP_SYS_RESOURCE, which a container may lack; runc goes on, too
        logs.warn(f"process.oomScoreAdj: {value}: not permitted here (CAP_SYS_RESOURCE)")
    except OSError as error:
        raise HostError(f"process.oomScoreAdj: {value}: {reason(error)}") from None
