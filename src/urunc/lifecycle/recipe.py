# SPDX-License-Identifier: Apache-2.0
"""What `start`, `state`, `kill` and `delete` have to do for one container, left by `create` for the
door (door/), which does it without Python.

A file of fields that end with a NUL, in the order in which door/recipe.c reads them, then a dump of
the network (netlink messages). It holds as long as the files that it was made of are unchanged, so
whoever changes one of them has nothing to do; without it, or where it does not hold, the verbs do
as ever. Only what is the same every time is in it: with hooks, a unit of systemd's or a network
that guests share, Python is asked.
"""

from __future__ import annotations

from urunc.init.letters import Start, whole
from urunc.jsontext import dumps
from urunc.linux.cgroups import freezer, oom_file
from urunc.linux.files import stamp, write_whole
from urunc.record import record
from urunc.state import CREATED, FILE, JOURNAL, RUNNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from urunc.config import Config
    from urunc.journal import Journal
    from urunc.lifecycle.guest_network import GuestNetwork
    from urunc.plan.model import Plan
    from urunc.state import State

NAME = "recipe"
FIRST = "urunc recipe 1"
WISH = "com.urunc.unikernel.start"


@record
class Draft:
    """What of a recipe is known before container.json is written."""

    head: tuple[str, ...]
    """The facts before the stamps."""
    rest: tuple[str, ...]
    """What is behind them, up to the network's dump."""


def draft(
    state: State, plan: Plan, network: GuestNetwork, journal: Journal, snapshots: str
) -> Draft:
    """The recipe of a container whose journal and state are complete; `snapshots` is the
    configuration's start.snapshots."""
    document = state.document
    pid, start_time = document["initProcess"]
    groups = state.group_paths
    freezes, thawed = freezer(groups)
    actions = _removal(state, journal)
    return Draft(
        head=(document["bootId"], str(pid), str(start_time), freezes, thawed),
        rest=(
            *_state_text(state),
            state.timestamps,
            *_start(state, plan, network, snapshots),
            *("" if actions is None else "yes", oom_file(groups) if groups else ""),
            *(text for action in actions or () for text in action),
            "",
        ),
    )


def write(draft: Draft, state: State, network: GuestNetwork, config: Config) -> None:
    """Leave the recipe in the container's directory, where container.json is by now. A text that
    does not fit into a field means that there is none."""
    if state.returned or (config.path and not config.path.startswith("/")):
        return
    stamps = [(name, stamp(f"{state.directory}/{name}")) for name in (FILE, JOURNAL)]
    stamps += [*network.stamps, *((path, stamp(path)) for path in config.files())]
    fields = [FIRST, config.path, *draft.head, str(len(stamps))]
    fields += (text for pair in stamps for text in pair)
    fields += draft.rest
    content = "".join(f"{field}\0" for field in fields).encode("utf-8", "surrogateescape")
    if content.count(b"\0") != len(fields):
        return
    content += bytes(-len(content) % 4)
    if network.messages:
        from urunc.linux.netlink import message

        content += b"".join(message(kind, 0, 0, body) for kind, body in network.messages)
    try:
        write_whole(f"{state.directory}/{NAME}", content)
    except OSError:
        pass  # the verbs do without


def may_be_warm(snapshots: str, annotations: Iterable[str]) -> bool:
    """Whether the configuration (start.snapshots) or an annotation may want a start from a
    snapshot."""
    return snapshots == "always" or (
        snapshots != "never" and any(key.startswith(WISH) for key in annotations)
    )


def _state_text(state: State) -> list[str]:
    """The state object: up to its status, on to its pid, the rest."""
    text = dumps(state.oci(RUNNING), indent=2)
    # with its key: a container may be called "running"
    before, key, rest = text.partition('"status": "')
    middle, _, after = rest.removeprefix(RUNNING).partition(str(state.pid))
    return [before + key, middle, after]


def _start(state: State, plan: Plan, network: GuestNetwork, snapshots: str) -> list[str]:
    """start's letter, what it looks at first, and where."""
    how = ""
    if plan.network.nic_count:
        how = "same" if network.identity else "empty"
        files = network.found.resolver_file or network.found.hosts_file
        shared = plan.network.mode == "shared"
        if shared or network.found.resolver or (files and how == "empty"):
            return ["", "", ""]
    if state.has_hooks("poststart") or may_be_warm(snapshots, state.document["annotations"]):
        return ["", "", ""]
    letter = whole(Start(launch=None, state=dumps(state.oci(CREATED)))).decode()
    return [letter, how, " ".join(map(str, network.identity))]


def _removal(state: State, journal: Journal) -> list[tuple[str, ...]] | None:
    """What delete does but for the container's directory; None where that takes Python."""
    if state.has_hooks("poststop") or state.unit:
        return None
    actions: list[tuple[str, ...]] = []
    for resource in reversed(journal.resources()):
        removal = resource.removal()
        if removal is None:
            return None
        actions += removal
    return actions if all(map(all, actions)) else None  # an empty field is their end
