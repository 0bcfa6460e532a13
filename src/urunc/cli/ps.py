# SPDX-License-Identifier: Apache-2.0
"""`urunc ps`: lists the host's processes of a container; a guest's is its monitor."""

from __future__ import annotations

import sys

from urunc.cgroup import groups
from urunc.cli.options import Arguments
from urunc.errors import HostError, UsageError
from urunc.jsontext import dumps
from urunc.state import STOPPED, check_id, load

OPTIONS = {"--format": ("table|json", "form of the output (default: table)")}
ALIASES = {"-f": "--format"}
FREE = True
"""Unknown options are passed to ps(1)."""
USAGE = "[--format table|json] ID [PS OPTION...]"
SUMMARY = "List the processes of a container."


def main(arguments: Arguments) -> int:
    """As in cli/__init__; words after the id go to ps(1), `-ef` by default."""
    if not arguments.words:
        raise UsageError("container id missing", "urunc VERB --help shows the usage")
    state = load(arguments.root, check_id(arguments.words[0]))
    output_format = arguments.get("--format", "table")
    pids = groups.of(state).pids()
    if not pids and state.status() != STOPPED:
        pids = [state.pid]
    if output_format == "json":
        sys.stdout.write(dumps(pids) + "\n")
        return 0
    import subprocess

    try:
        shown = subprocess.run(
            ["ps", *(arguments.words[1:] or ["-ef"])], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise HostError(f"ps: {error}", "--format json needs no ps(1)") from None
    head, *lines = shown.splitlines()
    column = head.split().index("PID") if "PID" in head.split() else -1
    if column < 0:
        raise HostError("ps: its output has no column PID", "leave PS OPTION out")
    kept = [line for line in lines if line.split()[column : column + 1] in [[str(p)] for p in pids]]
    sys.stdout.write("\n".join([head, *kept]) + "\n")
    return 0
