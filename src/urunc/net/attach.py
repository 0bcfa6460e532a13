# SPDX-License-Identifier: Apache-2.0
"""Connects a guest to its network in the mode of its plan, and looks at what there is for it: what
`create` and `start` call of this room."""

from __future__ import annotations

from urunc import logs
from urunc.errors import (
    HostError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.journal import Journal
    from urunc.net.facts import NetFacts, NetworkFound
    from urunc.plan.model import MonitorUser, Plan


def load(plan: Plan) -> None:
    """Import what the other functions need for this plan: for a caller who waits for something
    else."""
    names = ["look", "connect"]
    if plan.network.mode in ("pod", "shared"):
        names.insert(0, plan.network.mode.replace("shared", "share"))
        if plan.network.other_ports:
            names.append("localhost")
    for name in names:
        __import__(f"urunc.net.{name}")


def look_at_network(
    plan: Plan,
    namespace: str,
    files: dict[str, str],
    messages: list[tuple[int, bytes]] | None = None,
) -> NetworkFound:
    """The network that there is for a guest now. `files` has the paths of the container's
    resolv.conf (`resolver`) and hosts file (`hosts`), "" for none; `messages` gets what netlink
    said of it. Raises HostError."""
    from urunc.net.look import read_network

    # a guest that shares the namespace has to know all of it
    sharing = plan.network.mode in ("pod", "shared")
    count = 1 << 16 if sharing else plan.network.nic_count
    return read_network(namespace, files["resolver"], files["hosts"], count, messages)


def connect(
    found: NetworkFound,
    namespace: str,
    plan: Plan,
    user: MonitorUser,
    journal: Journal,
    known: NetFacts | None = None,
) -> NetFacts:
    """Connect the guest to what was found, in its plan's mode. `known` is what `create` made, for
    `start`. Raises HostError.

    If a stopped container of the same namespace is in the way, kept by an engine for its logs while
    its successor starts, its network is removed and the guest connected again.
    """
    if found.others and plan.network.mode == "dynamic" and plan.network.max_nics:
        names = ", ".join(found.others[:8]) + (", …" if len(found.others) > 8 else "")
        logs.warn(f"interfaces beyond those that the guest can have: {names}")
    for name in found.not_ethernet:
        logs.warn(f"interface '{name}': not an Ethernet device, so the guest cannot have it")
    from urunc.net.connect import Place
    from urunc.net.connect import connect as take_over

    if plan.network.mode == "shared":
        from urunc.net.share import share as take_over
    elif plan.network.mode == "pod":
        from urunc.net.pod import join as take_over

    from urunc.linux.netlink import Kept

    place = Place(namespace, plan, user, journal)
    kept = len(journal)
    try:
        with Kept():
            return take_over(found, place, known)
    except HostError:
        from urunc.net.reclaim import reclaim

        journal.take_back(kept)
        if not reclaim(journal.directory, place.device, place.inode):
            raise
    return take_over(found, place, known)


def network_of(pid: int, given: str, known: tuple[int, ...] = ()) -> str:
    """A path to the network namespace of init (`pid`): the engine's path `given` if it still leads
    there, since that outlives init. `known` is the (device, inode) that it had in `create`."""
    own = f"/proc/{pid}/ns/net"
    if not given:
        return own
    from urunc.linux.namespaces import identity

    try:
        now = identity(given)
        try:
            return given if now == identity(own) else own
        except PermissionError:  # proc(5): another user's takes CAP_SYS_PTRACE
            return given if known in ((), now) else own
    except OSError:
        return own
