# SPDX-License-Identifier: Apache-2.0
"""`urunc kill`: a signal, in the words of the container's monitor."""

from __future__ import annotations

from urunc.cli.options import FLAG, Arguments
from urunc.cli.verb import ours
from urunc.errors import UsageError
from urunc.lifecycle import kill
from urunc.state import STOPPED, load

OPTIONS = {"--all": (FLAG, "all processes; a guest's monitor is one")}
USAGE = "[--all] ID [SIGNAL]"
SUMMARY = "Send a signal (by name or number; default SIGTERM) to a container."


def main(arguments: Arguments) -> int:
    """Run the verb."""
    name = arguments.words[1] if len(arguments.words) > 1 else ""
    identifier = ours(arguments, *(("signal",) if name else ()))
    number = signal_number(name or "SIGTERM")
    state = load(arguments.root, identifier)
    if arguments.has("--all") and state.status() == STOPPED:
        return 0  # as with runc: of no processes all have got it
    kill.kill(state, number, arguments.config())
    return 0


def signal_number(text: str) -> int:
    """A signal's number from its number or name, with or without SIG, `RTMIN+3` too (signal(7))."""
    import _signal

    if text.isdecimal() and len(text) < 9:
        number = int(text)
        if number < _signal.NSIG:
            return number
    else:
        name = text.upper().removeprefix("SIG")
        base, sign, offset = name.partition("+" if "+" in name else "-")
        if base in ("RTMIN", "RTMAX") and (not sign or offset.isdecimal()):
            number = getattr(_signal, f"SIG{base}") + int(f"{sign or '+'}{offset or 0}")
            if _signal.SIGRTMIN <= number <= _signal.SIGRTMAX:
                return int(number)
        found = getattr(_signal, f"SIG{name}", None)
        if isinstance(found, int) and not name.startswith("_"):
            return int(found)
    raise UsageError(f"signal '{text}': unknown", "a name such as TERM or SIGTERM, or a number")
