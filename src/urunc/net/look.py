# SPDX-License-Identifier: Apache-2.0
"""Reads the container's network namespace, resolv.conf and hosts file into NetworkFound; changes
nothing."""

from __future__ import annotations

from urunc import logs
from urunc.bundle.network_files import FILE_LIMIT_BYTES, is_name, lines_of
from urunc.errors import HostError, reason
from urunc.linux.files import is_regular, read_regular, read_text
from urunc.linux.namespaces import call_in_network
from urunc.linux.rtnetlink import KernelAddress, KernelRoute, Link, Neighbour, Rtnetlink
from urunc.net import ipv4
from urunc.net.facts import (
    NOTHING,
    Address,
    Interface,
    NetworkFound,
    Resolver,
    Route,
    default_route,
    is_loopback,
)
from urunc.record import replace

HOSTS_LIMIT = 64
MTU_LIMIT = 65535 - 14
"""The largest MTU of a TAP device, without the Ethernet header (drivers/net/tun.c)."""
NO_MAC = "00:00:00:00:00:00"
FAKE = ("dummy", "ifb")
"""Kinds of devices that lead nowhere."""
TUN = "tun"
"""The kind of TUN and TAP devices."""
STACKED = ("vlan", "macvlan", "macvtap", "ipvlan", "ipvtap")
DNS_PORT = 53
DOCKER = "127.0.0.11"
"""The address of Docker's resolver, and of nothing else."""
EVERYWHERE = ""
LISTEN = "0A"
"""A TCP socket's state in /proc/net/tcp."""


def read_network(
    namespace: str,
    resolver: str,
    hosts: str,
    count: int,
    messages: list[tuple[int, bytes]] | None = None,
) -> NetworkFound:
    """The Ethernet devices of a namespace (by its path), `eth0` first; the first `count` as
    `interfaces`, the rest as `others`.

    `resolver` and `hosts` are paths of a resolv.conf and a hosts file, "" for none; `messages`
    gets what the kernel said. Raises HostError.
    """
    try:
        netlink = call_in_network(namespace, Rtnetlink)
    except OSError as error:
        raise HostError(
            f"network namespace '{namespace}': {reason(error)}",
            "it was removed from outside; delete the container and create it again",
        ) from None
    netlink.said = messages
    try:
        links, addresses = netlink.links(), netlink.addresses()
        routes, neighbours = netlink.routes(), netlink.neighbours()
    finally:
        netlink.close()
    candidates = [link for link in links if _is_interface(link, addresses)]
    taken = {link.index for link in candidates}
    candidates = [link for link in candidates if not _rides(link, taken)]
    candidates.sort(key=lambda link: (link.name != "eth0", link.index))
    dns, search, options = read_resolver(resolver) if resolver else ((), (), ())
    files = look_at_files(resolver, hosts)
    return NetworkFound(
        interfaces=tuple(
            _interface(link, addresses, routes, neighbours) for link in candidates[:count]
        ),
        others=tuple(link.name for link in candidates[count:]),
        dns=dns,
        search=search,
        hosts=read_hosts(hosts) if hosts else (),
        resolver=_resolver(namespace, dns),
        user_mode=tuple(link.name for link in candidates[:count] if link.kind == TUN),
        options=options,
        not_ethernet=tuple(
            link.name
            for link in links
            if len(link.mac) != len(NO_MAC) and _is_addressed(link, addresses)
        ),
        resolver_file=files.resolver_file,
        hosts_file=files.hosts_file,
    )


def look_at_files(resolver: str, hosts: str) -> NetworkFound:
    """A NetworkFound with nothing but the content of these two files."""
    return replace(NOTHING, resolver_file=_whole(resolver), hosts_file=_whole(hosts))


def is_own_tap(name: str) -> bool:
    """Whether a device's name is one that urunc gives to its TAP devices."""
    number = name.removeprefix("tap").removesuffix("_urunc")
    return name == f"tap{number}_urunc" and number.isdecimal()


def _is_interface(link: Link, addresses: list[KernelAddress]) -> bool:
    """Whether a device is Ethernet, is set up and leads out of the namespace."""
    if link.loopback or len(link.mac) != len(NO_MAC) or link.mac == NO_MAC:
        return False
    if link.kind in FAKE or link.master or is_own_tap(link.name):
        return False
    addressed = _is_addressed(link, addresses)
    # a TAP device with an address leads out (slirp4netns, pasta); one without is another machine's
    return addressed or (link.up and link.kind != TUN)


def _is_addressed(link: Link, addresses: list[KernelAddress]) -> bool:
    """Whether somebody gave it an address: IPv6's on the link a device gives itself."""
    return any(
        address.index == link.index and address.usable and not (address.ipv6 and address.link_scope)
        for address in addresses
    )


def _rides(link: Link, taken: set[int]) -> bool:
    """Whether a device is stacked on one that the guest takes over with all its frames."""
    return link.kind in STACKED and link.lower in taken


def _interface(
    link: Link,
    addresses: list[KernelAddress],
    routes: list[KernelRoute],
    neighbours: list[Neighbour],
) -> Interface:
    own_routes = [route for route in routes if route.index == link.index]
    on_link = {route.destination for route in own_routes if not route.gateway}
    told: dict[bool, list[Address]] = {False: [], True: []}
    implied = {"fe80::/64"}
    for item in addresses:
        if item.index != link.index or item.link_scope or not item.usable:
            continue
        network = network_of(item.address, item.prefix)
        if network in on_link:
            implied.add(network)
        told[item.ipv6].append(
            Address(address=item.address, prefix=item.prefix, on_link=network in on_link)
        )
    others = [
        Route(
            destination=route.destination or ("::/0" if route.ipv6 else "0.0.0.0/0"),
            gateway=route.gateway,
            metric=route.metric,
        )
        for route in own_routes
        if route.gateway or route.destination not in implied
    ]
    interface = Interface(
        name=link.name,
        index=link.index,
        mac=link.mac,
        mtu=min(link.mtu, MTU_LIMIT),
        ipv4=tuple(told[False]),
        ipv6=tuple(told[True]),
        routes=tuple(sorted(others, key=lambda route: route.gateway != "")),
        gateway_mac="",
        tap="",
    )
    default = default_route(interface, ipv6=False)
    gateway = default.gateway if default and ":" not in default.gateway else ""
    for neighbour in neighbours:
        if gateway and neighbour.index == link.index and neighbour.address == gateway:
            return replace(interface, gateway_mac=neighbour.mac)
    return interface


def network_of(address: str, prefix: int) -> str:
    """`10.0.0.5`, 24 → `10.0.0.0/24`, in the kernel's notation."""
    if ":" not in address:
        return f"{ipv4.dotted(ipv4.number(address) & ipv4.mask(prefix))}/{prefix}"
    from _socket import AF_INET6, inet_ntop, inet_pton

    number = int.from_bytes(inet_pton(AF_INET6, address), "big")
    number &= (1 << 128) - (1 << (128 - prefix))
    return f"{inet_ntop(AF_INET6, number.to_bytes(16, 'big'))}/{prefix}"


def read_resolver(path: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """(name servers, search domains, options) of a resolv.conf(5), all empty if it cannot be read.
    What is no address, no name and no option is left out: a guest's command line has no place for
    it."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    options: dict[str, str] = {}
    for words in lines_of(path, "#;"):
        if words[0] == "nameserver" and len(words) > 1 and _is_address(words[1]):
            servers.append(words[1])
        elif words[0] in ("search", "domain") and len(words) > 1:
            search = tuple(word for word in words[1:] if is_name(word))
        elif words[0] == "options":
            # lines add up; the later one of two values counts
            options |= {word.partition(":")[0]: word for word in words[1:] if _is_option(word)}
    return tuple(dict.fromkeys(servers)), search, tuple(options.values())


def read_hosts(path: str) -> tuple[str, ...]:
    """The lines of a hosts(5) file that make sense on another machine, so without loopback and
    multicast addresses; HOSTS_LIMIT at most."""
    found = [
        " ".join(words)
        for words in lines_of(path, "#")
        if len(words) > 1
        and _is_address(words[0])
        and all(map(is_name, words[1:]))
        and not is_loopback(words[0])
        and not words[0].startswith(("fe00:", "ff00:", "ff02:"))
    ]
    return tuple(dict.fromkeys(found))[:HOSTS_LIMIT]


def _is_address(text: str) -> bool:
    from _socket import AF_INET, AF_INET6, inet_pton

    try:
        inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except OSError:
        return False
    return True


def _is_option(text: str) -> bool:
    return all(letter.isalnum() or letter in "-_:" for letter in text) and text.isascii()


def _whole(path: str) -> str | None:
    """A file's text, None if it is not a regular file or cannot be read. Of a file beyond
    FILE_LIMIT_BYTES, the whole lines within them."""
    if not path:
        return None
    try:
        if not is_regular(path):
            return None
        text = read_regular(path, FILE_LIMIT_BYTES + 1)
    except OSError:
        return None
    content = text.encode()
    if len(content) <= FILE_LIMIT_BYTES:
        return text
    logs.warn(f"'{path}': the guest gets its first {FILE_LIMIT_BYTES} bytes only")
    return content[: content.rfind(b"\n", 0, FILE_LIMIT_BYTES) + 1].decode()


def _resolver(namespace: str, dns: tuple[str, ...]) -> Resolver | None:
    """The server at the first name server address on loopback: on port 53 or, for Docker's
    resolver, on other ports, to which the namespace's output rules lead."""
    address = next((server for server in dns if server.startswith("127.")), "")
    if not address:
        return None
    udp, tcp = call_in_network(namespace, lambda: (_ports("udp"), _ports("tcp")))
    if DNS_PORT in udp.get(EVERYWHERE, ()):
        return Resolver(address="", udp_port=DNS_PORT, tcp_port=DNS_PORT)
    ports = [DNS_PORT, DNS_PORT]
    if address == DOCKER:  # its address alone: anything may listen at the others
        number = ipv4.number(address)
        wanted = f"{int.from_bytes(number.to_bytes(4, 'little'), 'big'):08X}"
        at_it = [of.get(wanted) or {DNS_PORT} for of in (udp, tcp)]
        ports = [DNS_PORT if DNS_PORT in found else min(found) for found in at_it]
    return Resolver(address=address, udp_port=ports[0], tcp_port=ports[1])


def _ports(protocol: str) -> dict[str, set[int]]:
    """Address → ports on which sockets of this thread's namespace listen. Addresses are in the
    kernel's hexadecimal; EVERYWHERE is any address, also of a socket for both families."""
    found: dict[str, set[int]] = {}
    for name in (protocol, f"{protocol}6"):
        try:
            lines = read_text(f"/proc/thread-self/net/{name}", 1 << 22).splitlines()[1:]
        except FileNotFoundError:
            continue  # a kernel without IPv6
        for line in lines:
            words = line.split()
            address, _, port = words[1].partition(":")
            if protocol == "udp" or words[3] == LISTEN:
                address = EVERYWHERE if not address.strip("0") else address
                found.setdefault(address, set()).add(int(port, 16))
    return found
