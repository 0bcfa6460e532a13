# SPDX-License-Identifier: Apache-2.0
"""`urunc delete`: removes a stopped container and everything that it has left."""

from __future__ import annotations

import posix

from urunc.cli.options import FLAG, Arguments
from urunc.cli.verb import ours
from urunc.lifecycle import delete

OPTIONS = {"--force": (FLAG, "kill it first if it has not stopped; no error if there is none")}
USAGE = "[--force] ID"
SUMMARY = "Remove a container."


def main(arguments: Arguments) -> int:
    identifier = ours(arguments)
    force = arguments.has("--force")
    if force and _missing(f"{arguments.root}/{identifier}"):
        return 0  # as by the door (door/door.c): no configuration is asked for that
    delete.delete(arguments.root, identifier, arguments.config(), force=force)
    return 0


def _missing(path: str) -> bool:
    try:
        posix.lstat(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False
