# SPDX-License-Identifier: Apache-2.0
"""`urunc plan`: what a bundle would become, without root and without changing anything.

Prints what is decided, and the monitor's command line and steps as far as they are known: the
network's facts come from `--facts FILE` or from a container that exists (`--id`); without them they
are marked.
"""

from __future__ import annotations

import sys

from urunc import logs
from urunc.bundle import image, spec
from urunc.cli.create import bundle_directory
from urunc.cli.options import BUNDLE, VALUE, Arguments
from urunc.errors import SpecError, UsageError, reason
from urunc.ids import ids_of
from urunc.init import attributes
from urunc.init.root_steps import Bind, Step
from urunc.init.setup import ATTACH, Ready, build
from urunc.jsontext import dumps, loads
from urunc.linux.files import read_text
from urunc.net.facts import Interface, NetFacts, Route
from urunc.plan import prepare
from urunc.plan.model import MonitorUser, flatten
from urunc.record import plain, rebuild, record, replace
from urunc.state import CHANNEL, load
from urunc.storage.disks import expected, in_words
from urunc.users import candidates, mapped_groups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urunc.bundle.spec import Spec
    from urunc.config import Config
    from urunc.monitors import Launch, Program
    from urunc.plan.model import NetworkPlan, Plan
    from urunc.plan.prepare import Prepared

OPTIONS = BUNDLE | {
    "--id": (VALUE, "use the network's facts of this container"),
    "--facts": (VALUE, "file with the network's facts, as `plan --format json` prints them"),
    "--format": (VALUE, "text or json (default: text)"),
}
USAGE = "[OPTION...]"
SUMMARY = "Show what a bundle would become; changes nothing."

WIDTH, MARGIN = 80, 13
"""Columns of the summary, and those of its rows' names."""

UNKNOWN = Interface(
    name="(each interface)",
    index=0,
    mac="(its MAC)",
    mtu=1500,
    ipv4=(),
    ipv6=(),
    routes=(),
    gateway_mac="",
    tap="(its TAP device)",
)


def main(arguments: Arguments) -> int:
    """Run the verb."""
    arguments.only()
    form = arguments.get("--format", "text")
    if form not in ("text", "json"):
        raise UsageError(f"option '--format': '{form}' is neither text nor json")
    config = arguments.config(log=False)  # nothing is changed
    bundle = bundle_directory(arguments.get("--bundle"))
    document = spec.read_document(bundle)
    if not image.claims(document, bundle, config):
        _show_ordinary(image.strangers_of(document), config, form)
        return 0
    parsed = prepare.settled(spec.parse(document, bundle))
    unikernel = image.read(parsed, config)
    identifier = arguments.get("--id", "ID")
    prepared = prepare.prepare(identifier, parsed, unikernel, config)
    shown = _shown(prepared, parsed, _facts(arguments), f"{arguments.root}/{identifier}", config)
    if not sys.stdout.isatty():
        # as create would, where the plan itself is not for the eye: on a terminal it says them
        for text in shown.warnings:
            logs.warn(text)
    if form == "json":
        sys.stdout.write(dumps(_document(shown), indent=2) + "\n")
    else:
        _show(shown)
    return 0


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
    warnings: list[str]


def _shown(
    prepared: Prepared, parsed: Spec, facts: NetFacts | None, directory: str, config: Config
) -> Shown:
    plan = prepared.plan
    net = facts or NetFacts(
        interfaces=(UNKNOWN,)[: plan.network.nic_count], spare_taps=(), dns=(), search=(), hosts=()
    )
    spare = len(plan.network.net_names or ()) - len(net.interfaces)
    if spare > 0 and not net.spare_taps:
        net = replace(net, spare_taps=("(an unconnected TAP device)",) * spare)
    storage = expected(plan)
    launch = prepared.realize(net, storage)
    ready = _ready(parsed, config)
    user = _user(plan, ready, config)
    return Shown(
        spec=parsed,
        plan=plan,
        net=net,
        known=facts is not None,
        launch=launch,
        steps=build(plan, user, launch, parsed, f"{directory}/root", ready, storage),
        attributes=attributes.describe(parsed),
        limits=_limits(parsed),
        warnings=[*plan.warnings, *prepared.omissions(net, storage)],
    )


def _user(plan: Plan, ready: Ready, config: Config) -> MonitorUser:
    """The plan's; else the first of the range that `create` would try to reserve."""
    groups = mapped_groups(plan.user.groups, ready.ids)
    uid, gid = plan.user.uid, plan.user.gid or 0
    if uid is None:
        first, count = config.get("users.first"), config.get("users.count")
        uid, gid = next(candidates("", ready.ids, first, count))
    return MonitorUser(uid=uid, gid=gid, groups=groups)


def _show_ordinary(warnings: list[str], config: Config, form: str) -> None:
    from urunc.ordinary import find

    runtime = find(config)
    if not sys.stdout.isatty():
        for text in warnings:
            logs.warn(text)
    if form == "json":
        sys.stdout.write(dumps({"ordinary": runtime, "warnings": warnings}, indent=2) + "\n")
        return
    _print("an ordinary container:", [f"handed to {runtime}"])
    _print("warnings:", warnings)


def _document(shown: Shown) -> dict[str, Any]:
    """`--format json`; "net" is what `--facts` takes."""
    return {
        "plan": flatten(shown.plan),
        "net": plain(shown.net) if shown.known else None,
        "launch": plain(shown.launch),
        "steps": [step.describe() for step in shown.steps],
        "attributes": shown.attributes,
        "limits": shown.limits,
        "netDevices": dict(shown.spec.net_devices),
        "hooks": {kind: plain(hooks) for kind, hooks in shown.spec.hooks.items()},
        "warnings": shown.warnings,
    }


def _show(shown: Shown) -> None:
    rows = _summary(shown.plan, shown.launch, shown.net, known=shown.known)
    rows += [("warning", text) for text in shown.warnings]
    _print("", [line for name, text in rows for line in _row(name, text)], indent="")
    _print("command line:", _command_lines(shown.launch.argv))
    _print("steps:", _steps(shown.steps, shown.plan.host.program))
    _print("attributes:", shown.attributes)
    for name, inside in shown.spec.net_devices.items():
        _print("network device of the host's:", [f"{name}, inside {inside}"])
    _print("limits:", shown.limits)
    _print(
        "hooks:",
        [
            f"{kind} {' '.join(map(_shell, (hook.path, *hook.args[1:])))}"
            for kind, hooks in shown.spec.hooks.items()
            for hook in hooks
        ],
    )
    for path, text in shown.launch.files.items():
        _print(f"file {path}:", _records(text))


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


def _print(head: str, lines: list[str], indent: str = "  ") -> None:
    """Lines below their head, none where there are none; what is in them is no order to a
    terminal."""
    if not lines:
        return
    shown = [logs.printable(head)] if head else []
    shown += [indent + logs.printable(line) for line in lines]
    sys.stdout.write("\n".join(shown) + "\n")


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


def _limits(parsed: Spec) -> list[str]:
    """What is written into control groups, in the words of those that this machine has."""
    from urunc.cgroup import limits
    from urunc.linux import cgroups

    v1 = [name for name in cgroups.hierarchies() if name != cgroups.UNIFIED]
    found = [f"{file} {value}" for _, ((file, value), *_rest) in limits.lines(parsed.resources, v1)]
    group = [f"group {parsed.cgroups_path}"] if parsed.cgroups_path else []
    return group + found + [f"none: {text}" for text in limits.passed_over(parsed.resources, v1)]


def _ready(parsed: Spec, config: Config) -> Ready:
    """What create would have ready for init, with descriptors that stand for themselves."""
    ids = ids_of(parsed.namespaces, parsed.uid_mappings, parsed.gid_mappings)
    ready = Ready(
        ids=ids,
        console_socket=0 if parsed.terminal else -1,
        selinux_type=config.get("security.selinux_type"),
    )
    if ids.own:
        ready = replace(ready, devices=ATTACH, device_mount=0, image_mount=0)
    return ready


def _facts(arguments: Arguments) -> NetFacts | None:
    path = arguments.get("--facts")
    if path:
        try:
            document = loads(read_text(path))
            return rebuild(NetFacts, document.get("net", document))
        except OSError as error:
            raise SpecError(f"read facts '{path}': {reason(error)}") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise SpecError(f"read facts '{path}': {error}") from None
    if arguments.get("--id"):
        return load(arguments.root, arguments.get("--id")).read("net", NetFacts)
    return None


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


def _command_lines(argv: tuple[str, ...]) -> list[str]:
    """A line per option, with its value where that is a word of its own."""
    lines: list[str] = []
    for word in argv:
        if (
            lines
            and not word.startswith("-")
            and lines[-1].startswith("-")
            and " " not in lines[-1]
        ):
            lines[-1] += f" {_shell(word)}"
        else:
            lines.append(_shell(word))
    return lines


def _shell(word: str) -> str:
    plain_word = word and all(letter.isalnum() or letter in "-_./=:,@%+" for letter in word)
    return word if plain_word else "'" + word.replace("'", "'\\''") + "'"
