# SPDX-License-Identifier: Apache-2.0
"""What `make bench` measured and `make bench-docs` put into docs/measured/results.json, as tables
of docs/performance.md and README: the numbers there are those of one run on one machine."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

RESULTS = pathlib.Path(__file__).resolve().parent.parent.parent / "docs/measured/results.json"
NOT_MEASURED = "not measured"
MEDIAN = 1
"""Of [lower quartile, median, upper quartile]."""


@functools.cache
def results() -> dict[str, Any]:
    """All that was measured; {} before the first run."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


class Goal(NamedTuple):
    """A number to reach, as a ratio unless it says otherwise."""

    what: str
    peer: str
    limit: str
    measured: Callable[[dict[str, Any]], str]


def ratio(ours: list[float], theirs: list[float]) -> str:
    return f"{ours[MEDIAN] / theirs[MEDIAN]:.2f}"


def verb(peer: str, name: str) -> Callable[[dict[str, Any]], str]:
    """create, start, delete or total, to a peer's."""

    def measured(found: dict[str, Any]) -> str:
        runtimes = found["lifecycle"]["runtimes"]
        return ratio(runtimes["urunc"][name], runtimes[peer][name])

    return measured


def run(engine: str, network: str) -> Callable[[dict[str, Any]], str]:
    """An engine's `run --rm`."""

    def measured(found: dict[str, Any]) -> str:
        sides = found["run"]["engines"][engine][network]
        return ratio(sides["urunc"], sides["runc"])

    return measured


def shim(row: str) -> Callable[[dict[str, Any]], str]:
    """A row of the shims' table."""
    return lambda found: ratio(*(found["engine"]["rows"][row][side] for side in ("urunc", "runc")))


def calls(found: dict[str, Any]) -> str:
    rows = found["engine"]["rows"]
    ours, theirs = (
        sum(rows[name][side][MEDIAN] for name in ("Create", "Start", "Delete"))
        for side in ("urunc", "runc")
    )
    return f"{ours / theirs:.2f}"


def pss(found: dict[str, Any]) -> str:
    sides = found["engine"]["rows"]["shim's memory"]
    return f"{sides['urunc'][MEDIAN]:.1f} MiB (runc's {sides['runc'][MEDIAN]:.1f})"


def hand_ratio(monitor: str) -> Callable[[dict[str, Any]], str]:
    def measured(found: dict[str, Any]) -> str:
        row = found["answer"]["monitors"][monitor]
        return ratio(row["urunc"], row["by hand"])

    return measured


def more_by_hand(guest: str) -> Callable[[dict[str, Any]], str]:
    def measured(found: dict[str, Any]) -> str:
        row = found["answer"]["monitors"][guest]
        return f"+{row['urunc'][MEDIAN] - row['by hand'][MEDIAN]:.1f} ms"

    return measured


def last_to_first(found: dict[str, Any]) -> str:
    points = found["scale"]["points"]
    return ratio(points[-1]["create + delete"], points[0]["create + delete"])


def restart(found: dict[str, Any]) -> str:
    return ratio(found["restart"]["urunc"], found["restart"]["runc"])


def last_to_first_work(found: dict[str, Any]) -> str:
    points = found["scale"]["points"]
    return ratio(points[-1]["processor"], points[0]["processor"])


def together(found: dict[str, Any]) -> str:
    return ratio(found["scale"]["together_ms"], found["scale"]["alone_ms"])


PROBE = "create + start + delete, the probe on spt"
GOALS = (
    Goal(PROBE, "runc, `/bin/true`", "0.65", verb("runc", "total")),
    Goal("create alone", "runc", "0.8", verb("runc", "create")),
    Goal("start alone", "runc", "0.5", verb("runc", "start")),
    Goal("delete alone", "runc", "0.5", verb("runc", "delete")),
    Goal(PROBE, "crun, `/bin/true`", "1.2", verb("crun", "total")),
    Goal(PROBE, "upstream's urunc, the same", "0.9", verb("urunc-go", "total")),
    Goal("`podman run --rm`", "runc, `/bin/true`", "0.9", run("podman", "bridge")),
    Goal("the same, `--network none`", "runc", "0.9", run("podman", "none")),
    Goal("`docker run --rm`", "runc, `/bin/true`", "0.9", run("docker", "bridge")),
    Goal("the same, `--network none`", "runc", "0.9", run("docker", "none")),
    Goal("`ctr run --rm`", "runc's shim", "0.65", shim("ctr run --rm")),
    Goal("task API: Create + Start + Delete", "runc's shim", "0.45", calls),
    Goal("the shim's `start`", "runc's shim", "1.2", shim("shim start")),
    Goal("{count} containers at once, time", "runc's shim", "0.9", shim("seconds")),
    Goal("the same, memory of shims and containers", "runc's shim", "1.0", shim("memory")),
    Goal("memory of a shim with one container", "", "5 MiB", pss),
    Goal("containerd's restart beside many tasks", "runc's shim", "", restart),
    Goal(
        "create to first word, Unikraft on Firecracker",
        "by hand",
        "1.03",
        hand_ratio("unikraft on firecracker"),
    ),
    Goal("the same, the probe on Firecracker", "by hand", "", hand_ratio("firecracker")),
    Goal(
        "create to first word, a Solo5 guest on spt",
        "by hand",
        "+20 ms",
        more_by_hand("solo5 on spt"),
    ),
    Goal("the same, the probe on spt", "by hand", "+20 ms", more_by_hand("spt")),
    Goal("the 1,000th container's create + delete", "the first's", "1.1", last_to_first),
    Goal("the same with start, processor's time", "the first's", "1.1", last_to_first_work),
    Goal("16 starts at once beside 1,000 guests", "beside none", "1.1", together),
)


def cell(measured: Callable[[dict[str, Any]], str]) -> str:
    """What was measured; a peer may not have been installed."""
    try:
        return measured(results())
    except KeyError:
        return NOT_MEASURED


def goals() -> list[tuple[str, ...]]:
    """The rows of the table of goals, with its head."""
    head = ("what", "peer", "to reach", "measured")
    count = results().get("engine", {}).get("count", 100)
    rows = [
        (goal.what.format(count=count), goal.peer, goal.limit, cell(goal.measured))
        for goal in GOALS
    ]
    return [head, *rows]


def machine() -> list[str]:
    """A sentence about the machine."""
    found = results().get("machine")
    if not found:
        return ["No run of `make bench` is kept yet."]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    kind = "a virtual machine" if found["virtual"] else "a machine"
    model = f" ({found['model']})" if found["model"] else ""
    return [
        f"Measured on {found['date']} on {kind} with {found['cpus']} CPUs{model} and "
        f"{found['memory_gib']} GiB, Linux {found['kernel']}, Python {found['python']}, "
        f"{versions}; its load was {found['load']}."
    ]


def runtimes() -> list[tuple[str, ...]]:
    """Each runtime's verbs in milliseconds, with their quartiles."""
    head = ("runtime", "create", "start", "delete", "total")
    rows = results().get("lifecycle", {"runtimes": {}})["runtimes"]
    return [
        head,
        *(
            (name, *(f"{low:.1f} **{middle:.1f}** {high:.1f}" for low, middle, high in q.values()))
            for name, q in rows.items()
        ),
    ]


def shims() -> list[tuple[str, ...]]:
    """urunc's shim and runc's."""
    count = results().get("engine", {}).get("count", 100)
    labels = {
        "ctr run --rm": "`ctr run --rm`, ms",
        "processor": "processor's time of all, ms",
        **{
            name: f"{name}, ms"
            for name in ("shim start", "Create", "Start", "Kill", "Delete", "shim delete")
        },
        "shim's memory": "a shim with one container, MiB",
        "seconds": f"{count} at once: none lost, s",
        "memory": "their shims and containers, MiB",
    }
    rows = results().get("engine", {"rows": {}})["rows"]
    cells = [
        (label, f"{ours[MEDIAN]:.1f}", f"{theirs[MEDIAN]:.1f}", ratio(ours, theirs))
        for key, label in labels.items()
        if key in rows
        for ours, theirs in [(rows[key]["urunc"], rows[key]["runc"])]
    ]
    return [("", "urunc", "runc", "ratio"), *cells]


CROWDS = {"scale": "spt", "scale, firecracker": "Firecracker"}


def crowds() -> list[tuple[str, ...]]:
    """Verbs and memory by the number of containers."""
    names = ("list", "state", "create", "start", "delete")
    head = ("monitor", "guests", *(f"{name}, ms" for name in names), "processor, ms",
            "KiB for each guest", "starts in a second")  # fmt: skip
    cells = [
        (
            monitor,
            f"{point['number']:,}",
            *(f"{point[name][MEDIAN]:.2f}" for name in names),
            f"{point['processor'][MEDIAN]:.1f}" if "processor" in point else "",
            f"{point['pss_kib']:.0f}",
            str(point.get("starts_per_s", "")),
        )
        for key, monitor in CROWDS.items()
        for point in results().get(key, {"points": []})["points"]
    ]
    return [head, *cells]


def engines() -> list[tuple[str, ...]]:
    """`run --rm` of each engine, and what of it is in the runtime's verbs."""
    head = (
        "",
        "urunc, ms",
        "runc, ms",
        "ratio",
        "urunc's verbs, ms",
        "runc's verbs, ms",
        "at least",
    )
    cells = []
    for engine, networks in results().get("run", {"engines": {}})["engines"].items():
        for network, sides in networks.items():
            shown = ("urunc", "runc", "urunc's verbs", "runc's verbs")
            ours, theirs, *verbs = (sides.get(key, [0.0] * 3)[MEDIAN] for key in shown)
            cells.append((
                f"`{engine} run --rm --network {network}`", f"{ours:.0f}", f"{theirs:.0f}",
                f"{ours / theirs:.2f}", *(f"{took_ms:.0f}" for took_ms in verbs),
                f"{1 - verbs[1] / theirs:.2f}",
            ))  # fmt: skip
    return [head, *cells]
