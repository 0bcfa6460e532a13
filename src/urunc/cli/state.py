# SPDX-License-Identifier: Apache-2.0
"""`urunc state`: prints the state object of the OCI runtime specification."""

from __future__ import annotations

import sys

from urunc.cli.options import Arguments
from urunc.cli.verb import ours
from urunc.jsontext import dumps
from urunc.state import STOPPED, load

OPTIONS: dict[str, tuple[str, str]] = {}
USAGE = "ID"
SUMMARY = "Print a container's state as JSON."


def main(arguments: Arguments) -> int:
    state = load(arguments.root, ours(arguments))
    if state.returned and state.status() == STOPPED:
        from urunc.storage.termination_message import give_back

        give_back(state.returned)  # CRI-O asks before it says that the container has ended
    sys.stdout.write(dumps(state.oci(), indent=2) + "\n")
    return 0
