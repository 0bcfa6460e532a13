# SPDX-License-Identifier: Apache-2.0
"""Which verbs of a container the door (door/) carries out, and why Python does the others: what
`create` is going to leave in the recipe, or has left (lifecycle/recipe.py)."""

from __future__ import annotations

from urunc.errors import reason
from urunc.lifecycle.recipe import FIRST, NAME
from urunc.linux.files import read_bytes, stamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

    from urunc.plan.model import Plan

LIMIT_BYTES = 1 << 20
UNLESS_GONE = "the guest shares its network, unless that has gone by then"
STATE_FIELDS = 3
"""Of the state object, before where the timestamps are, start's letter, two facts of the network,
and whether `delete` is in the recipe."""


def expected(
    plan: Plan,
    hooks: Container[str],
    *,
    systemd: bool,
    configuration: str,
    switch: str,
    warm: bool = False,
) -> dict[str, str]:
    """Verb → why it takes Python, "" where it does not, as far as the plan tells. `kill` is that
    with SIGKILL: any other signal takes Python. `switch` is the environment's URUNC_DOOR,
    `warm` whether a snapshot may be asked for."""
    verbs = dict.fromkeys(("start", "state", "kill", "delete"), "")
    if switch == "off":
        return dict.fromkeys(verbs, "URUNC_DOOR=off")
    if configuration and not configuration.startswith("/"):
        return dict.fromkeys(verbs, "--config is a relative path")
    if plan.network.mode == "shared":
        verbs["start"] = "the guest shares its network"
        verbs["delete"] = UNLESS_GONE
    if "poststart" in hooks:
        verbs["start"] = "poststart hooks"
    elif warm:
        verbs["start"] = "it may be from a snapshot"
    if "poststop" in hooks:
        verbs["delete"] = "poststop hooks"
    elif systemd:
        verbs["delete"] = "systemd makes the control groups"
    return verbs


def left(directory: str, verbs: dict[str, str]) -> dict[str, str]:
    """The same of a container that there is, by the recipe in its directory. Where that has more to
    say than `expected` did, it says it in general."""
    try:
        fields = read_bytes(f"{directory}/{NAME}", LIMIT_BYTES).decode(errors="replace").split("\0")
        if fields[0] != FIRST:
            return dict.fromkeys(verbs, "another version of urunc has left the recipe")
        stamps = fields[8 : 8 + 2 * int(fields[7])]
        rest = fields[8 + len(stamps) + STATE_FIELDS :]
        letter, removable = rest[1], rest[4]
    except OSError as error:
        return {verb: why or f"no recipe: {reason(error)}" for verb, why in verbs.items()}
    except (ValueError, IndexError):
        return dict.fromkeys(verbs, "the recipe is damaged")
    for path, known in zip(stamps[::2], stamps[1::2], strict=True):
        if stamp(path if path.startswith("/") else f"{directory}/{path}") != known:
            return dict.fromkeys(verbs, f"'{path}' is not as it was at create")
    found = dict.fromkeys(verbs, "")
    if not letter:
        found["start"] = verbs["start"] or "it looks at the network once more"
    if verbs["delete"] == UNLESS_GONE:
        found["delete"] = UNLESS_GONE
    elif not removable:
        found["delete"] = verbs["delete"] or "what there is to remove takes more"
    return found


def in_words(verbs: dict[str, str]) -> str:
    """For people: `start, state, kill KILL without Python; delete takes Python (hooks)`."""
    names = {"kill": "kill KILL"}
    own = ", ".join(names.get(verb, verb) for verb, why in verbs.items() if not why)
    others: dict[str, list[str]] = {}
    for verb, why in verbs.items():
        if why:
            others.setdefault(why, []).append(names.get(verb, verb))
    parts = [
        f"{', '.join(them)} take{'s' * (len(them) == 1)} Python ({why})"
        for why, them in others.items()
    ]
    return "; ".join([*([f"{own} without Python"] if own else []), *parts])
