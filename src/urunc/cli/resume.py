# SPDX-License-Identifier: Apache-2.0
"""`urunc resume`: thaws a paused container."""

from __future__ import annotations

from urunc.cli.options import Arguments
from urunc.cli.verb import ours
from urunc.lifecycle import pause

OPTIONS: dict[str, tuple[str, str]] = {}
USAGE = "ID"
SUMMARY = "Resume a suspended container."


def main(arguments: Arguments) -> int:
    pause.resume(arguments.root, ours(arguments), arguments.config())
    return 0
