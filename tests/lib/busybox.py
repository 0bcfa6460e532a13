# SPDX-License-Identifier: Apache-2.0
"""The machine's static busybox (busybox-static), of which the tests' ordinary root filesystems and
images are made."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

from lib.images import archive

BUSYBOX = pathlib.Path("/bin/busybox")


def available() -> bool:
    """Whether it is there, and needs no library."""
    return BUSYBOX.exists() and b"/ld-linux" not in BUSYBOX.read_bytes()


def applets() -> list[str]:
    """The names of all its programs."""
    listed = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True)
    return [name for name in listed.stdout.split() if name != "busybox"]


def install(directory: pathlib.Path, *names: str) -> None:
    """A copy in a directory, and links to it by these names."""
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(BUSYBOX, directory / "busybox")
    for name in names:
        (directory / name).symlink_to("busybox")


def files(*names: str) -> dict[str, pathlib.Path | bytes | str]:
    """The same as an image's files, in /bin."""
    found: dict[str, pathlib.Path | bytes | str] = {f"bin/{name}": "busybox" for name in names}
    return found | {"bin/busybox": BUSYBOX}


def pause(directory: pathlib.Path) -> pathlib.Path:
    """The archive of the image `pause`, which pods' sandboxes run; no `sleep`, of which critest
    thinks that it is its own."""
    return archive(
        directory / "pause.tar", "pause", files("tail"), ["/bin/tail", "-f", "/dev/null"]
    )
