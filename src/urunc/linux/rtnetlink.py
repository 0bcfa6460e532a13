# SPDX-License-Identifier: Apache-2.0
"""rtnetlink(7): what a network namespace holds, and the few changes urunc makes to it.

Only the messages that urunc needs (linux/rtnetlink.h, linux/if_link.h, linux/neighbour.h,
linux/pkt_cls.h). What the kernel does not say is empty or 0.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, AF_UNSPEC, inet_ntop, inet_pton
from _struct import pack, unpack_from
from errno import EAFNOSUPPORT, EEXIST

from urunc.linux import netlink
from urunc.linux.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
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
    Saved = list[tuple[int, bytes]]
    """Messages (kind, body) that make what was there."""

NETLINK_ROUTE = 0
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46

IFF_UP, IFF_LOOPBACK = 0x1, 0x8
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK = 1, 3, 4, 5
IFLA_MASTER, IFLA_TXQLEN, IFLA_LINKINFO, IFLA_AF_SPEC, IFLA_GROUP = 10, 13, 18, 26, 27
IFLA_NET_NS_FD, IFLA_LINK_NETNSID = 28, 37
IFLA_INFO_KIND = 1
IFLA_INET6_ADDR_GEN_MODE = 8
IN6_ADDR_GEN_MODE_NONE = 1
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD, IFA_F_DADFAILED, IFA_F_TEMPORARY = 0x2, 0x8, 0x1
IFA_F_PERMANENT = 0x80
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY = 1, 4, 5, 6
RTA_MULTIPATH, RTA_CACHEINFO, RTA_TABLE, RTA_VIA, RTA_NH_ID = 9, 12, 15, 18, 30
RTNH_F_ONLINK = 0x4
RTPROT_KERNEL, RTPROT_RA = 2, 9
NDA_DST, NDA_LLADDR = 1, 2
NUD_PERMANENT = 0x80
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
RT_TABLE_MAIN = 254
RTN_UNICAST = 1

TCA_KIND, TCA_OPTIONS = 1, 2
TC_H_INGRESS, TC_H_CLSACT_INGRESS, TC_H_CLSACT_EGRESS = 0xFFFFFFF1, 0xFFFFFFF2, 0xFFFFFFF3
INGRESS_HANDLE = 0xFFFF0000
ETH_P_ALL, ETH_P_IP, ETH_P_ARP = 0x0003, 0x0800, 0x0806
TCA_U32_CLASSID, TCA_U32_SEL, TCA_U32_ACT = 1, 5, 7
TCA_MATCHALL_ACT = 2
TCA_BPF_FD, TCA_BPF_NAME, TCA_BPF_FLAGS = 6, 7, 8
TCA_BPF_FLAG_ACT_DIRECT = 1
TCA_ACT_KIND, TCA_ACT_OPTIONS = 1, 2
TCA_MIRRED_PARMS = 2
TC_ACT_STOLEN = 4
TCA_EGRESS_REDIR = 1
TC_U32_TERMINAL = 1


class Link:
    """A network device: `mac` is text, empty where it has none; `master` and `lower` are the
    indexes of the device that it is a port of, and of the one that it is stacked on in the same
    namespace."""

    def __init__(self, index: int, flags: int, values: dict[int, bytes]) -> None:
        self.index = index
        self.up = bool(flags & IFF_UP)
        self.loopback = bool(flags & IFF_LOOPBACK)
        self.name = text(values.get(IFLA_IFNAME, b""))
        self.mac = values.get(IFLA_ADDRESS, b"").hex(":")
        self.mtu = _number(values.get(IFLA_MTU))
        self.group = _number(values.get(IFLA_GROUP))
        self.queue_length = _number(values.get(IFLA_TXQLEN))
        self.master = _number(values.get(IFLA_MASTER))
        elsewhere = IFLA_LINK_NETNSID in values
        self.lower = 0 if elsewhere else _number(values.get(IFLA_LINK))
        info = dict(attributes(values.get(IFLA_LINKINFO, b"")))
        self.kind = text(info.get(IFLA_INFO_KIND, b""))


class KernelAddress:
    """An IPv4 or IPv6 address with its prefix length on a device; on a point-to-point device
    `peer` is the other end, which the prefix belongs to (ifaddr(3))."""

    def __init__(
        self, family: int, prefix: int, scope: int, flags: int, index: int,
        values: dict[int, bytes],
    ) -> None:  # fmt: skip
        other = values.get(IFA_ADDRESS, b"")
        own = values.get(IFA_LOCAL) or other
        self.address = inet_ntop(family, own) if own else ""
        self.peer = inet_ntop(family, other) if other and other != own else ""
        self.ipv6 = family == AF_INET6
        self.prefix = prefix
        self.link_scope = scope == RT_SCOPE_LINK
        self.universe = scope == RT_SCOPE_UNIVERSE
        self.permanent = bool((_number(values.get(IFA_FLAGS)) or flags) & IFA_F_PERMANENT)
        flags = _number(values.get(IFA_FLAGS)) or flags
        self.usable = not self.ipv6 or not flags & (IFA_F_DADFAILED | IFA_F_TEMPORARY)
        """Whether it is for good: not one that another machine has too, nor a temporary one."""
        self.index = index


class KernelRoute:
    """A unicast route of the main table; destination "" is the default route, gateway "" is on the
    link. Of a multipath route, one for each next hop."""

    def __init__(
        self, family: int, prefix: int, values: dict[int, bytes], index: int, gateway: bytes
    ) -> None:
        destination = values.get(RTA_DST, b"")
        self.ipv6 = family == AF_INET6
        self.destination = f"{inet_ntop(family, destination)}/{prefix}" if destination else ""
        self.gateway = inet_ntop(_family_of(gateway), gateway) if gateway else ""
        self.index = index
        self.metric = _number(values.get(RTA_PRIORITY))


class Neighbour:
    """A permanent neighbour entry (NUD_PERMANENT): an address, and its hardware address as text."""

    def __init__(self, family: int, index: int, values: dict[int, bytes]) -> None:
        self.address = inet_ntop(family, values[NDA_DST])
        self.mac = values.get(NDA_LLADDR, b"").hex(":")
        self.index = index


class Rtnetlink(Socket):
    """One rtnetlink socket. A refused request is an OSError with the kernel's errno."""

    def __init__(self, *, host: bool = False) -> None:
        super().__init__(NETLINK_ROUTE, host=host)

    # what is there

    def links(self) -> list[Link]:
        """Every device of the namespace, in the kernel's order."""
        found = []
        for body in self.dump(RTM_GETLINK, bytes(16)):
            index, flags = unpack_from("iI", body, 4)
            found.append(Link(index, flags, dict(attributes(body[16:]))))
        return found

    def addresses(self) -> list[KernelAddress]:
        """Every address of the namespace, a device's primary one first."""
        found = []
        for body in self.dump(RTM_GETADDR, bytes(8)):
            family, prefix, flags, scope, index = unpack_from("BBBBI", body)
            if family in (AF_INET, AF_INET6):
                values = dict(attributes(body[8:]))
                found.append(KernelAddress(family, prefix, scope, flags, index, values))
        return found

    def routes(self) -> list[KernelRoute]:
        """The unicast routes of the main table."""
        found = []
        for body in self.dump(RTM_GETROUTE, bytes(12)):
            family, prefix, _src, _tos, table, _protocol, _scope, kind = unpack_from("8B", body)
            values = dict(attributes(body[12:]))
            table = _number(values.get(RTA_TABLE)) or table
            if family in (AF_INET, AF_INET6) and table == RT_TABLE_MAIN and kind == RTN_UNICAST:
                for index, gateway in _hops(values):
                    found.append(KernelRoute(family, prefix, values, index, gateway))
        return found

    def saved(self, index: int) -> Saved:
        """A device's addresses and routes, in the order in which the kernel takes them; not the
        routes that come by themselves, with an address or an advertisement."""
        found: Saved = [
            (RTM_NEWADDR, body)
            for body in self.dump(RTM_GETADDR, bytes(8))
            if unpack_from("I", body, 4)[0] == index
        ]
        far: Saved = []
        for body in self.dump(RTM_GETROUTE, bytes(12)):
            values = dict(attributes(body[12:]))
            own = body[5] not in (RTPROT_KERNEL, RTPROT_RA) and body[0] in (AF_INET, AF_INET6)
            if own and _number(values.get(RTA_OIF)) == index:
                (far if _gateway(values) else found).append((RTM_NEWROUTE, body))
        return [*found, *far]

    def neighbours(self) -> list[Neighbour]:
        """The permanent neighbour entries."""
        found = []
        for body in self.dump(RTM_GETNEIGH, bytes(12)):
            family, index, state = unpack_from("BxxxiH", body)
            values = dict(attributes(body[12:]))
            if family in (AF_INET, AF_INET6) and state & NUD_PERMANENT and NDA_DST in values:
                found.append(Neighbour(family, index, values))
        return found

    def index(self, name: str) -> int:
        """A device's index, 0 where there is none of this name."""
        for link in self.links():
            if link.name == name:
                return link.index
        return 0

    def has_qdisc(self, index: int, parent: int) -> bool:
        """Whether a device has a queueing discipline below `parent` (TC_H_INGRESS: ingress or
        clsact)."""
        for body in self.dump(RTM_GETQDISC, _tcmsg(index, 0, 0, 0)):
            its_index, _handle, its_parent = unpack_from("iII", body, 4)
            if its_index == index and its_parent == parent:
                return True
        return False

    def filters(self, index: int, parent: int = TC_H_CLSACT_INGRESS) -> set[int]:
        """The priorities of a device's ingress filters, or of those of clsact's egress."""
        found = set()
        for body in self.dump(RTM_GETTFILTER, _tcmsg(index, 0, parent, 0)):
            its_index, _handle, _parent, info = unpack_from("iIII", body, 4)
            if its_index == index and info >> 16:
                found.add(info >> 16)
        return found

    # what urunc changes

    def set_link(self, index: int, *, up: bool, mtu: int = 0, group: int = 0) -> None:
        """Bring a device up (or leave it down), with this MTU and in this group of devices; it
        gives itself no IPv6 address, and so says nothing of its own on the wire."""
        body = pack("BBHiII", 0, 0, 0, index, IFF_UP if up else 0, IFF_UP)
        if mtu:
            body += attribute(IFLA_MTU, pack("I", mtu))
        if group:
            body += attribute(IFLA_GROUP, pack("I", group))
        quiet = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
        try:
            self.request(RTM_NEWLINK, 0, body + nested(IFLA_AF_SPEC, nested(AF_INET6, quiet)))
        except OSError as error:
            # without IPv6, or below its least MTU, there is nothing to be quiet about
            if error.errno != EAFNOSUPPORT:
                raise
            self.request(RTM_NEWLINK, 0, body)

    def set_flags(self, index: int, *, up: bool) -> None:
        """Bring a device up or take it down, and nothing more."""
        self.request(RTM_NEWLINK, 0, pack("BBHiII", 0, 0, 0, index, IFF_UP if up else 0, IFF_UP))

    def move_link(self, index: int, namespace: int, name: str) -> None:
        """Move a device to another network namespace (a descriptor) under a name, which may hold a
        %d for a free number."""
        body = pack("BBHiII", 0, 0, 0, index, 0, 0)
        body += attribute(IFLA_NET_NS_FD, pack("I", namespace))
        self.request(RTM_NEWLINK, 0, body + attribute(IFLA_IFNAME, name.encode() + b"\0"))

    def set_queue_length(self, index: int, length: int) -> None:
        """Set the length of a device's transmit queue, in frames (0: it has none)."""
        body = pack("BBHiII", 0, 0, 0, index, 0, 0)
        self.request(RTM_NEWLINK, 0, body + attribute(IFLA_TXQLEN, pack("I", length)))

    def delete_link(self, name: str) -> None:
        """Remove a device; ENODEV where there is none."""
        body = pack("BBHiII", 0, 0, 0, 0, 0, 0)
        self.request(RTM_DELLINK, 0, body + attribute(IFLA_IFNAME, name.encode() + b"\0"))

    def add_address(self, index: int, address: str, prefix: int, peer: str = "") -> None:
        """Give a device an address; with a peer, the prefix is the peer's, and a route leads to
        it."""
        family = AF_INET6 if ":" in address else AF_INET
        own = inet_pton(family, address)
        body = pack("BBBBI", family, prefix, IFA_F_NODAD if family == AF_INET6 else 0, 0, index)
        body += attribute(IFA_LOCAL, own)
        body += attribute(IFA_ADDRESS, inet_pton(family, peer) if peer else own)
        self.request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)

    def restore(self, index: int, saved: Saved) -> None:
        """Give a device what one had when it was `saved`; what is there already is fine."""
        for kind, body in saved:
            if kind == RTM_NEWADDR:
                message = body[:4] + pack("I", index) + body[8:]
            else:
                flags = unpack_from("I", body, 8)[0] & RTNH_F_ONLINK
                message = body[:8] + pack("I", flags)
                for name, value in attributes(body[12:]):
                    if name not in (RTA_CACHEINFO, RTA_NH_ID, RTA_OIF):
                        message += attribute(name, value)
                message += attribute(RTA_OIF, pack("I", index))
            try:
                self.request(kind, NLM_F_CREATE, message)
            except OSError as error:
                if error.errno != EEXIST:
                    raise

    def add_neighbour(self, index: int, address: str, mac: str) -> None:
        """Make a permanent neighbour entry."""
        family = AF_INET6 if ":" in address else AF_INET
        body = pack("BxxxiHBB", family, index, NUD_PERMANENT, 0, 0)
        body += attribute(NDA_DST, inet_pton(family, address))
        body += attribute(NDA_LLADDR, bytes.fromhex(mac.replace(":", "")))
        self.request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)

    def add_ingress(self, index: int) -> None:
        """Give a device the ingress queueing discipline; EEXIST where it has ingress or clsact."""
        body = _tcmsg(index, INGRESS_HANDLE, TC_H_INGRESS, 0) + attribute(TCA_KIND, b"ingress\0")
        self.request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body)

    def add_clsact(self, index: int) -> None:
        """Give a device the clsact queueing discipline, with filters of both directions; EEXIST
        where it has ingress or clsact."""
        body = _tcmsg(index, INGRESS_HANDLE, TC_H_INGRESS, 0) + attribute(TCA_KIND, b"clsact\0")
        self.request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body)

    def delete_ingress(self, index: int) -> None:
        """Remove a device's ingress discipline, or clsact, with every filter on it."""
        self.request(RTM_DELQDISC, 0, _tcmsg(index, INGRESS_HANDLE, TC_H_INGRESS, 0))

    def redirect(self, source_index: int, target_index: int, priority: int) -> None:
        """Send every frame that arrives at one device out of another (tc-mirred(8)).

        Works below `ingress` and `clsact`. u32 matches all there is with one empty key; matchall
        says the same where a kernel lacks u32.
        """
        mirred = pack("IIiiiiI", 0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, target_index)
        action = attribute(TCA_ACT_KIND, b"mirred\0") + attribute(
            TCA_ACT_OPTIONS, attribute(TCA_MIRRED_PARMS, mirred)
        )
        actions = attribute(1, action)
        u32 = _u32_selector(0, 0, 0) + attribute(TCA_U32_ACT, actions)
        matchall = attribute(TCA_MATCHALL_ACT, actions)
        for kind, options in ((b"u32\0", u32), (b"matchall\0", matchall)):
            try:
                self._add_filter(source_index, priority, ETH_P_ALL, kind, options)
            except FileNotFoundError:  # ENOENT: no such classifier in this kernel
                if kind == b"matchall\0":
                    raise
            else:
                return

    def run_program(self, index: int, parent: int, priority: int, program: int, name: str) -> None:
        """Have a loaded BPF program (a descriptor) decide on a device's packets (tc-bpf(8))."""
        options = attribute(TCA_BPF_FD, pack("I", program))
        options += attribute(TCA_BPF_NAME, name.encode() + b"\0")
        options += attribute(TCA_BPF_FLAGS, pack("I", TCA_BPF_FLAG_ACT_DIRECT))
        self._add_filter(index, priority, ETH_P_ALL, b"bpf\0", options, parent)

    def leave_arp(self, index: int, priority: int, ipv4: str = "") -> None:
        """Let the namespace itself have the ARP requests of a device for an IPv4 address, or all
        of them.

        A terminal u32 filter without an action: what it matches goes its usual way, up the stack.
        """
        if ipv4:
            self._leave(index, priority, ETH_P_ARP, inet_pton(AF_INET, ipv4), 24)
        else:  # lengths of the addresses, and the operation: a request
            self._leave(index, priority, ETH_P_ARP, b"\6\4\0\1", 4)

    def leave_ipv4(self, index: int, priority: int, ipv4: str) -> None:
        """Let the namespace itself have the packets of a device to an IPv4 address."""
        self._leave(index, priority, ETH_P_IP, inet_pton(AF_INET, ipv4), 16)

    def _leave(self, index: int, priority: int, protocol: int, value: bytes, offset: int) -> None:
        options = attribute(TCA_U32_CLASSID, pack("I", 0x10001))
        options += _u32_selector(int.from_bytes(value, "big"), 0xFFFFFFFF, offset)
        self._add_filter(index, priority, protocol, b"u32\0", options)

    def _add_filter(
        self, index: int, priority: int, protocol: int, kind: bytes, options: bytes,
        parent: int = TC_H_CLSACT_INGRESS,
    ) -> None:  # fmt: skip
        info = priority << 16 | (protocol & 0xFF) << 8 | protocol >> 8
        body = _tcmsg(index, 0, parent, info) + attribute(TCA_KIND, kind)
        body += attribute(TCA_OPTIONS, options)
        self.request(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, body)

    def delete_filters(self, index: int, priority: int, parent: int = TC_H_CLSACT_INGRESS) -> None:
        """Remove a device's filters of one priority, ingress ones or clsact's egress ones."""
        self.request(RTM_DELTFILTER, 0, _tcmsg(index, 0, parent, priority << 16))


class Written(Rtnetlink):
    """What would be said to the kernel, for somebody else to say it."""

    def __init__(self) -> None:
        self._sequence = 0
        self.messages: list[tuple[str, bytes]] = []
        """("ask", a request) or ("unless", a question: what is written after it is for an empty
        answer)."""

    def request(self, kind: int, flags: int, body: bytes) -> None:
        self.messages.append(("ask", self._message(kind, NLM_F_ACK | flags, body)))

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        self.messages.append(("unless", self._message(kind, NLM_F_DUMP, body)))
        return []


def ask(namespace: str, question: Callable[[Rtnetlink], T]) -> T:
    """Call a function with a socket that speaks to the namespace at a path."""
    return netlink.ask(Rtnetlink, namespace, question)


def _number(value: bytes | None) -> int:
    return int.from_bytes(value, "little") if value else 0


def _family_of(address: bytes) -> int:
    return AF_INET6 if len(address) == 16 else AF_INET if len(address) == 4 else AF_UNSPEC


def _hops(values: dict[int, bytes]) -> list[tuple[int, bytes]]:
    """(device, gateway) of each next hop; a gateway may be of the other family (RTA_VIA)."""
    buffer = values.get(RTA_MULTIPATH)
    if buffer is None:
        return [(_number(values.get(RTA_OIF)), _gateway(values))]
    found, offset = [], 0
    while offset + 8 <= len(buffer):
        length, _flags, _weight, index = unpack_from("HBBi", buffer, offset)
        if length < 8:
            break
        found.append((index, _gateway(dict(attributes(buffer[offset + 8 : offset + length])))))
        offset += (length + 3) & ~3
    return found


def _gateway(values: dict[int, bytes]) -> bytes:
    via = values.get(RTA_VIA, b"")  # struct rtvia: the family, then the address
    return values.get(RTA_GATEWAY) or via[2:]


def _tcmsg(index: int, handle: int, parent: int, info: int) -> bytes:
    return pack("BxHiIII", 0, 0, index, handle, parent, info)


def _u32_selector(value: int, mask: int, offset: int) -> bytes:
    """struct tc_u32_sel {flags, offshift, nkeys, offmask, off, offoff, hoff, hmask} and one key
    {mask, value, offset, offset's mask}; value and mask are in network order."""
    header = pack("BBBxHHhhI", TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0)
    key = pack(">II", mask, value) + pack("ii", offset, 0)
    return attribute(TCA_U32_SEL, header + key)
