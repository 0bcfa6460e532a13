# SPDX-License-Identifier: Apache-2.0
"""rtnetlink: what a network namespace holds, and the few changes urunc makes to it.

Hand-written, because importing pyroute2 takes 200 ms and a whole container start takes a tenth of
that. Only the messages that urunc needs (rtnetlink(7), linux/rtnetlink.h, linux/pkt_cls.h). A
`Netlink` speaks to the namespace in which it was opened, wherever the thread goes later.
"""

from __future__ import annotations

import posix
from _socket import AF_INET, AF_INET6, AF_NETLINK, SOCK_CLOEXEC, SOCK_RAW, inet_ntop, socket
from _struct import pack, unpack_from

from urunc.linux.namespaces import call_in_network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    T = TypeVar("T")

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_GETADDR, RTM_GETROUTE = 22, 26
RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_EXCL, NLM_F_CREATE = 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3

IFF_UP, IFF_LOOPBACK = 0x1, 0x8
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO = 1, 3, 4, 18
IFLA_INFO_KIND = 1
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_TABLE = 1, 4, 5, 6, 15
RT_SCOPE_LINK = 253
RT_TABLE_MAIN = 254
RTN_UNICAST = 1

TCA_KIND, TCA_OPTIONS = 1, 2
TC_H_INGRESS, TC_H_CLSACT_INGRESS = 0xFFFFFFF1, 0xFFFFFFF2
INGRESS_HANDLE = 0xFFFF0000
ETH_P_ALL_BE = 0x0300  # ETH_P_ALL (3) in network byte order
TCA_U32_SEL, TCA_U32_ACT = 5, 7
TCA_MATCHALL_ACT = 2
TCA_ACT_KIND, TCA_ACT_OPTIONS = 1, 2
TCA_MIRRED_PARMS = 2
TC_ACT_STOLEN = 4
TCA_EGRESS_REDIR = 1


class Link:
    """A network device: `mac` is text, empty where it has none."""

    def __init__(self, index: int, flags: int, attributes: dict[int, bytes]) -> None:
        self.index = index
        self.up = bool(flags & IFF_UP)
        self.loopback = bool(flags & IFF_LOOPBACK)
        self.name = attributes.get(IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace")
        self.mac = attributes.get(IFLA_ADDRESS, b"").hex(":")
        self.mtu = int.from_bytes(attributes.get(IFLA_MTU, b"\0"), "little")
        info = dict(_attributes(attributes.get(IFLA_LINKINFO, b"")))
        self.kind = info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode("ascii", "replace")


class Address:
    """An IPv4 or IPv6 address with its prefix length on a device."""

    def __init__(
        self, family: int, prefix: int, scope: int, index: int, attributes: dict[int, bytes]
    ) -> None:
        # on a point-to-point device IFA_ADDRESS is the peer, IFA_LOCAL the own address (ifaddr(3))
        value = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS, b"")
        self.address = inet_ntop(family, value) if value else ""
        self.ipv6 = family == AF_INET6
        self.prefix = prefix
        self.link_scope = scope == RT_SCOPE_LINK
        self.index = index


class Route:
    """A unicast route of the main table; destination "" is the default route, gateway "" is on the
    link."""

    def __init__(self, family: int, prefix: int, scope: int, attributes: dict[int, bytes]) -> None:
        destination = attributes.get(RTA_DST, b"")
        gateway = attributes.get(RTA_GATEWAY, b"")
        self.ipv6 = family == AF_INET6
        self.destination = f"{inet_ntop(family, destination)}/{prefix}" if destination else ""
        self.gateway = inet_ntop(family, gateway) if gateway else ""
        self.index = int.from_bytes(attributes.get(RTA_OIF, b""), "little")
        self.metric = int.from_bytes(attributes.get(RTA_PRIORITY, b""), "little")
        self.link_scope = scope == RT_SCOPE_LINK


class Netlink:
    """One rtnetlink socket. A refused request is an OSError with the kernel's errno."""

    def __init__(self) -> None:
        self._socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Let go of the socket (and with it of the namespace)."""
        self._socket.close()

    # what is there

    def links(self) -> list[Link]:
        """Every device of the namespace, in the kernel's order."""
        found = []
        for body in self._dump(RTM_GETLINK, bytes(16)):
            index, flags = unpack_from("iI", body, 4)
            found.append(Link(index, flags, dict(_attributes(body[16:]))))
        return found

    def addresses(self) -> list[Address]:
        """Every address of the namespace, a device's primary one first."""
        found = []
        for body in self._dump(RTM_GETADDR, bytes(8)):
            family, prefix, _flags, scope, index = unpack_from("BBBBI", body)
            if family in (AF_INET, AF_INET6):
                found.append(Address(family, prefix, scope, index, dict(_attributes(body[8:]))))
        return found

    def routes(self) -> list[Route]:
        """The unicast routes of the main table."""
        found = []
        for body in self._dump(RTM_GETROUTE, bytes(12)):
            family, prefix, _src, _tos, table, _protocol, scope, kind = unpack_from("8B", body)
            attributes = dict(_attributes(body[12:]))
            table = int.from_bytes(attributes.get(RTA_TABLE, bytes([table])), "little")
            if family in (AF_INET, AF_INET6) and table == RT_TABLE_MAIN and kind == RTN_UNICAST:
                found.append(Route(family, prefix, scope, attributes))
        return found

    def has_qdisc(self, index: int, parent: int) -> bool:
        """Whether a device has a queueing discipline below `parent` (TC_H_INGRESS: ingress or
        clsact)."""
        for body in self._dump(RTM_GETQDISC, _tcmsg(index, 0, 0, 0)):
            its_index, _handle, its_parent = unpack_from("iII", body, 4)
            if its_index == index and its_parent == parent:
                return True
        return False

    def has_filters(self, index: int, priority: int) -> bool:
        """Whether a device has ingress filters of one priority."""
        header = _tcmsg(index, 0, TC_H_CLSACT_INGRESS, 0)
        for body in self._dump(RTM_GETTFILTER, header):
            (info,) = unpack_from("I", body, 16)
            if info >> 16 == priority:
                return True
        return False

    # what urunc changes

    def set_link(self, index: int, *, up: bool, mtu: int) -> None:
        """Bring a device up (or leave it down) with this MTU."""
        body = pack("BBHiII", 0, 0, 0, index, IFF_UP if up else 0, IFF_UP)
        self._request(RTM_NEWLINK, 0, body + _attribute(IFLA_MTU, pack("I", mtu)))

    def delete_link(self, index: int) -> None:
        """Remove a device."""
        self._request(RTM_DELLINK, 0, pack("BBHiII", 0, 0, 0, index, 0, 0))

    def add_ingress(self, index: int) -> None:
        """Give a device the ingress queueing discipline; EEXIST where it has ingress or clsact."""
        body = _tcmsg(index, INGRESS_HANDLE, TC_H_INGRESS, 0) + _attribute(TCA_KIND, b"ingress\0")
        self._request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body)

    def delete_ingress(self, index: int) -> None:
        """Remove a device's ingress discipline with every filter on it."""
        self._request(RTM_DELQDISC, 0, _tcmsg(index, INGRESS_HANDLE, TC_H_INGRESS, 0))

    def redirect(self, source_index: int, target_index: int, priority: int) -> None:
        """Send every frame that arrives at one device out of another (tc-mirred(8)).

        Works below `ingress` and `clsact`. u32 matches all there is with one empty key; matchall
        says the same where a kernel lacks u32.
        """
        mirred = pack("IIiiiiI", 0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, target_index)
        action = _attribute(TCA_ACT_KIND, b"mirred\0") + _attribute(
            TCA_ACT_OPTIONS, _attribute(TCA_MIRRED_PARMS, mirred)
        )
        actions = _attribute(1, action)
        # struct tc_u32_sel {flags TERMINAL, offshift, nkeys, offmask, off, offoff, hoff, hmask} and
        # one key
        selector = pack("BBBxHHhhI", 1, 0, 1, 0, 0, 0, 0, 0) + pack("IIii", 0, 0, 0, 0)
        u32 = _attribute(TCA_U32_SEL, selector) + _attribute(TCA_U32_ACT, actions)
        matchall = _attribute(TCA_MATCHALL_ACT, actions)
        header = _tcmsg(source_index, 0, TC_H_CLSACT_INGRESS, priority << 16 | ETH_P_ALL_BE)
        for kind, options in ((b"u32\0", u32), (b"matchall\0", matchall)):
            try:
                self._request(
                    RTM_NEWTFILTER,
                    NLM_F_CREATE | NLM_F_EXCL,
                    header + _attribute(TCA_KIND, kind) + _attribute(TCA_OPTIONS, options),
                )
            except FileNotFoundError:  # ENOENT: no such classifier in this kernel
                if kind == b"matchall\0":
                    raise
            else:
                return

    def delete_filters(self, index: int, priority: int) -> None:
        """Remove a device's ingress filters of one priority."""
        header = _tcmsg(index, 0, TC_H_CLSACT_INGRESS, priority << 16 | ETH_P_ALL_BE)
        self._request(RTM_DELTFILTER, 0, header)

    # messages

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        self._send(kind, NLM_F_DUMP, body)
        return list(self._receive())

    def _request(self, kind: int, flags: int, body: bytes) -> None:
        self._send(kind, NLM_F_ACK | flags, body)
        for _ in self._receive():
            pass

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        header = pack("IHHII", 16 + len(body), kind, NLM_F_REQUEST | flags, self._sequence, 0)
        self._socket.send(header + body)

    def _receive(self) -> Iterator[bytes]:
        while True:
            datagram = self._socket.recv(1 << 17)
            offset = 0
            while offset + 16 <= len(datagram):
                length, kind, _flags, sequence = unpack_from("IHHI", datagram, offset)
                body = datagram[offset + 16 : offset + length]
                offset += (length + 3) & ~3
                if sequence != self._sequence:
                    continue
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    number = -unpack_from("i", body)[0]
                    if number:
                        raise OSError(number, posix.strerror(number))
                    return
                yield body


def ask(namespace: str, question: Callable[[Netlink], T]) -> T:
    """Call a function with a socket that speaks to the namespace at a path."""
    netlink = call_in_network(namespace, Netlink)
    try:
        return question(netlink)
    finally:
        netlink.close()


def _tcmsg(index: int, handle: int, parent: int, info: int) -> bytes:
    return pack("BxHiIII", 0, 0, index, handle, parent, info)


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return pack("HH", length, kind) + value + bytes(-length % 4)


def _attributes(buffer: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(buffer):
        length, kind = unpack_from("HH", buffer, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, buffer[offset + 4 : offset + length]
        offset += (length + 3) & ~3
