# SPDX-License-Identifier: Apache-2.0
"""`urunc cache`: the images that were built from root filesystems, and their removal."""

from __future__ import annotations

import sys
from time import gmtime, strftime, time

from urunc.cli.options import FLAG, VALUE, Arguments, one_of
from urunc.errors import UsageError
from urunc.jsontext import dumps
from urunc.storage import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urunc.storage.cache import CacheEntry

OPTIONS = {
    "--format": ("table|json", "form of the output (default: table)"),
    "--all": (FLAG, "prune: remove every image"),
    "--unused-for": (
        VALUE,
        "prune: remove images that were not used for this time: 90s, 30m, 12h, 7d (default: 7d)",
    ),
    "--keep-mib": (
        VALUE,
        "prune: remove the least recently used images until so many MiB are left",
    ),
}
USAGE = "list|prune [OPTION...]"
SUMMARY = "List the images of root filesystems, or remove unused ones."
WORDS = ("list", "prune")
CHOICES = ("--all", "--unused-for", "--keep-mib")
UNUSED_FOR = "7d"
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
COLUMNS = ("KEY", "FORM", "MIB", "ON DISK", "MADE", "USED", "MADE FOR")
KEY_SHOWN = 12


def main(arguments: Arguments) -> int:
    (word,) = arguments.only("list or prune")
    one_of("", word, WORDS)
    as_json = arguments.get("--format", "table") == "json"
    given = [name for name in CHOICES if name in arguments.options]
    if len(given) > (word == "prune"):
        raise UsageError(f"option '{given[-1]}': not with {given[0] if given[1:] else word}")
    path = cache.location(arguments.config())
    if word == "list":
        _list(cache.entries(path), as_json=as_json)
    else:
        _prune(path, arguments, as_json=as_json)
    return 0


def _list(entries: list[CacheEntry], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(dumps([_plain(entry) for entry in entries]) + "\n")
        return
    rows = [COLUMNS]
    for entry in entries:
        key, _, image_format = entry.name.partition(".")
        sizes = _mib(entry.size_bytes), _mib(entry.disk_bytes)
        times = time_shown(entry.made_s), time_shown(entry.used_s)
        rows.append((key[:KEY_SHOWN], image_format, *sizes, *times, entry.source))
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        line = "   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")
    disk_bytes = sum(entry.disk_bytes for entry in entries)
    sys.stdout.write(f"{len(entries)} images, {_mib(disk_bytes)} MiB on the disk\n")


def _prune(path: str, arguments: Arguments, *, as_json: bool) -> None:
    cache.sweep(path)
    if arguments.has("--all"):
        removed = cache.shrink(path, -1, recent_s=0)
        cache.forget_trees(path, 0)
    elif keep := arguments.get("--keep-mib"):
        if not keep.isdecimal():
            raise UsageError(f"option '--keep-mib': '{keep}' is not a whole number")
        removed = cache.shrink(path, int(keep) * cache.MIB)
    else:
        removed = cache.shrink(path, -1, recent_s=seconds_of(arguments.get("--unused-for")))
    if as_json:
        sys.stdout.write(dumps([_plain(entry) for entry in removed]) + "\n")
        return
    for entry in removed:
        sys.stdout.write(f"removed {entry.name}\n")
    disk_bytes = sum(entry.disk_bytes for entry in removed)
    sys.stdout.write(f"{len(removed)} images removed, {_mib(disk_bytes)} MiB of the disk\n")


def seconds_of(text: str) -> int:
    """The seconds of a time as `--unused-for` has it; raises UsageError."""
    text = text or UNUSED_FOR
    if text[-1] not in SECONDS or not text[:-1].isdecimal():
        raise UsageError(
            f"option '--unused-for': '{text}' is not a time", "for example 90s, 30m, 12h or 7d"
        )
    return int(text[:-1]) * SECONDS[text[-1]]


def _plain(entry: CacheEntry) -> dict[str, Any]:
    key, _, image_format = entry.name.partition(".")
    return {
        "key": key,
        "form": image_format,
        "path": entry.path,
        "bytes": entry.size_bytes,
        "diskBytes": entry.disk_bytes,
        "made": strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(entry.made_s)),
        "used": strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(entry.used_s)),
        "madeFor": entry.source,
    }


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / cache.MIB:.1f}"


def time_shown(seconds: int) -> str:
    """How long ago a time (seconds since the Epoch) is, in the largest unit that fits."""
    ago = max(int(time()) - seconds, 0)
    unit = next((unit for unit in "dhm" if ago >= SECONDS[unit]), "s")
    return f"{ago // SECONDS[unit]}{unit} ago"
