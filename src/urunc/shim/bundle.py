# SPDX-License-Identifier: Apache-2.0
"""What the shim itself has to know of a container's config.json; the rest is its workers'."""

from __future__ import annotations

from urunc import image
from urunc.config import load
from urunc.errors import Error
from urunc.linux.files import exists
from urunc.spec import read_document

BOOTED = "/run/systemd/system"
"""Where systemd runs the machine (sd_booted(3))."""


def is_claimed(bundle: str, config_path: str) -> bool:
    """Whether it claims to be a unikernel, once its root filesystem is there. Raises Error."""
    return image.claims(read_document(bundle), bundle, load(config_path))


def is_systemds(bundle: str) -> bool:
    """Whether systemd is here and a container's cgroupsPath is `SLICE:PREFIX:NAME`: CRI has no
    option to say so for a runtime that is not runc. Without systemd it is a path like any other,
    as with runc: a client that does not know containerd's driver names a slice."""
    if not exists(BOOTED):
        return False
    try:
        path = read_document(bundle)["linux"]["cgroupsPath"]
        return isinstance(path, str) and path.count(":") == 2 and "/" not in path
    except (Error, KeyError, TypeError):
        return False


def has_own_pids(bundle: str) -> bool:
    """Whether a container's processes end with its init."""
    try:
        namespaces = read_document(bundle)["linux"]["namespaces"]
        return any(item["type"] == "pid" and not item.get("path") for item in namespaces)
    except (Error, KeyError, TypeError):
        return True
