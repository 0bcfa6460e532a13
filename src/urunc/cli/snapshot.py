# SPDX-License-Identifier: Apache-2.0
"""`urunc snapshot`: the snapshots that containers start from: shown, removed, and made ahead."""

from __future__ import annotations

import sys
from time import monotonic, sleep, time

from urunc.cli.cache import seconds_of, time_shown
from urunc.cli.create import create
from urunc.cli.options import FLAG, VALUE, Arguments, one_of
from urunc.errors import HostError, NotFoundError, SnapshotError, UsageError, reason
from urunc.jsontext import dumps
from urunc.lifecycle import delete, start
from urunc.linux.files import exists, read_text
from urunc.record import plain
from urunc.snapshot import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urunc.config import Config
    from urunc.snapshot.store import Entry

OPTIONS = {
    "--format": ("table|json", "form of the output (default: table)"),
    "--verify": (FLAG, "inspect: read all of it, and compare with its digests"),
    "--all": (FLAG, "prune: remove every one"),
    "--unused-for": (
        VALUE,
        "prune: remove those that were not used for this time: 90s, 30m, 12h, 7d (default: 7d)",
    ),
}
USAGE = "list|inspect KEY|prune|warm BUNDLE [OPTION...]"
SUMMARY = "Show, remove or make snapshots that containers start from."
WORDS = ("list", "inspect", "prune", "warm")
TAKING = {"inspect": "KEY", "warm": "BUNDLE"}
ONLY_FOR = {"--verify": "inspect", "--all": "prune", "--unused-for": "prune"}
KEY_SHOWN = 12
INTERVAL_S = 0.02
COLUMNS = ("KEY", "IMAGE", "GUEST", "MONITOR", "MIB", "HITS", "MADE", "USED")


def main(arguments: Arguments) -> int:
    word = arguments.words[0] if arguments.words else ""
    one_of("", word, WORDS)
    what = TAKING.get(word)
    given = arguments.only("word", *((what,) if what else ()))[1:]
    for name, verb in ONLY_FOR.items():
        if name in arguments.options and verb != word:
            raise UsageError(f"option '{name}': only with {verb}")
    if arguments.has("--all") and arguments.get("--unused-for"):
        raise UsageError("option '--unused-for': not with --all")
    config = arguments.config()
    as_json = arguments.get("--format", "table") == "json"
    path: str = config.get("start.directory")
    if word == "warm":
        _warm(arguments, given[0], config)
        return 0
    if exists(path):
        store.prepare(path)
    if word == "inspect":
        _inspect(_find(path, given[0]), verify=arguments.has("--verify"))
    elif word == "prune":
        _prune(path, arguments, as_json=as_json)
    else:
        _list(store.entries(path), as_json=as_json)
    return 0


def _find(path: str, key: str) -> Entry:
    found = [entry for entry in store.entries(path) if entry.key.startswith(key)]
    if len(found) != 1 or not key:
        what = f"{len(found)} have keys that begin so" if found else "there is none"
        raise NotFoundError(f"snapshot '{key}': {what}", "`urunc snapshot list` shows them")
    return found[0]


def _list(entries: list[Entry], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(dumps([_plain(entry) for entry in entries]) + "\n")
        return
    rows = [COLUMNS]
    for entry in entries:
        known = _plain(entry)
        rows.append(
            (
                entry.key[:KEY_SHOWN],
                known["image"] or "-",
                known["guest"],
                known["monitor"],
                f"{entry.bytes / (1 << 20):.1f}",
                str(entry.hits),
                time_shown(entry.made_s),
                time_shown(entry.used_s),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        line = "   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")
    total = sum(entry.bytes for entry in entries)
    sys.stdout.write(f"{len(entries)} snapshots, {total / (1 << 20):.1f} MiB on the disk\n")


def _plain(entry: Entry) -> dict[str, Any]:
    """What is known of one; of one that cannot be read, no more than its place."""
    try:
        manifest = store.manifest_of(entry)
        more = {name: getattr(manifest, name) for name in ("image", "guest", "monitor")}
    except SnapshotError:
        more = {"image": "", "guest": "(damaged)", "monitor": "-"}
    return {**plain(entry), **more}


def _inspect(entry: Entry, *, verify: bool) -> None:
    manifest = store.manifest_of(entry)
    if verify:
        store.verify(entry)
    sys.stdout.write(dumps({**plain(entry), "manifest": plain(manifest)}, indent=2) + "\n")


def _prune(path: str, arguments: Arguments, *, as_json: bool) -> None:
    removed = []
    before_s = time() - (0 if arguments.has("--all") else seconds_of(arguments.get("--unused-for")))
    if exists(path):
        store.sweep(path)
    for entry in store.entries(path):
        if (arguments.has("--all") or entry.used_s <= before_s) and store.drop(path, entry.key):
            removed.append(entry)
    if as_json:
        sys.stdout.write(dumps([plain(entry) for entry in removed]) + "\n")
        return
    for entry in removed:
        sys.stdout.write(f"removed {entry.key}\n")
    total = sum(entry.bytes for entry in removed)
    sys.stdout.write(f"{len(removed)} snapshots removed, {total / (1 << 20):.1f} MiB\n")


def _warm(arguments: Arguments, bundle: str, config: Config) -> None:
    """Start a container of a bundle for as long as it takes to save it."""
    import posix

    identifier = f"warm-{posix.getpid()}"
    arguments.options["--bundle"] = bundle
    arguments.words[:] = [identifier]
    state = create(arguments)
    try:
        start.start(arguments.root, identifier, config)
        key = _key_of(state.directory)
        until = monotonic() + config.get("start.wait_s") + config.get("timeouts.create_s")
        place = f"{config.get('start.directory')}/{key}"
        begun = False
        while not store.is_sealed(place):
            if (begun and not exists(place)) or monotonic() > until:
                raise HostError(
                    f"snapshot of '{bundle}': it was not made", "the log says why (log.file)"
                )
            begun = begun or exists(place)
            sleep(INTERVAL_S)
    finally:
        delete.delete(arguments.root, identifier, config, force=True)
    sys.stdout.write(f"{key}\n")


def _key_of(directory: str) -> str:
    from urunc.lifecycle.warm import KEY

    try:
        return read_text(f"{directory}/{KEY}")
    except FileNotFoundError:
        raise SnapshotError(
            "the container does not start from a snapshot", "a warning says why, or nobody asked"
        ) from None
    except OSError as error:
        raise HostError(f"'{directory}/{KEY}': {reason(error)}") from None
