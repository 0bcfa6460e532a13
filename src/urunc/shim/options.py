# SPDX-License-Identifier: Apache-2.0
"""A runtime's options as containerd hands them on: runc's own message, or what CRI has of the
`options` table of a runtime that is not runc, as TOML (from containerd 1.7 on)."""

from __future__ import annotations

from urunc.shim.messages import MessageError, decode, type_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RUNC = "containerd.runc.v1.Options"
CHECKPOINT = "containerd.runc.v1.CheckpointOptions"
GENERIC = "runtimeoptions.v1.Options"
TEXT, NUMBER, FLAG = "a string", "a whole number that is not negative", "true or false"
TABLE = {
    "BinaryName": ("binary_name", TEXT),
    "CriuImagePath": ("criu_image_path", TEXT),
    "CriuPath": ("criu_path", TEXT),
    "CriuWorkPath": ("criu_work_path", TEXT),
    "IoGid": ("io_gid", NUMBER),
    "IoUid": ("io_uid", NUMBER),
    "NoNewKeyring": ("no_new_keyring", FLAG),
    "NoPivotRoot": ("no_pivot_root", FLAG),
    "Root": ("root", TEXT),
    "ShimCgroup": ("shim_cgroup", TEXT),
    "SystemdCgroup": ("systemd_cgroup", FLAG),
}
"""Names in TOML → those of the message, and what they take; other names are another runtime's."""


def read(value: dict[str, Any] | None) -> dict[str, Any]:
    """What an Any of options says, empty where its type is unknown; raises MessageError."""
    kind = type_of(value) if value else ""
    if not value or kind not in (RUNC, CHECKPOINT, GENERIC):
        return {}
    found = decode(kind, value["value"])
    body = found.pop("config_body", b"")
    return found | _table(body) if body else found


def first(values: list[dict[str, Any]]) -> dict[str, Any]:
    """What the first of these says that says anything; raises MessageError."""
    return next((found for found in map(read, values) if found), {})


def _table(body: bytes) -> dict[str, Any]:
    from urunc.tomltext import loads

    try:
        document = loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise MessageError(f"the runtime's options: {error}") from None
    found = {}
    for name, (key, takes) in TABLE.items():
        if name in document:
            value = document[name]
            if not _fits(value, takes):
                raise MessageError(f"the runtime's options: '{name}' takes {takes}")
            found[key] = value
    return found


def _fits(value: object, takes: str) -> bool:
    if takes is NUMBER:
        return type(value) is int and 0 <= value < 1 << 32
    return isinstance(value, str if takes is TEXT else bool)
