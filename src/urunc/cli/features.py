# SPDX-License-Identifier: Apache-2.0
"""`urunc features`: prints the features object of the OCI runtime specification."""

from __future__ import annotations

import sys

from urunc.cli.options import Arguments
from urunc.features import features
from urunc.jsontext import dumps

OPTIONS: dict[str, tuple[str, str]] = {}
USAGE = ""
SUMMARY = "Print the features of this urunc on this machine as JSON."


def main(arguments: Arguments) -> int:
    arguments.only()
    sys.stdout.write(dumps(features(arguments.config()), indent=4) + "\n")
    return 0
