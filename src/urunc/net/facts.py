# SPDX-License-Identifier: Apache-2.0
"""Records of a container's network: NetworkFound is what there is, NetFacts what the guest gets.
Both are known only after the hooks have run."""

from __future__ import annotations

from urunc.record import record

SHARED_GROUP = 0x75727563
"""The device group (`ip link show group`) of the TAP devices of network mode shared."""


@record
class Address:
    """An address of an interface. `on_link` says whether its subnet is reached directly; it is not
    if there is no route for the prefix (CNI's ptp, point-to-point)."""

    address: str
    prefix: int
    on_link: bool


@record
class Route:
    """A route. Its gateway is "" for an on-link route, its destination 0.0.0.0/0 or ::/0 for a
    default route."""

    destination: str
    gateway: str
    metric: int


@record
class Interface:
    """An Ethernet device as the guest gets it, and the TAP device that stands for it ("" before it
    is made). `mtu` is in bytes.

    `routes` are those that do not follow from the addresses, on-link ones first. `gateway_mac` is
    the IPv4 gateway's hardware address if the namespace has a permanent neighbour entry for it, so
    that there may be no host to answer ARP; else "".
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
    """A name server on the namespace's loopback, and the UDP and TCP port that it listens on. Its
    address is "" if it listens at every address of the namespace."""

    address: str
    udp_port: int
    tcp_port: int


@record
class NetworkFound:
    """A namespace's interfaces and the container's network files, before anything is made.

    `others` are interfaces beyond the number that the guest can have. `dns`, `search` and `options`
    are from resolv.conf, `hosts` are the lines of the hosts file (`ADDRESS NAME...`) without
    loopback's. `resolver` is the server at the first name server address on loopback. `user_mode`
    are interfaces served by a program (slirp4netns), whose published ports are connections from
    inside the namespace.
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
    """Devices with an address but no Ethernet frames (WireGuard, tun): a guest cannot have them."""
    resolver_file: str | None = None
    hosts_file: str | None = None
    """The content of both files for a guest that has files, None if there is no such file."""


@record
class NetFacts:
    """A guest's whole network. `spare_taps` are connected to nothing: they are for devices that the
    guest's file declares beyond the interfaces that there are. The guest can reach all of `dns`."""

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
    """Ports `first` to `last` of one protocol ("tcp", "udp"), which lead to the guest's port
    `target` (0: the same port)."""

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
        """As the annotation `ports` has it: `80:8080/tcp`."""
        numbers = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return numbers + (f":{self.target}" if self.target else "") + f"/{self.protocol}"


NOTHING = NetworkFound(interfaces=(), others=(), dns=(), search=(), hosts=(), resolver=None)
NO_NETWORK = NetFacts(interfaces=(), spare_taps=(), dns=(), search=(), hosts=())


def default_route(interface: Interface, *, ipv6: bool) -> Route | None:
    """The interface's default route of one family with the lowest metric, None for none."""
    wanted = "::/0" if ipv6 else "0.0.0.0/0"
    routes = [route for route in interface.routes if route.destination == wanted]
    return min(routes, key=lambda route: route.metric) if routes else None


def local_mac(identifier: str, index: int) -> str:
    """A locally administered hardware address derived from a container's id, for a device that has
    no address to take over; without one, a Solo5 tender would open /dev/urandom to make one."""
    number = sum(ord(letter) * 31**place for place, letter in enumerate(identifier)) + index
    return f"02:{(number % (1 << 40)).to_bytes(5, 'big').hex(':')}"


def is_loopback(address: str) -> bool:
    """Whether an address is a loopback address."""
    return address.startswith("127.") or address == "::1"
