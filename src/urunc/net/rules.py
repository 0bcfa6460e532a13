# SPDX-License-Identifier: Apache-2.0
"""The tables of nftables for a guest's network, as data. Pure.

Frames that are redirected between an interface and a TAP device pass no rule of the namespace.
These rules are for what is not redirected: the resolver on loopback, ARP for a gateway that does
not answer itself, and a guest that shares its namespace.
"""

from __future__ import annotations

from urunc.linux.nftables import (
    DSTNAT,
    FILTER,
    FORWARD,
    INGRESS,
    INPUT,
    LAST,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    OUTPUT,
    POSTROUTING,
    PREROUTING,
    RAW,
    SRCNAT,
    TCP,
    UDP,
    Chain,
    accept,
    answer_arp,
    arp_request,
    arp_request_for,
    destination,
    destination_port,
    dnat,
    dnat_as_is,
    drop,
    family,
    frame_for,
    frame_from,
    group,
    interface,
    is_new,
    marked,
    masquerade,
    of_this_namespace,
    protocol,
    quoted,
    set_destination,
    set_quoted,
    set_source,
    socket_listens,
    source,
    to_this_host,
    was_translated,
)
from urunc.net.facts import SHARED_GROUP, Ports, Resolver
from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    Rule = tuple[bytes, ...]

DNS_PORT = 53
PROTOCOLS = {"tcp": TCP, "udp": UDP}
CLAIM = "claim"
"""Empty chains whose names begin so tell other guests which ports a guest has."""


@record
class ResolverRelay:
    """An address of the namespace at which the guest reaches the resolver on the namespace's
    loopback. Without a resolver, it is the source of connections to the guest from inside the
    namespace."""

    address: str
    resolver: Resolver | None


def relay_chains(
    tap: str, relay: ResolverRelay, guest: str, stand_in: str, *, inward: bool
) -> tuple[Chain, ...]:
    """For a guest that has an interface to itself: its own address is the namespace's, too. So its
    queries come from `stand_in` (netdev_chains), and the answers to that are given back to it
    behind all routing. `inward`: the namespace's own connections to that address are the guest's,
    by the same way."""
    queries: tuple[Rule, ...] = ()
    if relay.resolver and not relay.resolver.address:
        queries = tuple(rule + accept() for rule, _ in _queries(tap, relay))
    to_guest: tuple[Chain, ...] = ()
    if inward:
        wanted = [destination(guest) + protocol(number) for number in PROTOCOLS.values()]
        leaving = interface(tap, out=True) + destination(stand_in)
        to_guest = (
            Chain(name="output", kind="nat", hook=OUTPUT, priority=DSTNAT,
                  rules=tuple(rule + dnat(stand_in) for rule in wanted)),
            Chain(name="source", kind="nat", hook=POSTROUTING, priority=SRCNAT,
                  rules=(leaving + masquerade(),)),
        )  # fmt: skip
    return (
        *to_guest,
        Chain(name="prerouting", kind="nat", hook=PREROUTING, priority=DSTNAT,
              rules=_to_resolver(tap, relay)),
        Chain(name="input", kind="filter", hook=INPUT, priority=FILTER,
              rules=(*queries, interface(tap) + was_translated(other=True) + drop())),
        Chain(name="postrouting", kind="filter", hook=POSTROUTING, priority=LAST,
              rules=(interface(tap, out=True) + destination(stand_in) + set_destination(guest),)),
    )  # fmt: skip


def cut_off_chains(tap: str) -> tuple[Chain, ...]:
    """Nothing of what comes from a TAP device that is connected to nothing goes anywhere."""
    return (Chain(name="ingress", kind="filter", hook=INGRESS, device=tap, rules=(drop(),)),)


def netdev_chains(
    tap: str,
    tap_index: int,
    relay: ResolverRelay | None,
    stand_in: str,
    gateway: tuple[str, str, str, str] | None,
) -> tuple[Chain, ...]:
    """What happens to frames of a TAP device that are not redirected.

    `gateway` is (address, its MAC, the guest's address, the guest's MAC) where ARP is answered in
    the gateway's place; an address "" is every address but the guest's own.
    """
    rules: list[Rule] = []
    if relay:
        # a guest may send them to its gateway's hardware address
        rules.append(frame_for(relay.address) + to_this_host() + set_source(stand_in))
        rules.append(arp_request_for(relay.address) + accept())
    if gateway:
        address, mac, guest, guest_mac = gateway
        asked = arp_request_for(address) if address else arp_request_for(guest, other=True)
        rules.append(asked + answer_arp(mac, guest_mac, tap_index))
        rules.append(arp_request() + drop())
    return (Chain(name="ingress", kind="filter", hook=INGRESS, device=tap, rules=tuple(rules)),)


def shared_chains(
    tap: str,
    guests: tuple[str, ...],
    ports: tuple[Ports, ...],
    relay: ResolverRelay | None,
    *,
    others: bool,
    own: tuple[str, ...] = (),
) -> tuple[Chain, ...]:
    """For a guest that shares its namespace: `guests` are its addresses, one of a family.

    Inbound connections to its ports, also from the namespace itself and to localhost, lead to it;
    its own leave under the namespace's addresses. `own` are addresses of the namespace that the
    guest has, too, so that nobody can come to it from there.
    """
    prerouting: list[Rule] = list(_to_resolver(tap, relay)) if relay else []
    output: list[Rule] = []
    rest: list[Rule] = []
    postrouting: list[Rule] = [interface(tap, out=True) + source("127.0.0.0", 8) + masquerade()]
    postrouting += [interface(tap, out=True) + source(address) + masquerade() for address in own]
    for guest in guests:
        its_family = family(NFPROTO_IPV6 if ":" in guest else NFPROTO_IPV4)
        for item in ports:
            rule = its_family + of_this_namespace() + protocol(PROTOCOLS[item.protocol])
            rule += destination_port(item.first, item.last) + dnat(guest, item.target)
            prerouting.append(rule)
            output.append(rule)
        for number in PROTOCOLS.values() if others else ():
            inbound = group(SHARED_GROUP, other=True) + its_family + of_this_namespace()
            inbound += protocol(number)
            rest.append(inbound + socket_listens() + accept())
            rest.append(inbound + dnat(guest))
        out = source(guest) + group(SHARED_GROUP, out=True, other=True) + masquerade()
        hairpin = source(guest) + interface(tap, out=True) + masquerade()
        postrouting += [out, hairpin]
    claims = [f"{CLAIM}_{item.protocol}_{item.first}_{item.last}" for item in ports]
    claims += [f"{CLAIM}_{name}_any" for name in PROTOCOLS if others]
    # nobody but the guest itself is there, and nobody comes but by its ports
    own_link = (source("fe80::", 10), source("::"))
    spoofed: list[Rule] = [interface(tap) + rule + accept() for rule in own_link]
    spoofed += [interface(tap) + source(guest, other=True) + drop() for guest in guests]
    if not any(":" in guest for guest in guests):
        spoofed.append(interface(tap) + family(NFPROTO_IPV6) + drop())
    unasked = interface(tap, out=True) + group(SHARED_GROUP, other=True) + is_new()
    unasked += was_translated(other=True) + drop()
    # the guest cannot reach the namespace's localhost, except by translated connections
    local = interface(tap) + destination("127.0.0.0", 8) + was_translated(other=True) + drop()
    return (
        *(Chain(name=name, rules=()) for name in claims),
        Chain(name="source", kind="filter", hook=PREROUTING, priority=RAW, rules=tuple(spoofed)),
        Chain(name="prerouting", kind="nat", hook=PREROUTING, priority=DSTNAT,
              rules=tuple(prerouting)),
        # after the ports of all guests, in whatever order these came
        Chain(name="others", kind="nat", hook=PREROUTING, priority=DSTNAT + 1, rules=tuple(rest)),
        Chain(name="output", kind="nat", hook=OUTPUT, priority=DSTNAT, rules=tuple(output)),
        Chain(name="postrouting", kind="nat", hook=POSTROUTING, priority=SRCNAT,
              rules=tuple(postrouting)),
        Chain(name="input", kind="filter", hook=INPUT, priority=FILTER, rules=(local,)),
        Chain(name="forward", kind="filter", hook=FORWARD, priority=FILTER, rules=(unasked,)),
    )  # fmt: skip


def outbound_chains(tap: str, ports: tuple[tuple[str, int], ...]) -> tuple[Chain, ...]:
    """The guest's connections to other hosts, before the namespace's own rules for what comes in
    from outside: `ports` are (the address of the namespace that a sidecar listens at, its port) for
    each family, port 0 where the guest's connections go their own way."""
    rules: list[Rule] = []
    for address, port in ports:
        ipv6 = ":" in address
        asked = interface(tap) + family(NFPROTO_IPV6 if ipv6 else NFPROTO_IPV4)
        asked += protocol(TCP) + of_this_namespace(other=True)
        rules.append(asked + (dnat(address, port) if port else dnat_as_is(ipv6=ipv6)))
    return (Chain(name="outbound", kind="nat", hook=PREROUTING, priority=DSTNAT - 1,
                  rules=tuple(rules)),)  # fmt: skip


def pod_chains(tap: str, twins: tuple[tuple[str, str], ...], trial_mark: int) -> tuple[Chain, ...]:
    """What is sent to a guest that has the namespace's own addresses: `twins` are (the address by
    which the namespace knows it, the one that it has). Behind all routing and NAT; and there, or
    where a sidecar would have it, what net/interception.py tries ends."""
    rules: list[Rule] = [marked(trial_mark) + interface("lo", out=True, other=True) + drop()]
    for stand_in, guest in twins:
        sent = interface(tap, out=True) + destination(stand_in)
        rules.append(sent + quoted(stand_in, source_of=True) + set_quoted(guest, source_of=True))
        rules.append(sent + set_destination(guest))
    return (
        Chain(name="to_guest", kind="filter", hook=POSTROUTING, priority=LAST, rules=tuple(rules)),
        Chain(name="trial", kind="filter", hook=INPUT, priority=FILTER,
              rules=(marked(trial_mark) + drop(),)),
    )  # fmt: skip


def pod_frames(
    tap: str, index: int, mac: str, guest_mac: str, twins: tuple[tuple[str, str], ...]
) -> tuple[Chain, ...]:
    """What such a guest sends, before the namespace looks at it. Whatever address it asks for by
    ARP, the TAP device (`index`, `mac`) has it."""
    rules: list[Rule] = []
    for stand_in, guest in twins:
        sent = frame_from(guest)
        rules.append(sent + quoted(guest, source_of=False) + set_quoted(stand_in, source_of=False))
        rules.append(sent + set_source(stand_in))
        if "." in guest:
            asked = arp_request_for(guest, other=True)
            rules.append(asked + answer_arp(mac, guest_mac, index))
    rules.append(arp_request() + drop())
    return (Chain(name="ingress", kind="filter", hook=INGRESS, device=tap, rules=tuple(rules)),)


def claimed(chains: list[tuple[str, str]]) -> list[tuple[str, Ports | None, str]]:
    """(table, ports or None for all others, protocol) of each claim of a namespace's guests;
    `chains` are (table, chain)."""
    found: list[tuple[str, Ports | None, str]] = []
    for table, chain in chains:
        words = chain.split("_")
        if words[0] != CLAIM or len(words) < 3:
            continue
        if words[2] == "any":
            found.append((table, None, words[1]))
        elif len(words) == 4 and words[2].isdecimal() and words[3].isdecimal():
            first, last = int(words[2]), int(words[3])
            ports = Ports(protocol=words[1], first=first, last=last, target=0)
            found.append((table, ports, words[1]))
    return found


def _to_resolver(tap: str, relay: ResolverRelay) -> tuple[Rule, ...]:
    """Rules that lead queries to the resolver's address. None are needed for one that listens at
    every address; it might answer translated queries from another address."""
    target = relay.resolver.address if relay.resolver else ""
    return tuple(rule + dnat(target, port) for rule, port in _queries(tap, relay) if target)


def _queries(tap: str, relay: ResolverRelay) -> tuple[tuple[Rule, int], ...]:
    """(matches of a query, the resolver's port) for UDP and TCP."""
    to_relay = interface(tap) + destination(relay.address)
    resolver = relay.resolver
    if not resolver:
        return ()
    return tuple(
        (to_relay + protocol(number) + destination_port(DNS_PORT), port)
        for number, port in ((UDP, resolver.udp_port), (TCP, resolver.tcp_port))
    )
