# SPDX-License-Identifier: Apache-2.0
"""virtiofsd, the daemon that serves host directories to a guest by virtiofs: finding the program,
telling its two implementations apart, and its command line.

The C implementation came with QEMU from 5.0 up to 7.2; the one in Rust is a project of its own. It
runs as root in the container's namespaces. As soon as the monitor connects, it makes the shared
directory its root, drops capabilities and installs a seccomp filter (its sandbox).

What a version of either decides by itself where it is not told, is told: announce_submounts became
the default in 1.6, inode_file_handles in 1.14 (`struct Opt`, src/main.rs of the crate virtiofsd).
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
RUST_OPTION = "--shared-dir"
"""Only the one in Rust has it."""
NEEDED = {True: ("--modcaps", "1.2"), False: ("modcaps", "5.2")}
"""The youngest option that each is given (True: in Rust), and its first version with it."""


def find(config: Config) -> tuple[str, bool]:
    """(path, whether it is the one in Rust); ("", False) if there is none, or only a version
    without what is NEEDED. Raises HostError if it is so with the configured path."""
    path: str = config.get("storage.virtiofsd")
    where = f"set in {config.source('storage.virtiofsd')}"
    if path and not exists(path):
        raise HostError(f"storage.virtiofsd: there is no '{path}'", where)
    program = path or find_program(NAME) or next(filter(exists, ELSEWHERE), "")
    if not program:
        return "", False

    def find_out() -> dict[str, Any]:
        text = capture([program, "--help"])[1]
        rust = RUST_OPTION in text
        return {"rust": rust, "usable": NEEDED[rust][0] in text}

    facts = next(known for known in remembered(NAME, program, find_out) if "usable" in known)
    if facts["usable"]:
        return program, facts["rust"]
    if path:
        option, version = NEEDED[facts["rust"]]
        raise HostError(
            f"storage.virtiofsd: '{path}' has no {option}",
            f"it is there from {version} on; {where}",
        )
    return "", False


def command(path: str, directory: str, listener: int, *, rust: bool) -> tuple[str, ...]:
    """The argv to serve a directory to whom connects to the socket that descriptor `listener` is.

    It leaves resource limits alone. A guest may use extended attributes as a container may, but
    cannot make device nodes, which would be real ones on the host. Where a file system is mounted
    below the directory, the guest sees another device number, so that equal inode numbers are not
    taken for hard links. Files are held by descriptors, not by handles: to open a handle takes
    CAP_DAC_READ_SEARCH, with which a daemon that a guest has taken over opens any file of the host
    (open_by_handle_at(2)); in a user namespace nobody has it.
    """
    common = (f"--fd={listener}", "--rlimit-nofile=0")
    if rust:
        return (
            *(path, *common, f"{RUST_OPTION}={directory}", "--sandbox=namespace", "--xattr"),
            *("--announce-submounts", "--inode-file-handles=never", "--modcaps=-mknod"),
            "--log-level=error",
        )
    source = directory.replace("\\", "\\\\").replace(",", "\\,")
    options = f"source={source},sandbox=namespace,xattr,modcaps=-mknod"
    return (path, "-f", *common, "-o", f"{options},log_level=err")
