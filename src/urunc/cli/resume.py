# SPDX-License-Identifier: Apache-2.0
"""`urunc resume`: let a paused container go on."""

from __future__ import annotations

from urunc.cli.options import Arguments
from urunc.cli.verb import ours
from urunc.lifecycle import pause

OPTIONS: dict[str, tuple[str, str]] = {}
USAGE = "ID"
SUMMARY = "Let a suspended container go on."


def main(arguments: Arguments) -> int:
    """Run the verb."""
    pause.resume(arguments.root, ours(arguments), arguments.config())
    return 0
