# SPDX-License-Identifier: Apache-2.0
"""`urunc list`: lists every container below --root, the ordinary runtime's too."""

from __future__ import annotations

import posix
import sys

from urunc import logs
from urunc.cli.options import FLAG, Arguments
from urunc.errors import Error, HostError, NotFoundError
from urunc.jsontext import dumps
from urunc.linux.files import is_directory
from urunc.state import is_ours, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urunc.state import State

OPTIONS = {
    "--format": ("table|json", "form of the output (default: table)"),
    "--quiet": (FLAG, "ids only"),
}
USAGE = "[--format table|json] [--quiet]"
SUMMARY = "List the containers."
COLUMNS = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")


def main(arguments: Arguments) -> int:
    """As in cli/__init__; becomes the ordinary runtime if all containers are its own."""
    arguments.only()
    output_format = arguments.get("--format", "table")
    names = _names(arguments.root)
    mine = [name for name in names if is_ours(arguments.root, name)]
    if names and not mine:
        arguments.hand_over()
    theirs = [name for name in names if name not in mine]
    others = _ordinary(arguments, theirs) if theirs else []
    states = [state for name in mine if (state := _state(arguments.root, name))]
    if arguments.has("--quiet"):
        found = [*(state.id for state in states), *(item["id"] for item in others)]
        sys.stdout.write("".join(f"{identifier}\n" for identifier in sorted(found)))
    elif output_format == "json":
        items = [*(state.oci() for state in states), *others]
        sys.stdout.write(dumps(sorted(items, key=lambda item: str(item["id"]))) + "\n")
    else:
        rows = [{**state.oci(), "created": state.created, "owner": "root"} for state in states]
        _print_table(sorted([*rows, *others], key=lambda item: str(item["id"])))
    return 0


def _names(root: str) -> list[str]:
    try:
        return sorted(name for name in posix.listdir(root) if is_directory(f"{root}/{name}"))
    except FileNotFoundError:
        return []


def _state(root: str, name: str) -> State | None:
    try:
        return load(root, name)
    except NotFoundError:
        return None  # being made or removed at the moment
    except Error as error:
        logs.warn(error.message)
        return None


def _ordinary(arguments: Arguments, names: list[str]) -> list[dict[str, Any]]:
    """The ordinary runtime's containers in the same --root: these, as it lists them."""
    from urunc.jsontext import loads
    from urunc.ordinary import find

    program = [find(arguments.config()), "--root", arguments.root]
    code, text, said = _answer([*program, "list", "--format", "json"])
    if not code:
        # runc tries our containers' directories, too, and lists those that it cannot read
        return [item for item in loads(text) or [] if item["id"] in names]
    # runc from 1.3 on ends at a directory that an older urunc made (state.OLD_FILE): one by one
    states = {name: _answer([*program, "state", name]) for name in names}
    if all(code for code, _, _ in states.values()):
        raise HostError(f"list: {program[0]}: {said}")
    for name, (code, _, why) in states.items():
        if code:
            logs.warn(f"container '{name}': {program[0]}: {why}")
    return [{**loads(text), "owner": "root"} for code, text, _ in states.values() if not code]


def _answer(argv: list[str]) -> tuple[int, str, str]:
    """A program's (exit code, output, errors)."""
    import subprocess

    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr.strip()


def _print_table(containers: list[dict[str, Any]]) -> None:
    rows: list[tuple[str, ...]] = [COLUMNS]
    rows += [tuple(str(item.get(name.lower(), "")) for name in COLUMNS) for item in containers]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        line = "   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")
