# SPDX-License-Identifier: Apache-2.0
"""`urunc list`: every container below --root, the ordinary runtime's too."""

from __future__ import annotations

import posix
import sys

from urunc.cli.options import FLAG, VALUE, Arguments
from urunc.errors import Error, UsageError
from urunc.jsontext import dumps
from urunc.state import is_ours, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OPTIONS = {
    "--format": (VALUE, "table or json (default: table)"),
    "--quiet": (FLAG, "ids only"),
}
USAGE = "[--format table|json] [--quiet]"
SUMMARY = "List the containers."
COLUMNS = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")


def main(arguments: Arguments) -> int:
    """Run the verb."""
    arguments.only()
    form = arguments.get("--format", "table")
    if form not in ("table", "json"):
        raise UsageError(f"option '--format': '{form}' is neither table nor json")
    containers = _containers(arguments)
    if arguments.has("--quiet"):
        sys.stdout.write("".join(f"{item['id']}\n" for item in containers))
    elif form == "json":
        sys.stdout.write(dumps(containers) + "\n")
    else:
        _print_table(containers)
    return 0


def _containers(arguments: Arguments) -> list[dict[str, Any]]:
    try:
        names = sorted(posix.listdir(arguments.root))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        try:
            if is_ours(arguments.root, name):
                state = load(arguments.root, name)
                item = state.oci()
                item["created"] = state.data.get("created", "")
                item["owner"] = "root"
            else:
                item = _ordinary(arguments, name)
        except Error:
            continue  # being made or removed just now
        found.append(item)
    return found


def _ordinary(arguments: Arguments, name: str) -> dict[str, Any]:
    import subprocess

    from urunc.jsontext import loads
    from urunc.ordinary import find

    argv = [find(arguments.config()), "--root", arguments.root, "state", name]
    answer = subprocess.run(argv, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise Error(answer.stderr.strip())
    item: dict[str, Any] = loads(answer.stdout)
    return item


def _print_table(containers: list[dict[str, Any]]) -> None:
    rows: list[tuple[str, ...]] = [COLUMNS]
    rows += [tuple(str(item.get(name.lower(), "")) for name in COLUMNS) for item in containers]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        line = "   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")
