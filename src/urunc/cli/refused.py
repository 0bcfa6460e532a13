# SPDX-License-Identifier: Apache-2.0
"""`urunc exec`, `checkpoint`, `restore`: handed to the ordinary runtime for its containers, refused
for unikernels with a hint what to do instead.

Their options are not read, since the answer does not depend on them.
"""

from __future__ import annotations

from urunc.cli.options import Arguments
from urunc.errors import Error, NotFoundError, RefusedError, UsageError, WrongStatusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

OPTIONS: dict[str, tuple[str, str]] = {}
USAGE = {
    "exec": "[OPTION...] ID COMMAND [ARGUMENT...]",
    "checkpoint": "[OPTION...] ID",
    "restore": "[OPTION...] ID",
}
SUMMARY = {
    "exec": "Run a command in an ordinary container.",
    "checkpoint": "Save an ordinary container.",
    "restore": "Restore a saved ordinary container.",
}
REASONS = {
    "exec": (
        "a unikernel has no processes to run a command in",
        "its console is the container's log; reach it over the network, or debug beside it in a "
        "sidecar container of the same pod",
    ),
    "checkpoint": (
        "a unikernel's memory is its monitor's, which CRIU cannot save",
        "stop it and start it anew",
    ),
    "restore": ("there is no checkpoint of a unikernel", "create it anew"),
}


def refuse(verb: str, words: list[str], arguments: Arguments, identifier: str) -> NoReturn:
    """Raise the error for a unikernel; `identifier` is the container that the words name, "" for
    none. Ordinary containers have been handed over before; `restore` hands over here."""
    if verb == "restore":
        _hand_over_new(arguments, words)
    if identifier:
        what, instead = REASONS[verb]
        problem: Error = WrongStatusError(f"{verb} '{identifier}': {what}", instead)
    elif any(not word.startswith("-") for word in words):
        problem = NotFoundError(f"{verb}: container does not exist")
    else:
        problem = UsageError(f"{verb}: container id missing")
    if verb == "exec":
        raise RefusedError(problem.message, problem.hint)
    raise problem


def _hand_over_new(arguments: Arguments, words: list[str]) -> None:
    """`restore` makes a container: hand it over if its bundle is no unikernel's, else refuse."""
    from urunc.bundle import image, spec
    from urunc.cli.create import bundle_directory

    bundle = ""
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in ("--bundle", "-b"):
            bundle = value if equals else "".join(words[index + 1 : index + 2])
    config = arguments.config()
    directory = bundle_directory(bundle)
    if not image.claims(spec.read_document(directory), directory, config):
        arguments.hand_over(config)
    what, instead = REASONS["restore"]
    raise WrongStatusError(f"restore: {what}", instead)
