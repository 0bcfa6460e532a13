# SPDX-License-Identifier: Apache-2.0
"""Network mode `dynamic`: the guest takes over every interface of the namespace. Makes TAP devices,
redirects and rules. (Mode `shared` is in share.py.)

Called by `create`, and by `start` again if something has changed; what is there already (`known`)
stays. Runs with the host's privilege in the host's namespaces.
"""

from __future__ import annotations

from errno import (
    EACCES,
    EBUSY,
    EEXIST,
    EINVAL,
    ENODEV,
    ENOENT,
    EOPNOTSUPP,
    EPERM,
    EPROTONOSUPPORT,
)

from urunc import logs
from urunc.errors import HostError, reason
from urunc.journal import Journal
from urunc.linux import rtnetlink
from urunc.linux.files import write_bytes
from urunc.linux.namespaces import change_network, identity, is_host_network
from urunc.linux.rtnetlink import TC_H_INGRESS, Rtnetlink
from urunc.net.facts import (
    SHARED_GROUP,
    Interface,
    NetFacts,
    NetworkFound,
    Route,
    default_route,
    is_loopback,
)
from urunc.net.resources import FILTER_PRIORITY, SYSCTL, Redirect, Rules, Tap
from urunc.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from urunc.linux.nftables import Chain
    from urunc.net.rules import ResolverRelay
    from urunc.plan.model import MonitorUser, Plan

    T = TypeVar("T")

TAP_NAME = "tap{}_urunc"
TAP_LIMIT = 100
LEFT_PRIORITIES = RESOLVER_ARP, RESOLVER_IPV4, GATEWAY_ARP = (48000, 48001, 48002)
"""The priorities of the filters on a TAP device for frames that are not redirected."""
SYSCTL_HINT = (
    "/proc/sys must be writable where urunc runs: in a container, `mount -o remount,rw,bind "
    "/proc/sys`, or an engine's option that leaves it so"
)
RULES_HINT = (
    "the kernel needs nf_tables with nat (nf_tables, nft_chain_nat, nft_fib_inet, nft_socket, "
    "nft_ct, nft_masq modules)"
)
LACKING = (EINVAL, ENOENT, EOPNOTSUPP, EPROTONOSUPPORT)
"""How nf_tables says that it, or an expression or its attribute, is not there."""
ANOTHER_GUEST = (
    "one guest at a time can take an interface over: give this one a namespace of its own, or all "
    "guests of this one the annotation 'network' with 'shared'"
)


class MissingError(HostError):
    """The kernel, or the place where urunc runs, lacks what another network mode does without."""


class Place:
    """A container's network namespace, its plan and its journal. Raises HostError for the host's
    namespace."""

    def __init__(self, namespace: str, plan: Plan, user: MonitorUser, journal: Journal) -> None:
        self.namespace = namespace
        self.plan = plan
        self.user = user
        self.journal = journal
        self.device, self.inode = identity(namespace)
        if is_host_network((self.device, self.inode)):
            raise HostError(
                f"network namespace '{namespace}': it is the host's, which no guest can take over",
                "give the container a network namespace of its own",
            )

    @property
    def identity(self) -> dict[str, Any]:
        """The namespace's parameters of every NetworkResource."""
        return {"namespace": self.namespace, "device": self.device, "inode": self.inode}

    def make_tap(self, mtu: int, *, group: int = 0, number: int = -1,
                 addresses: tuple[str, ...] = ()) -> str:  # fmt: skip
        """Make a TAP device with the first free name, or with this number; its name, "" if the
        number is taken. `addresses` are the host side's (ADDRESS/PREFIX). Raises HostError."""
        taken = {link.name for link in rtnetlink.ask(self.namespace, Rtnetlink.links)}
        for candidate in range(TAP_LIMIT) if number < 0 else (number,):
            name = TAP_NAME.format(candidate)
            if name in taken:
                continue
            tap = Tap(
                **self.identity, name=name, uid=self.user.uid, gid=self.user.gid, mtu=mtu,
                multiqueue=self.plan.network.queues > 1, group=group, addresses=addresses,
            )  # fmt: skip
            try:
                self.journal.make(tap)
            except OSError as error:
                if error.errno == EBUSY:
                    continue  # another container's, made since we looked
                raise HostError(
                    f"make TAP device '{name}': {reason(error)}", _tun_hint(error)
                ) from None
            return name
        if number >= 0:
            return ""
        last = TAP_NAME.format(TAP_LIMIT - 1)
        raise HostError(
            f"make TAP device: all of the names {TAP_NAME.format(0)} to {last} are taken",
            f"`ip link delete {TAP_NAME.format(0)}` in the namespace deletes one",
        )

    def make_rules(self, family: int, table: str, chains: tuple[Chain, ...]) -> None:
        """Make a table of rules, in place of the one that `create` made; raises HostError."""
        rules = Rules(**self.identity, family=family, table=table, chains=chains)
        known = rules.parameters()
        before = [item for item in self.journal.resources() if item.parameters() == known]
        try:
            # a deletion in vain would wait for a grace period of RCU
            if any(isinstance(item, Rules) for item in before):
                rules.remove()
            try:
                self.journal.make(rules)
            except FileExistsError:  # a table without a device: nobody's
                rules.remove()
                self.journal.make(rules)
        except OSError as error:
            lacking = error.errno in LACKING
            raise (MissingError if lacking else HostError)(
                f"make rules of nftables '{table}': {reason(error)}", RULES_HINT
            ) from None

    def set_up(self, tap: str, work: Callable[[], T]) -> T:
        """Call `work`, which changes an existing TAP device; its OSError becomes a HostError."""
        try:
            return work()
        except OSError as error:
            raise HostError(
                f"set up TAP device '{tap}': {reason(error)}", _net_admin(error)
            ) from None

    def set_on_tap(self, tap: str, **sysctls: int) -> None:
        """Set sysctls (net.ipv4.conf.TAP) of a TAP device; raises HostError."""

        def write() -> None:
            for name, value in sysctls.items():
                write_bytes(f"{SYSCTL}/ipv4/conf/{tap}/{name}", str(value).encode())

        try:
            change_network(self.namespace, write)
        except OSError as error:
            raise HostError(
                f"set sysctl '{error.filename or tap}': {reason(error)}", SYSCTL_HINT
            ) from None


def number_of(tap: str) -> int:
    """The number in the name of a TAP device of ours (TAP_NAME)."""
    return int(tap.removeprefix("tap").removesuffix("_urunc"))


def table_of(tap: str) -> str:
    """The name of a TAP device's tables of rules."""
    return f"urunc_tap{number_of(tap)}"


def connect(found: NetworkFound, place: Place, known: NetFacts | None = None) -> NetFacts:
    """Give every interface a TAP device and redirects, unless it has them from before (`known`);
    the guest's network. Raises HostError."""
    sharing = [
        link.name
        for link in rtnetlink.ask(place.namespace, Rtnetlink.links)
        if link.group == SHARED_GROUP
    ]
    if found.interfaces and sharing:
        raise HostError(
            f"redirect interface '{found.interfaces[0].name}': a guest behind '{sharing[0]}' "
            "shares the namespace",
            ANOTHER_GUEST,
        )
    old = {item.index: item for item in known.interfaces} if known else {}
    spare = list(known.spare_taps) if known else []
    connected: list[Interface] = []
    for interface in found.interfaces:
        before = old.get(interface.index)
        if before:
            tap = before.tap
        else:
            tap = _open_up(place, spare.pop(0)) if spare else place.make_tap(interface.mtu)
            if not _redirect(place, interface, tap):
                spare.append(tap)
                continue
        connected.append(replace(interface, tap=tap))
    if known:
        _follow_mtu(place, connected)
    wanted = len(place.plan.network.net_names or ()) - len(connected)
    while len(spare) < wanted:
        spare.append(spare_tap(place))
    dns = _reachable(found, place, connected, known)
    return NetFacts(
        interfaces=tuple(connected),
        spare_taps=tuple(spare[: max(wanted, 0)]),
        dns=dns,
        search=found.search,
        options=found.options,
        hosts=found.hosts,
        resolver_file=found.resolver_file,
        hosts_file=found.hosts_file,
    )


def _open_up(place: Place, tap: str) -> str:
    """Make a spare TAP device usable for an interface that has appeared; its name."""
    from urunc.linux.nftables import NETDEV
    from urunc.net.resources import remove_table

    remove_table(place.namespace, NETDEV, table_of(tap))
    return tap


def _redirect(place: Place, interface: Interface, tap: str) -> bool:
    """Redirect between an interface and a TAP device; False if the interface has vanished."""

    def look(netlink: Rtnetlink) -> tuple[bool, bool, int]:
        there = netlink.has_qdisc(interface.index, TC_H_INGRESS)
        taken = there and FILTER_PRIORITY in netlink.filters(interface.index)
        lengths = {link.index: link.queue_length for link in netlink.links()}
        return there, taken, lengths.get(interface.index, -1)

    try:
        there, taken, queue_length = rtnetlink.ask(place.namespace, look)
        if taken:
            raise HostError(
                f"redirect interface '{interface.name}': another guest has taken it over",
                ANOTHER_GUEST,
            )
        redirect = Redirect(
            **place.identity, interface=interface.name, index=interface.index, tap=tap,
            own=not there, queue_length=queue_length,
        )  # fmt: skip
        place.journal.make(redirect)
    except OSError as error:
        if error.errno == ENODEV:
            logs.warn(f"interface '{interface.name}' vanished before it was connected")
            return False
        hint = ""
        if error.errno == EEXIST:
            hint = ANOTHER_GUEST
        elif error.errno in (ENOENT, EINVAL):
            # EINVAL can also mean that the device has gone
            links = rtnetlink.ask(place.namespace, Rtnetlink.links)
            if all(link.index != interface.index for link in links):
                logs.warn(f"interface '{interface.name}' vanished before it was connected")
                return False
            hint = "the kernel needs sch_ingress, act_mirred and cls_u32 or cls_matchall"
        raise HostError(f"redirect interface '{interface.name}': {reason(error)}", hint) from None
    return True


def _follow_mtu(place: Place, interfaces: list[Interface]) -> None:
    def follow(netlink: Rtnetlink) -> None:
        links = {link.name: link for link in netlink.links()}
        for interface in interfaces:
            link = links.get(interface.tap)
            if link and link.mtu != interface.mtu:
                netlink.set_link(link.index, up=True, mtu=interface.mtu)

    rtnetlink.ask(place.namespace, follow)


def _reachable(
    found: NetworkFound, place: Place, interfaces: list[Interface], known: NetFacts | None
) -> tuple[str, ...]:
    """Name servers as the guest can reach them; sets up what is not redirected (`_leave`). Replaces
    an item of `interfaces` if the guest needs a route to its resolver."""
    addressed = next((interface for interface in interfaces if interface.ipv4), None)
    relay, stand_in = None, ""
    inward = bool(addressed and addressed.name in found.user_mode)
    if addressed and (found.resolver or inward):
        from urunc.net.rules import ResolverRelay

        # two link-local addresses: the resolver's, and the one that stands for the guest in the
        # namespace, which has the guest's own address, too
        first = 2 * number_of(addressed.tap) + 1
        stand_in = f"169.254.53.{first + 1}"
        relay = ResolverRelay(address=f"169.254.53.{first}", resolver=found.resolver)
    for number, interface in enumerate(interfaces):
        if relay and interface is addressed and not default_route(interface, ipv6=False):
            route = Route(destination=f"{relay.address}/32", gateway="", metric=0)
            interfaces[number] = replace(interface, routes=(route, *interface.routes))
        if interface.gateway_mac or interface is addressed:
            its_relay = relay if interface is addressed else None
            if its_relay or interface.gateway_mac or known:
                _leave(place, interface, its_relay, stand_in, inward=inward)
    return name_servers(found, relay.address if relay and relay.resolver else "")


def spare_tap(place: Place) -> str:
    """Make a TAP device for a guest's device that is to be connected to nothing; its name. It is
    up, as Solo5's tenders require, and its frames are dropped."""
    from urunc.linux.nftables import NETDEV
    from urunc.net.rules import cut_off_chains

    tap = place.make_tap(1500)
    place.make_rules(NETDEV, table_of(tap), cut_off_chains(tap))
    return tap


def name_servers(found: NetworkFound, relay: str) -> tuple[str, ...]:
    """The guest's name servers: `relay` stands for those on IPv4 loopback, if it is not ""; others
    on loopback are left out, with a warning."""
    servers = []
    for server in found.dns:
        if not is_loopback(server):
            servers.append(server)
        elif relay and "." in server:
            servers.append(relay)
        else:
            logs.warn(f"name server '{server}': on loopback, so the guest cannot reach it")
    return tuple(dict.fromkeys(servers))


def _leave(
    place: Place, interface: Interface, relay: ResolverRelay | None, stand_in: str, *, inward: bool
) -> None:
    """Set up what a redirected TAP device leaves to the namespace: the resolver, connections from
    inside the namespace (`inward`), and ARP for a gateway with a permanent neighbour entry."""
    from urunc.linux.nftables import INET, NETDEV
    from urunc.net.rules import netdev_chains, relay_chains

    tap, guest = interface.tap, interface.ipv4[0] if interface.ipv4 else None
    answered = guest if interface.gateway_mac else None
    route = default_route(interface, ipv6=False)
    gateway = route.gateway if route and answered else ""
    # without other hosts on the link, ARP for any address gets the gateway's answer
    everybody = bool(answered and not answered.on_link)

    def set_up(netlink: Rtnetlink) -> int:
        index = netlink.index(tap)
        for priority in netlink.filters(index) & set(LEFT_PRIORITIES):
            netlink.delete_filters(index, priority)
        if relay and guest:
            try:
                netlink.add_address(index, relay.address, 32, stand_in)
            except FileExistsError:
                pass  # made by `create`
            # answers go to the guest's own address in the end
            netlink.add_neighbour(index, guest.address, interface.mac)
            netlink.leave_arp(index, RESOLVER_ARP, relay.address)
            netlink.leave_ipv4(index, RESOLVER_IPV4, relay.address)
        if gateway:
            netlink.leave_arp(index, GATEWAY_ARP, "" if everybody else gateway)
        return index

    index = place.set_up(tap, lambda: rtnetlink.ask(place.namespace, set_up))
    table = table_of(tap)
    if relay and guest:
        if relay.resolver:
            # to answer the guest's ARP, though the namespace has the same address and routes to it
            # elsewhere (rp_filter 2 is loose, whatever `all` has); to route to loopback
            place.set_on_tap(tap, accept_local=1, rp_filter=2, route_localnet=1)
        chains = relay_chains(tap, relay, guest.address, stand_in, inward=inward)
        place.make_rules(INET, table, chains)
    if relay or gateway:
        asked = None
        if guest and gateway:
            address = "" if everybody else gateway
            asked = (address, interface.gateway_mac, guest.address, interface.mac)
        place.make_rules(NETDEV, table, netdev_chains(tap, index, relay, stand_in, asked))


def _tun_hint(error: OSError) -> str:
    if error.errno in (ENOENT, ENODEV):
        return "load the tun module"
    if error.errno == EACCES:
        return "let this user open /dev/net/tun: most distributions have it with mode 0666"
    return _net_admin(error)


def _net_admin(error: OSError) -> str:
    return "it takes CAP_NET_ADMIN over the network namespace" if error.errno == EPERM else ""
