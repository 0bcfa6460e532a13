# SPDX-License-Identifier: Apache-2.0
"""`urunc uninstall`: takes urunc out of an engine's configuration."""

from __future__ import annotations

from urunc.cli.install import COMMON, work
from urunc.cli.install import USAGE as USAGE
from urunc.cli.options import FLAG, Arguments

OPTIONS = COMMON | {"--force": (FLAG, "though there are containers of urunc's")}
SUMMARY = "Take urunc out of a container engine's configuration."


def main(arguments: Arguments) -> int:
    """Run the verb."""
    return work(arguments, "uninstall")
