# SPDX-License-Identifier: Apache-2.0
"""process.scheduler and process.ioPriority of config.json (config.md, Linux process).

Touches nothing; imported only where config.json has one of the two.
"""

from __future__ import annotations

from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.bundle.document import Object

IO_CLASSES = ("IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE")
"""ioprio_set(2)'s classes from 1 on."""
SCHEDULERS = (
    "SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_ISO", "SCHED_IDLE",
    "SCHED_DEADLINE",
)  # fmt: skip
"""sched(7)'s policies by the kernel's number."""
SCHEDULER_FLAGS = (
    "SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN",
    "SCHED_FLAG_KEEP_POLICY", "SCHED_FLAG_KEEP_PARAMS", "SCHED_FLAG_UTIL_CLAMP_MIN",
    "SCHED_FLAG_UTIL_CLAMP_MAX",
)  # fmt: skip
"""sched_setattr(2)'s flags, by bit."""


@record
class Scheduler:
    """process.scheduler: sched_setattr(2) in its own words; times in nanoseconds."""

    policy: str
    nice: int
    priority: int
    flags: tuple[str, ...]
    runtime_ns: int
    deadline_ns: int
    period_ns: int


def parse_io_priority(priority: Object) -> tuple[int, ...]:
    """process.ioPriority as (class, level) of ioprio_set(2), () where it says nothing; raises
    SpecError."""
    if not priority.value:
        return ()
    name = priority.text("class", required=True)
    if name not in IO_CLASSES:
        raise priority.wrong("class", f"unknown '{name}'", f"known: {', '.join(IO_CLASSES)}")
    return IO_CLASSES.index(name) + 1, priority.number("priority", maximum=7) or 0


def parse_scheduler(scheduler: Object) -> Scheduler | None:
    """process.scheduler, None where it says nothing; raises SpecError."""
    if not scheduler.value:
        return None
    policy = scheduler.text("policy", required=True)
    if policy not in SCHEDULERS:
        raise scheduler.wrong("policy", f"unknown '{policy}'", f"known: {', '.join(SCHEDULERS)}")
    flags = scheduler.texts_of("flags", SCHEDULER_FLAGS)
    nice = scheduler.number("nice", minimum=-20, maximum=19) or 0
    priority = scheduler.number("priority", maximum=99) or 0
    if priority and policy not in ("SCHED_FIFO", "SCHED_RR"):
        raise scheduler.wrong("priority", f"{policy} has none")
    times = [scheduler.number(key) or 0 for key in ("runtime", "deadline", "period")]
    if any(times) and policy != "SCHED_DEADLINE":
        raise scheduler.wrong("", f"runtime, deadline and period are SCHED_DEADLINE's: {policy}")
    return Scheduler(
        policy=policy,
        nice=nice,
        priority=priority,
        flags=flags,
        runtime_ns=times[0],
        deadline_ns=times[1],
        period_ns=times[2],
    )
