# SPDX-License-Identifier: Apache-2.0
"""The programs that make images of root filesystems, and where they are. Runs none of them."""

from __future__ import annotations

import posix

from urunc.programs import DEFAULT_PATH

PROGRAMS = {
    "ext2": ("mke2fs", "e2fsprogs"),
    "ext4": ("mke2fs", "e2fsprogs"),
    "erofs": ("mkfs.erofs", "erofs-utils"),
    "squashfs": ("mksquashfs", "squashfs-tools"),
}
"""Format → (its program, the package that has it: Debian's name, which other distributions
share)."""


def find(image_format: str) -> str:
    """The path of a format's program, "" if it is not installed. Looks beyond PATH, since that of
    engines may have no sbin."""
    name, _ = PROGRAMS[image_format]
    own = posix.environ.get(b"PATH", b"").decode("utf-8", "surrogateescape")
    for directory in (*own.split(":"), *DEFAULT_PATH.split(":")):
        if directory.startswith("/") and posix.access(f"{directory}/{name}", posix.X_OK):
            return f"{directory}/{name}"
    return ""
