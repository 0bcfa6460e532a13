# SPDX-License-Identifier: Apache-2.0
"""A tree of files from folders and images, written as a layer (tar) or an initrd (cpio).

The same files give the same bytes: names are sorted, root owns everything, times are the one that
is given. Extended attributes are left out; hard links become files of their own.
"""

from __future__ import annotations

import os
import stat
import tarfile
from io import BytesIO

from urunc.errors import HostError, ImageError, reason
from urunc.record import record
from urunc.storage.cpio import Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from urunc.image.recipe import Place

CHUNK_BYTES = 1 << 20


@record
class Entry:
    """A file, a directory or a symbolic link."""

    mode: int
    """With the kind, as in st_mode."""
    size_bytes: int = 0
    target: str = ""
    """Of a symbolic link."""
    open: Callable[[], IO[bytes]] | None = None
    """Opens a regular file's content."""
    uid: int = 0
    gid: int = 0
    """Its owner, where it was found; what is written here is root's."""


def of_bytes(content: bytes, mode: int = 0o644) -> Entry:
    """A file with a content."""
    return Entry(mode=stat.S_IFREG | mode, size_bytes=len(content), open=lambda: BytesIO(content))


def of_file(path: str) -> Entry:
    """A file, directory or link of this machine, which is not followed; raises OSError, ImageError
    for what is none of these."""
    facts = os.lstat(path)
    if stat.S_ISLNK(facts.st_mode):
        return Entry(
            mode=stat.S_IFLNK | 0o777, target=os.readlink(path), uid=facts.st_uid, gid=facts.st_gid
        )
    if stat.S_ISDIR(facts.st_mode):
        return Entry(mode=facts.st_mode, uid=facts.st_uid, gid=facts.st_gid)
    if not stat.S_ISREG(facts.st_mode):
        raise ImageError(
            f"'{path}': neither a file, a directory nor a link", "remove it from the folder"
        )
    return Entry(
        mode=facts.st_mode, size_bytes=facts.st_size, open=lambda: open(path, "rb"),
        uid=facts.st_uid, gid=facts.st_gid,
    )  # fmt: skip


class Tree:
    """Paths (without a leading slash) → entries."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def put(self, path: str, entry: Entry, place: Place) -> None:
        """Add an entry, and the directories above it; raises ImageError for a path that leads out,
        or goes through a file."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise place.error(f"'{path}' has '..' in it", "write the path as it is in the image")
        for count in range(1, len(parts)):
            above = "/".join(parts[:count])
            known = self.entries.setdefault(above, Entry(mode=stat.S_IFDIR | 0o755))
            if not stat.S_ISDIR(known.mode):
                raise place.error(f"'{path}': '/{above}' is not a directory")
        if parts:
            name = "/".join(parts)
            known = self.entries.get(name, entry)
            if stat.S_ISDIR(known.mode) != stat.S_ISDIR(entry.mode):
                raise place.error(f"'/{name}': a directory and a file", "give one another name")
            self.entries[name] = entry

    def folder(self, path: str, destination: str, place: Place) -> None:
        """Add a file, or a folder with all below it, of this machine; raises ImageError,
        HostError."""
        try:
            if not os.path.isdir(path):
                self.put(destination, of_file(os.path.realpath(path)), place)
                return
            self.put(destination, of_file(os.path.realpath(path)), place)
            for directory, names, files in os.walk(path, onerror=_raise):
                names.sort()
                for name in (*names, *sorted(files)):
                    found = os.path.join(directory, name)
                    below = os.path.relpath(found, path)
                    self.put(f"{destination}/{below}", of_file(found), place)
        except OSError as error:
            raise place.error(f"read '{path}': {reason(error)}") from None

    def write_tar(self, out: IO[bytes], epoch: int) -> None:
        """Write a layer."""
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path, entry in sorted(self.entries.items()):
                member = tarfile.TarInfo(path)
                member.mode = stat.S_IMODE(entry.mode)
                member.mtime = epoch
                if stat.S_ISDIR(entry.mode):
                    member.type = tarfile.DIRTYPE
                elif stat.S_ISLNK(entry.mode):
                    member.type, member.linkname = tarfile.SYMTYPE, entry.target
                member.size = entry.size_bytes
                if entry.open is None:
                    archive.addfile(member)
                    continue
                with entry.open() as content:
                    try:
                        archive.addfile(member, content)
                    except tarfile.TarError:
                        raise _changed(path) from None
                    _at_end(content, path)

    def write_cpio(self, out: int, epoch: int) -> None:
        """Write an initrd."""
        writer = Writer(out)
        for path, entry in sorted(self.entries.items()):
            is_directory = stat.S_ISDIR(entry.mode)
            content = os.fsencode(entry.target)
            writer.member(
                os.fsencode(path), entry.mode, links=2 if is_directory else 1, mtime=epoch,
                size=entry.size_bytes or len(content),
            )  # fmt: skip
            if entry.open is None:
                writer.put(content)
            else:
                self._copy(writer, path, entry)
            writer.pad()
        writer.end()

    def _copy(self, writer: Writer, path: str, entry: Entry) -> None:
        if entry.open is None:
            return
        left = entry.size_bytes
        with entry.open() as content:
            while left:
                part = content.read(min(left, CHUNK_BYTES))
                if not part:
                    raise _changed(path)
                writer.put(part)
                left -= len(part)
            _at_end(content, path)


def _at_end(content: IO[bytes], path: str) -> None:
    if content.read(1):
        raise _changed(path)


def _changed(path: str) -> HostError:
    return HostError(f"read '{path}': its size changed meanwhile", "build again")


def _raise(error: OSError) -> None:
    raise error
