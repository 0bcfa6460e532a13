# SPDX-License-Identifier: Apache-2.0
"""What checks are made from: requests and machines as urunc makes them, and texts that are odd."""

from __future__ import annotations

from typing import Any

from urunc.guests import Disk, Nic, Request, Words
from urunc.monitors import GIB, Machine, MachineDisk, MachineNic, MachineShare, Monitor, Program
from urunc.net.facts import Route
from urunc.storage.facts import Root, Volume

ODD = (
    *(f"a{chr(code)}b" for code in range(1, 0x80)),
    *("é", "日本語", "\N{CRAB}", "a\xa0b", "a\u2028b", "a\u0301", "\u200f", "á"),
    *("--", "-x", "-", "--help", "A=b", "=", "$HOME", "it's", "a\\", "\\", '"', '""', "''", "%s"),
    *(" lead", "trail ", "a  b", "a -- b", " -- ", "]", "[ x ]", "[", "{args}", "{env}", "{ip}"),
    *("{", "}", "{}", "{x}", "a,,b", "ip=1.2.3.4", "init=/x", "x" * 999, "x" * 5000),
)
"""Every ASCII character but NUL, which no argument holds; words of other scripts; what parsers of
command lines treat specially; long ones."""
HUGE = 1 << 44
"""16 TiB, in bytes."""


def nic(**changes: Any) -> Nic:
    """A guest's interface with an IPv4 address and a gateway."""
    values: dict[str, Any] = {
        "name": "", "mac": "02:42:ac:11:00:02", "mtu": 1500, "ipv4": "10.88.0.7",
        "ipv4_prefix": 16, "ipv4_subnet": 16, "ipv4_gateway": "10.88.0.1", "ipv6": "",
        "ipv6_prefix": 0, "ipv6_gateway": "", "more": (), **changes,
    }  # fmt: skip
    routes = []
    if values["ipv4_gateway"]:
        routes.append(Route(destination="0.0.0.0/0", gateway=values["ipv4_gateway"], metric=0))
    if values["ipv6_gateway"]:
        routes.append(Route(destination="::/0", gateway=values["ipv6_gateway"], metric=1024))
    return Nic(**{"routes": tuple(routes), **values})


NO_IPV4: dict[str, Any] = {"ipv4": "", "ipv4_prefix": 0, "ipv4_subnet": 0, "ipv4_gateway": ""}
SIX: dict[str, Any] = {"ipv6": "fd00::7", "ipv6_prefix": 64, "ipv6_gateway": "fd00::1"}


def disk(**changes: Any) -> Disk:
    """A guest's block device."""
    return Disk(**{"name": "", "read_only": False, "mount_point": "", **changes})


def request(**changes: Any) -> Request:
    """What a guest is asked for: nothing but what the changes say."""
    values: dict[str, Any] = {
        "args": (), "env": (), "hostname": "", "version": "", "console": "ttyS0", "initrd": False,
        "nics": (), "disks": (), "dns": (), "search": (), "hosts": (),
    }  # fmt: skip
    return Request(**{**values, **changes})


def root(form: str) -> Root:
    """A container's root filesystem that reaches the guest in a format."""
    return Root(form=form, device="", numbers=(), read_only=False, copied=False, reason="")


def volume(way: str, destination: str, **changes: Any) -> Volume:
    """A directory that reaches the guest by a transport."""
    values: dict[str, Any] = {
        "destination": destination, "source": "/srv", "kind": "folder", "way": way,
        "read_only": False, "recursive": True, "options": (), "device": (),
    }  # fmt: skip
    return Volume(**{**values, **changes})


def program(version: str = "", path: str = "/usr/bin/monitor") -> Program:
    """A monitor's program of a version, "" for an unknown one."""
    return Program(path=path, version=version, libraries=(), data=())


def machine(monitor: Monitor, architecture: str = "x86_64", **changes: Any) -> Machine:
    """The plainest machine of a monitor's: a kernel, a GiB of memory and one vCPU."""
    kvm = "kvm" if monitor.needs_kvm else "tcg" if monitor.can_emulate else "none"
    values: dict[str, Any] = {
        "id": "box", "architecture": architecture, "accelerator": kvm, "nested": False,
        "memory_bytes": GIB // 2, "vcpus": 1, "kernel": "/unikernel", "initrd": "",
        "words": Words(program="", words=()), "nics": (), "disks": (), "quirks": frozenset(),
        "terminal": False, "seccomp": True, "arguments": (),
    }  # fmt: skip
    return Machine(**{**values, **changes})


def machine_nic(index: int, **changes: Any) -> MachineNic:
    """A machine's network device."""
    values: dict[str, Any] = {
        "name": f"net{index}", "tap": f"tap{index}", "mac": f"02:42:ac:11:01:{index:02x}",
        "mtu": 1500, "queues": 1,
    }  # fmt: skip
    return MachineNic(**{**values, **changes})


def machine_disk(index: int, **changes: Any) -> MachineDisk:
    """A machine's block device."""
    values: dict[str, Any] = {"name": f"d{index}", "path": f"/files/{index}.img"}
    return MachineDisk(**{"read_only": False, **values, **changes})


def machine_share(kind: str, index: int) -> MachineShare:
    """A directory that a machine shares with its guest."""
    path, socket = f"/share/volumes/{index}", f"/run/share{index}.sock"
    return MachineShare(kind=kind, tag=f"volume{index}", path=path, socket=socket)
