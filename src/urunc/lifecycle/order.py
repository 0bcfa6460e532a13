# SPDX-License-Identifier: Apache-2.0
"""What a running container's monitor is told to do: stop its guest, stop its clock."""

from __future__ import annotations

from urunc.errors import MonitorError
from urunc.monitor_client import NONSENSE, Control

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.config import Config
    from urunc.state import State


def is_attended(state: State, config: Config) -> bool:
    """Whether urunc's init in a guest has opened its end of the channel, as far as the monitor can
    tell; one that does not answer is taken not to have come so far."""
    from urunc import monitors

    monitor = monitors.load(state.plan.monitor, config)
    try:
        control = Control(state.pid, monitor.control_socket)
    except MonitorError:
        return False
    try:
        return monitor.is_attended(control)
    except (MonitorError, *NONSENSE):
        return False
    finally:
        control.close()


def order(state: State, what: str, config: Config) -> None:
    """Have a container's monitor carry out an order (one of its `orders`); raises MonitorError."""
    from urunc import monitors

    monitor = monitors.load(state.plan.monitor, config)
    if what not in monitor.orders:
        raise MonitorError(f"{monitor.name} knows no order '{what}'")
    control = Control(state.pid, monitor.control_socket)
    try:
        monitor.order(control, what)
    except NONSENSE as error:
        raise MonitorError(f"control socket: an answer that makes no sense: {error!r}") from None
    finally:
        control.close()
