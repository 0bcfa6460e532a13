# SPDX-License-Identifier: Apache-2.0
"""Reads a kernel's file: its format, its machine, its notes, and Unikraft's version.

Reads a bounded part of one open file and trusts no number in it. Formats: ELF (elf(5)), Linux's
bzImage (Documentation/arch/x86/boot.rst) and arm64's Image (Documentation/arch/arm64/booting.rst).
"""

from __future__ import annotations

import posix
from _struct import error as StructError  # type: ignore[attr-defined]  # known by struct alone
from _struct import unpack_from

from urunc.errors import ImageError
from urunc.record import record

MACHINES = {62: "x86_64", 183: "aarch64", 40: "arm", 3: "i386", 243: "riscv", 22: "s390x"}
ET_DYN = 3
PT_LOAD, PT_INTERP, PT_NOTE = 1, 3, 4
NOTES_LIMIT_BYTES = 1 << 20
SECTIONS_LIMIT = 4096
PHYSICAL_LIMIT_BYTES = 1 << 32
"""Loaders of kernels load nothing above it: a segment with such a physical address has its virtual
address there."""
BZIMAGE_INIT_SIZE = 0x20A
"""The first version of the boot protocol with pref_address and init_size (Linux 2.6.31)."""
UKLIBID, UKLI_REC_UKFULLVERSION = b".uk_libinfo", 7

SOLO5_ABI1, SOLO5_MFT1 = 0x31494241, 0x3154464D
SOLO5_TARGETS = {1: "hvt", 2: "spt", 3: "virtio", 4: "muen", 5: "xen"}
XEN_ELFNOTE_PHYS32_ENTRY = 18
_MFT_ENTRY_BYTES = (
    104  # struct mft_entry: name[68], u32 type, 16 bytes of properties, 16 of backing
)
_MFT_KINDS = {1: "block", 2: "net"}


@record
class Binary:
    """Facts of a kernel's file. `format` is "elf", "elf32" (an x86 kernel for a multiboot loader),
    "bzimage", "image", or "" for none of these. `solo5_devices` are (name, "block" or "net")."""

    format: str
    machine: str
    interpreter: str
    pvh: bool
    solo5_target: str
    solo5_devices: tuple[tuple[str, str], ...]
    position_independent: bool = False
    """Whether it can be loaded at any address (ET_DYN)."""
    release: str = ""
    """The framework's version in the file, "" for none: Unikraft's from 0.15 on (lib/uklibid), as
    in "0.17.0~484ff209"."""
    memory_bytes: int = 0
    """The least memory of a machine for it to be loaded and to unpack itself; 0 if unknown."""


def inspect(fd: int, name: str) -> Binary:
    """The facts of an open file; `name` is for messages. Raises ImageError for a damaged ELF
    file."""
    head = posix.pread(fd, 0x264, 0)
    if head[:4] == b"\x7fELF":
        try:
            return _elf(fd, head)
        except (StructError, ValueError) as error:
            raise ImageError(f"read '{name}': damaged ELF file: {error}") from None
    if head[0x202:0x206] == b"HdrS":
        return _bare("bzimage", "x86_64", _unpacked(head))
    if head[0x38:0x3C] == b"ARM\x64":
        return _bare("image", "aarch64", sum(unpack_from("<QQ", head, 8)))
    return _bare("", "")


def _bare(file_format: str, machine: str, memory_bytes: int = 0) -> Binary:
    return Binary(
        format=file_format,
        machine=machine,
        interpreter="",
        pvh=False,
        solo5_target="",
        solo5_devices=(),
        memory_bytes=memory_bytes,
    )


def _unpacked(head: bytes) -> int:
    """The end of the memory in which a bzImage unpacks itself: init_size bytes from pref_address on
    at most. 0 if its boot protocol is too old to tell."""
    if len(head) < 0x264 or unpack_from("<H", head, 0x206)[0] < BZIMAGE_INIT_SIZE:
        return 0
    address, size = unpack_from("<QI", head, 0x258)
    return int(address + size)


def _elf(fd: int, head: bytes) -> Binary:
    if head[4:6] not in (b"\1\1", b"\2\1"):
        raise ValueError("not little-endian")
    kind_of_file, machine = unpack_from("<HH", head, 16)
    wide = head[4] == 2
    (offset,) = unpack_from("<Q" if wide else "<I", head, 32 if wide else 28)
    size, count = unpack_from("<HH", head, 54 if wide else 42)
    if size < (56 if wide else 32) or count > 1024:
        raise ValueError("implausible program headers")
    table = posix.pread(fd, size * count, _seekable(offset))
    interpreter, target, pvh = "", "", False
    devices: tuple[tuple[str, str], ...] = ()
    loaded: list[tuple[int, int]] = []
    for index in range(count):
        if wide:
            kind, _, start, _, to, length, room = unpack_from("<IIQQQQQ", table, index * size)
        else:
            kind, start, _, to, length, room = unpack_from("<IIIIII", table, index * size)
        if kind == PT_LOAD and to + room < PHYSICAL_LIMIT_BYTES:
            loaded.append((to, to + room))
        if kind == PT_INTERP:
            interpreter = (
                posix.pread(fd, min(length, 4096), _seekable(start))
                .rstrip(b"\0")
                .decode("utf-8", "replace")
            )
        if kind != PT_NOTE:
            continue
        for owner, note, content in _notes(
            posix.pread(fd, min(length, NOTES_LIMIT_BYTES), _seekable(start))
        ):
            if owner == b"Xen" and note == XEN_ELFNOTE_PHYS32_ENTRY:
                pvh = True
            elif owner == b"Solo5" and note == SOLO5_ABI1:
                number = unpack_from("<I", content)[0]
                target = SOLO5_TARGETS.get(number, str(number))
            elif owner == b"Solo5" and note == SOLO5_MFT1:
                devices = _manifest(content)
    return Binary(
        format="elf" if wide else "elf32",
        machine=MACHINES.get(machine, f"machine {machine}"),
        interpreter=interpreter,
        pvh=pvh,
        solo5_target=target,
        solo5_devices=devices,
        position_independent=kind_of_file == ET_DYN,
        release=_release(fd, head, wide=wide),
        memory_bytes=_loaded(loaded, MACHINES.get(machine, "")),
    )


def _loaded(segments: list[tuple[int, int]], machine: str) -> int:
    """The memory that segments, by their physical addresses (start, end), need: from 0 on x86, from
    the first segment on other machines, whose memory begins elsewhere."""
    if not segments:
        return 0
    start = 0 if machine in ("x86_64", "i386") else min(start for start, _ in segments)
    return max(end for _, end in segments) - start


def _release(fd: int, head: bytes, *, wide: bool) -> str:
    """Unikraft's version, "" if there is no such section, or no intact table of sections, which no
    loader needs."""
    try:
        return _released(fd, head, wide=wide)
    except StructError:
        return ""


def _released(fd: int, head: bytes, *, wide: bool) -> str:
    (offset,) = unpack_from("<Q" if wide else "<I", head, 40 if wide else 32)
    size, count, names_index = unpack_from("<HHH", head, 58 if wide else 46)
    if size != (64 if wide else 40) or not names_index < count <= SECTIONS_LIMIT:
        return ""
    table = posix.pread(fd, size * count, _seekable(offset))
    names = _section(fd, table, names_index, wide=wide)
    place = names.find(b"\0" + UKLIBID + b"\0") + 1
    for index in range(count if place else 0):
        if unpack_from("<I", table, index * size)[0] == place:
            return _uklibid(_section(fd, table, index, wide=wide))
    return ""


def _section(fd: int, table: bytes, index: int, *, wide: bool) -> bytes:
    layout, size, skipped = ("<QQ", 64, 24) if wide else ("<II", 40, 16)
    start, length = unpack_from(layout, table, index * size + skipped)
    return posix.pread(fd, min(length, NOTES_LIMIT_BYTES), _seekable(start))


def _uklibid(content: bytes) -> str:
    """The full version in the section's records (include/uk/libid/info.h): headers (u32 length, u16
    layout), each followed by records (u16 type, u32 length). Lengths include the header itself."""
    offset = 0
    while offset + 6 <= len(content):
        length, layout = unpack_from("<IH", content, offset)
        if layout != 1 or length < 6:
            break
        record_offset, offset = offset + 6, offset + length
        while record_offset + 6 <= min(offset, len(content)):
            kind, length = unpack_from("<HI", content, record_offset)
            if length < 6:
                break
            if kind == UKLI_REC_UKFULLVERSION:
                text = content[record_offset + 6 : record_offset + length].rstrip(b"\0")
                version = text.decode("ascii", "replace")
                numbers = version.partition("~")[0].split(".")
                return version if all(map(str.isdecimal, numbers)) else ""
            record_offset += length
    return ""


def _seekable(offset: int) -> int:
    """An offset that pread(2) accepts; beyond a file's end it reads nothing."""
    return min(offset, 1 << 40)


def _notes(segment: bytes) -> list[tuple[bytes, int, bytes]]:
    found = []
    offset = 0
    while offset + 12 <= len(segment):
        name_size, size, kind = unpack_from("<III", segment, offset)
        start = offset + 12 + ((name_size + 3) & ~3)
        if start + size > len(segment):
            break
        name = segment[offset + 12 : offset + 12 + name_size].rstrip(b"\0")
        found.append((name, kind, segment[start : start + size]))
        offset = start + ((size + 3) & ~3)
    return found


def _manifest(content: bytes) -> tuple[tuple[str, str], ...]:
    """(name, "block" or "net") of each declared device, in order (Solo5's mft_abi.h, version 1)."""
    start = (len(content) - 8) % _MFT_ENTRY_BYTES  # the structure is aligned to 8 within the note
    version, entries = unpack_from("<II", content, start)
    if version != 1 or entries > 64:
        raise ValueError(f"Solo5 manifest of version {version} with {entries} entries")
    devices = []
    for index in range(entries):
        offset = start + 8 + index * _MFT_ENTRY_BYTES
        name, kind = unpack_from("<68sI", content, offset)
        if kind in _MFT_KINDS:
            devices.append((name.split(b"\0")[0].decode("ascii", "replace"), _MFT_KINDS[kind]))
    return tuple(devices)
