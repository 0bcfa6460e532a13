# SPDX-License-Identifier: Apache-2.0
"""`urunc spec`: writes a config.json to start from, for a unikernel if one of its options is set.
Otherwise the ordinary runtime writes one for an ordinary container."""

from __future__ import annotations

import posix

from urunc import OCI_VERSION
from urunc.bundle.pods import PREFIX
from urunc.cli.create import bundle_directory
from urunc.cli.options import BUNDLE, FLAG, VALUE, Arguments
from urunc.errors import ExistsError, HostError, reason
from urunc.jsontext import dumps

OPTIONS = BUNDLE | {
    "--type": (
        VALUE,
        "guest framework (default: unikraft; with --mount-rootfs: linux). Without --type, "
        "--hypervisor, --binary and --mount-rootfs, the file is for an ordinary container",
    ),
    "--hypervisor": (VALUE, "monitor (default: qemu)"),
    "--binary": (VALUE, "the unikernel's path in the root filesystem (default: /unikernel)"),
    "--mount-rootfs": (
        FLAG,
        "give the guest the root filesystem; without --binary, its kernel is the one in "
        "urunc's configuration",
    ),
    "--rootless": (FLAG, "for an ordinary container of an ordinary user"),
}
SEARCH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USAGE = "[OPTION...]"
SUMMARY = "Write a config.json to start from."


def main(arguments: Arguments) -> int:
    arguments.only()
    mount_rootfs = arguments.has("--mount-rootfs")
    asked = [arguments.get(option) for option in ("--type", "--hypervisor", "--binary")]
    if not any(asked) and not mount_rootfs:
        arguments.root = ""
        arguments.hand_over()
    path = f"{bundle_directory(arguments.get('--bundle'))}/config.json"
    annotations = {
        "unikernelType": arguments.get("--type", "linux" if mount_rootfs else "unikraft"),
        "hypervisor": arguments.get("--hypervisor", "qemu"),
    }
    if mount_rootfs:
        annotations["mountRootfs"] = "true"
    if not mount_rootfs or arguments.get("--binary"):
        annotations["binary"] = arguments.get("--binary", "/unikernel")
    document = {
        "ociVersion": OCI_VERSION,
        "root": {"path": "rootfs", "readonly": not mount_rootfs},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh" if mount_rootfs else "unikernel"],
            "env": [SEARCH] if mount_rootfs else [],
            "cwd": "/",
            "noNewPrivileges": True,
        },
        "hostname": "unikernel",
        "annotations": {PREFIX + key: value for key, value in annotations.items()},
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
        raise ExistsError(f"write '{path}': it exists already", "remove it first") from None
    except OSError as error:
        raise HostError(f"write '{path}': {reason(error)}") from None
    posix.write(fd, dumps(document, indent=4).encode() + b"\n")
    posix.close(fd)
    return 0
