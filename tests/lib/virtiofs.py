# SPDX-License-Identifier: Apache-2.0
"""The machine's virtiofsd for tests that serve a directory by themselves: the one in C that came
with QEMU up to 7.2, or the one in Rust, the only one from Debian 13 on."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

PLACES = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd")
"""Where distributions have it, outside of PATH."""


def program() -> str:
    """Its path, "" if there is none."""
    return shutil.which("virtiofsd") or next(filter(os.path.exists, PLACES), "")


def command(socket: pathlib.Path, directory: pathlib.Path, *, changes: bool = True) -> list[str]:
    """Its command line. It is in the mount namespace that it is started in and no other. What it
    serves may be changed by the host too, or else the guest may keep all that it has read."""
    path = program()
    words = [path, "--rlimit-nofile=0", f"--socket-path={socket}"]
    if "--shared-dir" in _help(path):
        # auto keeps attributes for a second, which is too long; a file without a cache cannot be
        # mapped, hence executed, unless it is said
        cache = ["--cache=never", "--allow-mmap"] if changes else ["--cache=always"]
        return [*words, f"--shared-dir={directory}", "--sandbox=chroot", *cache]
    cached = "cache=auto,timeout=0" if changes else "cache=always"
    return [*words, "-f", "-o", f"source={directory},sandbox=chroot,{cached}"]


def _help(path: str) -> str:
    said = subprocess.run([path, "--help"], capture_output=True, text=True, check=False)
    return said.stdout + said.stderr
