# SPDX-License-Identifier: Apache-2.0
"""What was found out about a container's network, and what its guest gets of it, as plain records:
known only once hooks have run."""

from __future__ import annotations

from urunc.record import record

SHARED_GROUP = 0x75727563
"""The group of devices (`ip link show group`) of TAP devices that share their namespace."""


@record
class Address:
    """An address of an interface. `on_link` says whether the others of its subnet are reached
    directly: not so where the prefix has no route of its own (CNI's ptp, point-to-point)."""

    address: str
    prefix: int
    on_link: bool


@record
class Route:
    """A route; gateway "" is on the link, destination 0.0.0.0/0 or ::/0 the default route."""

    destination: str
    gateway: str
    metric: int


@record
class Interface:
    """An Ethernet device as the guest gets it, and the TAP device that stands for it ("" before it
    is made).

    `routes` are those that do not follow from the addresses, on-link ones first. `gateway_mac` is
    the IPv4 gateway's hardware address where somebody wrote it down in the namespace for good:
    then nobody may be there to answer ARP for it.
    """

    name: str
    index: int
    mac: str
    mtu: int
    ipv4: tuple[Address, ...]
    ipv6: tuple[Address, ...]
    routes: tuple[Route, ...]
    gateway_mac: str
    tap: str


@record
class Resolver:
    """A name server on the namespace's loopback, and the UDP and TCP port that it listens on; ""
    is one that listens at every address of the namespace."""

    address: str
    udp_port: int
    tcp_port: int


@record
class NetworkFound:
    """What a namespace holds, and what the container's files say, before anything is made.

    `others` are interfaces beyond the number that the guest can have. `dns`, `search` and `options`
    are of resolv.conf, `hosts` are lines of the hosts file (`ADDRESS NAME...`) but for loopback's.
    `resolver` is who listens at the first name server that is a loopback address. `user_mode` are
    interfaces that a program stands behind (slirp4netns): the published ports of those are
    connections from within the namespace.
    """

    interfaces: tuple[Interface, ...]
    others: tuple[str, ...]
    dns: tuple[str, ...]
    search: tuple[str, ...]
    hosts: tuple[str, ...]
    resolver: Resolver | None
    user_mode: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    not_ethernet: tuple[str, ...] = ()
    """Devices with an address that carry no frames (WireGuard, tun): a guest cannot have them."""
    resolver_file: str | None = None
    hosts_file: str | None = None
    """The whole of both files, None where there is none: for a guest that has files."""


@record
class NetFacts:
    """The whole network of a guest. `spare_taps` are connected to nothing: devices that a guest's
    file declares beyond the interfaces there are. `dns` are addresses that the guest can reach."""

    interfaces: tuple[Interface, ...]
    spare_taps: tuple[str, ...]
    dns: tuple[str, ...]
    search: tuple[str, ...]
    hosts: tuple[str, ...]
    options: tuple[str, ...] = ()
    resolver_file: str | None = None
    hosts_file: str | None = None


@record
class Ports:
    """Ports `first` to `last` of one protocol that lead to the guest's `target` (0: the same)."""

    protocol: str
    first: int
    last: int
    target: int

    def meets(self, other: Ports) -> bool:
        """Whether a port is in both."""
        return (
            self.protocol == other.protocol
            and self.first <= other.last
            and other.first <= self.last
        )

    def name(self) -> str:
        """As the annotation would have it."""
        numbers = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return numbers + (f":{self.target}" if self.target else "") + f"/{self.protocol}"


NOTHING = NetworkFound(interfaces=(), others=(), dns=(), search=(), hosts=(), resolver=None)
NO_NETWORK = NetFacts(interfaces=(), spare_taps=(), dns=(), search=(), hosts=())


def default_route(interface: Interface, *, ipv6: bool) -> Route | None:
    """The best default route through an interface, of one family."""
    wanted = "::/0" if ipv6 else "0.0.0.0/0"
    routes = [route for route in interface.routes if route.destination == wanted]
    return min(routes, key=lambda route: route.metric) if routes else None


def local_mac(identifier: str, index: int) -> str:
    """A locally administered hardware address that follows from a container's id, for a device
    that has none to take over: without one a Solo5 tender wants /dev/urandom to make its own."""
    number = sum(ord(letter) * 31**place for place, letter in enumerate(identifier)) + index
    return f"02:{(number % (1 << 40)).to_bytes(5, 'big').hex(':')}"


def is_loopback(address: str) -> bool:
    """Whether an address is the machine's own loopback, which no other machine can reach."""
    return address.startswith("127.") or address == "::1"
