# SPDX-License-Identifier: Apache-2.0
"""`urunc pause`: freezes a container."""

from __future__ import annotations

from urunc.cli.options import Arguments
from urunc.cli.verb import ours
from urunc.lifecycle import pause

OPTIONS: dict[str, tuple[str, str]] = {}
USAGE = "ID"
SUMMARY = "Suspend a container."


def main(arguments: Arguments) -> int:
    pause.pause(arguments.root, ours(arguments), arguments.config())
    return 0
