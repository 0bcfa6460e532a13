# SPDX-License-Identifier: Apache-2.0
"""virtiofsd, the daemon that serves host directories to a guest by virtiofs: finding the program,
telling its two implementations apart, and its command line.

The C implementation came with QEMU up to 7.2; the one in Rust is a project of its own. It runs as
root in the container's namespaces. As soon as the monitor connects, it makes the shared directory
its root, drops capabilities and installs a seccomp filter (its sandbox).
"""

from __future__ import annotations

from urunc.errors import HostError
from urunc.linux.files import exists
from urunc.programs import capture, find_program, remembered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urunc.config import Config

NAME = "virtiofsd"
ELSEWHERE = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd")
"""Where distributions install it, outside of PATH."""


def find(config: Config) -> tuple[str, bool]:
    """(path, whether it is the one in Rust); ("", False) if there is none. Raises HostError if the
    configured path does not exist."""
    path: str = config.get("storage.virtiofsd")
    if path and not exists(path):
        raise HostError(
            f"storage.virtiofsd: there is no '{path}'",
            f"set in {config.source('storage.virtiofsd')}",
        )
    path = path or find_program(NAME) or next(filter(exists, ELSEWHERE), "")
    if not path:
        return "", False

    def find_out() -> dict[str, Any]:
        return {"rust": "--shared-dir" in capture([path, "--help"])[1]}

    facts = next(known for known in remembered(NAME, path, find_out) if "rust" in known)
    return path, facts["rust"]


def command(path: str, directory: str, listener: int, *, rust: bool) -> tuple[str, ...]:
    """The argv to serve a directory to whom connects to the socket that descriptor `listener` is.

    It leaves resource limits alone. A guest may use extended attributes as a container may, but
    cannot make device nodes, which would be real ones on the host.
    """
    common = (f"--fd={listener}", "--rlimit-nofile=0")
    if rust:
        return (
            *(path, *common, f"--shared-dir={directory}", "--sandbox=namespace", "--xattr"),
            *("--modcaps=-mknod", "--log-level=error"),
        )
    source = directory.replace("\\", "\\\\").replace(",", "\\,")
    options = f"source={source},sandbox=namespace,xattr,modcaps=-mknod,log_level=err"
    return (path, "-f", *common, "-o", options)
