# SPDX-License-Identifier: Apache-2.0
"""The BPF programs that join a pod's localhost with the guest that has the pod's address. Pure.

A packet that the namespace sends to itself is the guest's if no socket of the namespace is there
for it. nftables cannot tell: where it can look for a socket (PREROUTING), such a packet has its
route already. So one program is where packets leave the loopback device, and asks the kernel for a
socket (Linux 5.7 for the youngest thing it reads, `gso_size`). To its guest a packet comes from an
address that says where it came from and where it went; the other program, where the guest's frames
come in, makes the answer's addresses of that. Nothing is stored, and conntrack sees each connection
as one on loopback.

    from 127.0.0.Z to 127.0.0.1      169.254.54.Z    from ::Z to ::1      fd75:7275:6e63::Z
    from 127.0.0.Z to the pod's      169.254.55.Z    from ::Z to it       fd75:7275:6e63:0:1::Z
    from the pod's address: Z is 0

So the guest reaches the namespace's localhost, too, at 169.254.54.1 (fd75:7275:6e63::1).
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_pton

from urunc.linux import bpf
from urunc.linux.bpf import BYTE, FRAME, HALF, LOAD, STORE, Program, as_number
from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ETHERNET = 14
HEADER, NEW = -64, -112
"""Places on the stack: of the packet's IP header and ports, and of its new addresses."""
TCP, UDP = 6, 17
PACKET, PROTOCOL, KIND, LAST = 6, 7, 8, 9
"""Registers that outlive calls: the packet, TCP or UDP, where it went (see above), Z."""


@record
class Layout:
    """Where things are in a packet of an IP version: addresses are of `size` bytes."""

    size: int
    ethertype: bytes
    header: int
    source: int
    protocol: int
    loopback: bytes
    range: bytes
    kind: int
    """The byte of a `range`'s address that is one more for the pod's address."""

    def at(self, *, destination: bool = False) -> int:
        """An address's place on the stack."""
        return HEADER + self.source + (self.size if destination else 0)


LAYOUTS = (
    Layout(size=4, ethertype=b"\x08\x00", header=20, source=12, protocol=9,
           loopback=bytes((127, 0, 0, 1)), range=bytes((169, 254, 54, 0)), kind=2),
    Layout(size=16, ethertype=b"\x86\xdd", header=40, source=8, protocol=6,
           loopback=bytes(15) + b"\1", range=bytes.fromhex("fd7572756e63") + bytes(10), kind=9),
)  # fmt: skip


def to_guest(own: tuple[str, ...], tap: int, mtu: int, macs: tuple[str, str]) -> Program:
    """For what leaves the loopback device. `own` are the pod's addresses, one of a family, `tap` is
    the index of the guest's device, `macs` are (the guest's, that device's)."""
    program = Program()
    for layout, address in _start(program, own):
        n = layout.size
        # segments fit; a datagram that does not has its own namespace's answer
        program.add(LOAD, 2, PACKET, offset=bpf.SKB_GSO_SIZE)
        program.add(bpf.NOT_EQUAL, 2, value=0, to=f"fits{n}")
        program.add(LOAD, 2, PACKET, offset=bpf.SKB_LENGTH)
        program.add(bpf.GREATER, 2, value=mtu + ETHERNET, to="pass")
        program.label(f"fits{n}")
        _load(program, layout.header + 4)
        _protocol(program, layout, "pass")
        if n == 4:
            _fragment(program, 0x3FFF)
            program.add(bpf.NOT_EQUAL, 2, value=0, to="pass")
        _where_to(program, layout, address)
        _where_from(program, layout, address)
        _look_for_socket(program, layout)
        program.put(NEW, layout.range + address)
        if layout.range[layout.kind]:
            program.add(bpf.ADD, KIND, value=layout.range[layout.kind])
        program.add(STORE | BYTE, FRAME, KIND, offset=NEW + layout.kind)
        program.add(STORE | BYTE, FRAME, LAST, offset=NEW + n - 1)
        _rewrite(program, layout, b"".join(map(_mac, macs)))
        program.call(bpf.REDIRECT, tap, 0)
        program.add(bpf.EXIT)
    return _end(program)


def from_guest(own: tuple[str, ...], loopback: int) -> Program:
    """For what the guest sends; `loopback` is the loopback device's index."""
    program = Program()
    for layout, address in _start(program, own):
        n, there = layout.size, layout.at(destination=True)
        _load(program, layout.header)
        program.unless_stack(there, layout.range[: layout.kind], "pass")
        program.add(LOAD | BYTE, KIND, FRAME, offset=there + layout.kind)
        base = layout.range[layout.kind]
        program.add(bpf.EQUAL, KIND, value=base, to=f"meant{n}")
        program.add(bpf.NOT_EQUAL, KIND, value=base + 1, to="pass")
        program.label(f"meant{n}")
        program.unless_stack(there + layout.kind + 1, bytes(n - layout.kind - 2), "pass")
        program.add(LOAD | BYTE, LAST, FRAME, offset=there + n - 1)
        program.unless_stack(layout.at(), address, "drop")
        _protocol(program, layout, "drop")
        if n == 4:
            _fragment(program, 0x1FFF)
            program.add(bpf.EQUAL, 2, value=0, to="first")
            program.add(bpf.MOVE, PROTOCOL, value=0)  # it has no checksum of its own
            program.label("first")
        program.put(NEW, layout.loopback + address)
        program.add(bpf.EQUAL, KIND, value=base, to=f"from{n}")
        program.put(NEW, address)
        program.label(f"from{n}")
        program.add(bpf.EQUAL, LAST, value=0, to=f"to{n}")
        program.put(NEW + n, layout.loopback)
        program.add(STORE | BYTE, FRAME, LAST, offset=NEW + 2 * n - 1)
        program.label(f"to{n}")
        _rewrite(program, layout, bytes(12))
        program.call(bpf.REDIRECT, loopback, bpf.BPF_F_INGRESS)
        program.add(bpf.EXIT)
    program.label("drop")
    program.give(bpf.TC_ACT_SHOT)
    return _end(program)


def _start(program: Program, own: tuple[str, ...]) -> Iterator[tuple[Layout, bytes]]:
    """Begin with a jump for each family that there is an address of; the part for each is next."""
    program.add(bpf.MOVE_REGISTER, PACKET, 1)
    parts = []
    for layout in LAYOUTS:
        family, mark = (AF_INET, ".") if layout.size == 4 else (AF_INET6, ":")
        for address in own:
            if mark in address:
                parts.append((layout, inet_pton(family, address)))
    program.add(LOAD, 2, PACKET, offset=bpf.SKB_PROTOCOL)
    for layout, _ in parts:
        program.add(bpf.EQUAL, 2, value=as_number(layout.ethertype), to=f"family{layout.size}")
    program.add(bpf.JUMP, to="pass")
    for layout, its_own in parts:
        program.label(f"family{layout.size}")
        yield layout, its_own


def _end(program: Program) -> Program:
    program.label("pass")
    program.give(bpf.TC_ACT_UNSPEC)
    return program


def _load(program: Program, size: int) -> None:
    """The IP header to the stack."""
    program.call(bpf.SKB_LOAD_BYTES, (PACKET, 0), ETHERNET, (FRAME, HEADER), size)
    program.add(bpf.NOT_EQUAL, 0, value=0, to="pass")


def _protocol(program: Program, layout: Layout, otherwise: str) -> None:
    """TCP and UDP alone, behind a plain header."""
    if layout.size == 4:
        program.unless_stack(HEADER, b"\x45", otherwise)
    program.add(LOAD | BYTE, PROTOCOL, FRAME, offset=HEADER + layout.protocol)
    program.add(bpf.EQUAL, PROTOCOL, value=TCP, to=f"known{layout.size}")
    program.add(bpf.NOT_EQUAL, PROTOCOL, value=UDP, to=otherwise)
    program.label(f"known{layout.size}")


def _fragment(program: Program, mask: int) -> None:
    """r2: these bits of IPv4's flags and fragment offset."""
    program.add(LOAD | HALF, 2, FRAME, offset=HEADER + 6)
    program.add(bpf.AND, 2, value=as_number(mask.to_bytes(2, "big")))


def _where_to(program: Program, layout: Layout, address: bytes) -> None:
    """KIND: 0 for loopback's address, 1 for the pod's; others are passed."""
    n, there = layout.size, layout.at(destination=True)
    program.add(bpf.MOVE, KIND, value=0)
    program.unless_stack(there, layout.loopback, f"own{n}")
    program.add(bpf.JUMP, to=f"whence{n}")
    program.label(f"own{n}")
    program.add(bpf.MOVE, KIND, value=1)
    program.unless_stack(there, address, "pass")


def _where_from(program: Program, layout: Layout, address: bytes) -> None:
    """LAST: 0 for the pod's address, the last byte of one beside loopback's; others are passed."""
    n, here = layout.size, layout.at()
    program.label(f"whence{n}")
    program.add(bpf.MOVE, LAST, value=0)
    program.unless_stack(here, address, f"beside{n}")
    program.add(bpf.JUMP, to=f"look{n}")
    program.label(f"beside{n}")
    program.unless_stack(here, layout.loopback[:-1], "pass")
    program.add(LOAD | BYTE, LAST, FRAME, offset=here + n - 1)
    program.add(bpf.EQUAL, LAST, value=0, to="pass")


def _look_for_socket(program: Program, layout: Layout) -> None:
    """Pass what the namespace has a socket for. struct bpf_sock_tuple is just as the packet has it:
    two addresses, two ports."""
    n = layout.size
    words = ((PACKET, 0), (FRAME, layout.at()), 2 * n + 4, bpf.BPF_F_CURRENT_NETNS, 0)
    program.label(f"look{n}")
    program.add(bpf.EQUAL, PROTOCOL, value=UDP, to=f"udp{n}")
    program.call(bpf.SKC_LOOKUP_TCP, *words)
    program.add(bpf.EQUAL, 0, value=0, to=f"free{n}")
    program.call(bpf.SK_RELEASE, (0, 0))
    program.add(bpf.JUMP, to="pass")
    program.label(f"udp{n}")
    program.call(bpf.SK_LOOKUP_UDP, *words)
    program.add(bpf.EQUAL, 0, value=0, to=f"free{n}")
    program.call(bpf.SK_RELEASE, (0, 0))
    program.add(bpf.JUMP, to="pass")
    program.label(f"free{n}")


def _rewrite(program: Program, layout: Layout, macs: bytes) -> None:
    """Write the new addresses with their checksums, and the hardware addresses."""
    n = layout.size
    program.call(bpf.CSUM_DIFF, (FRAME, layout.at()), 2 * n, (FRAME, NEW), 2 * n, 0)
    program.add(bpf.MOVE_REGISTER, KIND, 0)
    program.add(bpf.EQUAL, PROTOCOL, value=0, to=f"summed{n}")
    program.add(bpf.EQUAL, PROTOCOL, value=UDP, to=f"datagram{n}")
    at = ETHERNET + layout.header
    program.call(bpf.L4_CSUM_REPLACE, (PACKET, 0), at + 16, 0, (KIND, 0), bpf.BPF_F_PSEUDO_HDR)
    program.add(bpf.JUMP, to=f"summed{n}")
    program.label(f"datagram{n}")
    flags = bpf.BPF_F_PSEUDO_HDR | bpf.BPF_F_MARK_MANGLED_0
    program.call(bpf.L4_CSUM_REPLACE, (PACKET, 0), at + 6, 0, (KIND, 0), flags)
    program.label(f"summed{n}")
    if n == 4:
        program.call(bpf.L3_CSUM_REPLACE, (PACKET, 0), ETHERNET + 10, 0, (KIND, 0), 0)
    addresses = ETHERNET + layout.source
    program.call(bpf.SKB_STORE_BYTES, (PACKET, 0), addresses, (FRAME, NEW), 2 * n, 0)
    program.put(HEADER, macs)
    program.call(bpf.SKB_STORE_BYTES, (PACKET, 0), 0, (FRAME, HEADER), 12, 0)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
