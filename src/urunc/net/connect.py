# SPDX-License-Identifier: Apache-2.0
"""From what a namespace holds to what the guest has: makes TAP devices, redirects and rules.

`dynamic`: the guest takes every interface over. `shared` is in share.py. Both are called by
`create`, and by `start` again where something has changed: what is there already (`known`) stays.
Runs with the host's privilege in the host's namespaces.
"""

from __future__ import annotations

from errno import EACCES, EBUSY, EEXIST, EINVAL, ENODEV, ENOENT, EPERM

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
"""Of the filters on a TAP device for what is not redirected."""
SYSCTL_HINT = (
    "/proc/sys must be writable where urunc runs: in a container, `mount -o remount,rw,bind "
    "/proc/sys`, or an engine's option that leaves it so"
)
ANOTHER_GUEST = (
    "one guest at a time can take an interface over: give this one a namespace of its own, or all "
    "guests of this one the annotation 'network' with 'shared'"
)


class Place:
    """A container's network namespace, with what is recorded for it. Raises HostError where it is
    the host's."""

    def __init__(self, namespace: str, plan: Plan, user: MonitorUser, journal: Journal) -> None:
        self.namespace = namespace
        self.plan = plan
        self.user = user
        self.journal = journal
        self.device, self.inode = identity(namespace)
        if is_host_network((self.device, self.inode)):
            raise HostError(
                f"network namespace '{namespace}': it is the host's, and no guest takes that over",
                "give the container a network namespace of its own",
            )

    @property
    def identity(self) -> dict[str, Any]:
        """What every resource of this namespace is made with."""
        return {"namespace": self.namespace, "device": self.device, "inode": self.inode}

    def make_tap(self, mtu: int, *, group: int = 0, number: int = -1,
                 addresses: tuple[str, ...] = ()) -> str:  # fmt: skip
        """A TAP device of the first free name, or of this number; "" where that is taken."""
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
            f"`ip link delete {TAP_NAME.format(0)}` in the namespace removes one that nobody uses",
        )

    def make_rules(self, family: int, table: str, chains: tuple[Chain, ...]) -> None:
        """A table of rules, in place of the one that `create` made."""
        rules = Rules(**self.identity, family=family, table=table, chains=chains)
        try:
            rules.remove()
            self.journal.make(rules)
        except OSError as error:
            raise HostError(
                f"make rules of nftables '{table}': {reason(error)}",
                "the kernel needs nf_tables with nat (nf_tables, nft_chain_nat, nft_fib_inet, "
                "nft_socket, nft_ct, nft_masq modules)",
            ) from None

    def set_up(self, tap: str, work: Callable[[], T]) -> T:
        """Change a TAP device that is there; an OSError of `work` is a HostError."""
        try:
            return work()
        except OSError as error:
            raise HostError(
                f"set up TAP device '{tap}': {reason(error)}", _net_admin(error)
            ) from None

    def set_on_tap(self, tap: str, **sysctls: int) -> None:
        """Set sysctls (net.ipv4.conf) of a TAP device."""

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
    """Which of the TAP devices of our names this is."""
    return int(tap.removeprefix("tap").removesuffix("_urunc"))


def table_of(tap: str) -> str:
    """The name of the tables of rules of a TAP device."""
    return f"urunc_tap{number_of(tap)}"


def connect(found: NetworkFound, place: Place, known: NetFacts | None = None) -> NetFacts:
    """Give every interface a TAP device and the redirects; `known` ones have theirs from before.

    Returns the guest's network. Raises HostError.
    """
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
    """A TAP device that was connected to nothing, for an interface that has come."""
    from urunc.linux.nftables import NETDEV
    from urunc.net.resources import remove_table

    remove_table(place.namespace, NETDEV, table_of(tap))
    return tap


def _redirect(place: Place, interface: Interface, tap: str) -> bool:
    """Connect an interface; False where it has vanished since it was looked at."""

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
            logs.warn(f"interface '{interface.name}' vanished while it was connected")
            return False
        hint = ""
        if error.errno == EEXIST:
            hint = ANOTHER_GUEST
        elif error.errno in (ENOENT, EINVAL):
            # the kernel says EINVAL, too, of a device that is no more
            links = rtnetlink.ask(place.namespace, Rtnetlink.links)
            if all(link.index != interface.index for link in links):
                logs.warn(f"interface '{interface.name}' vanished while it was connected")
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
    """Name servers as the guest can reach them, once the ways to what is not redirected are
    made; `interfaces` are changed where the guest has to know of one."""
    addressed = next((interface for interface in interfaces if interface.ipv4), None)
    relay, stand_in = None, ""
    inward = bool(addressed and addressed.name in found.user_mode)
    if addressed and (found.resolver or inward):
        from urunc.net.rules import ResolverRelay

        # two addresses of no network: the resolver's, and the one that the guest has in the
        # namespace, where the guest's own is the namespace's too
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
    return told(found, relay.address if relay and relay.resolver else "")


def spare_tap(place: Place) -> str:
    """A TAP device for a guest's device that is connected to nothing: up, since a tender wants it
    so, and the namespace hears nothing of what the guest says there."""
    from urunc.linux.nftables import NETDEV
    from urunc.net.rules import cut_off_chains

    tap = place.make_tap(1500)
    place.make_rules(NETDEV, table_of(tap), cut_off_chains(tap))
    return tap


def told(found: NetworkFound, relay: str) -> tuple[str, ...]:
    """Name servers with `relay` in place of those on loopback that somebody listens at; others on
    loopback are left out."""
    servers = []
    for server in found.dns:
        if not is_loopback(server):
            servers.append(server)
        elif relay and "." in server:
            servers.append(relay)
        else:
            logs.warn(f"name server '{server}': on loopback, out of this guest's reach")
    return tuple(dict.fromkeys(servers))


def _leave(
    place: Place, interface: Interface, relay: ResolverRelay | None, stand_in: str, *, inward: bool
) -> None:
    """Set up what a redirected TAP device leaves to the namespace: its resolver, connections from
    within (`inward`), and ARP for a gateway that has its hardware address by decree."""
    from urunc.linux.nftables import INET, NETDEV
    from urunc.net.rules import netdev_chains, relay_chains

    tap, guest = interface.tap, interface.ipv4[0] if interface.ipv4 else None
    answered = guest if interface.gateway_mac else None
    route = default_route(interface, ipv6=False)
    gateway = route.gateway if route and answered else ""
    # where nobody else is on the link, the gateway stands for everybody
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
            # by the address that an answer has in the end
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
            # an answer to the guest's ARP, though its address is the namespace's own and has its
            # way elsewhere (2 is loose, whatever all devices have); a way to loopback
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
