# SPDX-License-Identifier: Apache-2.0
"""The hooks that run after a container has started, and after it is no more."""

from __future__ import annotations

from urunc import logs
from urunc.errors import (
    Error,
)
from urunc.jsontext import dumps
from urunc.state import (
    STOPPED,
    State,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass


def run_poststop(state: State) -> None:
    """The hooks of a container that is no more; their failures are warnings."""
    run_hooks(state, "poststop", STOPPED)


def run_hooks(state: State, kind: str, status: str) -> None:
    """Run the hooks of a kind; raises HookError for poststart's, and warns of the others'
    failures."""
    programs = state.data["hooks"].get(kind)
    if not programs:
        return
    from urunc.bundle.spec import Hook
    from urunc.init import hooks
    from urunc.record import rebuild

    for number, hook in enumerate(programs):
        try:
            hooks.run(f"{kind}[{number}]", rebuild(Hook, hook), dumps(state.oci(status)))
        except Error as error:
            if kind == "poststart":
                raise
            logs.warn(error.message)
