# SPDX-License-Identifier: Apache-2.0
"""`urunc plan`: what a bundle would become, without root and without changing anything.

Prints what is decided, and the monitor's command line and steps as far as they are known: the
network's facts come from `--facts FILE` or from a container that exists (`--id`); without them they
are marked.
"""

from __future__ import annotations

import posix
import sys

from urunc import logs
from urunc.bundle import image, spec
from urunc.bundle.document import read_document
from urunc.cli import by_door, plan_text
from urunc.cli.create import bundle_directory
from urunc.cli.options import BUNDLE, DIRECTORY, FILE, FLAG, VALUE, Arguments
from urunc.cli.plan_text import Ordinary, Shown
from urunc.errors import ImageError, SpecError, UsageError, reason
from urunc.ids import ids_of
from urunc.init import attributes
from urunc.init.setup import ATTACH, Ready, build
from urunc.jsontext import dumps, loads
from urunc.lifecycle.recipe import may_be_warm
from urunc.lifecycle.warm import foreseen
from urunc.linux.files import read_text
from urunc.net.facts import Interface, NetFacts
from urunc.plan import prepare
from urunc.plan.model import MonitorUser, flatten
from urunc.record import plain, rebuild, replace
from urunc.state import load
from urunc.storage.disks import expected
from urunc.users import candidates, mapped_groups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urunc.bundle.spec import Spec
    from urunc.config import Config
    from urunc.plan.model import Plan
    from urunc.plan.prepare import Prepared

OPTIONS = BUNDLE | {
    "--id": (VALUE, "use the network's facts of this container"),
    "--facts": (FILE, "file with the network's facts, as `plan --format json` prints them"),
    "--format": ("text|json", "form of the output (default: text)"),
    "--diff": (DIRECTORY, "show what is different for this other bundle"),
    "--shell": (FLAG, "print a script that runs the monitor by hand"),
}
USAGE = "[OPTION...]"
SUMMARY = "Show what a bundle would become; changes nothing."

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
    other = arguments.get("--diff")
    if arguments.has("--shell") and (other or arguments.get("--format", "text") != "text"):
        raise UsageError("option '--shell': neither with --diff nor with --format json")
    config = arguments.config(log=False)  # nothing is changed
    found = _look(arguments.get("--bundle"), arguments, config)
    if not sys.stdout.isatty():
        # as create would, where the plan itself is not for the eye: on a terminal it says them
        for text in found.warnings:
            logs.warn(text)
    if arguments.has("--shell"):
        text = _script(found, arguments)
    elif other:
        text = _difference(found, _look(other, arguments, config), arguments)
    else:
        text = _rendered(found, arguments)
    sys.stdout.write(text)
    return 0


def _look(path: str, arguments: Arguments, config: Config) -> Shown | Ordinary:
    bundle = bundle_directory(path)
    document = read_document(bundle)
    if not image.claims(document, bundle, config):
        from urunc.ordinary import find

        return Ordinary(runtime=find(config), warnings=image.strangers_of(document, config))
    parsed = prepare.settled(spec.parse(document, bundle))
    unikernel = image.read(parsed, config)
    identifier = arguments.get("--id", "ID")
    prepared = prepare.prepare(identifier, parsed, unikernel, config)
    directory = f"{arguments.root}/{identifier}"
    door = by_door.expected(
        prepared.plan,
        parsed.hooks,
        systemd=arguments.has("--systemd-cgroup"),
        configuration=arguments.get("--config"),
        warm=may_be_warm(config.get("start.snapshots"), parsed.annotations),
        switch=posix.environ.get(b"URUNC_DOOR", b"").decode(errors="replace"),
    )
    if arguments.get("--id") and "URUNC_DOOR=off" not in door.values():
        door = by_door.left(directory, door)
    return _shown(prepared, parsed, _facts(arguments), directory, door, config)


def _rendered(found: Shown | Ordinary, arguments: Arguments) -> str:
    if arguments.get("--format", "text") == "json":
        return dumps(_document(found), indent=2) + "\n"
    return plan_text.ordinary(found) if isinstance(found, Ordinary) else plan_text.text(found)


def _difference(old: Shown | Ordinary, new: Shown | Ordinary, arguments: Arguments) -> str:
    """A unified diff; as JSON an object of the keys that differ: [the old value, the new one]."""
    if arguments.get("--format", "text") == "json":
        first, second = _flat(_document(old)), _flat(_document(new))
        changed = {
            key: [first.get(key), second.get(key)]
            for key in {**first, **second}
            if first.get(key) != second.get(key)
        }
        return dumps(changed, indent=2) + "\n"
    from difflib import unified_diff

    old_name, new_name = (
        logs.printable(bundle_directory(arguments.get(option))) for option in ("--bundle", "--diff")
    )
    before, after = (_rendered(found, arguments).splitlines(keepends=True) for found in (old, new))
    return "".join(unified_diff(before, after, old_name, new_name))


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """A JSON value's leaves by their path, `plan.memory_bytes` and `launch.argv.3`."""
    if isinstance(value, (list, tuple)) and value:
        value = {str(index): item for index, item in enumerate(value)}
    if not isinstance(value, dict) or not value:
        return {path: value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{path}.{key}" if path else key)
    return found


def _script(found: Shown | Ordinary, arguments: Arguments) -> str:
    from urunc.cli.by_hand import script

    if isinstance(found, Ordinary):
        raise ImageError(
            f"plan: an ordinary container, handed to {found.runtime}: there is no monitor to run"
        )
    root = f"{arguments.root}/{arguments.get('--id', 'ID')}/root"
    return script(found.plan, found.launch, found.steps, root)


def _shown(
    prepared: Prepared,
    parsed: Spec,
    facts: NetFacts | None,
    directory: str,
    door: dict[str, str],
    config: Config,
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
        start=foreseen(plan, net, storage, parsed.annotations, config),
        door=door,
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


def _document(shown: Shown | Ordinary) -> dict[str, Any]:
    """`--format json`; "net" is what `--facts` takes."""
    if isinstance(shown, Ordinary):
        return {"ordinary": shown.runtime, "warnings": shown.warnings}
    return {
        "plan": flatten(shown.plan),
        "net": plain(shown.net) if shown.known else None,
        "launch": plain(shown.launch),
        "steps": [step.describe() for step in shown.steps],
        "attributes": shown.attributes,
        "limits": shown.limits,
        "door": shown.door,
        "start": shown.start,
        "netDevices": dict(shown.spec.net_devices),
        "hooks": {kind: plain(hooks) for kind, hooks in shown.spec.hooks.items()},
        "warnings": shown.warnings,
    }


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
