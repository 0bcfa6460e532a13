#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The byte work behind `build`: kernels, modules and cpio archives.

    imagetool.py vmlinux BZIMAGE OUT             the uncompressed ELF kernel
    imagetool.py modules MODULES_DIR OUT NAME... modules by name, in load order
    imagetool.py cpio DIR OUT                    a reproducible newc archive

Standard library only (and the `zstd` program where a file is zstd).  It reads
and writes the files it is given and nothing else: no network, no packages.
"""

import bz2
import lzma
import os
import stat
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path


class Refused(Exception):
    """Something in the input is not what it must be."""


# --- decompression ---------------------------------------------------------


def _lz4_legacy(data: bytes) -> bytes:
    """The `lz4 -l` format: a magic, then blocks each led by their size."""
    out = bytearray()
    at = 4
    while at + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, at)
        at += 4
        if size == 0 or at + size > len(data):
            break  # the size the kernel build appends, not a block
        _lz4_block(data[at : at + size], out)
        at += size
    return bytes(out)


def _lz4_block(block: bytes, out: bytearray) -> None:
    """One LZ4 block, appended to `out`; a block refers only to itself."""
    at, end = 0, len(block)
    while True:
        token = block[at]
        at += 1
        length = token >> 4
        if length == 15:
            while True:
                more = block[at]
                at += 1
                length += more
                if more != 255:
                    break
        if length:
            out += block[at : at + length]
            at += length
        if at >= end:  # the last sequence has literals only
            return
        offset = block[at] | block[at + 1] << 8
        at += 2
        length = token & 15
        if length == 15:
            while True:
                more = block[at]
                at += 1
                length += more
                if more != 255:
                    break
        length += 4
        start = len(out) - offset
        if offset == 0 or start < 0:
            raise Refused("lz4: a match before the start of the output")
        if offset >= length:
            out += out[start : start + length]
        else:  # the match overlaps its own output: a repeated pattern
            pattern = out[start:]
            out += (pattern * (length // offset + 1))[:length]


def _zstd(data: bytes) -> bytes:
    try:
        done = subprocess.run(
            ["zstd", "-dc", "-q"],
            input=data,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        raise Refused("a zstd file, and there is no `zstd` program") from None
    # Bytes after the frame make zstd complain once the frame is written out.
    if not done.stdout:
        raise Refused("zstd: " + done.stderr.decode(errors="replace").strip())
    return done.stdout


FORMATS: list[tuple[bytes, Callable[[bytes], bytes]]] = [
    (b"\x1f\x8b", lambda data: zlib.decompressobj(31).decompress(data)),
    (b"\xfd7zXZ\x00", lambda data: lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data)),
    (b"\x5d\x00\x00", lambda data: lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(data)),
    (b"BZh", lambda data: bz2.BZ2Decompressor().decompress(data)),
    (b"\x02\x21\x4c\x18", _lz4_legacy),
    (b"\x28\xb5\x2f\xfd", _zstd),
]


def decompress(data: bytes) -> bytes:
    """`data` uncompressed by what its first bytes say; bytes after are left."""
    for magic, decode in FORMATS:
        if data.startswith(magic):
            return decode(data)
    return data


# --- the kernel ------------------------------------------------------------


def vmlinux(bzimage: bytes) -> bytes:
    """The ELF kernel packed in a bzImage (boot protocol 2.08 and later)."""
    if bzimage[0x202:0x206] != b"HdrS":
        raise Refused("not a bzImage: no HdrS at 0x202")
    (protocol,) = struct.unpack_from("<H", bzimage, 0x206)
    if protocol < 0x208:
        raise Refused(f"boot protocol {protocol:#x} does not name its payload")
    sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = bzimage[start : start + length]
    if len(payload) != length:
        raise Refused("the payload does not fit the file")
    elf = decompress(payload)
    if elf[:4] != b"\x7fELF":
        raise Refused(f"the payload ({payload[:4].hex()}) holds no ELF kernel")
    # The kernel build appends the size that the payload must unpack to.
    (size,) = struct.unpack_from("<I", payload, length - 4)
    if size != len(elf):
        raise Refused(f"unpacked {len(elf)} bytes where the payload says {size}")
    return elf


# --- modules ---------------------------------------------------------------


def modinfo(module: bytes, key: str) -> list[str]:
    """The values of `key` in a module's .modinfo strings."""
    (table,) = struct.unpack_from("<Q", module, 0x28)
    size, count, names = struct.unpack_from("<HHH", module, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", module, table + i * size) for i in range(count)]
    base = sections[names][4]
    for name, _, _, _, offset, length in sections:
        if module.startswith(b".modinfo\x00", base + name):
            strings = module[offset : offset + length].split(b"\x00")
            return [
                s.split(b"=", 1)[1].decode() for s in strings if s.startswith(key.encode() + b"=")
            ]
    return []


def modules(tree: str, out: str, wanted: list[str]) -> list[str]:
    """Copy `wanted` and what they need to `out`, and write `out`/order.

    A name with no file is built into the kernel, or unknown to it: left out.
    A package carries no modules.dep, so each module's own `depends=` decides.
    """
    files: dict[str, Path] = {}
    for path in sorted(Path(tree).rglob("*.ko*")):
        files.setdefault(path.name.split(".ko")[0].replace("-", "_"), path)
    order: list[str] = []

    def take(name: str) -> None:
        name = name.replace("-", "_")
        if name in order or name not in files:
            return
        module = decompress(files[name].read_bytes())
        for needed in ",".join(modinfo(module, "depends")).split(","):
            if needed:
                take(needed)
        (Path(out) / (name + ".ko")).write_bytes(module)
        order.append(name)

    for name in wanted:
        take(name)
    (Path(out) / "order").write_text("".join(name + "\n" for name in order))
    return order


# --- cpio ------------------------------------------------------------------


def cpio(root: str, out: str) -> None:
    """A newc archive of `root`: names sorted, everything root's, time zero.

    /dev/console is added by hand: the kernel opens it for the first program
    before anything is mounted, and making the node on disk would need root.
    """
    entries = [(".", stat.S_IFDIR | 0o755, b"", (0, 0))]
    for path in Path(root).rglob("*"):
        mode = path.lstat().st_mode
        name = path.relative_to(root).as_posix()
        if stat.S_ISLNK(mode):
            entries.append((name, stat.S_IFLNK | 0o777, os.readlink(path).encode(), (0, 0)))
        elif stat.S_ISDIR(mode):
            entries.append((name, stat.S_IFDIR | 0o755, b"", (0, 0)))
        elif stat.S_ISREG(mode):
            rights = 0o755 if mode & 0o100 else 0o644
            entries.append((name, stat.S_IFREG | rights, path.read_bytes(), (0, 0)))
    entries.append(("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)))
    entries.sort()
    entries.append(("TRAILER!!!", 0, b"", (0, 0)))
    with open(out, "wb") as file:
        for number, (name, mode, data, device) in enumerate(entries, 1):
            links = 2 if stat.S_ISDIR(mode) else 1
            fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(name) + 1, 0)
            head = b"070701" + b"".join(b"%08X" % field for field in fields)
            for piece in (head + name.encode() + b"\x00", data):
                file.write(piece + b"\x00" * (-len(piece) % 4))


def main(argv: list[str]) -> None:
    try:
        command, source, out, *names = argv
    except ValueError:
        raise Refused(__doc__) from None
    if command == "vmlinux":
        Path(out).write_bytes(vmlinux(Path(source).read_bytes()))
    elif command == "modules":
        print(" ".join(modules(source, out, names)) or "none: all built in")
    elif command == "cpio":
        cpio(source, out)
    else:
        raise Refused(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Refused, OSError) as error:
        sys.exit(f"imagetool: {error}")
