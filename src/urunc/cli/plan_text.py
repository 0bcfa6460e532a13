# SPDX-License-Identifier: Apache-2.0
"""What `urunc plan` prints for people, at 80 columns."""

from __future__ import annotations

from urunc import logs
from urunc.cli import by_door
from urunc.init.root_steps import Bind, Step
from urunc.record import record
from urunc.state import CHANNEL
from urunc.storage.disks import in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from urunc.bundle.spec import Spec
    from urunc.monitors import Launch, Program
    from urunc.net.facts import NetFacts, Route
    from urunc.plan.model import NetworkPlan, Plan

WIDTH, MARGIN = 80, 13
"""Columns of the summary, and those of its rows' names."""


@record
class Ordinary:
    """A container that is no unikernel."""

    runtime: str
    """The program that it is handed to."""
    warnings: list[str]


@record
class Shown:
    """A container as it would be."""

    spec: Spec
    plan: Plan
    net: NetFacts
    known: bool
    """Whether the network's facts are a container's, or stand for them."""
    launch: Launch
    steps: list[Step]
    attributes: list[str]
    limits: list[str]
    door: dict[str, str]
    """Verb → why it takes Python, "" for the door (by_door.py)."""
    start: str
    """Whether it is from a snapshot, "" where nobody has asked for that."""
    warnings: list[str]


def ordinary(found: Ordinary) -> str:
    """An ordinary container, for people."""
    return _section("an ordinary container:", [f"handed to {found.runtime}"]) + _section(
        "warnings:", found.warnings
    )


def text(shown: Shown) -> str:
    """The whole of a unikernel's container, for people."""
    rows = _summary(shown.plan, shown.launch, shown.net, known=shown.known)
    rows.append(("door", by_door.in_words(shown.door)))
    rows += [("start", shown.start)] if shown.start else []
    rows += [("warning", text) for text in shown.warnings]
    hooks = [
        f"{kind} {' '.join(map(_shell, (hook.path, *hook.args[1:])))}"
        for kind, hooks in shown.spec.hooks.items()
        for hook in hooks
    ]
    sections = [
        ("", [line for name, text in rows for line in _row(name, text)]),
        ("command line:", option_lines(shown.launch.argv, _shell)),
        ("steps:", _steps(shown.steps, shown.plan.host.program)),
        ("attributes:", shown.attributes),
        *(
            ("network device of the host's:", [f"{name}, inside {inside}"])
            for name, inside in shown.spec.net_devices.items()
        ),
        ("limits:", shown.limits),
        ("hooks:", hooks),
        *((f"file {path}:", _records(text)) for path, text in shown.launch.files.items()),
    ]
    return "".join(_section(head, lines) for head, lines in sections)


def _steps(steps: list[Step], program: Program) -> list[str]:
    """The steps in words, those for the monitor's libraries and data as one."""
    own = {*program.libraries, *program.data}
    lines = []
    count = sum(isinstance(step, Bind) and step.source in own for step in steps)
    for step in steps:
        if isinstance(step, Bind) and step.source in own:
            continue
        lines.append(step.describe())
        if count and isinstance(step, Bind) and step.source == program.path:
            lines.append(f"bind {count} of its libraries and data files read-only")
    return lines


def _section(head: str, lines: list[str]) -> str:
    """Lines below their head, none where there are none; what is in them is no order to a
    terminal."""
    if not lines:
        return ""
    indent = "  " * bool(head)
    shown = [logs.printable(head)] if head else []
    shown += [indent + logs.printable(line) for line in lines]
    return "\n".join(shown) + "\n"


def _row(name: str, text: str) -> list[str]:
    """A row of the summary, in as many lines as it takes."""
    from textwrap import wrap

    lines = wrap(
        logs.printable(text), WIDTH - MARGIN, break_long_words=False, break_on_hyphens=False
    )
    first, *rest = lines or [""]
    return [f"{name + ':':{MARGIN}}{first}", *(" " * MARGIN + line for line in rest)]


def _records(text: str) -> list[str]:
    """A file's lines; of the configuration of urunc's init, which ends in padding, its records with
    a blank between fields, and of a seccomp program the size alone."""
    if "\0" not in text:
        return text.rstrip("\n").split("\n")
    lines = []
    for line in text.rstrip("\0").split("\0"):
        *fields, last = line.split("\t")
        if line.startswith("seccomp="):
            last = f"({len(last) // 2} bytes)"
        lines.append(" ".join((*fields, last)).rstrip())
    return lines


def _summary(plan: Plan, launch: Launch, net: NetFacts, *, known: bool) -> list[tuple[str, str]]:
    """(name, text) of each row."""
    machine, storage, wanted = plan.machine, plan.storage, plan.user
    user = "one of the configured range" if wanted.uid is None else f"{wanted.uid}:{wanted.gid}"
    overhead_mib = -(-machine.overhead_bytes >> 20)
    rows = [
        ("guest", f"{plan.guest} {plan.kernel.version}".strip()),
        ("monitor", f"{plan.monitor} {plan.host.program.version} ({plan.host.program.path})"),
        ("accelerator", f"{machine.accelerator} ({machine.accelerator_reason})"),
        (
            "memory",
            f"{machine.memory_bytes >> 20} MiB, and {overhead_mib} MiB for {plan.monitor} itself",
        ),
        ("vCPUs", str(machine.vcpus)),
        ("kernel", plan.kernel.file.source.path),
    ]
    if plan.kernel.initrd:
        rows.append(("initrd", plan.kernel.initrd.source.path))
    rows += [("disk", f"{disk.source.path} as {disk.target}") for disk in storage.disks]
    rows += [("files", in_words(storage.root_way))] if storage.root_way else []
    rows += [
        ("volume", f"{item.destination} by {item.way}{' read-only' * item.read_only}")
        for item in storage.volumes
    ]
    rows += _network(plan.network, net, known=known)
    rows.append(("user", user))
    rows.append(("stop", _stop(plan)))
    rows.append(
        ("seccomp", {"own": "the monitor's own", "": "none"}.get(launch.seccomp, "urunc's list"))
    )
    return rows


MODES = {
    "dynamic": "the guest takes the namespace's interfaces over",
    "shared": "the guest is behind NAT in the namespace",
    "none": "no network",
}


def _network(plan: NetworkPlan, net: NetFacts, *, known: bool) -> list[tuple[str, str]]:
    rows = [("network", f"{plan.mode} ({plan.reason}): {MODES[plan.mode]}")]
    if plan.mode == "shared":
        ports = [item.name() for item in plan.ports] + ["all others"] * plan.other_ports
        rows.append(("ports", ", ".join(ports) or "none: nobody reaches the guest"))
    if not known:
        if plan.mode != "none":
            rows.append(("interfaces", "known after create's hooks"))
        return rows
    for item in net.interfaces:
        addresses = [f"{address.address}/{address.prefix}" for address in (*item.ipv4, *item.ipv6)]
        text = f"{item.name} {item.mac} MTU {item.mtu} {' '.join(addresses) or 'no address'}"
        rows.append(("interface", f"{text} through {item.tap}"))
        rows += [("route", f"{_route(route)} dev {item.name}") for route in item.routes]
    if net.dns:
        rows.append(("name server", " ".join(net.dns)))
    return rows


def _route(route: Route) -> str:
    via = f" via {route.gateway}" if route.gateway else ""
    return f"{route.destination}{via}" + (f" metric {route.metric}" if route.metric else "")


def _stop(plan: Plan) -> str:
    if plan.ending.stop_order == CHANNEL:
        return "tells the signal to the application, by urunc's init"
    if plan.ending.stop_order:
        return f"asks the guest by {plan.ending.stop_order}"
    return f"ends {plan.monitor} by signal {plan.ending.stop_signal}"


def option_lines(argv: tuple[str, ...], quoted: Callable[[str], str]) -> list[str]:
    """A line per option, with its value where that is a word of its own; words as `quoted` writes
    them."""
    lines: list[str] = []
    alone = False
    for word in argv:
        if alone and not word.startswith("-"):
            lines[-1] += f" {quoted(word)}"
            alone = False
        else:
            lines.append(quoted(word))
            alone = lines[-1].startswith("-") and " " not in lines[-1]
    return lines


def _shell(word: str) -> str:
    plain_word = word and all(letter.isalnum() or letter in "-_./=:,@%+" for letter in word)
    return word if plain_word else "'" + word.replace("'", "'\\''") + "'"
