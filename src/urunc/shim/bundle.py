# SPDX-License-Identifier: Apache-2.0
"""What the shim itself looks at in a bundle's config.json, which it reads once, for itself and the
worker that makes the container; and what it leaves in a bundle."""

from __future__ import annotations

from urunc.bundle.document import read_document
from urunc.errors import Error
from urunc.linux.files import exists, write_whole
from urunc.shim import ENDED_FILE
from urunc.shim.messages import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BOOTED = "/run/systemd/system"
"""Where systemd runs the machine (sd_booted(3))."""


def configuration(bundle: str) -> Any:
    """The JSON value of a bundle's config.json; None where it cannot be read, which is for the
    runtime to complain of."""
    try:
        return read_document(bundle)
    except Error:
        return None


def is_claimed(document: Any, bundle: str, config_path: str) -> bool:
    """Whether a configuration is a unikernel's, once its root filesystem is there; None is read
    anew. Raises Error."""
    from urunc.bundle import image
    from urunc.config import load

    if document is None:
        document = read_document(bundle)
    return image.claims(document, bundle, load(config_path))


def is_systemds(document: Any) -> bool:
    """Whether systemd is here and a container's cgroupsPath is `SLICE:PREFIX:NAME`: CRI has no
    option to say so for a runtime that is not runc. Without systemd it is a path like any other,
    as with runc: a client that does not know containerd's driver names a slice."""
    if not exists(BOOTED):
        return False
    try:
        path = document["linux"]["cgroupsPath"]
        return isinstance(path, str) and path.count(":") == 2 and "/" not in path
    except (KeyError, TypeError):
        return False


def has_own_pids(document: Any) -> bool:
    """Whether a container's processes end with its init; True where nothing says otherwise."""
    try:
        namespaces = document["linux"]["namespaces"]
        return any(item["type"] == "pid" and not item.get("path") for item in namespaces)
    except (KeyError, TypeError):
        return True


def leave_answer(bundle: str, end: dict[str, Any]) -> None:
    """Have the shim's action `delete`, which containerd runs next, find nothing to do."""
    answer = encode("containerd.task.v2.DeleteResponse", end)
    text = "".join(f"\\0{byte:03o}" for byte in answer)
    try:
        write_whole(f"{bundle}/{ENDED_FILE}", f"{text}\n".encode())
    except OSError:
        pass  # it will look for itself
