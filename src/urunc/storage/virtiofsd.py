# SPDX-License-Identifier: Apache-2.0
"""virtiofsd, the daemon that serves directories of the host to a guest by virtiofs: where it is,
which of the two it is, what it is told.

QEMU's own, in C, came with it up to 7.2; the other, in Rust, is a project of its own. It runs as
root in the container's namespaces, and has the shared directory for its root as soon as the monitor
connects to it (its sandbox), fewer capabilities and a seccomp filter.
"""

from __future__ import annotations

from urunc.errors import HostError
from urunc.init.daemon import LISTENER
from urunc.linux.files import exists
from urunc.programs import capture, find_program, remembered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urunc.config import Config

NAME = "virtiofsd"
ELSEWHERE = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd")
"""Where distributions have it, which is not on PATH."""


def find(config: Config) -> tuple[str, bool]:
    """(path, whether it is the one in Rust); ("", False) where there is none. Raises HostError
    where the configured one is no program."""
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


def command(path: str, directory: str, *, rust: bool) -> tuple[str, ...]:
    """Its words for a directory; it listens on the descriptor that daemon.start hands it.

    It raises no limit of its own accord. What a guest may do with extended attributes is what a
    container may; device nodes it may not make, for on the host they would be real ones.
    """
    common = (f"--fd={LISTENER}", "--rlimit-nofile=0")
    if rust:
        return (
            *(path, *common, f"--shared-dir={directory}", "--sandbox=namespace", "--xattr"),
            *("--modcaps=-mknod", "--log-level=error"),
        )
    source = directory.replace("\\", "\\\\").replace(",", "\\,")
    options = f"source={source},sandbox=namespace,xattr,modcaps=-mknod,log_level=err"
    return (path, "-f", *common, "-o", options)
