# SPDX-License-Identifier: Apache-2.0
"""`urunc start`: look at the network once more, and let the monitor run."""

from __future__ import annotations

from urunc.cli.options import Arguments
from urunc.cli.verb import ours
from urunc.lifecycle import start

OPTIONS: dict[str, tuple[str, str]] = {}
USAGE = "ID"
SUMMARY = "Start a created container."


def main(arguments: Arguments) -> int:
    """Run the verb."""
    identifier = ours(arguments)
    start.start(arguments.root, identifier, arguments.config())
    return 0
