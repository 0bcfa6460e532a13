# SPDX-License-Identifier: Apache-2.0
"""`urunc doctor`: looks at this machine, or at one container, and says what is wrong and what to
do."""

from __future__ import annotations

import sys

from urunc import config as configuration
from urunc import logs
from urunc.cli.options import FILE, Arguments
from urunc.doctor import engines, machine, parts
from urunc.doctor.finding import Finding, fine, problem
from urunc.errors import Error, HostError, UsageError, reason
from urunc.jsontext import dumps
from urunc.record import plain

OPTIONS = {
    "--format": ("text|json", "form of the output (default: text)"),
    "--console": (FILE, "of a container: a file with what it has printed"),
}
USAGE = "[OPTION...] [ID]"
SUMMARY = "Say what is wrong with this machine, or with a container."
WIDTH, SUBJECT = 80, 22
"""Columns of a line, and those of what is looked at."""
COLOURS = {"fine": "32", "note": "33", "problem": "31"}
"""Of select graphic rendition (ECMA-48)."""


def main(arguments: Arguments) -> int:
    """1 if something does not work."""
    found = _of_container(arguments) if arguments.words else _of_machine(arguments)
    if arguments.get("--format", "text") == "json":
        sys.stdout.write(dumps([plain(item) for item in found], indent=2) + "\n")
    else:
        for item in found:
            sys.stdout.write(_lines(item))
    return int(any(item.level == "problem" for item in found))


def _of_container(arguments: Arguments) -> list[Finding]:
    from urunc.doctor import container
    from urunc.state import check_id, load

    (identifier,) = arguments.only("container id")
    state = load(arguments.root, check_id(identifier))
    file = arguments.get("--console")
    try:
        return container.findings(state, file)
    except OSError as error:
        raise HostError(f"console '{file}': {reason(error)}") from None


def _of_machine(arguments: Arguments) -> list[Finding]:
    if arguments.get("--console"):
        raise UsageError("option '--console': only with a container's ID")
    found = [_python(), *machine.findings()]
    try:
        config = arguments.config(log=False)
        found.append(fine("configuration", arguments.config_path or configuration.DEFAULT_PATH))
        found += parts.findings(config)
    except Error as error:
        found.append(problem("configuration", error.message, error.hint))
    return found + engines.findings()


def _python() -> Finding:
    name = f"{'.'.join(map(str, sys.version_info[:3]))} ({sys.executable})"
    return problem("Python", name, logs.later) if logs.later else fine("Python", name)


def _lines(item: Finding) -> str:
    from textwrap import wrap

    level = f"{item.level:7}"
    if sys.stdout.isatty() and not _no_colour():
        level = f"\x1b[{COLOURS[item.level]}m{level}\x1b[m"
    margin = len("problem  ") + SUBJECT
    lines = wrap(logs.printable(item.text), WIDTH - margin, break_on_hyphens=False)
    advice = wrap(
        logs.printable(item.advice), WIDTH - margin, initial_indent="> ", subsequent_indent="  ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    first, *rest = lines or [""]
    text = f"{level}  {logs.printable(item.subject):{SUBJECT}}{first}\n"
    return text + "".join(" " * margin + line + "\n" for line in (*rest, *advice))


def _no_colour() -> bool:
    import posix

    return bool(posix.environ.get(b"NO_COLOR"))
