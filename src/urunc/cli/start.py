# SPDX-License-Identifier: Apache-2.0
"""`urunc start`: lets the waiting init of a container become its monitor."""

from __future__ import annotations

from urunc.cli.options import Arguments
from urunc.cli.verb import ours
from urunc.lifecycle import start

OPTIONS: dict[str, tuple[str, str]] = {}
USAGE = "ID"
SUMMARY = "Start a created container."


def main(arguments: Arguments) -> int:
    identifier = ours(arguments)
    start.start(arguments.root, identifier, arguments.config())
    return 0
