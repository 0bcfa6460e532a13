# SPDX-License-Identifier: Apache-2.0
"""What containerd tells a shim that it starts, and what it is answered, on standard input and
output. Pure.

Until 2.2 containerd sends an Any with the runtime's options, or nothing, and reads an address; from
2.3 on it sends BootstrapParams and reads a BootstrapResult, or still an address
(containerd/api/runtime/bootstrap/v1).
"""

from __future__ import annotations

from urunc.shim.messages import MessageError, any_of, decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PACKAGE = "containerd.runtime.bootstrap.v1"
SANDBOXED = (2, 4)
"""The first containerd that is told version 3, by which it connects to a pod's shim for each of the
pod's containers without a `start`. It could be told so from 2.0 on, but until 2.3 it does not clean
up after containers that it has joined to a shim so and whose shim dies."""
VERSION, VERSION_SANDBOXED = 2, 3
CAPABILITIES = "containerd.types.MountCapabilities"
MOUNTS = ("erofs",)
"""Types of mounts that containerd's mount manager (2.2) leaves to this shim, as far as it can: one
that is the whole root filesystem. Without that such a root filesystem is empty, as with runc's
shim. Layers below an overlay are mounted by containerd all the same, at paths by which urunc knows
them again (storage/layers.py)."""


def read(
    data: bytes, instance_id: str, namespace: str
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """What `start` reads: BootstrapParams (from containerd 2.3 on; None with an older one), and the
    options in it, an Any each. Raises MessageError.

    Each can decode as the other, so it is BootstrapParams only where the identity in it is that of
    the command line.
    """
    try:
        parameters = decode(f"{PACKAGE}.BootstrapParams", data)
    except MessageError:
        pass
    else:
        if instance_id and (parameters["instance_id"], parameters["namespace"]) == (
            instance_id,
            namespace,
        ):
            extensions = [extension["value"] for extension in parameters["extensions"]]
            return parameters, [value for value in extensions if value is not None]
    return None, [decode("google.protobuf.Any", data)] if data else []


def answer(parameters: dict[str, Any] | None, address: str) -> bytes:
    """What `start` prints: where the shim listens, in the form that this containerd reads, and the
    mounts that it takes, for which containerd 2.4 would otherwise run `-info`."""
    if parameters is None:
        return address.encode()
    sandboxed = _number(parameters["containerd_version"]) >= SANDBOXED
    return encode(
        f"{PACKAGE}.BootstrapResult",
        {
            "version": VERSION_SANDBOXED if sandboxed else VERSION,
            "address": address,
            "protocol": "ttrpc",
            "extensions": [{"value": any_of(CAPABILITIES, {"types": MOUNTS})}],
        },
    )


def _number(version: str) -> tuple[int, ...]:
    """(major, minor) of a version such as `2.4.2+unknown` or `v2.4.0-rc.1`; () where it has
    none."""
    parts = version.removeprefix("v").split(".")[:2]
    return tuple(map(int, parts)) if len(parts) == 2 and all(map(str.isdecimal, parts)) else ()
