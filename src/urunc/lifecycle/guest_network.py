# SPDX-License-Identifier: Apache-2.0
"""The guest's network as `create` makes it: devices of the host's that are moved in, what is in the
container's network namespace, and the guest's connection to it (net/)."""

from __future__ import annotations

from urunc import logs, timing
from urunc.bundle.network_files import network_files
from urunc.linux import namespaces
from urunc.linux.files import stamp
from urunc.net.attach import connect, load, look_at_network, network_of
from urunc.net.facts import NO_NETWORK, NOTHING, NetFacts
from urunc.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.bundle.spec import Spec
    from urunc.journal import Journal
    from urunc.net.host_devices import MovedDevices
    from urunc.plan.model import MonitorUser, Plan


class GuestNetwork:
    """What was found and made."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._moved: MovedDevices | None = None
        self.found = NOTHING
        self.identity: tuple[int, int] | tuple[()] = ()
        """(device, inode) of the namespace, () where nobody looked into it."""
        self.stamps: list[tuple[str, str]] = []
        """(path, stamp) of resolv.conf and the hosts file, from before they were read."""
        self.messages: list[tuple[int, bytes]] = []
        """What netlink said of the namespace, (kind, body) of each message."""

    def load(self, plan: Plan, *, hooked: bool) -> None:
        """Have the modules ready that `connect` will need."""
        if plan.network.mode != "none" and not self._has_empty_network(plan, hooked=hooked):
            load(plan)

    def move_devices(self, pid: int, directory: str, journal: Journal) -> None:
        """The host's network devices that the container of this init shall have."""
        if self._spec.net_devices:
            from urunc.net.host_devices import move

            namespace = f"/proc/{pid}/ns/net"
            self._moved = move(self._spec.net_devices, namespace, directory, journal)

    def let_go(self, journal: Journal) -> None:
        """The devices are the business of the namespace's owner from now on."""
        if self._moved:
            self._moved.let_go()
            journal.forget(self._moved.kind)

    def connect(
        self, plan: Plan, user: MonitorUser, pid: int, journal: Journal, *, hooked: bool
    ) -> NetFacts:
        """Look, and give the guest what is there; `hooked`: hooks may have put it there."""
        if self._has_empty_network(plan, hooked=hooked) and not plan.network.net_names:
            timing.stamp(15)  # nothing to join it for
            return self._files(plan)
        namespace = network_of(pid, self._spec.namespaces.get("network", ""))
        self.identity = namespaces.identity(namespace)
        files = network_files(self._spec)
        self.stamps = [(path, stamp(path)) for path in files.values() if path]
        if plan.network.mode != "none":
            self.found = look_at_network(plan, namespace, files, self.messages)
            if not self.found.interfaces:
                logs.detail("no interface in the network namespace: no network so far")
            self._note_devices()
        else:
            self._files(plan)
        timing.stamp(15)
        return connect(self.found, namespace, plan, user, journal)

    def _has_empty_network(self, plan: Plan, *, hooked: bool) -> bool:
        """Whether the guest can have no interface, or its namespace is so new that none can be
        there; `start` looks again in any case."""
        untouched = not (hooked or self._moved)
        fresh = self._spec.namespaces.get("network") == "" and untouched
        alone = fresh and plan.network.mode not in ("pod", "shared")
        return alone or not plan.network.nic_count

    def _files(self, plan: Plan) -> NetFacts:
        """Without a network: what the container's files say to a guest that has files."""
        files = network_files(self._spec)
        if plan.application.process and any(files.values()):
            from urunc.net.look import look_at_files

            self.found = look_at_files(files["resolver"], files["hosts"])
        found = self.found
        return replace(NO_NETWORK, resolver_file=found.resolver_file, hosts_file=found.hosts_file)

    def _note_devices(self) -> None:
        """Warn of moved devices that are there, and not the guest's."""
        had = {interface.name for interface in self.found.interfaces}
        for name in self._moved.inside if self._moved else ():
            if name not in had:
                logs.warn(
                    f"linux.netDevices: '{name}' is in the network namespace, and not the guest's"
                )
