# SPDX-License-Identifier: Apache-2.0
"""`urunc update`: changes the resource limits of a container that has not stopped."""

from __future__ import annotations

from urunc.bundle import resources
from urunc.bundle.document import Object
from urunc.cli.options import FILE, VALUE, Arguments
from urunc.cli.verb import ours
from urunc.errors import UsageError
from urunc.lifecycle import update

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FIELDS = {
    "--blkio-weight": ("blockIO.weight", "number", "weight of block I/O, 10 to 1000"),
    "--cpu-period": ("cpu.period", "number", "CPU period in microseconds"),
    "--cpu-quota": ("cpu.quota", "number", "CPU time per period in microseconds"),
    "--cpu-burst": ("cpu.burst", "number", "unused CPU time that may add up, in microseconds"),
    "--cpu-share": ("cpu.shares", "number", "CPU shares, relative to other containers"),
    "--cpu-rt-period": ("cpu.realtimePeriod", "number", "realtime period in microseconds"),
    "--cpu-rt-runtime": ("cpu.realtimeRuntime", "number", "realtime per period (microseconds)"),
    "--cpuset-cpus": ("cpu.cpus", "text", "CPUs to use"),
    "--cpuset-mems": ("cpu.mems", "text", "memory nodes to use"),
    "--cpu-idle": ("cpu.idle", "number", "1: run only when nothing else does (SCHED_IDLE)"),
    "--memory": ("memory.limit", "size", "memory limit in bytes (suffixes k, m, g)"),
    "--memory-reservation": ("memory.reservation", "size", "memory that is reclaimed last"),
    "--memory-swap": ("memory.swap", "size", "limit of memory plus swap; -1: unlimited"),
    "--kernel-memory": ("memory.kernel", "size", "accepted and ignored, as by runc"),
    "--kernel-memory-tcp": ("memory.kernelTCP", "size", "limit of TCP buffers"),
    "--pids-limit": ("pids.limit", "number", "limit of processes and threads"),
}
"""Option → (field of linux.resources, kind of value, help)."""
OPTIONS = {
    "--resources": (FILE, "file with a linux.resources object; -: standard input"),
    **{name: (VALUE, text) for name, (_, _, text) in FIELDS.items()},
    "--l3-cache-schema": (VALUE, "not supported"),
    "--mem-bw-schema": (VALUE, "not supported"),
}
ALIASES = {"-r": "--resources", "-m": "--memory"}
USAGE = "[OPTION...] ID"
SUMMARY = "Change the resource limits of a container."
UNITS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}


def main(arguments: Arguments) -> int:
    identifier = ours(arguments)
    for option in ("--l3-cache-schema", "--mem-bw-schema"):
        if arguments.get(option):
            raise UsageError(f"option '{option}': cache and bandwidth allocation is not supported")
    if arguments.get("--resources"):
        wanted = resources.read(arguments.get("--resources"))
    else:
        wanted = resources.parse(Object(_from_options(arguments), "", "resources"))
    update.update(arguments.root, identifier, wanted)
    return 0


def _from_options(arguments: Arguments) -> dict[str, dict[str, Any]]:
    document: dict[str, dict[str, Any]] = {}
    for option, (place, kind, _) in FIELDS.items():
        text = arguments.get(option)
        if text:
            section, _, field = place.partition(".")
            document.setdefault(section, {})[field] = _value(option, kind, text)
    return document


def _value(option: str, kind: str, text: str) -> int | str:
    if kind == "text":
        return text
    number, unit = text, ""
    if kind == "size":
        number = text.lower().removesuffix("ib").removesuffix("b").rstrip("kmgtp")
        unit = text.lower().removesuffix("ib").removesuffix("b")[len(number) :]
    digits = number.removeprefix("-")
    if not digits.isdecimal() or len(digits) > 19 or unit not in UNITS:
        raise UsageError(
            f"option '{option}': '{text}' is not a {kind}",
            "a whole number" + (" with k, m or g" if kind == "size" else ""),
        )
    return int(number) << UNITS[unit]
