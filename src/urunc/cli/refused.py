# SPDX-License-Identifier: Apache-2.0
"""`urunc exec`: handed to the ordinary runtime for its containers, refused for unikernels with a
hint what to do instead.

Its options are not read, since the answer does not depend on them.
"""

from __future__ import annotations

from urunc.cli.options import Arguments
from urunc.errors import RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

OPTIONS: dict[str, tuple[str, str]] = {}
USAGE = {"exec": "[OPTION...] ID COMMAND [ARGUMENT...]"}
SUMMARY = {"exec": "Run a command in an ordinary container."}
WHAT = "a unikernel has no processes to run a command in"
INSTEAD = (
    "its console is the container's log; reach it over the network, or debug beside it in a "
    "sidecar container of the same pod"
)


def before(_arguments: Arguments, words: list[str], identifier: str) -> NoReturn:
    """Raise the error for a unikernel; `identifier` is the container that the words name, "" for
    none. Ordinary containers have been handed over before."""
    if identifier:
        raise RefusedError(f"exec '{identifier}': {WHAT}", INSTEAD)
    if any(not word.startswith("-") for word in words):
        raise RefusedError("exec: container does not exist")
    raise RefusedError("exec: container id missing")
