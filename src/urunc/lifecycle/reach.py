# SPDX-License-Identifier: Apache-2.0
"""A monitor's control socket, while it is only coming to be or is about to end: for saving and
loading guests."""

from __future__ import annotations

import posix
from time import monotonic, sleep

from urunc.errors import MonitorError
from urunc.linux import process
from urunc.monitor_client import Control
from urunc.state import STOPPED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.monitors import Monitor
    from urunc.state import State

SAVE_TIMEOUT_S = 600.0
"""How long a monitor may take to save or load all of a guest's memory."""
APPEAR_TIMEOUT_S = 30.0
"""How long a monitor may take until it listens."""
INTERVAL_S = 0.001
ENDING_S = 1.0


def connect(state: State, monitor: Monitor) -> Control:
    """A connection to a monitor's control socket, once it is there: the monitor may have begun only
    now. Raises MonitorError."""
    until = monotonic() + APPEAR_TIMEOUT_S
    while True:
        try:
            return Control(state.pid, monitor.control_socket, SAVE_TIMEOUT_S)
        except MonitorError:
            if monotonic() > until or state.status() == STOPPED:
                raise
        sleep(INTERVAL_S)


def has_ended(state: State) -> bool:
    """Whether a monitor that has failed is ending: its socket is closed before it is gone."""
    pidfd = state.pidfd()
    if pidfd is None:
        return True
    try:
        return process.wait_gone(pidfd, ENDING_S)
    finally:
        posix.close(pidfd)
