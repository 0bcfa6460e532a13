# SPDX-License-Identifier: Apache-2.0
"""How a container ended: its exit code and the reason, from how its monitor ended, what the guest's
init said, and whether urunc ended it.

Pure, but for the note of a stop in the container's directory: `kill` leaves it, whoever waits for
the end reads it. Engines with a shim of their own see only how the monitor ended
(docs/monitors.md).
"""

from __future__ import annotations

from urunc.guest_channel import Said
from urunc.linux.files import read_text, unlink, write_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.monitors import Monitor
    from urunc.state import PlanFacts

RESET_CODE = 253
"""Of a guest that ended without its application's code, though it has urunc's init: QEMU's own
where Linux resets it (monitors/qemu.py), and said for the other monitors, too."""
SILENT = "the guest ended without its application's exit code"
NOTE = "stopped"
"""The file with the number of the stop request for which urunc ended the monitor."""
SIGKILL = 9


def note_stop(directory: str, number: int) -> None:
    """Leave word that the monitor is ended for a signal."""
    try:
        write_whole(f"{directory}/{NOTE}", str(number).encode())
    except OSError:
        pass  # then the exit code is the monitor's


def forget_stop(directory: str) -> None:
    """Something else ends it."""
    unlink(f"{directory}/{NOTE}")


def stop_of(directory: str) -> int:
    """The signal for which the monitor was ended by urunc, 0 for none."""
    try:
        return int(read_text(f"{directory}/{NOTE}"))
    except (OSError, ValueError):
        return 0


def exit_code(plan: PlanFacts, status: int, said: Said, stop: int) -> int:
    """The container's exit code, as a shell has it. `status` is the monitor's exit code,
    negative for the signal that killed it."""
    if said.code is not None:
        return said.code
    if stop:
        return 128 + stop
    if status < 0:
        return 128 - status
    return RESET_CODE if status == 0 and _is_silent_end(plan, said) else status


def _is_silent_end(plan: PlanFacts, said: Said) -> bool:
    """Whether exit code 0 of the monitor is no power-off of a guest that ran: urunc's init would
    have said how its application ended. A supervisor has judged that itself."""
    if not plan.channel or plan.supervisor:
        return False
    return not said.ready or not plan.tells_resets


def reason(
    plan: PlanFacts,
    monitor: Monitor,
    status: int | None,
    said: Said,
    stop: int = 0,
    told: str = "",
) -> str:
    """Why it ended, in words; `told` is what the monitor itself said of it, and a status is None
    where nobody knows it. An exit code of the guest's own says more: from QEMU 9.1 on `told` is
    then that the guest shut down."""
    if said.code is not None:
        text = f"its application ended with {said.code}"
        if said.kills and said.code == 128 + SIGKILL:
            text += ": the guest ran out of memory (OOM)"
        return text
    if stop:
        return f"{monitor.name} was ended for signal {stop}"
    if told and (status is None or status <= 1):
        return told
    if status == 0 and _is_silent_end(plan, said):
        return f"{SILENT}: it panicked, or was reset"
    if status is None and plan.channel and not plan.supervisor:
        return f"{SILENT}: it panicked, was reset or powered off, or {monitor.name} was killed"
    return monitor_reason(monitor, status)


def monitor_reason(monitor: Monitor, status: int | None) -> str:
    """Why a monitor ended, from its exit code (negative: the signal that killed it)."""
    if status is None:
        return "unknown: this kernel does not tell"
    if status < 0:
        return f"{monitor.name} was killed by signal {-status}"
    return monitor.ending(status)
