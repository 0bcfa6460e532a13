# SPDX-License-Identifier: Apache-2.0
"""NetFacts in the words of the guests' and the monitors' contracts, and what no words are there
for. Pure."""

from __future__ import annotations

from urunc.guests import Guest, Nic
from urunc.monitors import MachineNic
from urunc.net.facts import Interface, NetFacts, default_route, local_mac

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.plan.model import NetworkPlan

IPV6_MTU = 1280
"""RFC 8200, section 5."""


def nics(
    identifier: str, plan: NetworkPlan, net: NetFacts
) -> tuple[tuple[Nic, ...], tuple[MachineNic, ...]]:
    """(what the guest is told, what its monitor is), the devices that the guest's file declares in
    its order."""
    net_names, queues = plan.net_names, plan.queues
    found, machine = [], []
    for index, interface in enumerate(net.interfaces):
        name = net_names[index] if net_names is not None else ""
        found.append(_nic(name, interface))
        machine.append(
            MachineNic(
                name=name,
                tap=interface.tap,
                mac=interface.mac,
                mtu=interface.mtu,
                queues=queues,
            )
        )
    for index, tap in enumerate(net.spare_taps, len(net.interfaces)):
        name = net_names[index] if net_names is not None else ""
        mac = local_mac(identifier, index)
        machine.append(MachineNic(name=name, tap=tap, mac=mac, mtu=1500, queues=queues))
    return tuple(found), tuple(machine)


def other_hosts(net: NetFacts) -> tuple[str, ...]:
    """Lines of the hosts file but for the guest's own."""
    own = {
        address.address
        for interface in net.interfaces
        for address in (*interface.ipv4, *interface.ipv6)
    }
    return tuple(line for line in net.hosts if line.split(" ")[0] not in own)


def omissions_of(net: NetFacts, guest: Guest) -> list[str]:
    """What of the network this guest cannot be told, in words for its user."""
    found = []
    for index, interface in enumerate(net.interfaces):
        takes_ipv6 = interface.ipv6 and guest.takes_ipv6
        if index >= guest.max_addressed and (interface.ipv4 or interface.ipv6):
            found.append(f"interface '{interface.name}': {guest.name} is told no address of it")
        elif interface.ipv6 and not interface.ipv4 and not takes_ipv6:
            found.append(
                f"interface '{interface.name}': {guest.name} takes no IPv6 address, and there is "
                "no other: it has none"
            )
        for route in interface.routes:
            if ":" in route.gateway and ":" not in route.destination:
                found.append(
                    f"interface '{interface.name}': the route to {route.destination} by "
                    f"{route.gateway} is not told: an IPv4 route by an IPv6 gateway"
                )
        if interface.mtu < IPV6_MTU and takes_ipv6:
            found.append(
                f"interface '{interface.name}': an MTU of {interface.mtu} is too little for IPv6 "
                f"({IPV6_MTU} at least): the guest may go without"
            )
    return found


def _nic(name: str, interface: Interface) -> Nic:
    """An interface in the words of the guests' contract."""
    first = interface.ipv4[0] if interface.ipv4 else None
    first6 = interface.ipv6[0] if interface.ipv6 else None
    route = default_route(interface, ipv6=False)
    route6 = default_route(interface, ipv6=True)
    return Nic(
        name=name,
        mac=interface.mac,
        mtu=interface.mtu,
        ipv4=first.address if first else "",
        ipv4_prefix=(first.prefix if first.on_link else 32) if first else 0,
        ipv4_subnet=first.prefix if first else 0,
        ipv4_gateway=route.gateway if first and route and ":" not in route.gateway else "",
        ipv6=first6.address if first6 else "",
        ipv6_prefix=(first6.prefix if first6.on_link else 128) if first6 else 0,
        ipv6_gateway=route6.gateway if first6 and route6 else "",
        more=tuple(
            f"{item.address}/{item.prefix if item.on_link else length}"
            for items, length in ((interface.ipv4[1:], 32), (interface.ipv6[1:], 128))
            for item in items
        ),
        routes=tuple(route for route in interface.routes if ":" not in route.gateway
                     or ":" in route.destination),
        interface=interface.name if interface.name != interface.tap else "",
    )  # fmt: skip
