# SPDX-License-Identifier: Apache-2.0
"""`urunc events`: prints a container's events as JSON lines, those of runc and urunc's own."""

from __future__ import annotations

import sys

from urunc.cli.options import FLAG, VALUE, Arguments
from urunc.cli.verb import ours
from urunc.errors import UsageError, WrongStatusError
from urunc.jsontext import dumps
from urunc.lifecycle import events
from urunc.state import STOPPED, load

OPTIONS = {
    "--stats": (FLAG, "print the statistics once"),
    "--interval": (VALUE, "time between statistics: 500ms, 5s, 1m (default: 5s)"),
}
USAGE = "[--stats] [--interval TIME] ID"
SUMMARY = "Print a container's events as JSON: stats, oom, monitor, exit."
UNITS_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def main(arguments: Arguments) -> int:
    identifier = ours(arguments)
    interval_s = seconds(arguments.get("--interval", "5s"))
    state = load(arguments.root, identifier)
    if state.status() == STOPPED:
        raise WrongStatusError(f"events '{identifier}': container not running")
    if arguments.has("--stats"):
        _print(events.statistics(state))
        return 0
    for event in events.follow(state, interval_s, arguments.config()):
        _print(event)
    return 0


def _print(event: object) -> None:
    sys.stdout.write(dumps(event) + "\n")
    sys.stdout.flush()


def seconds(text: str) -> float:
    """The seconds of a duration as Go writes it (`1.5s`, `1m30s`); raises UsageError."""
    total, rest = 0.0, text
    while rest:
        number = ""
        while rest and (rest[0].isdecimal() or rest[0] == "."):
            number, rest = number + rest[0], rest[1:]
        unit = next((unit for unit in UNITS_S if rest.startswith(unit)), "")
        if number.count(".") > 1 or not number.strip(".") or not unit:
            raise UsageError(
                f"option '--interval': '{text}' is not a time", "a number with ms, s, m or h"
            )
        total += float(number) * UNITS_S[unit]
        rest = rest[len(unit) :]
    if total <= 0:
        raise UsageError(f"option '--interval': '{text}' is not above zero")
    return total
