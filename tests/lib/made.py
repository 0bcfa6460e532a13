# SPDX-License-Identifier: Apache-2.0
"""What the unit tests, and the tables of what is decided, are made from: configurations, images,
machines, what is mounted, and ELF files, none of them real."""

from __future__ import annotations

import struct
from typing import Any

from urunc.bundle.elf import SOLO5_ABI1, SOLO5_MFT1, XEN_ELFNOTE_PHYS32_ENTRY, Binary
from urunc.bundle.image import ImageFile, UnikernelImage
from urunc.config import Config
from urunc.monitors import Program
from urunc.net.facts import Address, Interface, NetFacts, Route
from urunc.plan.model import DeviceNode, HostFacts
from urunc.storage.facts import (
    DEVICE,
    DIRECTORY,
    DISKS,
    INITRD,
    ROOT_FORMATS,
    StorageFound,
    VolumeSource,
)

MIB = 1 << 20
X86_64, AARCH64 = 62, 183
BLOCK, NET = 1, 2


def document(**changes: Any) -> dict[str, Any]:
    """A config.json's value; a change replaces a whole top-level member, None takes it away."""
    base: dict[str, Any] = {
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {"args": ["app"], "cwd": "/"},
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "mount")]},
    }
    base.update(changes)
    return {key: value for key, value in base.items() if value is not None}


def config(**values: Any) -> Config:
    """A configuration whose keys are set by a file; `__` in a name stands for a dot."""
    made = Config()
    for name, value in values.items():
        key = name.replace("__", ".")
        made.values[key] = value
        made.sources[key] = "/etc/urunc/config.toml"
    return made


def binary(**changes: Any) -> Binary:
    """The facts of an ELF kernel for x86_64."""
    values: dict[str, Any] = {
        "format": "elf",
        "machine": "x86_64",
        "interpreter": "",
        "pvh": False,
        "solo5_target": "",
        "solo5_devices": (),
    }
    return Binary(**{**values, **changes})


def solo5(target: str, *devices: tuple[str, str], machine: str = "x86_64") -> Binary:
    """The facts of a Solo5 guest with (name, "net" or "block") devices."""
    return binary(machine=machine, solo5_target=target, solo5_devices=devices)


def image_file(path: str, **changes: Any) -> ImageFile:
    """A file of the image that everybody may read and its owner write."""
    values: dict[str, Any] = {
        "path": path,
        "inside": True,
        "mode": 0o644,
        "uid": 0,
        "gid": 0,
        "inode": 7,
        "size_bytes": 4096,
    }
    return ImageFile(**{**values, **changes})


def image(guest: str, monitor: str, **changes: Any) -> UnikernelImage:
    """An image with a kernel alone."""
    values: dict[str, Any] = {
        "guest": guest,
        "monitor": monitor,
        "kernel": image_file("/unikernel"),
        "binary": binary(),
        "initrd": None,
        "blocks": (),
        "cmdline": "",
        "version": "",
        "block_mount_points": (),
        "overrides": {},
    }
    return UnikernelImage(**{**values, **changes})


def node(path: str, **changes: Any) -> DeviceNode:
    """A device node that its group and its owner may open."""
    values: dict[str, Any] = {"major": 10, "minor": 232, "mode": 0o660, "gid": 107, "problem": ""}
    return DeviceNode(**{"path": path, **values, **changes})


def host(**changes: Any) -> HostFacts:
    """An x86_64 machine with KVM and a monitor of a version that none refuses."""
    values: dict[str, Any] = {
        "architecture": "x86_64",
        "kvm": node("/dev/kvm"),
        "tun": node("/dev/net/tun", minor=200, mode=0o666, gid=0),
        "nested": False,
        "program": Program(path="/usr/bin/monitor", version="9.0", libraries=(), data=()),
    }
    return HostFacts(**{**values, **changes})


def program(version: str) -> Program:
    """A monitor's program of a version."""
    return Program(path="/usr/bin/monitor", version=version, libraries=(), data=())


def interface(**changes: Any) -> Interface:
    """One interface as an engine's network plugin leaves it, with its TAP device."""
    values: dict[str, Any] = {
        "name": "eth0",
        "index": 2,
        "mac": "02:42:ac:11:00:02",
        "mtu": 1500,
        "ipv4": (Address(address="10.88.0.7", prefix=16, on_link=True),),
        "ipv6": (),
        "routes": (Route(destination="0.0.0.0/0", gateway="10.88.0.1", metric=0),),
        "gateway_mac": "",
        "tap": "urunc0",
    }
    return Interface(**{**values, **changes})


def net(*interfaces: Interface, dns: tuple[str, ...] = (), spare: tuple[str, ...] = ()) -> NetFacts:
    """A network of these interfaces."""
    return NetFacts(interfaces=interfaces, spare_taps=spare, dns=dns, search=(), hosts=())


def found(*volumes: VolumeSource, **changes: Any) -> StorageFound:
    """A machine that has every program, and a guest's kernel that mounts everything."""
    values: dict[str, Any] = {
        "device": "",
        "device_numbers": (),
        "device_filesystem": "",
        "builders": (*DISKS, INITRD),
        "filesystems": ROOT_FORMATS,
        "virtiofsd": "/usr/lib/qemu/virtiofsd",
        "supervisor": "",
        "user_namespace": False,
        "volumes": volumes,
    }
    return StorageFound(**{**values, **changes})


def source(destination: str, kind: str = DIRECTORY, **changes: Any) -> VolumeSource:
    """A mount that may be written to."""
    values: dict[str, Any] = {
        "source": f"/host{destination}",
        "read_only": False,
        "recursive": True,
        "scratch": False,
        "options": (),
        "device": (7, 1) if kind == DEVICE else (),
    }
    return VolumeSource(destination=destination, kind=kind, **{**values, **changes})


def note(owner: bytes, kind: int, content: bytes) -> bytes:
    """One ELF note, both of its parts padded to four bytes."""
    name = owner + b"\0"
    head = struct.pack("<III", len(name), len(content), kind)
    return head + name + bytes(-len(name) % 4) + content + bytes(-len(content) % 4)


def manifest(*devices: tuple[str, int], version: int = 1, entries: int = -1, pad: int = 0) -> bytes:
    """A Solo5 manifest: version, count, then 104 bytes per device; `pad` bytes before it."""
    count = len(devices) if entries < 0 else entries
    body = bytes(pad) + struct.pack("<II", version, count)
    for name, kind in devices:
        body += struct.pack("<68sI", name.encode(), kind) + bytes(32)
    return body


def solo5_notes(target: int, *devices: tuple[str, int], pad: int = 4) -> bytes:
    """The two notes of a Solo5 guest."""
    abi = note(b"Solo5", SOLO5_ABI1, struct.pack("<IIII", target, 1, 0, 0))
    return abi + note(b"Solo5", SOLO5_MFT1, manifest(*devices, pad=pad))


def pvh_note() -> bytes:
    """The note by which a kernel offers a PVH entry point."""
    return note(b"Xen", XEN_ELFNOTE_PHYS32_ENTRY, struct.pack("<Q", 0x100000))


def elf(
    notes: bytes = b"",
    *,
    machine: int = X86_64,
    interpreter: bytes = b"",
    loaded: tuple[tuple[int, int], ...] = (),
) -> bytes:
    """A 64-bit little-endian ELF file with a note segment and an interpreter, where they are
    given; `loaded` are segments of one byte each: (physical address, size in memory)."""
    segments = [(4, notes)] if notes else []
    segments += [(3, interpreter)] if interpreter else []
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = ident + struct.pack(
        "<HHIQQQIHHHHHH",
        2, machine, 1, 0x100000, 64, 0, 0, 64, 56, len(segments) + len(loaded), 0, 0, 0,
    )  # fmt: skip
    table, body = b"", b""
    start = 64 + 56 * (len(segments) + len(loaded))
    for address, size in loaded:
        virtual = address | 0xFFFFFFFF80000000
        table += struct.pack("<IIQQQQQQ", 1, 5, start, virtual, address, 1, size, 4096)
    for kind, content in segments:
        size = len(content)
        table += struct.pack("<IIQQQQQQ", kind, 4, start + len(body), 0, 0, size, size, 4)
        body += content
    return head + table + body
