# SPDX-License-Identifier: Apache-2.0
"""What a kernel's file says of itself: ELF files made by hand, Linux's image formats, and damage to
both."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.made import AARCH64, BLOCK, NET, elf, manifest, note, pvh_note, solo5_notes
from urunc.bundle.elf import SOLO5_MFT1, Binary, inspect
from urunc.errors import ImageError


@contextlib.contextmanager
def opened(content: bytes) -> Iterator[int]:
    fd = os.memfd_create("binary")
    try:
        os.write(fd, content)
        yield fd
    finally:
        os.close(fd)


def look(content: bytes) -> Binary:
    with opened(content) as fd:
        return inspect(fd, "guest")


def test_an_elf_file_without_notes() -> None:
    assert look(elf()) == Binary(
        format="elf", machine="x86_64", interpreter="", pvh=False, solo5_target="", solo5_devices=()
    )


@pytest.mark.parametrize(
    ("number", "name"), [(62, "x86_64"), (AARCH64, "aarch64"), (40, "arm"), (999, "machine 999")]
)
def test_machines(number: int, name: str) -> None:
    assert look(elf(machine=number)).machine == name


@pytest.mark.parametrize(
    ("machine", "loaded", "memory"),
    [
        (62, (), 0),
        (62, ((0x1000000, 0x1826710), (0x304E000, 0xDB2000), (0x2A00000, 0x61A000)), 0x3E00000),
        (62, ((0x100000, 0x4000), (0xFFFFFFFF81000000, 0x1000)), 0x104000),
        (62, ((0x100000, 1 << 63),), 0),
        (AARCH64, ((0x40200000, 0x5000), (0x40300000, 0x1000)), 0x101000),
    ],
)
def test_the_memory_that_segments_take(
    machine: int, loaded: tuple[tuple[int, int], ...], memory: int
) -> None:
    """On x86 from 0 on, elsewhere from where they begin; an address that is no physical one is
    passed over."""
    assert look(elf(machine=machine, loaded=loaded)).memory_bytes == memory
    assert look(elf(pvh_note(), machine=machine, loaded=loaded)).memory_bytes == memory


def bzimage(version: int, address: int, init_size: int) -> bytes:
    """The first sectors of a bzImage."""
    content = bytearray(0x400)
    content[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", content, 0x206, version)
    struct.pack_into("<QI", content, 0x258, address, init_size)
    return bytes(content)


@pytest.mark.parametrize(
    ("version", "memory"), [(0x20F, 0x4378000), (0x20A, 0x4378000), (0x209, 0)]
)
def test_the_memory_that_linux_unpacks_itself_in(version: int, memory: int) -> None:
    """The numbers are those of Debian 12's cloud kernel."""
    found = look(bzimage(version, 0x1000000, 0x3378000))
    assert (found.format, found.memory_bytes) == ("bzimage", memory)
    assert look(bzimage(version, 0x1000000, 0x3378000)[:0x263]).memory_bytes == 0


def test_the_memory_that_an_arm64_image_takes() -> None:
    content = bytearray(0x400)
    struct.pack_into("<QQ", content, 8, 0x80000, 0x1900000)
    content[0x38:0x3C] = b"ARM\x64"
    found = look(bytes(content))
    assert (found.format, found.memory_bytes) == ("image", 0x1980000)


def test_a_pvh_note() -> None:
    assert look(elf(pvh_note())).pvh
    assert not look(elf(note(b"Xen", 6, b"linux\0"))).pvh
    assert not look(elf(note(b"GNU", 18, bytes(8)))).pvh


def test_whether_it_may_be_loaded_anywhere() -> None:
    fixed = elf()
    assert not look(fixed).position_independent
    assert look(patched(fixed, 16, "<H", 3)).position_independent


def sections(*named: tuple[bytes, bytes], wide: bool) -> bytes:
    """An ELF file with nothing but sections, and a table of their names."""
    names = b"\0" + b"".join(name + b"\0" for name, _ in named) + b".shstrtab\0"
    content = bytearray(64 if wide else 52)
    content[:6] = b"\x7fELF" + (b"\2\1" if wide else b"\1\1")
    struct.pack_into("<HH", content, 16, 2, 62 if wide else 3)
    struct.pack_into("<H", content, 54 if wide else 42, 56 if wide else 32)
    heads = [(0, 0, 0)]
    for name, data in (*named, (b".shstrtab", names)):
        heads.append((names.index(b"\0" + name + b"\0") + 1, len(content), len(data)))
        content += data
    struct.pack_into("<Q" if wide else "<I", content, 40 if wide else 32, len(content))
    struct.pack_into(
        "<HHH", content, 58 if wide else 46, 64 if wide else 40, len(heads), len(heads) - 1
    )
    for place, start, size in heads:
        if wide:
            content += struct.pack("<IIQQQQ", place, 1, 0, 0, start, size) + bytes(24)
        else:
            content += struct.pack("<IIIIII", place, 1, 0, 0, start, size) + bytes(16)
    return bytes(content)


def libid(*records: tuple[int, bytes], layout: int = 1) -> bytes:
    """A header of Unikraft's .uk_libinfo with its records."""
    body = b"".join(struct.pack("<HI", kind, 6 + len(data)) + data for kind, data in records)
    return struct.pack("<IH", 6 + len(body), layout) + body


LIBRARY = libid((1, b"libkvmplat\0"), (11, b"GCC 12.2.0\0"))
GLOBAL = libid((6, b"0.17\0"), (7, b"0.17.0~484ff209\0"), (8, b"Calypso\0"))


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize(
    ("content", "release"),
    [
        (LIBRARY + GLOBAL, "0.17.0~484ff209"),
        (GLOBAL + LIBRARY, "0.17.0~484ff209"),
        (libid((7, b"0.20.0\0")), "0.20.0"),
        (LIBRARY, ""),
        (b"", ""),
        (libid((7, b"custom\0")), ""),
        (libid((7, b"0.17.0\0"), layout=2), ""),
        (GLOBAL[:20], ""),
        (struct.pack("<IH", 3, 1) + GLOBAL, ""),
        (struct.pack("<IHHI", 100, 1, 7, 2) + GLOBAL, ""),
    ],
)
def test_the_version_of_unikraft(content: bytes, release: str, wide: bool) -> None:
    found = look(sections((b".text", b"code"), (b".uk_libinfo", content), wide=wide))
    assert found.release == release
    assert look(sections((b".text", b"code"), wide=wide)).release == ""


def test_an_interpreter() -> None:
    assert look(elf(interpreter=b"/lib64/ld-linux-x86-64.so.2\0")).interpreter == (
        "/lib64/ld-linux-x86-64.so.2"
    )


@pytest.mark.parametrize(
    ("number", "name"), [(1, "hvt"), (2, "spt"), (3, "virtio"), (4, "muen"), (5, "xen"), (9, "9")]
)
def test_solo5_targets(number: int, name: str) -> None:
    assert look(elf(solo5_notes(number))).solo5_target == name


@pytest.mark.parametrize("pad", [0, 4])
def test_a_solo5_manifest(pad: int) -> None:
    found = look(elf(solo5_notes(1, ("rootfs", BLOCK), ("tap", NET), ("n" * 67, NET), pad=pad)))
    assert found.solo5_devices == (("rootfs", "block"), ("tap", "net"), ("n" * 67, "net"))


def test_a_32_bit_file() -> None:
    notes = pvh_note()
    ident = b"\x7fELF\x01\x01\x01" + bytes(9)
    head = struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    table = struct.pack("<IIIIIIII", 4, 84, 0, 0, len(notes), len(notes), 4, 4)
    found = look(ident + head + table + notes)
    assert (found.format, found.machine, found.pvh) == ("elf32", "i386", True)


def test_reserved_manifest_entries_are_no_devices() -> None:
    assert look(elf(solo5_notes(2, ("", 1 << 30), ("storage", BLOCK)))).solo5_devices == (
        ("storage", "block"),
    )


def test_notes_of_others_stand_between() -> None:
    notes = note(b"GNU", 3, b"12345") + pvh_note() + note(b"odd", 1, b"") + solo5_notes(2)
    found = look(elf(notes))
    assert (found.pvh, found.solo5_target) == (True, "spt")


@pytest.mark.parametrize(
    ("offset", "magic", "form", "machine"),
    [(0x202, b"HdrS", "bzimage", "x86_64"), (0x38, b"ARM\x64", "image", "aarch64")],
)
def test_images_of_linux(offset: int, magic: bytes, form: str, machine: str) -> None:
    found = look(bytes(offset) + magic + bytes(1024))
    assert (found.format, found.machine) == (form, machine)
    assert look(bytes(offset) + magic[:3]).format == ""


@pytest.mark.parametrize("content", [b"", b"\x7fEL", b"#!/bin/sh\n", bytes(4096)])
def test_other_files(content: bytes) -> None:
    assert look(content).format == ""


def patched(content: bytes, offset: int, form: str, value: int) -> bytes:
    damaged = bytearray(content)
    struct.pack_into(form, damaged, offset, value)
    return bytes(damaged)


GOOD = elf(solo5_notes(1, ("rootfs", BLOCK), ("tap", NET)), interpreter=b"/lib/ld.so\0")
DAMAGED = [
    (GOOD[:4], ""),
    (GOOD[:5], ""),
    (GOOD[:40], ""),
    (GOOD[:80], ""),
    (patched(GOOD, 4, "B", 1), "implausible program headers"),
    (patched(GOOD, 4, "B", 3), "not little-endian"),
    (patched(GOOD, 5, "B", 2), "not little-endian"),
    (patched(GOOD, 54, "<H", 8), "implausible program headers"),
    (patched(GOOD, 56, "<H", 5000), "implausible program headers"),
    (patched(GOOD, 32, "<Q", 1 << 60), ""),
    (elf(note(b"Solo5", SOLO5_MFT1, manifest(("a", NET), version=2))), "manifest of version 2"),
    (elf(note(b"Solo5", SOLO5_MFT1, manifest(entries=65))), "with 65 entries"),
    (elf(note(b"Solo5", SOLO5_MFT1, manifest(entries=2))), ""),
    (elf(note(b"Solo5", SOLO5_MFT1, b"")), ""),
    (elf(note(b"Solo5", 0x31494241, b"\1")), ""),
]


@pytest.mark.parametrize(("content", "words"), DAMAGED, ids=range(len(DAMAGED)))
def test_damage_is_named(content: bytes, words: str) -> None:
    with pytest.raises(ImageError) as caught:
        look(content)
    assert caught.value.message.startswith("read 'guest': damaged ELF file: ")
    assert words in caught.value.message


@pytest.mark.parametrize("start", [1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_a_segment_far_outside_the_file_holds_nothing(start: int) -> None:
    assert look(patched(GOOD, 64 + 8, "<Q", start)).solo5_target == ""
    assert look(patched(GOOD, 64 + 56 + 8, "<Q", start)).interpreter == ""


def test_a_note_longer_than_its_segment_is_left_out() -> None:
    content = elf(solo5_notes(2))
    notes = content.index(b"Solo5\0") - 12
    assert look(patched(content, notes + 4, "<I", 0xFFFFFFFF)).solo5_target == ""
    assert look(patched(content, notes, "<I", 0xFFFFFFFF)).solo5_target == ""


def survives(content: bytes) -> None:
    try:
        found = look(content)
    except ImageError:
        return
    assert found.format in ("elf", "elf32", "")


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=12))
def test_changed_bytes_raise_no_other_error(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(GOOD)
    for offset, value in changes:
        damaged[offset] = value
    survives(bytes(damaged))


@given(st.integers(0, len(GOOD) // 8 - 1), st.integers(0, (1 << 64) - 1))
def test_changed_words_raise_no_other_error(index: int, value: int) -> None:
    survives(patched(GOOD, index * 8, "<Q", value))


@given(st.data())
def test_damaged_sections_name_no_version(data: st.DataObject) -> None:
    whole = sections((b".text", b"code"), (b".uk_libinfo", GLOBAL), wide=data.draw(st.booleans()))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 8))):
        damaged[data.draw(st.integers(64, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert look(bytes(damaged[: data.draw(st.integers(64, len(whole)))])).format


@given(st.integers(0, len(GOOD)))
def test_a_cut_file_raises_no_other_error(length: int) -> None:
    survives(GOOD[:length])


@given(st.binary(max_size=600))
def test_anything_after_the_magic_raises_no_other_error(content: bytes) -> None:
    survives(b"\x7fELF\x02\x01" + content)
