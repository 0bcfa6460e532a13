# SPDX-License-Identifier: Apache-2.0
"""Starts, by the file of timestamps (docs/timestamps.md): those of containers that were made with
URUNC_TIMESTAMPS=1."""

from __future__ import annotations

from itertools import pairwise

from urunc.metrics.exposition import Family
from urunc.timestamps import read
from urunc.timing import NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.timestamps import Stamp

CREATE, CREATED, START, EXECVE = 0, 10, 11, 18
PARTS = {"create": (CREATE, CREATED), "start": (START, EXECVE)}
"""What engines call one after the other; their own time between the two is nobody's here."""
GAPS = (CREATE, START)
"""Events before which there is another program's time, or nothing."""


def families(path: str) -> list[Family]:
    """Of the file at a path; raises OSError. The events of a start follow each other in the order
    of their times, and each phase ends with the event that it has the name of."""
    starts = Family(
        "urunc_starts_total", "counter", "Starts with timestamps, by who did the start."
    )
    parts = Family("urunc_start_seconds", "histogram", "What create and start took, in seconds.")
    phases = Family(
        "urunc_start_phase_seconds", "histogram",
        "What each phase of a start took, up to the event of this name, in seconds.",
    )  # fmt: skip
    by = {"python": 0, "door": 0}
    took: dict[str, list[float]] = {part: [] for part in PARTS}
    lasted: dict[str, list[float]] = {}
    for start in _starts(read(path)):
        times = {stamp.number: stamp.now_ns for stamp in start}
        if EXECVE in times:
            by["door" if any(stamp.by_door for stamp in start) else "python"] += 1
        for part, (first, last) in PARTS.items():
            if first in times and last in times:
                took[part].append((times[last] - times[first]) / 1e9)
        for before, stamp in pairwise(start):
            if stamp.number in NAMES and stamp.number not in GAPS:
                values = lasted.setdefault(NAMES[stamp.number], [])
                values.append((stamp.now_ns - before.now_ns) / 1e9)
    for who, count in by.items():
        starts.add(count, by=who)
    for part, values in took.items():
        parts.observe(values, verb=part)
    for name in (name for name in NAMES.values() if name in lasted):
        phases.observe(lasted[name], phase=name)
    return [starts, parts, phases]


def _starts(stamps: list[Stamp]) -> list[list[Stamp]]:
    """The stamps of each start, in order of time: an id may be used again, and `create` begins
    it."""
    lives: dict[str, list[list[Stamp]]] = {}
    for stamp in stamps:
        mine = lives.setdefault(stamp.container, [])
        if stamp.number == CREATE or not mine:
            mine.append([])
        mine[-1].append(stamp)
    return [
        sorted(life, key=lambda stamp: stamp.now_ns) for mine in lives.values() for life in mine
    ]
