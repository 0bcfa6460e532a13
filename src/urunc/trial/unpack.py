# SPDX-License-Identifier: Apache-2.0
"""Writes an image's files into a directory.

What the image says stays below the directory: names come from the merged list of its layers, in
which links are followed, and nothing is written through a link: links are made last.
"""

from __future__ import annotations

import os
import stat

from urunc.errors import HostError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.image.images import Image
    from urunc.image.tree import Entry

CHUNK_BYTES = 1 << 20
OWNER = os.geteuid() == 0


def unpack(image: Image, target: str) -> None:
    """Make the files of an image below a directory, which must be empty. Raises HostError."""
    places: dict[str, Entry] = {}
    for path, entry in image.entries.items():
        place = _place(image, path)
        if place is not None:
            places[place] = entry
    files = {place: entry for place, entry in places.items() if stat.S_ISREG(entry.mode)}
    links = {place: entry for place, entry in places.items() if stat.S_ISLNK(entry.mode)}
    modes = {place: entry for place, entry in places.items() if stat.S_ISDIR(entry.mode)}
    where = target
    try:
        for place in sorted({*modes, *map(os.path.dirname, (*files, *links))}):
            where = os.path.join(target, place)
            os.makedirs(where, 0o755, exist_ok=True)
        made: dict[int, str] = {}
        for place, entry in files.items():
            where = os.path.join(target, place)
            if id(entry) in made:  # a hard link
                os.link(made[id(entry)], where)
                continue
            _write(entry, where)
            made[id(entry)] = where
        for place, entry in links.items():
            where = os.path.join(target, place)
            os.symlink(entry.target, where)
            if OWNER:
                os.lchown(where, entry.uid, entry.gid)
        for place in sorted(modes, reverse=True):  # what is below first: it may be read-only
            where = os.path.join(target, place)
            _own(where, modes[place])
    except OSError as error:
        raise HostError(
            f"unpack '{where}': {reason(error)}", "TMPDIR names the directory for all files"
        ) from None


def _place(image: Image, path: str) -> str | None:
    """Where a file goes: a directory above it may be a link in a lower layer, or none at all."""
    above, _, name = path.rpartition("/")
    directory = image.resolve(above)
    if directory is None:
        return None
    parts = directory.split("/")
    for count in range(1, len(parts) + 1):
        known = image.entries.get("/".join(parts[:count]))
        if known and not stat.S_ISDIR(known.mode):
            return None  # a file in its way, which the upper layer has replaced or not
    return f"{directory}/{name}" if directory else name


def _write(entry: Entry, path: str) -> None:
    if entry.open is None:
        return
    with entry.open() as content, open(path, "xb") as out:
        while part := content.read(CHUNK_BYTES):
            out.write(part)
    _own(path, entry)


def _own(path: str, entry: Entry) -> None:
    if OWNER:
        os.chown(path, entry.uid, entry.gid)  # before the mode: chown takes set-user-id away
    os.chmod(path, stat.S_IMODE(entry.mode))
