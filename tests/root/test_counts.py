# SPDX-License-Identifier: Apache-2.0
"""What each verb asks of the kernel and the processor: as counts, against a stored table, where a
measured time is noise; and that it is no more beside other containers.

More than the table has fails. So does less: then the table has to be written anew, which also is
what to do when more is meant, and shows what it costs:

    make counts
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lib import counts
from lib.support import need

pytestmark = pytest.mark.usefixtures("with_door")

TOLERANCES: dict[str, tuple[float, int]] = {
    "(memory)": (0, 6),
    "(waiting)": (0, 6),
    "bytes written": (0.01, 40),
    "page faults": (0.05, 6),
    "instructions": (0.03, 0),
}
"""By how much a count may differ, as (share, number): addresses and process ids have no fixed
length, what an allocator asks for depends on addresses, waiting on others. All else is exact."""
TRIES = 2
"""Somebody else on the machine may have another monitor by the same name looked at anew."""
NEIGHBOURS = 6
LIST_EACH = 16
"""System calls for each container that `list` shows."""


@pytest.fixture(autouse=True)
def needed() -> None:
    need("root", "installed", "solo5", "probe", "strace")


def tolerated(name: str, stored: int) -> int:
    share, number = TOLERANCES.get(name.partition(" (")[0] or name, (0, 0))
    return max(int(stored * share), number)


def compare(row: str, stored: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Sentences about what is not as stored; what was not counted on either side is left out."""
    said = []
    if "calls" in found:
        names = stored["calls"].keys() | found["calls"].keys()
        stored, found = ({**zero(names), **side["calls"], **side} for side in (stored, found))
    for name in sorted((stored.keys() & found.keys()) - {"calls"}):
        old, new = stored[name], found[name]
        if isinstance(old, str):
            words = (set(old.split()) - set(new.split()), set(new.split()) - set(old.split()))
            said += [f"{row}: {name}: gone {words[0]}, new {words[1]}"] if any(words) else []
        elif abs(new - old) > tolerated(name, old):
            said.append(f"{row}: {name}: {new}, {'more' if new > old else 'less'} than {old}")
    return said


def once_at_least(look: Callable[[], list[str]]) -> list[str]:
    """What is not as it should be the last time; a busy machine may count a call more once."""
    said = [""]
    for _ in range(TRIES):
        said = look()
        if not said:
            break
    return said


def zero(names: Any) -> dict[str, int]:
    return dict.fromkeys(names, 0)


def test_as_stored() -> None:
    stored = counts.tables().get(counts.place())
    if stored is None:
        pytest.skip(f"no table for {counts.place()}: `make counts` writes one")

    def look() -> list[str]:
        found = counts.asked()
        assert stored.keys() == found.keys()
        return [line for row in stored for line in compare(row, stored[row], found[row])]

    said = once_at_least(look)
    assert not said, "\n".join([*said, "where this is meant: make counts"])


def test_beside_others() -> None:
    """No verb looks at other containers, but for `list`: nothing grows with their number."""
    listed: list[int] = []

    def look() -> list[str]:
        least, found = counts.asked(str(NEIGHBOURS))
        listed[:] = [sum(side.pop("list")["calls"].values()) for side in (least, found)]
        return [line for verb in least for line in compare(verb, least[verb], found[verb])]

    said = once_at_least(look)
    assert not said, "\n".join(said)
    each = (listed[1] - listed[0]) / NEIGHBOURS
    assert each <= LIST_EACH, f"list: {each} system calls for each container"
