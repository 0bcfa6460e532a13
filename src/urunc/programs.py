# SPDX-License-Identifier: Apache-2.0
"""Where urunc's own compiled programs are: `guest-init`, the first program of a Linux guest, and
`supervisor`, which runs a monitor (both in guest-init/). Only looks."""

from __future__ import annotations

import posix

from urunc.errors import HostError


def path(name: str) -> str:
    """The program's file: `make install` puts it beside the package, a wheel within."""
    package = __file__.rpartition("/")[0]
    for folder in (package.rpartition("/")[0], package):
        file = f"{folder}/{name}"
        if posix.access(file, posix.R_OK):
            return file
    raise HostError(f"program {name!r}: not installed with urunc", "run make install")
