# SPDX-License-Identifier: Apache-2.0
"""conntrack: where the kernel has led a connection of a network namespace.

One request of ctnetlink (linux/netfilter/nfnetlink_conntrack.h), as conntrack(8) makes it.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from _struct import pack, unpack

from urunc.linux.netlink import Socket, attribute, attributes, nested

NETLINK_NETFILTER = 12
NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET = 1, 1
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY = 1, 2
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
TCP = 6


class Conntrack(Socket):
    """A socket to a network namespace's connections."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER)

    def tcp_peer(self, source: tuple[str, int], target: tuple[str, int]) -> tuple[str, int]:
        """(address, port) of who answers a TCP connection from one (address, port) to another:
        another one than the target where it was translated. Raises OSError; ENOENT: it is not
        known."""
        ipv6 = ":" in target[0]
        family = AF_INET6 if ipv6 else AF_INET
        names = (CTA_IP_V6_SRC, CTA_IP_V6_DST) if ipv6 else (CTA_IP_V4_SRC, CTA_IP_V4_DST)
        addresses = zip(names, (source[0], target[0]), strict=True)
        ports = ((CTA_PROTO_SRC_PORT, source[1]), (CTA_PROTO_DST_PORT, target[1]))
        wanted = nested(
            CTA_TUPLE_ORIG,
            nested(CTA_TUPLE_IP, *(attribute(key, inet_pton(family, value))
                                   for key, value in addresses)),
            nested(CTA_TUPLE_PROTO, attribute(CTA_PROTO_NUM, bytes([TCP])),
                   *(attribute(key, pack(">H", value)) for key, value in ports)),
        )  # fmt: skip
        kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET
        body = self.get(kind, pack("BBH", family, 0, 0) + wanted)
        reply = dict(attributes(dict(attributes(body[4:]))[CTA_TUPLE_REPLY]))
        address = dict(attributes(reply[CTA_TUPLE_IP]))[names[0]]
        port = dict(attributes(reply[CTA_TUPLE_PROTO]))[CTA_PROTO_SRC_PORT]
        return inet_ntop(family, address), unpack(">H", port)[0]
