# SPDX-License-Identifier: Apache-2.0
"""Network mode `pod`: a guest has its pod's address, as any container of a pod has, and so do those
beside it.

To the namespace, whose own address that is, the guest is at a stand-in's address on a TAP device.
Stateless rules give its packets that source as they come in, and the guest's own destination as
they go out; between the two it is routed and translated as in mode `shared`. So the namespace's
rules see all of it, and conntrack keeps its ports apart from those of other containers. Called by
`create`, and by `start` again if something has changed.
"""

from __future__ import annotations

from urunc import logs
from urunc.errors import reason
from urunc.linux import rtnetlink
from urunc.linux.files import read_text
from urunc.linux.namespaces import call_in_network, change_network
from urunc.linux.nftables import INET, NETDEV
from urunc.linux.rtnetlink import TC_H_INGRESS, Rtnetlink
from urunc.net.connect import (
    TAP_LIMIT,
    MissingError,
    Place,
    connect,
    name_servers,
    number_of,
    table_of,
)
from urunc.net.facts import (
    SHARED_GROUP,
    Interface,
    NetFacts,
    NetworkFound,
    Route,
    default_route,
)
from urunc.net.interception import MARK, outbound_port
from urunc.net.resources import (
    LOOPBACK_SYSCTLS,
    SYSCTL,
    Localhost,
    Redirect,
    allow_ipv6,
    loopback_of,
)
from urunc.net.rules import ResolverRelay, outbound_chains, pod_chains, pod_frames, shared_chains
from urunc.net.share import IPV6_NETWORK, make_forwarding, refuse_taken, spare
from urunc.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.linux.rtnetlink import Link


@record
class Twin:
    """An address that the guest has of its pod (`guest`), what stands for it in the namespace
    (`stand_in`), and the namespace's own address on the guest's device (`gateway`)."""

    guest: str
    stand_in: str
    gateway: str

    @property
    def ipv6(self) -> bool:
        """Of which family."""
        return ":" in self.guest


def join(found: NetworkFound, place: Place, known: NetFacts | None = None) -> NetFacts:
    """Make the guest's device and the namespace's rules; the guest's network. Raises HostError."""
    interface = next((item for item in found.interfaces if item.ipv4 or item.ipv6), None)
    taken = any(isinstance(item, Redirect) for item in place.journal.resources())
    # nothing to share so far; `create` could not; or a program has the other end, whose published
    # ports are the namespace's own connections
    if not interface or taken or interface.name in found.user_mode:
        return _take_over(found, place, known)
    kept = len(place.journal)
    try:
        return _share(found, interface, place, known)
    except MissingError as error:
        if known and known.interfaces:  # `create` could
            raise
        place.journal.take_back(kept)
        logs.warn(
            f"{error.message}: so the guest takes the network over, and others in the pod have none"
            f" ({error.hint})"
        )
    return _take_over(found, place, known)


def _take_over(found: NetworkFound, place: Place, known: NetFacts | None) -> NetFacts:
    names, count = place.plan.network.net_names, place.plan.network.max_nics
    count = count if names is None else min(len(names), count)
    return connect(replace(found, interfaces=found.interfaces[:count]), place, known)


def _share(
    found: NetworkFound, interface: Interface, place: Place, known: NetFacts | None
) -> NetFacts:
    refuse_taken(found, place)
    make_forwarding(place, ipv6=bool(interface.ipv6))
    mtu = min(item.mtu for item in found.interfaces)
    before = known.interfaces[0].tap if known and known.interfaces else ""
    tap = before or _make_tap(place, mtu)
    twins = _twins(interface, number_of(tap))
    link = _set_up(place, tap, interface, twins, mtu)
    _make_rules(place, found, link, interface, twins)
    if place.plan.network.other_ports:
        _join_localhost(place, link, interface, twins, mtu)
    relayed = next((twin.gateway for twin in twins if not twin.ipv6 and found.resolver), "")
    return NetFacts(
        interfaces=(_interface(interface, link, twins, mtu),),
        spare_taps=_spare(place, known),
        dns=name_servers(found, relayed),
        search=found.search,
        options=found.options,
        hosts=found.hosts,
        resolver_file=found.resolver_file,
        hosts_file=found.hosts_file,
    )


def _spare(place: Place, known: NetFacts | None) -> tuple[str, ...]:
    """TAP devices for the devices that the guest's file declares beyond the first."""
    declared = place.plan.network.net_names or ()
    return known.spare_taps[: max(len(declared) - 1, 0)] if known else spare(place)


def _twins(interface: Interface, number: int) -> tuple[Twin, ...]:
    """The first address of each family; `number` is the TAP device's. The IPv4 stand-ins are
    link-local addresses, as those of a resolver's relay in mode `dynamic`."""
    twins = []
    if interface.ipv4:
        first = "169.254.53.{}".format
        twins.append(
            Twin(
                guest=interface.ipv4[0].address,
                stand_in=first(2 * number + 2),
                gateway=first(2 * number + 1),
            )
        )
    if interface.ipv6:
        network = IPV6_NETWORK.format(number + 1)
        guest = interface.ipv6[0].address
        twins.append(Twin(guest=guest, stand_in=f"{network}2", gateway=f"{network}1"))
    return tuple(twins)


def _make_tap(place: Place, mtu: int) -> str:
    for number in range(TAP_LIMIT):
        tap = place.make_tap(mtu, group=SHARED_GROUP, number=number)
        if tap:
            return tap
    return place.make_tap(mtu, group=SHARED_GROUP)  # says that all are taken


def _set_up(
    place: Place, tap: str, interface: Interface, twins: tuple[Twin, ...], mtu: int
) -> Link:
    """The device's addresses and neighbours, also those that changed since `create`."""

    def set_up(netlink: Rtnetlink) -> Link:
        index = netlink.index(tap)
        netlink.set_link(index, up=True, mtu=mtu, group=SHARED_GROUP)
        for twin in twins:
            peer, prefix = ("", 64) if twin.ipv6 else (twin.stand_in, 32)
            try:
                netlink.add_address(index, twin.gateway, prefix, peer)
            except FileExistsError:
                pass  # made by `create`
            # the guest's own, too: packets have it as their destination when the kernel looks for
            # the neighbour, and it asks for none by IPv6 where a device has no link-local address
            for address in (twin.stand_in, twin.guest):
                netlink.add_neighbour(index, address, interface.mac)
        return next(link for link in netlink.links() if link.index == index)

    def work() -> Link:
        if any(twin.ipv6 for twin in twins):
            change_network(place.namespace, lambda: allow_ipv6(tap))
        return rtnetlink.ask(place.namespace, set_up)

    link = place.set_up(tap, work)
    place.set_on_tap(tap, route_localnet=1)
    return link


def _make_rules(
    place: Place, found: NetworkFound, link: Link, interface: Interface, twins: tuple[Twin, ...]
) -> None:
    network, table = place.plan.network, table_of(link.name)
    relay = None
    if found.resolver:
        relay = next(
            (ResolverRelay(address=twin.gateway, resolver=found.resolver)
             for twin in twins if not twin.ipv6), None,
        )  # fmt: skip
    chains = shared_chains(
        link.name, tuple(twin.stand_in for twin in twins), network.ports, relay,
        others=network.other_ports, own=tuple(twin.guest for twin in twins),
    )  # fmt: skip
    pairs = tuple((twin.stand_in, twin.guest) for twin in twins)
    frames = pod_frames(link.name, link.index, link.mac, interface.mac, pairs)
    place.make_rules(NETDEV, table, frames)
    chains += pod_chains(link.name, pairs, MARK)
    outbound = outbound_chains(link.name, _outbound(twins, {}))
    place.make_rules(INET, table, (*chains, *outbound))
    ports = {twin.ipv6: outbound_port(place.namespace, ipv6=twin.ipv6) for twin in twins}
    if any(ports.values()):
        logs.detail(f"a sidecar takes outbound connections at port {max(ports.values())}")
        outbound = outbound_chains(link.name, _outbound(twins, ports))
        place.make_rules(INET, table, (*chains, *outbound))


def _outbound(twins: tuple[Twin, ...], ports: dict[bool, int]) -> tuple[tuple[str, int], ...]:
    """Sidecars listen on localhost or everywhere; nothing from a device can be led to ::1."""
    return tuple(
        (twin.gateway if twin.ipv6 else "127.0.0.1", ports.get(twin.ipv6, 0)) for twin in twins
    )


def _join_localhost(
    place: Place, link: Link, interface: Interface, twins: tuple[Twin, ...], mtu: int
) -> None:
    """The programs on the loopback device. Without BPF the guest has no part of localhost."""

    def is_new(netlink: Rtnetlink) -> bool:
        return not netlink.has_qdisc(loopback_of(netlink), TC_H_INGRESS)

    def off() -> tuple[str, ...]:
        return tuple(
            name
            for name in LOOPBACK_SYSCTLS
            if read_text(f"{SYSCTL}/ipv4/conf/lo/{name}").strip() == "0"
        )

    before = [item for item in place.journal.resources() if isinstance(item, Localhost)]
    for item in before:
        item.remove()
    made = Localhost(
        **place.identity, name=link.name, own=tuple(twin.guest for twin in twins), mtu=mtu,
        macs=(interface.mac, link.mac), discipline=rtnetlink.ask(place.namespace, is_new),
        sysctls=call_in_network(place.namespace, off),
    )  # fmt: skip
    try:
        place.journal.make(made)
    except OSError as error:
        logs.warn(
            f"localhost does not lead to the guest: {reason(error)}: it takes BPF (cls_bpf, Linux "
            "5.7) and CAP_BPF; the annotation 'ports' names ports that do without"
        )


def _interface(interface: Interface, link: Link, twins: tuple[Twin, ...], mtu: int) -> Interface:
    """What the guest is told: the pod's interface with its first address of each family. With
    IPv4 whatever it asks for is on its link; with IPv6 its gateway is the namespace."""
    routes = [route for route in interface.routes if ":" not in route.destination]
    for twin in twins:
        length, anywhere = (128, "::/0") if twin.ipv6 else (32, "0.0.0.0/0")
        if twin.ipv6 or not default_route(interface, ipv6=False):
            routes.insert(0, Route(destination=f"{twin.gateway}/{length}", gateway="", metric=0))
            routes.append(Route(destination=anywhere, gateway=twin.gateway, metric=0))
    return replace(
        interface,
        mtu=mtu,
        ipv4=interface.ipv4[:1],
        ipv6=tuple(replace(item, prefix=128, on_link=False) for item in interface.ipv6[:1]),
        routes=tuple(routes),
        gateway_mac="",
        tap=link.name,
    )
