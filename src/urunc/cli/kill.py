# SPDX-License-Identifier: Apache-2.0
"""`urunc kill`: a signal, in the words of the container's monitor."""

from __future__ import annotations

from urunc import container
from urunc.cli.options import FLAG, Arguments
from urunc.cli.verb import ours
from urunc.errors import UsageError
from urunc.state import load

OPTIONS = {"--all": (FLAG, "all processes; a guest's monitor is one")}
USAGE = "[--all] ID [SIGNAL]"
SUMMARY = "Send a signal (by name or number; default SIGTERM) to a container."


def main(arguments: Arguments) -> int:
    """Run the verb."""
    name = arguments.words[1] if len(arguments.words) > 1 else ""
    identifier = ours(arguments, *(("signal",) if name else ()))
    container.kill(load(arguments.root, identifier), signal_number(name or "SIGTERM"))
    return 0


def signal_number(text: str) -> int:
    """A signal's number from its number or name, with or without SIG."""
    import _signal  # type: ignore[import-not-found]

    if text.isdecimal() and len(text) < 9:
        number = int(text)
        if number < _signal.NSIG:
            return number
    else:
        name = text.upper()
        name = name if name.startswith("SIG") else f"SIG{name}"
        found = getattr(_signal, name, None)
        if isinstance(found, int):
            return found
    raise UsageError(f"signal '{text}': unknown", "a name such as TERM or SIGTERM, or a number")
