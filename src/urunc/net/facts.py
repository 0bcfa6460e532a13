# SPDX-License-Identifier: Apache-2.0
"""What was found out about a container's network, as plain records: known only once hooks have
run."""

from __future__ import annotations

from urunc.record import record, replace


@record
class Interface:
    """An Ethernet device of the namespace, and the TAP device that stands for it in the guest.

    Addresses are `ADDRESS/PREFIX`, gateways are of the best default route through this device;
    empty where there are none.
    """

    name: str
    index: int
    mac: str
    mtu: int
    ipv4: tuple[str, ...]
    ipv6: tuple[str, ...]
    ipv4_gateway: str
    ipv6_gateway: str
    tap: str


@record
class NetFacts:
    """The whole network of a container. `spare_taps` are connected to nothing: devices that a
    guest's file declares beyond the interfaces there are."""

    interfaces: tuple[Interface, ...]
    spare_taps: tuple[str, ...]
    dns: tuple[str, ...]
    search: tuple[str, ...]


NO_NETWORK = NetFacts(interfaces=(), spare_taps=(), dns=(), search=())


def without_taps(net: NetFacts) -> NetFacts:
    """The facts as they were before any TAP device was made."""
    bare = tuple(replace(interface, tap="") for interface in net.interfaces)
    return replace(net, interfaces=bare, spare_taps=())
