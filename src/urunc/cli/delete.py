# SPDX-License-Identifier: Apache-2.0
"""`urunc delete`: remove a stopped container and all that is left of it."""

from __future__ import annotations

from urunc.cli.options import FLAG, Arguments
from urunc.cli.verb import ours
from urunc.lifecycle import delete

OPTIONS = {"--force": (FLAG, "kill it first if it is not stopped; no error if there is none")}
USAGE = "[--force] ID"
SUMMARY = "Remove a container."


def main(arguments: Arguments) -> int:
    """Run the verb."""
    identifier = ours(arguments)
    delete.delete(arguments.root, identifier, arguments.config(), force=arguments.has("--force"))
    return 0
