# SPDX-License-Identifier: Apache-2.0
"""`urunc kill`: sends a signal to a container; for a guest it becomes a stop request or the end of
its monitor (lifecycle/kill.py)."""

from __future__ import annotations

from urunc.cli.options import FLAG, Arguments
from urunc.cli.verb import ours
from urunc.errors import UsageError
from urunc.lifecycle import kill
from urunc.state import STOPPED, load

OPTIONS = {"--all": (FLAG, "to all processes (of a guest: its monitor)")}
USAGE = "[--all] ID [SIGNAL]"
SUMMARY = "Send a signal (name or number, default TERM) to a container."


def main(arguments: Arguments) -> int:
    name = arguments.words[1] if len(arguments.words) > 1 else ""
    identifier = ours(arguments, *(("signal",) if name else ()))
    number = signal_number(name or "SIGTERM")
    state = load(arguments.root, identifier)
    if arguments.has("--all") and state.status() == STOPPED:
        return 0  # as with runc: there is no process left to send it to
    kill.kill(state, number, arguments.config())
    return 0


def signal_number(text: str) -> int:
    """A signal's number from its number or its name, with or without SIG, also `RTMIN+3`
    (signal(7)); raises UsageError."""
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
