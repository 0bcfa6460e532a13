# SPDX-License-Identifier: Apache-2.0
"""How long tests wait. A limit only ends what hangs: all of them are multiplied by one factor, so
that a test that passes on a quiet machine passes on a busy or slow one.

URUNC_TEST_PATIENCE is the factor. Without it, it is measured: how slow the machine is when the
first test waits, or how many processes want each of its CPUs when another does. What is not ours to
stretch, a time limit of urunc's or of an engine, a test sets by itself, and asserts on what
happened, not on how long it took.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import TypeVar

REFERENCE_S = 0.02
"""What `_work` takes on an idle CPU that these tests' limits were chosen on."""
LEAST, MOST = 1.0, 20.0
SHARE = 4
"""Between two looks it is so many times as long as one takes: waiting must not be what keeps the
machine busy, where a look is another program's run."""
LEAST_PAUSE_S, MOST_PAUSE_S = 0.01, 0.25
T = TypeVar("T")


def _work() -> None:
    total = 0
    for number in range(400_000):
        total += number


@functools.cache
def _slowness() -> float:
    """How many times REFERENCE_S the work takes here: the longest of three, which others have
    disturbed most."""
    took_s = []
    for _ in range(3):
        begin = time.perf_counter()
        _work()
        took_s.append(time.perf_counter() - begin)
    return max(took_s) / REFERENCE_S


def factor() -> float:
    """By what limits are multiplied, now; at least 1."""
    if given := os.environ.get("URUNC_TEST_PATIENCE"):
        return max(float(given), LEAST)
    waiting = os.getloadavg()[0] / len(os.sched_getaffinity(0))
    return min(max(_slowness(), waiting, LEAST), MOST)


def patient(seconds: float) -> float:
    """A limit of so many seconds on a quiet machine, for this one."""
    return seconds * factor()


def until(
    condition: Callable[[], T], what: str | Callable[[], str] = "", timeout_s: float = 10
) -> T:
    """Wait for something to be true, and return it; `what` it is, or how it looks when it has not
    become so."""
    if not (found := tried(condition, timeout_s)):
        raise AssertionError(what() if callable(what) else what or "it did not become so")
    return found


def tried(condition: Callable[[], T], timeout_s: float = 10) -> T:
    """The same for who says himself what is missing: the last that was found, which may be
    false."""
    begin = looked = time.monotonic()
    while not (found := condition()):
        # the factor is asked for each time: the machine may have become busy meanwhile
        if time.monotonic() - begin > patient(timeout_s):
            break
        pause(time.monotonic() - looked)
        looked = time.monotonic()
    return found


def pause(took_s: float) -> None:
    """Sleep before the next look, where one takes so long."""
    time.sleep(min(max(SHARE * took_s, LEAST_PAUSE_S), MOST_PAUSE_S))
