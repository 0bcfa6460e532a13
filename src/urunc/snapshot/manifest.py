# SPDX-License-Identifier: Apache-2.0
"""The manifest of a saved guest: a record, as JSON in the file MANIFEST beside the files that it
lists. Pure.

A manifest may be hostile: every field is required, no other is allowed, and each has its type and
its bounds. What a field must be on this machine is decided in fit.py.
"""

from __future__ import annotations

from urunc.errors import SnapshotError
from urunc.jsontext import dumps, loads
from urunc.record import plain, rebuild, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Check = Callable[[Any, str], None]

SCHEMA = 1
MANIFEST = "manifest.json"
LIMIT_BYTES = 1 << 20
"""The most bytes of a manifest."""
MOST_NAME = 1024
"""The most characters of the names of a container and of its image."""
MOST_BYTES = 1 << 46
"""The most bytes of one file: 64 TiB."""
SAVED, SAME, FREE = "saved", "same", "free"
"""What becomes of a disk: it is a file beside the manifest; the container has the same one anyway;
the guest has read it and does not need it any more."""


@record
class SavedFile:
    """A file beside the manifest."""

    name: str
    size_bytes: int
    digest: str
    """By files.digest."""


@record
class SavedDisk:
    """A disk of the guest's."""

    target: str
    """Its path in the monitor's root."""
    read_only: bool
    kind: str
    """SAVED, SAME or FREE."""
    file: str
    """Its file beside the manifest, "" unless it is SAVED."""
    size_bytes: int
    digest: str
    """"" where it is FREE."""


@record
class SavedInterface:
    """A network device of the guest's."""

    mac: str
    mtu: int
    tap: str
    addresses: tuple[str, ...]
    """ADDRESS/PREFIX, without link-local ones of IPv6."""
    gateways: tuple[str, ...]
    """Of the default routes."""


@record
class Manifest:
    """All that has to be known of a saved guest."""

    schema: int
    urunc: str
    """The version that saved it."""
    created: str
    """When (RFC 3339)."""
    id: str
    """The container's."""
    image: str
    """The name that the engine has for the container's image, "" where nobody says."""
    guest: str
    """The guest framework."""
    kernel: str
    """The digest of the guest's kernel."""
    arguments: str
    """The digest of the container's arguments."""
    environment: str
    """The digest of its environment and its host name."""
    monitor: str
    monitor_version: str
    architecture: str
    accelerator: str
    machine: tuple[str, ...]
    """The machine in the monitor's words (Snapshots.machine)."""
    processor: str
    """The model of the host's processor, "" where the guest does not see it (TCG)."""
    features: str
    """The digest of that processor's features, "" as well."""
    host_kernel: str
    """The line of the host's kernel (MAJOR.MINOR), "" as well."""
    paused_ms: int
    """How long the guest stood still for it."""
    interfaces: tuple[SavedInterface, ...]
    disks: tuple[SavedDisk, ...]
    files: tuple[SavedFile, ...]


def written(manifest: Manifest) -> bytes:
    """The content of the file."""
    return dumps(plain(manifest), indent=2).encode() + b"\n"


def parse(content: bytes) -> Manifest:
    """The manifest in a file's content; raises SnapshotError, which names the key."""
    if len(content) > LIMIT_BYTES:
        raise SnapshotError(f"{MANIFEST}: more than {LIMIT_BYTES} bytes")
    try:
        values = loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise SnapshotError(f"{MANIFEST}: {error}") from None
    if type(values) is dict and type(values.get("schema")) is int and values["schema"] != SCHEMA:
        raise SnapshotError(
            f"{MANIFEST}: schema {values['schema']} is not {SCHEMA}",
            "another version of urunc saved it: restore it with that one",
        )
    _object(FIELDS)(values, "")
    manifest = rebuild(Manifest, values)
    _check_whole(manifest)
    return manifest


def _check_whole(manifest: Manifest) -> None:
    names = [file.name for file in manifest.files]
    if len(set(names)) != len(names):
        raise SnapshotError(f"{MANIFEST}: key 'files': a name is there twice")
    taps = [interface.tap for interface in manifest.interfaces]
    if len(set(taps)) != len(taps):
        raise SnapshotError(f"{MANIFEST}: key 'interfaces': a tap is there twice")
    known = {file.name: file for file in manifest.files}
    for index, disk in enumerate(manifest.disks):
        where = f"{MANIFEST}: key 'disks[{index}]"
        if (disk.kind == SAVED) != bool(disk.file):
            raise SnapshotError(f"{where}.file': '{disk.file}' with kind '{disk.kind}'")
        if (disk.kind == FREE) != (not disk.digest):
            raise SnapshotError(f"{where}.digest': '{disk.digest}' with kind '{disk.kind}'")
        if disk.kind != SAVED:
            continue
        file = known.pop(disk.file, None)
        if not file or (file.size_bytes, file.digest) != (disk.size_bytes, disk.digest):
            raise SnapshotError(f"{where}.file': '{disk.file}' is not as in 'files'")


def _wrong(where: str, what: str) -> SnapshotError:
    return SnapshotError(f"{MANIFEST}: key '{where}' {what}" if where else f"{MANIFEST} {what}")


def _text(most: int, *, empty: bool = False) -> Check:
    def check(value: Any, where: str) -> None:
        if type(value) is not str or len(value) > most or not (value or empty):
            raise _wrong(where, f"is no text of {0 if empty else 1} to {most} characters")
        if not value.isprintable():
            raise _wrong(where, "has characters that cannot be printed")

    return check


def _digest(*, empty: bool = False) -> Check:
    def check(value: Any, where: str) -> None:
        digits = type(value) is str and len(value) == 64 and not value.strip("0123456789abcdef")
        if not digits and not (empty and value == ""):
            raise _wrong(where, "is no digest (64 hexadecimal digits)")

    return check


def _number(least: int, most: int) -> Check:
    def check(value: Any, where: str) -> None:
        if type(value) is not int or not least <= value <= most:
            raise _wrong(where, f"is no whole number from {least} to {most}")

    return check


def _choice(*choices: Any) -> Check:
    def check(value: Any, where: str) -> None:
        if not any(type(value) is type(item) and value == item for item in choices):
            raise _wrong(where, f"is none of {', '.join(map(str, choices))}")

    return check


def _name(*, empty: bool = False) -> Check:
    """A file's name: of letters, digits, `-` and `.`, and no way out of the directory."""

    def check(value: Any, where: str) -> None:
        _text(64, empty=empty)(value, where)
        plain_name = value.replace("-", "").replace(".", "")
        if value and not (plain_name.isascii() and plain_name.isalnum() and value[0] != "."):
            raise _wrong(where, "is no name of a file")

    return check


def _mac(value: Any, where: str) -> None:
    """A hardware address; it becomes a part of a monitor's option."""
    octets = value.split(":") if type(value) is str else []
    if len(octets) != 6 or any(
        len(octet) != 2 or octet.strip("0123456789abcdef") for octet in octets
    ):
        raise _wrong(where, "is no hardware address")


def _path(value: Any, where: str) -> None:
    _text(4096)(value, where)
    if not value.startswith("/") or ".." in value.split("/"):
        raise _wrong(where, "is no absolute path")


def _list(item: Check, most: int) -> Check:
    def check(value: Any, where: str) -> None:
        if type(value) is not list or len(value) > most:
            raise _wrong(where, f"is no list of {most} at most")
        for index, element in enumerate(value):
            item(element, f"{where}[{index}]")

    return check


def _object(fields: dict[str, Check]) -> Check:
    def check(value: Any, where: str) -> None:
        if type(value) is not dict:
            raise _wrong(where, "is no object")
        dot = f"{where}." if where else ""
        for name in value:
            if name not in fields:
                raise _wrong(f"{dot}{name[:64]!a}", "is not known")
        for name, inner in fields.items():
            if name not in value:
                raise _wrong(f"{dot}{name}", "is missing")
            inner(value[name], f"{dot}{name}")

    return check


FIELDS: dict[str, Check] = {
    "schema": _choice(SCHEMA),
    "urunc": _text(64),
    "created": _text(32),
    "id": _text(MOST_NAME),
    "image": _text(MOST_NAME, empty=True),
    "guest": _text(64),
    "kernel": _digest(),
    "arguments": _digest(),
    "environment": _digest(),
    "monitor": _text(64),
    "monitor_version": _text(64, empty=True),
    "architecture": _text(32),
    "accelerator": _choice("kvm", "tcg"),
    "machine": _list(_text(4096, empty=True), 512),
    "processor": _text(256, empty=True),
    "features": _digest(empty=True),
    "host_kernel": _text(64, empty=True),
    "paused_ms": _number(0, 1 << 40),
    "interfaces": _list(
        _object(
            {
                "mac": _mac,
                "mtu": _number(68, 1 << 16),
                "tap": _text(15),
                "addresses": _list(_text(64), 256),
                "gateways": _list(_text(64), 256),
            }
        ),
        64,
    ),
    "disks": _list(
        _object(
            {
                "target": _path,
                "read_only": _choice(False, True),
                "kind": _choice(SAVED, SAME, FREE),
                "file": _name(empty=True),
                "size_bytes": _number(0, MOST_BYTES),
                "digest": _digest(empty=True),
            }
        ),
        64,
    ),
    "files": _list(
        _object({"name": _name(), "size_bytes": _number(0, MOST_BYTES), "digest": _digest()}),
        128,
    ),
}
