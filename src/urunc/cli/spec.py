# SPDX-License-Identifier: Apache-2.0
"""`urunc spec`: a config.json to start from: a unikernel's where one of its options is given, else
an ordinary container's, which the ordinary runtime writes."""

from __future__ import annotations

import posix

from urunc import OCI_VERSION
from urunc.cli.create import bundle_folder
from urunc.cli.options import BUNDLE, FLAG, VALUE, Arguments
from urunc.errors import ExistsError, HostError, reason
from urunc.image import PREFIX
from urunc.jsontext import dumps

OPTIONS = BUNDLE | {
    "--type": (
        VALUE,
        "guest framework (default: unikraft); without any of these three options an "
        "ordinary container's",
    ),
    "--hypervisor": (VALUE, "monitor (default: qemu)"),
    "--binary": (VALUE, "the unikernel's path in the root filesystem (default: /unikernel)"),
    "--rootless": (FLAG, "an ordinary container's for an ordinary user"),
}
USAGE = "[OPTION...]"
SUMMARY = "Write a config.json to start from."


def main(arguments: Arguments) -> int:
    """Run the verb."""
    arguments.only()
    if not any(arguments.get(option) for option in ("--type", "--hypervisor", "--binary")):
        from urunc.ordinary import hand_over

        hand_over(arguments.argv, "", arguments.config())
    path = f"{bundle_folder(arguments.get('--bundle'))}/config.json"
    document = {
        "ociVersion": OCI_VERSION,
        "root": {"path": "rootfs", "readonly": True},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["unikernel"],
            "env": [],
            "cwd": "/",
            "noNewPrivileges": True,
        },
        "hostname": "unikernel",
        "annotations": {
            f"{PREFIX}unikernelType": arguments.get("--type", "unikraft"),
            f"{PREFIX}hypervisor": arguments.get("--hypervisor", "qemu"),
            f"{PREFIX}binary": arguments.get("--binary", "/unikernel"),
        },
        "linux": {
            "resources": {"memory": {"limit": 256 << 20}},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "mount", "ipc", "uts")],
        },
    }
    try:
        fd = posix.open(
            path, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o644
        )
    except FileExistsError:
        raise ExistsError(f"write '{path}': there is one already", "remove it first") from None
    except OSError as error:
        raise HostError(f"write '{path}': {reason(error)}") from None
    posix.write(fd, dumps(document, indent=4).encode() + b"\n")
    posix.close(fd)
    return 0
