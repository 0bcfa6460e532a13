# SPDX-License-Identifier: Apache-2.0
"""The hooks that run after a container has started, and after it is no more."""

from __future__ import annotations

from urunc import logs
from urunc.errors import Error
from urunc.jsontext import dumps
from urunc.state import STOPPED, State


def run_poststop(state: State) -> None:
    """The hooks of a container that is no more; their failures are warnings."""
    run_hooks(state, "poststop", STOPPED)


def run_hooks(state: State, kind: str, status: str) -> None:
    """Run the hooks of a kind; raises HookError for poststart's, and warns of the others'
    failures."""
    if not state.has_hooks(kind):
        return
    from urunc.bundle.spec import Hook
    from urunc.init import hooks

    for number, hook in enumerate(state.hooks(kind, Hook)):
        try:
            hooks.run(f"{kind}[{number}]", hook, dumps(state.oci(status)))
        except Error as error:
            if kind == "poststart":
                raise
            logs.warn(error.message)
