# SPDX-License-Identifier: Apache-2.0
"""What the container's network namespace and resolver file say, as NetFacts; changes nothing."""

from __future__ import annotations

from urunc.errors import HostError, reason
from urunc.linux.files import read_text
from urunc.linux.namespaces import call_in_network
from urunc.linux.netlink import Address, Link, Netlink, Route
from urunc.net.facts import Interface, NetFacts

RESOLVER_LIMIT_BYTES = 1 << 16


def look(namespace: str, resolver: str, count: int) -> NetFacts:
    """The Ethernet devices of a namespace (by path), `eth0` first, at most `count`; no TAP device
    chosen yet.

    `resolver` is a resolv.conf's path, "" for none.
    """
    try:
        netlink = call_in_network(namespace, Netlink)
    except OSError as error:
        raise HostError(f"network namespace '{namespace}': {reason(error)}") from None
    try:
        links, addresses, routes = netlink.links(), netlink.addresses(), netlink.routes()
    finally:
        netlink.close()
    candidates = [link for link in links if _is_interface(link)]
    candidates.sort(key=lambda link: (link.name != "eth0", link.index))
    dns, search = read_resolver(resolver) if resolver else ((), ())
    return NetFacts(
        interfaces=tuple(_interface(link, addresses, routes) for link in candidates[:count]),
        spare_taps=(),
        dns=dns,
        search=search,
    )


def _is_interface(link: Link) -> bool:
    """Ethernet, and neither a TAP device (ours or another runtime's) nor one that every namespace
    has."""
    return not link.loopback and len(link.mac) == 17 and link.kind not in ("tun", "dummy", "ifb")


def _interface(link: Link, addresses: list[Address], routes: list[Route]) -> Interface:
    own = [
        address for address in addresses if address.index == link.index and not address.link_scope
    ]
    return Interface(
        name=link.name,
        index=link.index,
        mac=link.mac,
        mtu=link.mtu,
        ipv4=tuple(f"{item.address}/{item.prefix}" for item in own if not item.ipv6),
        ipv6=tuple(f"{item.address}/{item.prefix}" for item in own if item.ipv6),
        ipv4_gateway=_gateway(link, routes, ipv6=False),
        ipv6_gateway=_gateway(link, routes, ipv6=True),
        tap="",
    )


def _gateway(link: Link, routes: list[Route], *, ipv6: bool) -> str:
    """The gateway of the default route with the lowest metric through this device."""
    defaults = [
        route
        for route in routes
        if route.index == link.index
        and route.ipv6 == ipv6
        and not route.destination
        and route.gateway
    ]
    return min(defaults, key=lambda route: route.metric).gateway if defaults else ""


def read_resolver(path: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(name servers, search domains) of a resolv.conf(5); nothing where it cannot be read."""
    try:
        text = read_text(path, RESOLVER_LIMIT_BYTES)
    except OSError:
        return (), ()
    servers: list[str] = []
    search: tuple[str, ...] = ()
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = tuple(words[1:])
    return tuple(servers), search
