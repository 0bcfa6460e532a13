# SPDX-License-Identifier: Apache-2.0
"""Programs of BPF for the traffic of a device (BPF_PROG_TYPE_SCHED_CLS), put together here: an
assembler with labels, and the few instructions and helpers that urunc's programs use.

linux/bpf.h and Documentation/bpf/standardization/instruction-set.rst have the encoding,
bpf-helpers(7) what a helper does. No compiler is on a node, and an object file would have to be
kept for each architecture; numbers of more than a byte are the machine's order, as the kernel wants
them.
"""

from __future__ import annotations

from _struct import pack
from sys import byteorder

from urunc.linux import _linux

BPF_PROG_TYPE_SCHED_CLS = 3
LOAD, STORE, STORE_VALUE = 0x61, 0x63, 0x62
"""BPF_MEM, of 4 bytes: to a register, from a register, a number."""
SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
"""Added to one of the three: of so many bytes."""
BYTE, HALF = SIZES[1], SIZES[2]
LOAD_NUMBER = 0x18  # BPF_LD | BPF_IMM | BPF_DW, two instructions long
MOVE, MOVE_REGISTER, ADD, AND = 0xB7, 0xBF, 0x07, 0x57
JUMP, EQUAL, NOT_EQUAL, GREATER, NOT_EQUAL_REGISTER = 0x05, 0x15, 0x55, 0x25, 0x5D
CALL, EXIT = 0x85, 0x95
FRAME = 10
"""The register of the stack frame, which is below it."""

# helpers
SKB_STORE_BYTES, L3_CSUM_REPLACE, L4_CSUM_REPLACE, REDIRECT = 9, 10, 11, 23
SKB_LOAD_BYTES, CSUM_DIFF = 26, 28
SK_LOOKUP_UDP, SK_RELEASE, SKC_LOOKUP_TCP = 85, 86, 99
BPF_F_INGRESS = 1
BPF_F_PSEUDO_HDR, BPF_F_MARK_MANGLED_0 = 0x10, 0x20
BPF_F_CURRENT_NETNS = -1

# struct __sk_buff
SKB_LENGTH, SKB_PROTOCOL, SKB_GSO_SIZE = 0, 16, 176

TC_ACT_UNSPEC, TC_ACT_SHOT = -1, 2
"""What a filter says of a packet: ask the next one; drop it."""


class Program:
    """A program as it is written, one instruction after the other."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int, int | str]] = []
        self._labels: dict[str, int] = {}

    def add(
        self, code: int, target: int = 0, source: int = 0, *, offset: int = 0, value: int = 0,
        to: str = "",
    ) -> None:  # fmt: skip
        """An instruction on registers; `to`: a jump's label."""
        self._code.append((code, target, source, value, to or offset))

    def unless(self, target: int, value: bytes, to: str) -> None:
        """Jump unless a register holds these bytes, as loading them would have it; uses r3."""
        number = as_number(value)
        self.add(LOAD_NUMBER, 3, value=_signed(number & 0xFFFFFFFF))
        self.add(0, value=_signed(number >> 32))
        self.add(NOT_EQUAL_REGISTER, target, 3, to=to)

    def unless_stack(self, offset: int, value: bytes, to: str) -> None:
        """Jump unless the stack holds these bytes there; uses r2 and r3."""
        place = 0
        while place < len(value):
            size = next(s for s in (8, 4, 2, 1)
                        if place + s <= len(value) and (offset + place) % s == 0)  # fmt: skip
            self.add(LOAD | SIZES[size], 2, FRAME, offset=offset + place)
            self.unless(2, value[place : place + size], to)
            place += size

    def put(self, offset: int, value: bytes) -> None:
        """Write bytes, a multiple of 4, to the stack."""
        for place in range(0, len(value), 4):
            number = as_number(value[place : place + 4])
            self.add(STORE_VALUE, FRAME, offset=offset + place, value=_signed(number))

    def call(self, helper: int, *words: int | tuple[int, int]) -> None:
        """Call a helper; a word is a number, or (a register, what is added to it)."""
        for register, word in enumerate(words, 1):
            if isinstance(word, int):
                self.add(MOVE, register, value=word)
            else:
                self.add(MOVE_REGISTER, register, word[0])
                if word[1]:
                    self.add(ADD, register, value=word[1])
        self.add(CALL, value=helper)

    def give(self, verdict: int) -> None:
        """End with a verdict."""
        self.add(MOVE, 0, value=verdict)
        self.add(EXIT)

    def label(self, name: str) -> None:
        """The place that jumps to this name lead to."""
        self._labels[name] = len(self._code)

    def assembled(self) -> bytes:
        """The program as bpf(2) takes it (struct bpf_insn)."""
        big = byteorder == "big"
        code = b""
        for place, (operation, target, source, value, offset) in enumerate(self._code):
            if isinstance(offset, str):
                offset = self._labels[offset] - place - 1
            registers = target << 4 | source if big else source << 4 | target
            code += pack("=BBhi", operation, registers, offset, value)
        return code


def load(program: Program) -> int:
    """A descriptor of the program, checked by the kernel; raises OSError."""
    return _linux.load_program(BPF_PROG_TYPE_SCHED_CLS, program.assembled())


def as_number(value: bytes) -> int:
    """Bytes of a packet as the number that loading them gives."""
    return int.from_bytes(value, byteorder)


def _signed(number: int) -> int:
    """A number of 32 bits as an instruction holds it."""
    return number - (1 << 32) if number >> 31 else number
