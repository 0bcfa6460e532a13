# SPDX-License-Identifier: Apache-2.0
"""What a kernel's file is: beyond what `create` needs to know (bundle.elf), its framework and
version, by its notes, sections and the texts in it."""

from __future__ import annotations

import mmap
import os
import re
from struct import unpack_from

from urunc.bundle import elf
from urunc.bundle.elf import Binary
from urunc.record import record

MULTIBOOT, MULTIBOOT2 = 0x1BADB002, 0xE85250D6
"""Their magic numbers, within the first 8 and 32 KiB (the Multiboot specifications)."""
SCANNED_BYTES = 256 << 20
BZIMAGE_VERSION = 0x20E
"""Where a bzImage says, relative to 0x200, where its version's text is."""
LINUX = re.compile(rb"Linux version ([0-9][^ \0\n]{2,80})")
UNIKRAFT = re.compile(rb"Unikraft[ \0]|uk_libinfo|lib/uk[a-z]+/")
RUMPRUN = re.compile(rb"rumprun|rumpkern|rump kernel", re.IGNORECASE)
MIRAGE = re.compile(rb"mirage-(?:solo5|runtime|unix|xen)|Mirage_runtime|camlMirage")
SOLO5_NAMES = {"rumprun": {"rootfs", "tap"}, "mirage": {"service", "storage"}}
"""Framework → names that its usual manifests give their devices."""


@record
class Kernel:
    """Facts of a kernel's file; "" for what it does not tell."""

    binary: Binary
    guest: str
    """The framework, as unikernelType names it."""
    why: str
    """By what it was recognized."""
    version: str
    multiboot: tuple[str, ...]


def look(fd: int, name: str) -> Kernel:
    """The facts of an open file; raises ImageError for a damaged ELF file."""
    binary = elf.inspect(fd, name)
    size = os.fstat(fd).st_size
    if not size or not binary.format:
        return Kernel(binary=binary, guest="", why="", version="", multiboot=())
    with mmap.mmap(fd, min(size, SCANNED_BYTES), prot=mmap.PROT_READ) as content:
        guest, why, version = _framework(binary, content)
        return Kernel(
            binary=binary, guest=guest, why=why, version=version, multiboot=_multiboot(content)
        )


def _framework(binary: Binary, content: mmap.mmap) -> tuple[str, str, str]:
    if binary.format == "bzimage":
        return "linux", "bzImage", _bzimage_version(content)
    if binary.solo5_target:
        names = {name.rstrip("0123456789") for name, _ in binary.solo5_devices}
        for guest, pattern in (("rumprun", RUMPRUN), ("mirage", MIRAGE)):
            if pattern.search(content):
                return guest, "a text in it", ""
        for guest, usual in SOLO5_NAMES.items():
            if names & usual:
                return guest, f"the device names {', '.join(sorted(names))}", ""
        return "", "", ""
    if binary.release:
        return "unikraft", "its section .uk_libinfo", binary.release
    if found := LINUX.search(content):
        return "linux", "its banner", found[1].decode("ascii", "replace")
    if binary.format == "image":
        return "linux", "its header (arm64's Image)", ""
    if UNIKRAFT.search(content):
        return "unikraft", "a text in it", ""
    return "", "", ""


def _bzimage_version(content: mmap.mmap) -> str:
    start = unpack_from("<H", content, BZIMAGE_VERSION)[0] + 0x200 if len(content) > 0x210 else 0
    if start <= 0x200:
        return ""
    words = content[start : start + 128].split(b"\0")[0].split()
    return words[0].decode("ascii", "replace") if words else ""


def _multiboot(content: mmap.mmap) -> tuple[str, ...]:
    found = []
    for name, magic, end, step in (("1", MULTIBOOT, 8192, 4), ("2", MULTIBOOT2, 32768, 8)):
        for offset in range(0, min(end, len(content)) - 16, step):
            words = unpack_from("<IIII", content, offset)
            total = sum(words[:3]) if name == "1" else sum(words)
            if words[0] == magic and total & 0xFFFFFFFF == 0:
                found.append(name)
                break
    return tuple(found)
