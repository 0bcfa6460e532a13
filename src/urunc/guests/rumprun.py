# SPDX-License-Identifier: Apache-2.0
"""Rumprun (NetBSD's rump kernels) on Solo5: one JSON object as the whole command line.

Read by rumprun's own configuration parser, in this order of keys; each `env` is a key of its own.
"""

from __future__ import annotations

from urunc.guests import Guest, Request, Words
from urunc.jsontext import quote
from urunc.net.ipv4 import contains


class Rumprun(Guest):
    """A Rumprun unikernel."""

    name = "rumprun"
    monitors = frozenset(("hvt", "spt"))
    storage = frozenset(("block",))
    block_mount_point = "/data"

    def words(self, request: Request) -> Words:
        # an object with repeated `env` keys is no dict: the members are rendered one by one
        # existing images put a whole line into one argument, so blanks are joined, not refused
        members = [_member("cmdline", " ".join(request.args))]
        members += [_member("env", variable) for variable in request.env]
        nic = request.nics[0] if request.nics else None
        if nic and nic.ipv4:
            members.append(f'"net":{{{_net(nic.ipv4, nic.ipv4_prefix, nic.ipv4_gateway)}}}')
        if request.disks:
            block = (
                _member("source", "etfs"),
                _member("path", "/dev/ld0a"),
                _member("fstype", "blk"),
                _member("mountpoint", request.disks[0].mount_point),
            )
            members.append(f'"blk":{{{",".join(block)}}}')
        return Words(program="", words=("{" + ",".join(members) + "}",))


def _net(address: str, prefix: int, gateway: str) -> str:
    # NetBSD refuses a gateway outside the subnet: then the widest mask makes it a neighbour
    on_link = not gateway or contains(address, prefix, gateway)
    members = [
        _member("if", "ukvmif0"),
        _member("cloner", "True"),
        _member("type", "inet"),
        _member("method", "static"),
        _member("addr", address),
        _member("mask", str(prefix if on_link else 1)),
    ]
    if gateway:
        members.append(_member("gw", gateway))
    return ",".join(members)


def _member(key: str, value: str) -> str:
    return f"{quote(key)}:{quote(value)}"


GUEST = Rumprun
