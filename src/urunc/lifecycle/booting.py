# SPDX-License-Identifier: Apache-2.0
"""How `start` has a container's guest come to run: the usual way, of which starts from a snapshot
differ (lifecycle/warm.py)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.init.letters import MonitorExec


class Booting:
    """The guest boots, as ever."""

    letter: MonitorExec | None = None
    """Another launch than the one that init knows; None for that one."""

    def follow(self) -> None:
        """What is to be done once init has become the monitor; raises Error."""
