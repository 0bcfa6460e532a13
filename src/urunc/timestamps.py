# SPDX-License-Identifier: Apache-2.0
"""The file of timestamps (timing.py writes it), read for people and for metrics."""

from __future__ import annotations

from urunc.jsontext import loads
from urunc.linux.files import read_text
from urunc.record import record

LIMIT_BYTES = 1 << 26


@record
class Stamp:
    """That a phase of a container's start was reached."""

    container: str
    number: int
    """A key of timing.NAMES, or of another version's."""
    now_ns: int
    """CLOCK_REALTIME."""
    by_door: bool = False
    """Whether the door did it, without Python."""


def read(path: str) -> list[Stamp]:
    """All in a file, as they were written; raises OSError. What is no timestamp is passed over: a
    line cut short by a crash, or another program's."""
    found = []
    for line in read_text(path, LIMIT_BYTES).splitlines():
        try:
            entry = loads(line)
            number = int(entry["timestampID"].removeprefix("TS"))
            stamp = Stamp(
                container=entry["containerID"], number=number,
                now_ns=int(entry["timestampNS"]), by_door=entry.get("by") == "door",
            )  # fmt: skip
            found.append(stamp)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found
