# SPDX-License-Identifier: Apache-2.0
"""The initrd of a Linux guest: the part with urunc's init and its kernel modules, and the joining
of parts into one file.

Linux unpacks archives that follow each other as one. The part made here is the same for all
containers of a kernel and holds nothing of an image or a container. It is made of the
administrator's files alone.
"""

from __future__ import annotations

import posix
from _struct import error as StructError  # type: ignore[attr-defined]  # known by struct alone
from _struct import unpack_from
from errno import ENOENT

from urunc.errors import HostError, ImageError, reason
from urunc.linux.files import read_bytes
from urunc.storage import cache
from urunc.storage.cpio import HEADER_BYTES, S_IFCHR, TRAILER, Writer
from urunc.storage.layers import digest
from urunc.storage.sparse import transfer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from urunc.config import Config
    from urunc.storage.cpio import Facts

LISTS = ("modules.dep", "modules.order")
"""Files that list a kernel's modules: depmod(8)'s, or else the one that comes with them."""
SUFFIXES = ("", ".xz", ".zst", ".gz")
"""What may follow `.ko` in a module's file name."""
XZ, GZIP, ZSTD = b"\xfd7zXZ\0", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
TAIL_BYTES = 64 << 10
"""How much of an archive's end is searched for its trailer, which padding follows."""
ALIGNMENT_BYTES = 4
"""Archives in an initrd begin at multiples of this."""


def known(directory: str, names: Iterable[str]) -> frozenset[str]:
    """The modules among `names` that a kernel has, as files or built in; `directory` is its
    /lib/modules/VERSION, "" for none. Raises HostError."""
    if not directory:
        return frozenset()
    files = _files(directory)
    built_in = _listed(directory, "modules.builtin")
    return frozenset(name for name in names if name in files or name in built_in)


def kernel_part(directory: str, wanted: Sequence[str], init: str, config: Config) -> str:
    """The path in the cache of the archive that `write_kernel_part` writes; raises HostError."""
    return _cached(
        kernel_part_key(directory, wanted, init),
        directory or init,
        lambda out: write_kernel_part(out, directory, wanted, init),
        config,
    )


def joined(parts: Sequence[str], config: Config) -> str:
    """The path in the cache of several cache entries joined by `assemble`; their names identify
    their content. Raises HostError."""
    key = digest(*(part.rpartition("/")[2] for part in parts))
    return _cached(key, parts[-1], lambda out: _append(out, parts), config)


def kernel_part_key(directory: str, wanted: Sequence[str], init: str) -> str:
    """A key for the archive that `write_kernel_part` writes; it changes with each of the sources.
    Raises HostError."""
    sources = [init]
    if directory:
        sources.append(f"{directory}/{_list(directory)}")
    identity = [directory, *wanted]
    for path in sources:
        try:
            facts = posix.stat(path)
        except OSError as error:
            raise HostError(f"look at '{path}': {reason(error)}") from None
        identity.append(f"{facts.st_dev} {facts.st_ino} {facts.st_size} {facts.st_mtime_ns}")
    return digest(*identity)


def write_kernel_part(out: int, directory: str, wanted: Sequence[str], init: str) -> Facts:
    """Write an archive with the program `init` as /init, the wanted modules and those that they
    need in /modules, and the list of them in loading order as /modules/order. Modules that the
    kernel lacks or has built in are skipped. Raises HostError."""
    try:
        program = read_bytes(init)
    except OSError as error:
        raise HostError(f"read the guests' init '{init}': {reason(error)}") from None
    writer = Writer(out)
    writer.file("init", program, 0o755)
    writer.parents(b"dev/console")
    # the kernel opens it for the first program, before anything can be mounted
    writer.member(b"dev/console", S_IFCHR | 0o600, device=posix.makedev(5, 1))
    modules = _load_order(directory, wanted) if directory else {}
    for name, content in modules.items():
        writer.file(f"modules/{name}.ko", content, 0o644)
    writer.file("modules/order", "".join(f"{name}\n" for name in modules).encode(), 0o644)
    return writer.end()


def assemble(parts: Sequence[str], target: str, *, one_archive: bool = False) -> None:
    """Join several initrds in a new file; files of later ones replace those of earlier ones.
    `one_archive` is for guests that stop at the first archive's trailer: trailers but the last are
    left out. Raises ImageError for a part that is no cpio archive, and OSError."""
    out = posix.open(target, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600)
    try:
        _append(out, parts, one_archive=one_archive)
    finally:
        posix.close(out)


def _append(out: int, parts: Sequence[str], *, one_archive: bool = False) -> None:
    for part in parts:
        fd = posix.open(part, posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            size = posix.fstat(fd).st_size
            if one_archive and part != parts[-1]:
                size = _trailer(fd, size, part)
            left = size
            while left and (count := transfer(fd, out, left)):
                left -= count
        finally:
            posix.close(fd)
        posix.write(out, bytes(-size % ALIGNMENT_BYTES))


def _trailer(fd: int, size: int, part: str) -> int:
    """The offset of an archive's trailer."""
    start = max(0, size - TAIL_BYTES)
    found = posix.pread(fd, TAIL_BYTES, start).rfind(TRAILER + b"\0") - HEADER_BYTES
    if found < 0:
        raise ImageError(
            f"initrd '{part}': not a cpio archive, so nothing can be appended to it",
            "make it with `cpio -H newc`, uncompressed",
        )
    return start + found


def _cached(key: str, source: str, write: Callable[[int], object], config: Config) -> str:
    """The path of a cache entry, which `write(descriptor)` writes if it is missing."""
    directory = cache.directory(config)
    name = f"{key}.initrd"
    entry = cache.find(directory, name)
    if entry:
        cache.touch(entry)
        return entry.path
    try:
        cache.sweep(directory)
        fd = cache.lock(directory, name)
        try:
            if cache.find(directory, name):  # another process has made it meanwhile
                cache.abandon(directory, name)
            else:
                write(fd)
                cache.commit(directory, name, fd, source)
        except BaseException:
            cache.abandon(directory, name)
            raise
        finally:
            posix.close(fd)
    except OSError as error:
        raise HostError(
            f"make initrd for '{source}': {reason(error)}", f"it would be in '{directory}'"
        ) from None
    return f"{directory}/{name}"


def _list(directory: str) -> str:
    for name in LISTS:
        if posix.access(f"{directory}/{name}", posix.R_OK):
            return name
    raise HostError(
        f"kernel modules '{directory}': no {' and no '.join(LISTS)}",
        "it has to be a directory as /lib/modules/VERSION is",
    )


def _listed(directory: str, name: str) -> dict[str, str]:
    """Module → its path in the directory, from the list `name`; empty if there is no such file."""
    try:
        text = read_bytes(f"{directory}/{name}").decode("utf-8", "surrogateescape")
    except OSError as error:
        if error.errno == ENOENT:
            return {}
        raise HostError(f"read '{directory}/{name}': {reason(error)}") from None
    paths = [line.partition(":")[0].strip() for line in text.splitlines()]
    return {_name(path): path for path in paths if path}


def _files(directory: str) -> dict[str, str]:
    return _listed(directory, _list(directory))


def _name(path: str) -> str:
    """A module's name from its path; with `_` for `-`, which mean the same."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _load_order(directory: str, wanted: Sequence[str]) -> dict[str, bytes]:
    """Module → its content; each comes after those that it needs."""
    files = _files(directory)
    found: dict[str, bytes] = {}
    met: set[str] = set()

    def take(name: str) -> None:
        name = name.replace("-", "_")
        if name not in files and f"{name}_generic" in files:
            name += "_generic"  # an algorithm by its name, of which this is the portable module
        if name in met or name not in files:
            return
        met.add(name)
        content = _content(directory, files[name])
        try:
            needed = _needed(content)
        except (StructError, ValueError):
            raise HostError(f"kernel module '{directory}/{files[name]}': no ELF file") from None
        for other in needed:
            take(other)
        found[name] = content

    for name in wanted:
        take(name)
    return found


def _content(directory: str, path: str) -> bytes:
    """A module's content, decompressed."""
    # modules.order has the names from before they were compressed
    candidates = [f"{directory}/{path}{suffix}" for suffix in SUFFIXES]
    path = next((file for file in candidates if posix.access(file, posix.R_OK)), candidates[0])
    try:
        content = read_bytes(path)
    except OSError as error:
        raise HostError(f"read kernel module '{path}': {reason(error)}") from None
    for magic, decompress in ((XZ, _xz), (GZIP, _gzip), (ZSTD, _zstd)):
        if content.startswith(magic):
            return decompress(path, content)
    return content


def _xz(path: str, content: bytes) -> bytes:
    import lzma

    try:
        return lzma.decompress(content)
    except lzma.LZMAError as error:
        raise HostError(f"kernel module '{path}': {error}") from None


def _gzip(path: str, content: bytes) -> bytes:
    import zlib

    try:
        return zlib.decompress(content, 31)
    except zlib.error as error:
        raise HostError(f"kernel module '{path}': {error}") from None


def _zstd(path: str, content: bytes) -> bytes:
    import subprocess

    try:
        done = subprocess.run(["zstd", "-dcq"], input=content, capture_output=True, check=False)
    except OSError as error:
        raise HostError(
            f"kernel module '{path}': zstd: {reason(error)}",
            "install the package zstd, or point guests.linux.modules to uncompressed modules",
        ) from None
    if done.returncode:
        problem = done.stderr.decode("utf-8", "replace").strip()
        raise HostError(f"kernel module '{path}': {problem}")
    return done.stdout


def _needed(module: bytes) -> list[str]:
    """The modules that a module needs, from its .modinfo section: `depends=A,B` and `softdep=pre: A
    B`. Raises ValueError and struct's error for a damaged file."""
    if module[:6] != b"\x7fELF\2\1":
        raise ValueError
    (table,) = unpack_from("<Q", module, 0x28)
    size, count, names = unpack_from("<HHH", module, 0x3A)
    sections = [unpack_from("<IIQQQQ", module, table + index * size) for index in range(count)]
    base = sections[names][4]
    found: list[str] = []
    for name, _, _, _, offset, length in sections:
        if not module.startswith(b".modinfo\0", base + name):
            continue
        for entry in module[offset : offset + length].decode("utf-8", "replace").split("\0"):
            key, _, value = entry.partition("=")
            if key == "depends":
                found += [item for item in value.split(",") if item]
            elif key == "softdep":
                found += value.partition("post:")[0].partition("pre:")[2].split()
    return found
