# SPDX-License-Identifier: Apache-2.0
"""`pause` and `resume`: the container frozen, its guest's clock too where the monitor can."""

from __future__ import annotations

from urunc import logs
from urunc.directory import locked
from urunc.errors import HostError, MonitorError, WrongStatusError, reason
from urunc.state import CREATED, PAUSED, RUNNING, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.config import Config


def thaw(state: State) -> None:
    """Let the frozen go on, even the dead; a failure is a warning."""
    from urunc.linux.cgroups import freeze

    try:
        freeze(state.group_paths, on=False)
    except OSError as error:
        logs.warn(f"thaw '{state.id}': {reason(error)}")


def pause(root: str, identifier: str, config: Config) -> None:
    """Freeze a container; raises WrongStatusError, HostError."""
    with locked(root, identifier) as state:
        status = state.status()
        if status not in (CREATED, RUNNING):
            raise WrongStatusError(f"pause '{identifier}': container not running: {status}")
        _order_clock(state, "pause", status, config)
        try:
            _freeze(state, on=True)
        except HostError:
            _order_clock(state, "resume", status, config)
            raise


def resume(root: str, identifier: str, config: Config) -> None:
    """Let a paused container go on; raises WrongStatusError, HostError."""
    with locked(root, identifier) as state:
        status = state.status()
        if status != PAUSED:
            raise WrongStatusError(f"resume '{identifier}': container not paused: {status}")
        _freeze(state, on=False)
        _order_clock(state, "resume", state.status(), config)


def _freeze(state: State, *, on: bool) -> None:
    from urunc.linux.cgroups import freeze

    try:
        freeze(state.group_paths, on=on)
    except OSError as error:
        verb = "pause" if on else "resume"
        raise HostError(
            f"{verb} '{state.id}': {reason(error)}",
            "it takes a freezer control group (v1) or cgroup v2",
        ) from None


def _order_clock(state: State, what: str, status: str, config: Config) -> None:
    """Have the monitor stop (or start) the guest's clock too, where it can: a guest that is only
    frozen finds that time has jumped. Freezing is what pauses; so a failure is no more than a
    warning."""
    if status != RUNNING:
        return
    from urunc import monitors
    from urunc.lifecycle.order import order

    if what not in monitors.load(state.plan.monitor, config).orders:
        return
    try:
        order(state, what, config)
    except MonitorError as error:
        logs.warn(f"{what} '{state.id}': {error.message}: the guest's clock will jump")
