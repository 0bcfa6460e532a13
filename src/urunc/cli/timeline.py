# SPDX-License-Identifier: Apache-2.0
"""`urunc timeline`: the timestamps of a container's start, as a table with a bar per phase."""

from __future__ import annotations

import sys

from urunc.cli.options import FILE, Arguments
from urunc.errors import HostError, NotFoundError, reason
from urunc.timestamps import Stamp, read
from urunc.timing import NAMES

OPTIONS = {"--file": (FILE, "file of timestamps (default: the configured one)")}
USAGE = "[--file FILE] [ID]"
SUMMARY = "Show how long each phase of a start took."
BAR_COLUMNS = 24
HOW = "start containers with URUNC_TIMESTAMPS=1 in the environment"


def main(arguments: Arguments) -> int:
    wanted = arguments.words[0] if arguments.words else ""
    arguments.only(*(("container id",) if wanted else ()))
    path = arguments.get("--file") or arguments.config().get("timestamps.file")
    stamps = _read(path)
    if not wanted and stamps:
        wanted = stamps[-1].container
    mine = [stamp for stamp in stamps if stamp.container == wanted]
    if not mine:
        raise NotFoundError(f"timeline: no timestamps of '{wanted}' in '{path}'", HOW)
    # an id may have been used before: the last container with it counts
    births = [index for index, stamp in enumerate(mine) if stamp.number == 0]
    mine = sorted(mine[births[-1] if births else 0 :], key=lambda stamp: stamp.now_ns)
    sys.stdout.write(render(wanted, mine))
    return 0


def _read(path: str) -> list[Stamp]:
    try:
        return read(path)
    except OSError as error:
        raise HostError(f"read timestamps '{path}': {reason(error)}", HOW) from None


def render(container: str, stamps: list[Stamp]) -> str:
    """The table for stamps in order of time, at 80 columns."""
    first_ns = stamps[0].now_ns
    total_ns = max(stamps[-1].now_ns - first_ns, 1)
    lines = [f"{container}: {total_ns / 1e6:.1f} ms", f"{'':5}{'phase':32}{'at ms':>8}{'took':>8}"]
    before_ns = first_ns
    for stamp in stamps:
        identifier, now_ns = stamp.number, stamp.now_ns
        start = (before_ns - first_ns) * BAR_COLUMNS // total_ns
        length = max((now_ns - first_ns) * BAR_COLUMNS // total_ns - start, 0)
        bar = " " * start + ("█" * length or "▏")
        at, took = (now_ns - first_ns) / 1e6, (now_ns - before_ns) / 1e6
        name = NAMES.get(identifier, "?") + ", by the door" * stamp.by_door
        lines.append(f"TS{identifier:02} {name:32}{at:8.2f}{took:8.2f}  {bar}".rstrip())
        before_ns = now_ns
    return "\n".join(lines) + "\n"
