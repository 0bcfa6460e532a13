# SPDX-License-Identifier: Apache-2.0
"""Network mode `shared`: a guest gets a private address on a TAP device of its own, behind NAT, and
shares the network namespace with others.

The namespace keeps its interfaces, so that its sidecars and other guests go on undisturbed. Called
by `create`, and by `start` again if something has changed.
"""

from __future__ import annotations

from urunc import logs
from urunc.errors import HostError, reason
from urunc.linux import nftables, rtnetlink
from urunc.linux.namespaces import change_network
from urunc.linux.nftables import INET, Nftables
from urunc.linux.rtnetlink import Rtnetlink
from urunc.net import ipv4
from urunc.net.connect import (
    RULES_HINT,
    SYSCTL_HINT,
    TAP_LIMIT,
    TAP_NAME,
    MissingError,
    Place,
    name_servers,
    number_of,
    spare_tap,
    table_of,
)
from urunc.net.facts import (
    SHARED_GROUP,
    Address,
    Interface,
    NetFacts,
    NetworkFound,
    Route,
    local_mac,
)
from urunc.net.resources import FILTER_PRIORITY, Forwarding, Tap, allow_ipv6
from urunc.net.rules import ResolverRelay, claimed, shared_chains

IPV6_NETWORK = "fd75:7275:6e63:{:x}::"
"""A /64 for each TAP device: RFC 4193, with a fixed global id, as it never leaves its namespace."""


def share(found: NetworkFound, place: Place, known: NetFacts | None = None) -> NetFacts:
    """Make the guest's device and the namespace's rules; the guest's network. Raises HostError."""
    refuse_taken(found, place)
    ipv6 = any(interface.ipv6 for interface in found.interfaces)
    make_forwarding(place, ipv6=ipv6)
    mtu = min((interface.mtu for interface in found.interfaces), default=1500)
    before = known.interfaces[0] if known and known.interfaces else None
    used = _used(place, found, before.tap if before else "")
    if before and _is_taken(before, used):  # what came since `create` has the same subnet
        _remove_tap(place, before.tap)
        before = None
    if before:
        tap, subnet = before.tap, _subnet_of(before)
        _follow(place, tap, mtu, ipv6=ipv6)
    else:
        tap, subnet = _make_tap(place, used, mtu, ipv6=ipv6)
    place.set_on_tap(tap, route_localnet=1)
    interface = _interface(place, tap, subnet, mtu, ipv6=ipv6)
    gateway = interface.routes[0].gateway
    relay = ResolverRelay(address=gateway, resolver=found.resolver) if found.resolver else None
    guests = tuple(address.address for address in (*interface.ipv4, *interface.ipv6))
    plan = place.plan
    chains = shared_chains(tap, guests, plan.network.ports, relay, others=plan.network.other_ports)
    place.make_rules(INET, table_of(tap), chains)
    return NetFacts(
        interfaces=(interface,),
        spare_taps=known.spare_taps if known else spare(place),
        dns=name_servers(found, gateway if relay else ""),
        search=found.search,
        options=found.options,
        hosts=found.hosts,
        resolver_file=found.resolver_file,
        hosts_file=own_lines(found, guests),
    )


def make_forwarding(place: Place, *, ipv6: bool) -> None:
    """Turn forwarding on in the namespace; raises HostError."""
    try:
        place.journal.make(Forwarding(**place.identity, ipv6=ipv6))
    except OSError as error:
        if error.filename:
            raise MissingError(
                f"forward packets: set sysctl '{error.filename}': {reason(error)}", SYSCTL_HINT
            ) from None
        raise MissingError(
            f"forward packets of the namespace: {reason(error)}",
            "it takes CAP_NET_ADMIN over the network namespace, and nf_tables in the kernel",
        ) from None


def own_lines(found: NetworkFound, guests: tuple[str, ...]) -> str | None:
    """The hosts file with the guest's addresses (`guests`) in place of the namespace's, so that the
    container's own names lead to the guest."""
    if found.hosts_file is None:
        return None
    own = {
        address.address
        for interface in found.interfaces
        for address in (*interface.ipv4, *interface.ipv6)
    }
    lines = []
    for line in found.hosts_file.splitlines(keepends=True):
        address = (line.split() or [""])[0]
        mine = [guest for guest in guests if (":" in guest) == (":" in address)]
        if address in own and mine:
            line = line.replace(address, mine[0], 1)
        lines.append(line)
    return "".join(lines)


def refuse_taken(found: NetworkFound, place: Place) -> None:
    """Raise HostError for interfaces that a guest has taken over, and ports that another guest
    has."""

    def redirected(netlink: Rtnetlink) -> str:
        for interface in found.interfaces:
            if FILTER_PRIORITY in netlink.filters(interface.index):
                return interface.name
        return ""

    taken = rtnetlink.ask(place.namespace, redirected)
    if taken:
        raise HostError(
            f"share the network namespace: a guest has taken interface '{taken}' over",
            "give that guest the annotation 'network' with 'shared', too",
        )
    own = {table_of(tap.name) for tap in _taps(place)}
    try:
        chains = nftables.ask(place.namespace, lambda tables: Nftables.chains(tables, INET))
    except OSError as error:
        raise MissingError(f"list tables of nftables: {reason(error)}", RULES_HINT) from None
    for table, ports, protocol in claimed(chains):
        if table in own:
            continue
        if ports is None and place.plan.network.other_ports:
            raise HostError(
                f"annotation 'ports': '*': another guest of the namespace ({table}) has all other "
                f"{protocol} ports",
                "one guest can have them (in a pod, one without 'ports'): name those of the rest",
            )
        for mine in place.plan.network.ports:
            if ports and ports.meets(mine):
                raise HostError(
                    f"annotation 'ports': '{mine.name()}': another guest of the namespace "
                    f"({table}) has it",
                    "a port leads to one guest",
                )


def _taps(place: Place) -> list[Tap]:
    return [item for item in place.journal.resources() if isinstance(item, Tap)]


def _remove_tap(place: Place, name: str) -> None:
    for tap in _taps(place):
        if tap.name == name:
            tap.remove()


def _make_tap(
    place: Place, used: list[tuple[int, int]], mtu: int, *, ipv6: bool
) -> tuple[str, str]:
    """Make a TAP device with a free subnet: (its name, the subnet's first three bytes, dotted). The
    device's number is the subnet's, too, so that two guests never have the same."""
    for number in range(TAP_LIMIT):
        subnet = _free_subnet(place.plan.network.shared_subnets, number, used)
        if not subnet:
            continue
        addresses = [f"{subnet}.1/24"]
        if ipv6:
            addresses.append(f"{_ipv6(number)}1/64")
        tap = place.make_tap(mtu, group=SHARED_GROUP, number=number, addresses=tuple(addresses))
        if tap:
            return tap, subnet
    raise HostError(
        f"share the network namespace: no free subnet, or no name {TAP_NAME.format('N')}, is left",
        "`network.shared_subnets` in the configuration names subnets to choose from",
    )


def _used(place: Place, found: NetworkFound, own_tap: str) -> list[tuple[int, int]]:
    """(network, prefix) of all IPv4 networks in use: those of the namespace's addresses and routes,
    without the guest's own device, and the addresses that the guest shall reach."""

    def look(netlink: Rtnetlink) -> list[str]:
        own = netlink.index(own_tap) if own_tap else 0
        networks = [
            f"{item.address}/{item.prefix}"
            for item in netlink.addresses()
            if not item.ipv6 and item.index != own
        ]
        networks += [
            item.destination for item in netlink.routes() if not item.ipv6 and item.index != own
        ]
        return [network for network in networks if network]

    wanted = [server for server in found.dns if ":" not in server]
    wanted += [line.split(" ")[0] for line in found.hosts]
    networks = rtnetlink.ask(place.namespace, look)
    networks += [f"{address}/32" for address in wanted if ":" not in address]
    used = []
    for network in networks:
        address, _, prefix = network.partition("/")
        used.append((ipv4.number(address), int(prefix)))
    return used


def _is_taken(interface: Interface, used: list[tuple[int, int]]) -> bool:
    """Whether the subnet of the guest's device is in use elsewhere by now."""
    return _meets(ipv4.number(interface.ipv4[0].address), used)


def _meets(network: int, used: list[tuple[int, int]]) -> bool:
    """Whether a /24 overlaps with one of the other networks."""
    return any(
        (network ^ other) & ipv4.mask(min(24, prefix)) == 0 for other, prefix in used if prefix
    )


def _free_subnet(pools: tuple[str, ...], number: int, used: list[tuple[int, int]]) -> str:
    """The `number`th /24 of the first pool in which it is free, as its first three bytes, dotted;
    "" for none."""
    for pool in pools:
        address, _, prefix = pool.partition("/")
        # the first of 172.16.0.0/16 is 172.16.1.0, as is usual
        place = number + 1 if int(prefix) < 24 else number
        if place >= 1 << (24 - int(prefix)):
            continue
        network = (ipv4.number(address) & ipv4.mask(int(prefix))) + (place << 8)
        if not _meets(network, used):
            return ipv4.dotted(network).rpartition(".")[0]
    return ""


def _subnet_of(interface: Interface) -> str:
    return interface.ipv4[0].address.rpartition(".")[0]


def _ipv6(number: int) -> str:
    return IPV6_NETWORK.format(number + 1)


def _follow(place: Place, tap: str, mtu: int, *, ipv6: bool) -> None:
    """Adapt the existing device to what has changed between `create` and `start`."""

    def follow(netlink: Rtnetlink) -> None:
        index = netlink.index(tap)
        netlink.set_link(index, up=True, mtu=mtu, group=SHARED_GROUP)
        if ipv6:
            try:
                netlink.add_address(index, f"{_ipv6(number_of(tap))}1", 64)
            except FileExistsError:
                pass

    def set_up() -> None:
        if ipv6:
            change_network(place.namespace, lambda: allow_ipv6(tap))
        rtnetlink.ask(place.namespace, follow)

    place.set_up(tap, set_up)


def _interface(place: Place, tap: str, subnet: str, mtu: int, *, ipv6: bool) -> Interface:
    index = rtnetlink.ask(place.namespace, lambda netlink: netlink.index(tap))
    routes = [Route(destination="0.0.0.0/0", gateway=f"{subnet}.1", metric=0)]
    private: tuple[Address, ...] = ()
    if ipv6:
        network = _ipv6(number_of(tap))
        private = (Address(address=f"{network}2", prefix=64, on_link=True),)
        routes.append(Route(destination="::/0", gateway=f"{network}1", metric=0))
    return Interface(
        name=tap,
        index=index,
        mac=local_mac(place.plan.id, 0),
        mtu=mtu,
        ipv4=(Address(address=f"{subnet}.2", prefix=24, on_link=True),),
        ipv6=private,
        routes=tuple(routes),
        gateway_mac="",
        tap=tap,
    )


def spare(place: Place) -> tuple[str, ...]:
    """TAP devices, connected to nothing, for the devices that the guest's file declares beyond the
    first."""
    declared = place.plan.network.net_names or ()
    if len(declared) > 1:
        logs.detail("shared network: the guest's other network devices are connected to nothing")
    return tuple(spare_tap(place) for _ in declared[1:])
