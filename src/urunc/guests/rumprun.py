# SPDX-License-Identifier: Apache-2.0
"""Rumprun (NetBSD's rump kernels) on Solo5: the whole command line is one JSON object.

Rumprun's own configuration parser reads it, in this order of keys; each variable is an `env` key of
its own.
"""

from __future__ import annotations

from urunc.guests import Guest, Nic, Request, Words
from urunc.jsontext import quote
from urunc.net.ipv4 import contains


class Rumprun(Guest):
    """A Rumprun unikernel."""

    name = "rumprun"
    monitors = frozenset(("hvt", "spt"))
    storage = frozenset(("block",))
    root_forms = ("ext2",)
    volume_ways = ("ext2",)
    block_mount_point = "/data"
    takes_ipv6 = True
    splits_arguments = True

    def words(self, request: Request) -> Words:
        # `env` and `blk` are repeated keys, which no dict can hold: members are text
        # existing images put a whole line into one argument, so blanks are not refused
        members = [_member("cmdline", " ".join(request.args))]
        members += [_member("env", variable) for variable in request.env]
        nic = request.nics[0] if request.nics else None
        # its configuration holds one address: an IPv6 one only if there is no IPv4
        if nic and (nic.ipv4 or nic.ipv6):
            members.append(f'"net":{{{_net(nic) if nic.ipv4 else _net6(nic)}}}')
        for index, disk in enumerate(request.disks):
            if not disk.mount_point:
                continue
            block = (
                _member("source", "etfs"),
                _member("path", f"/dev/ld{index}a"),
                _member("fstype", "blk"),
                _member("mountpoint", disk.mount_point),
            )
            members.append(f'"blk":{{{",".join(block)}}}')
        return Words(program="", words=("{" + ",".join(members) + "}",))


def _net(nic: Nic) -> str:
    # NetBSD refuses a gateway outside the subnet; the widest mask makes it a neighbour
    on_link = not nic.ipv4_gateway or contains(nic.ipv4, nic.ipv4_subnet, nic.ipv4_gateway)
    return _static("inet", nic.ipv4, nic.ipv4_subnet if on_link else 1, nic.ipv4_gateway)


def _net6(nic: Nic) -> str:
    return _static("inet6", nic.ipv6, nic.ipv6_prefix, nic.ipv6_gateway)


def _static(family: str, address: str, prefix: int, gateway: str) -> str:
    members = [
        _member("if", "ukvmif0"),
        _member("cloner", "True"),
        _member("type", family),
        _member("method", "static"),
        _member("addr", address),
        _member("mask", str(prefix)),
    ]
    if gateway:
        members.append(_member("gw", gateway))
    return ",".join(members)


def _member(key: str, value: str) -> str:
    return f"{quote(key)}:{quote(value)}"


GUEST = Rumprun
