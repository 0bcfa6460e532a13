# SPDX-License-Identifier: Apache-2.0
"""nftables: the few tables that urunc makes in a container's network namespace.

Speaks nf_tables' netlink protocol (linux/netfilter/nf_tables.h; Linux 5.10 for the youngest
expression, `socket wildcard`) itself: nft(8) is not on every host, is a process of its own, and
takes 8 ms to start. A rule is a list of expressions, each a function here under the name that
nft(8) has for it; `nft list ruleset` shows them in its language.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_pton
from _struct import pack, unpack_from

from urunc.linux import netlink
from urunc.linux.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Socket,
    attribute,
    attributes,
    nested,
    text,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

NETLINK_NETFILTER = 12
NFNL_SUBSYS_NFTABLES = 10
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11
NEWTABLE, DELTABLE, NEWCHAIN, GETCHAIN, NEWRULE = 0, 2, 3, 4, 6
NLM_F_APPEND = 0x800

INET, NETDEV = 1, 5
"""Families of tables (NFPROTO_INET, NFPROTO_NETDEV)."""
NFPROTO_IPV4, NFPROTO_IPV6 = 2, 10
PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = range(5)
INGRESS = 0  # of a netdev table
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58

RAW, DSTNAT, FILTER, SRCNAT, LAST = -300, -100, 0, 100, 300
"""Priorities of chains, by nft(8)'s names; LAST is behind all of them."""

VERDICT, REGISTER, SECOND_REGISTER = 0, 1, 2
NF_DROP, NF_ACCEPT = 0, 1
EQUAL, NOT_EQUAL, AT_LEAST, AT_MOST = 0, 1, 5, 3
PROTOCOL, MARK, IIFNAME, OIFNAME, NFPROTO, L4PROTO, PKTTYPE = 1, 3, 6, 7, 15, 16, 19
IIFGROUP, OIFGROUP = 21, 22
LINK, NETWORK, TRANSPORT = 0, 1, 2
CT_STATE, CT_STATUS = 0, 2
NF_CT_STATE_NEW, IPS_DST_NAT = 8, 0x20
SOCKET_WILDCARD = 2
FIB_DADDR, FIB_ADDRTYPE, RTN_LOCAL = 2, 3, 2


class Chain:
    """A chain with its rules, each the list of its expressions; without a hook ("" kind) it is only
    there to be seen."""

    def __init__(
        self, *, name: str, rules: tuple[tuple[bytes, ...], ...], kind: str = "", hook: int = 0,
        priority: int = 0, device: str = "",
    ) -> None:  # fmt: skip
        self.name = name
        self.rules = rules
        self.kind = kind
        self.hook = hook
        self.priority = priority
        self.device = device


class Nftables(Socket):
    """A socket to a network namespace's nf_tables. A refused request is an OSError."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER)

    def add_table(self, family: int, name: str, chains: tuple[Chain, ...]) -> None:
        """Make a table with all that is in it, or nothing; EEXIST where there is one of the
        name."""
        messages = [_message(NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, family, _string(1, name))]
        for chain in chains:
            messages.append(_message(NEWCHAIN, NLM_F_CREATE, family, _chain(name, chain)))
        for chain in chains:
            for rule in chain.rules:
                body = _string(1, name) + _string(2, chain.name)
                body += nested(4, *(nested(1, expression) for expression in rule))
                messages.append(_message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, family, body))
        self.transact(_batch(messages))

    def add_chains(self, family: int, table: str, names: list[str]) -> None:
        """Add chains without rules to a table."""
        chains = (_chain(table, Chain(name=name, rules=())) for name in names)
        self.transact(_batch([_message(NEWCHAIN, NLM_F_CREATE, family, chain) for chain in chains]))

    def delete_table(self, family: int, name: str) -> None:
        """Remove a table and all that is in it; ENOENT where there is none."""
        self.transact(_batch([_message(DELTABLE, 0, family, _string(1, name))]))

    def chains(self, family: int) -> list[tuple[str, str]]:
        """(table, chain) of every chain of a family."""
        found = []
        for body in self.dump(NFNL_SUBSYS_NFTABLES << 8 | GETCHAIN, pack("BBH", family, 0, 0)):
            values = dict(attributes(body[4:]))
            if unpack_from("B", body)[0] == family:
                found.append((text(values.get(1, b"")), text(values.get(3, b""))))
        return found


def ask(namespace: str, question: Callable[[Nftables], T]) -> T:
    """Call a function with a socket that speaks to the namespace at a path."""
    return netlink.ask(Nftables, namespace, question)


# what a rule looks at, by the place where it comes from


def interface(name: str, *, out: bool = False, other: bool = False) -> tuple[bytes, ...]:
    """The device that a packet came in by (or goes out of) is this one, or another."""
    how = NOT_EQUAL if other else EQUAL
    return _compared(_meta(OIFNAME if out else IIFNAME), name.encode().ljust(16, b"\0"), how)


def group(number: int, *, out: bool = False, other: bool = False) -> tuple[bytes, ...]:
    """The device that a packet came in by (or goes out of) is in this group of devices, or in
    another."""
    look = _meta(OIFGROUP if out else IIFGROUP)
    return _compared(look, pack("I", number), NOT_EQUAL if other else EQUAL)


def family(number: int) -> tuple[bytes, ...]:
    """IPv4 or IPv6 (NFPROTO_IPV4, NFPROTO_IPV6): the first look in an inet table's rule."""
    return _compared(_meta(NFPROTO), bytes([number]))


def marked(number: int) -> tuple[bytes, ...]:
    """The packet has this mark."""
    return _compared(_meta(MARK), pack("I", number))


def protocol(number: int) -> tuple[bytes, ...]:
    """The packet's transport protocol is this one (IPPROTO_TCP, IPPROTO_UDP, …)."""
    return _compared(_meta(L4PROTO), bytes([number]))


def destination_port(first: int, last: int = 0) -> tuple[bytes, ...]:
    """A port, or a range of ports, of TCP or UDP."""
    look = _payload(TRANSPORT, 2, 2)
    if not last or last == first:
        return _compared(look, pack(">H", first))
    return (*_compared(look, pack(">H", first), AT_LEAST), _compare(pack(">H", last), AT_MOST))


def source(address: str, prefix: int = 0, *, other: bool = False) -> tuple[bytes, ...]:
    """The packet is from this address, or network; or from any other of the family."""
    return _address(address, prefix, 12, 8, NOT_EQUAL if other else EQUAL)


def destination(address: str, prefix: int = 0) -> tuple[bytes, ...]:
    """The packet is for this address, or network."""
    return _address(address, prefix, 16, 24)


def quoted(address: str, *, source_of: bool) -> tuple[bytes, ...]:
    """An ICMP error that quotes a packet from this address, or to it (RFC 792, RFC 4443)."""
    value, kind = _binary(address), _payload(TRANSPORT, 0, 1)
    if len(value) == 4:  # unreachable (3), time exceeded (11)
        head = 20
        asked = (*protocol(ICMP), kind, _masked(b"\xf7"), _compare(b"\3"))
    else:  # errors are 1 to 4
        head = 40
        asked = (*protocol(ICMPV6), *_compared(kind, b"\1", AT_LEAST), _compare(b"\4", AT_MOST))
    at = head + 8 + _place(len(value), source_of=source_of)
    return (*asked, *_compared(_payload(NETWORK, at, len(value)), value))


def arp_request_for(address: str, *, other: bool = False) -> tuple[bytes, ...]:
    """An ARP request, for this IPv4 address or for any other (netdev tables)."""
    wanted = inet_pton(AF_INET, address)
    return arp_request() + _compared(
        _payload(NETWORK, 24, 4), wanted, NOT_EQUAL if other else EQUAL
    )


def arp_request() -> tuple[bytes, ...]:
    """Any ARP request (netdev tables)."""
    return _compared(_meta(PROTOCOL), b"\x08\x06") + _compared(_payload(NETWORK, 6, 2), b"\0\1")


def frame_for(address: str) -> tuple[bytes, ...]:
    """A frame with a packet for this address (netdev tables)."""
    return _frame(address, source_of=False)


def frame_from(address: str) -> tuple[bytes, ...]:
    """A frame with a packet from this address (netdev tables)."""
    return _frame(address, source_of=True)


def _frame(address: str, *, source_of: bool) -> tuple[bytes, ...]:
    value = _binary(address)
    its_family = _compared(_meta(PROTOCOL), b"\x08\0" if len(value) == 4 else b"\x86\xdd")
    at = _place(len(value), source_of=source_of)
    return its_family + _compared(_payload(NETWORK, at, len(value)), value)


def _place(size: int, *, source_of: bool) -> int:
    """Where an IP header has an address of this many bytes."""
    first = 12 if size == 4 else 8
    return first if source_of else first + size


def of_this_namespace(*, other: bool = False) -> tuple[bytes, ...]:
    """The packet is for an address that the namespace has, or for another."""
    look = _expression("fib", _big(1, REGISTER), _big(2, FIB_ADDRTYPE), _big(3, FIB_DADDR))
    return _compared(look, pack("I", RTN_LOCAL), NOT_EQUAL if other else EQUAL)


def socket_listens() -> tuple[bytes, ...]:
    """Somebody in the namespace has a socket for the packet: the rule ends here where not."""
    look = _expression("socket", _big(1, SOCKET_WILDCARD), _big(2, REGISTER))
    return _compared(look, b"\0", AT_LEAST)  # bound to one address, or to all


def was_translated(*, other: bool = False) -> tuple[bytes, ...]:
    """The connection's destination was translated, or was not."""
    return _connection(CT_STATUS, IPS_DST_NAT, EQUAL if other else NOT_EQUAL)


def is_new() -> tuple[bytes, ...]:
    """The packet is the first of its connection."""
    return _connection(CT_STATE, NF_CT_STATE_NEW, NOT_EQUAL)


# what it does


def accept() -> tuple[bytes, ...]:
    """Accept the packet; in a nat chain, untranslated."""
    return (_verdict(NF_ACCEPT),)


def drop() -> tuple[bytes, ...]:
    """Drop the packet."""
    return (_verdict(NF_DROP),)


def dnat(address: str, port: int = 0) -> tuple[bytes, ...]:
    """Translate the destination (nat chains)."""
    found = [_load(_binary(address), REGISTER)]
    fields = [_big(1, 1), _big(2, _family_of(address)), _big(3, REGISTER)]
    if port:
        found.append(_load(pack(">H", port), SECOND_REGISTER))
        fields.append(_big(5, SECOND_REGISTER))
    return (*found, _expression("nat", *fields))


def dnat_as_is(*, ipv6: bool) -> tuple[bytes, ...]:
    """Have the destination as it is, whatever chains behind this one say (nat chains)."""
    number, size = (NFPROTO_IPV6, 16) if ipv6 else (NFPROTO_IPV4, 4)
    load = _payload(NETWORK, _place(size, source_of=False), size)
    fields = (_big(1, 1), _big(2, number), _big(3, REGISTER))
    return (load, _expression("nat", *fields))


def masquerade() -> tuple[bytes, ...]:
    """Translate the source to the address of the device that it leaves by (nat chains)."""
    return (_expression("masq"),)


def set_source(address: str) -> tuple[bytes, ...]:
    """Write another source into this packet, and its checksums: no connection is tracked."""
    return _set_address(address, source_of=True)


def set_destination(address: str) -> tuple[bytes, ...]:
    """Write another destination into this packet, and its checksums."""
    return _set_address(address, source_of=False)


def _set_address(address: str, *, source_of: bool) -> tuple[bytes, ...]:
    value = _binary(address)
    at = _place(len(value), source_of=source_of)
    return _write(NETWORK, at, value, checksum=10 if len(value) == 4 else 0, pseudo=True)


def set_quoted(address: str, *, source_of: bool) -> tuple[bytes, ...]:
    """Write another source, or destination, into the packet that an ICMP error quotes.

    With IPv4 the quoted header's checksum makes up for it, so that ICMP's own stays right.
    """
    value = _binary(address)
    head, checksum = (20, 20 + 8 + 10) if len(value) == 4 else (40, 40 + 2)
    at = head + 8 + _place(len(value), source_of=source_of)
    return _write(NETWORK, at, value, checksum=checksum)


def to_this_host() -> tuple[bytes, ...]:
    """Take the frame as if its hardware address were this device's."""
    return (_load(pack("B", 0), REGISTER), _expression("meta", _big(2, PKTTYPE), _big(3, REGISTER)))


def answer_arp(mac: str, asker_mac: str, device_index: int) -> tuple[bytes, ...]:
    """Make an ARP request into its reply, that `mac` has the address which was asked for, and send
    it out of a device (netdev tables)."""
    own, other = (bytes.fromhex(text.replace(":", "")) for text in (mac, asker_mac))
    copy = (
        _payload(NETWORK, 24, 4, REGISTER),  # the address asked for …
        _payload(NETWORK, 14, 4, SECOND_REGISTER),  # … and the asker's
        _store(NETWORK, 14, 4, REGISTER),
        _store(NETWORK, 24, 4, SECOND_REGISTER),
    )
    return (
        *copy,
        *_write(LINK, 0, other),
        *_write(LINK, 6, own),
        *_write(NETWORK, 6, b"\0\2"),
        *_write(NETWORK, 8, own),
        *_write(NETWORK, 18, other),
        _load(pack("I", device_index), REGISTER),
        _expression("fwd", _big(1, REGISTER)),
    )


# messages


def _batch(messages: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """One transaction. An answer to the last message is enough: a refusal comes unasked."""
    edge = pack(">BBH", 0, 0, NFNL_SUBSYS_NFTABLES)
    kind, flags, body = messages[-1]
    messages = [*messages[:-1], (kind, flags | NLM_F_ACK, body)]
    return [(NFNL_MSG_BATCH_BEGIN, 0, edge), *messages, (NFNL_MSG_BATCH_END, 0, edge)]


def _message(kind: int, flags: int, its_family: int, body: bytes) -> tuple[int, int, bytes]:
    header = pack("BBH", its_family, 0, 0)
    return NFNL_SUBSYS_NFTABLES << 8 | kind, flags, header + body


def _chain(table: str, chain: Chain) -> bytes:
    body = _string(1, table) + _string(3, chain.name)
    if chain.kind:
        hook = [_big(1, chain.hook), attribute(2, pack(">i", chain.priority))]
        if chain.device:
            hook.append(_string(3, chain.device))
        body += nested(4, *hook) + _string(7, chain.kind)
    return body


def _string(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _big(kind: int, value: int) -> bytes:
    return attribute(kind, pack(">I", value))


def _expression(name: str, *fields: bytes) -> bytes:
    return _string(1, name) + nested(2, *fields)


def _meta(key: int) -> bytes:
    return _expression("meta", _big(2, key), _big(1, REGISTER))


def _payload(base: int, offset: int, length: int, register: int = REGISTER) -> bytes:
    return _expression(
        "payload", _big(1, register), _big(2, base), _big(3, offset), _big(4, length)
    )


def _store(
    base: int, offset: int, length: int, register: int, checksum: int = 0, *, pseudo: bool = False
) -> bytes:
    fields = [_big(5, register), _big(2, base), _big(3, offset), _big(4, length)]
    if checksum:
        fields += [_big(6, 1), _big(7, checksum)]
    if pseudo:  # the one of TCP, UDP or ICMPv6, which covers the addresses, too
        fields.append(_big(8, 1))
    return _expression("payload", *fields)


def _write(
    base: int, offset: int, value: bytes, checksum: int = 0, *, pseudo: bool = False
) -> tuple[bytes, ...]:
    """Write into this packet; `checksum` is the place of one that covers it, 0 for none."""
    store = _store(base, offset, len(value), REGISTER, checksum, pseudo=pseudo)
    return _load(value, REGISTER), store


def _load(value: bytes, register: int) -> bytes:
    return _expression("immediate", _big(1, register), nested(2, attribute(1, value)))


def _verdict(code: int) -> bytes:
    return _expression("immediate", _big(1, VERDICT), nested(2, nested(2, _big(1, code))))


def _compare(value: bytes, how: int = EQUAL) -> bytes:
    return _expression("cmp", _big(1, REGISTER), _big(2, how), nested(3, attribute(1, value)))


def _compared(look: bytes, value: bytes, how: int = EQUAL) -> tuple[bytes, ...]:
    return look, _compare(value, how)


def _address(
    address: str, prefix: int, offset: int, offset6: int, how: int = EQUAL
) -> tuple[bytes, ...]:
    value = _binary(address)
    look = _payload(NETWORK, offset if len(value) == 4 else offset6, len(value))
    first = family(_family_of(address))
    if not prefix:
        return first + _compared(look, value, how)
    size = len(value)
    mask = ((1 << 8 * size) - (1 << (8 * size - prefix))).to_bytes(size, "big")
    network = bytes(a & b for a, b in zip(value, mask, strict=True))
    return (*first, look, _masked(mask), _compare(network, how))


def _connection(key: int, bits: int, how: int) -> tuple[bytes, ...]:
    """Whether one of these bits of what is known of a connection is set (NOT_EQUAL), or none."""
    return (
        _expression("ct", _big(2, key), _big(1, REGISTER)),
        _masked(pack("I", bits)),
        _compare(bytes(4), how),
    )


def _masked(mask: bytes) -> bytes:
    """The register, and the mask: `(register & mask) ^ 0` in the kernel's words."""
    return _expression(
        "bitwise",
        _big(1, REGISTER),
        _big(2, REGISTER),
        _big(3, len(mask)),
        nested(4, attribute(1, mask)),
        nested(5, attribute(1, bytes(len(mask)))),
    )


def _family_of(address: str) -> int:
    return NFPROTO_IPV6 if ":" in address else NFPROTO_IPV4


def _binary(address: str) -> bytes:
    return inet_pton(AF_INET6 if ":" in address else AF_INET, address)
