# SPDX-License-Identifier: Apache-2.0
"""`urunc delete`: removes a stopped container and everything that it has left."""

from __future__ import annotations

from urunc.cli.options import FLAG, Arguments
from urunc.cli.verb import ours
from urunc.lifecycle import delete

OPTIONS = {"--force": (FLAG, "kill it first if it has not stopped; no error if there is none")}
USAGE = "[--force] ID"
SUMMARY = "Remove a container."


def main(arguments: Arguments) -> int:
    identifier = ours(arguments)
    delete.delete(arguments.root, identifier, arguments.config(), force=arguments.has("--force"))
    return 0
