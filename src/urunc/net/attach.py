# SPDX-License-Identifier: Apache-2.0
"""A guest and its network: what there is for it now, and the way in which its plan has it."""

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


def look_at_network(plan: Plan, namespace: str, files: dict[str, str]) -> NetworkFound:
    """What there is now of network for a guest; `files` are its resolv.conf and hosts file."""
    from urunc.net.look import read_network

    # a guest that shares the namespace has to know all of it
    count = 1 << 16 if plan.network.mode == "shared" else plan.network.nic_count
    return read_network(namespace, files["resolver"], files["hosts"], count)


def connect(
    found: NetworkFound,
    namespace: str,
    plan: Plan,
    user: MonitorUser,
    journal: Journal,
    known: NetFacts | None = None,
) -> NetFacts:
    """Have the guest get what was found, in the way that its plan says.

    What a stopped container of the namespace still has is taken from it where it is in the way: it
    may be kept for its logs while its successor starts.
    """
    if found.others and plan.network.mode == "dynamic" and plan.network.max_nics:
        names = ", ".join(found.others[:8]) + (", …" if len(found.others) > 8 else "")
        logs.warn(f"interfaces beyond those that the guest can have: {names}")
    for name in found.not_ethernet:
        logs.warn(f"interface '{name}': no Ethernet device: a guest cannot have it")
    from urunc.net.connect import Place
    from urunc.net.connect import connect as take_over

    if plan.network.mode == "shared":
        from urunc.net.share import share as take_over

    place = Place(namespace, plan, user, journal)
    kept = len(journal)
    try:
        return take_over(found, place, known)
    except HostError:
        from urunc.net.reclaim import reclaim

        journal.take_back(kept)
        if not reclaim(journal.directory, place.device, place.inode):
            raise
    return take_over(found, place, known)


def network_of(pid: int, given: str, known: tuple[int, ...] = ()) -> str:
    """A path to the network namespace that init is in: the one that the engine gave where it leads
    there still, for that outlives init. `known` is the (device, inode) that it had in `create`."""
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
