# SPDX-License-Identifier: Apache-2.0
"""`kill`: a signal to a container, in the words of its guest and its monitor.

Runs in the caller's process, in the host's namespaces, with its privilege. It takes no lock: it
must not wait for a hook.
"""

from __future__ import annotations

import posix

from urunc import logs
from urunc.errors import MonitorError, WrongStatusError
from urunc.linux import _linux, process
from urunc.linux.files import exists
from urunc.state import CHANNEL, CREATED, PAUSED, RUNNING, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.config import Config

SIGKILL = 9
STOP_REQUESTS = frozenset((2, 3, 15))  # SIGINT, SIGQUIT, SIGTERM
REPEAT_S = 5
"""How long a guest has to stop before it is asked again."""
HARMLESS = frozenset((0, SIGKILL, 18, 19))  # no signal, SIGKILL, SIGCONT, SIGSTOP


def kill(state: State, number: int, config: Config) -> None:
    """Send a signal to a container, as its monitor understands it; raises WrongStatusError.

    A stop request (SIGTERM, SIGINT, SIGQUIT) asks the guest where it listens and the monitor can
    ask, and ends the monitor at once where not; that leaves a note (lifecycle/exit_reason.py).
    Other signals than SIGKILL, SIGSTOP and SIGCONT mean nothing to a guest and would only hurt its
    monitor, so they end here."""
    status = state.status()
    pidfd = state.pidfd() if status in (CREATED, RUNNING, PAUSED) else None
    if pidfd is None:
        raise WrongStatusError(f"kill '{state.id}': container not running")
    try:
        if number in STOP_REQUESTS:
            if _is_asked(state, number, status, config):
                _leave_guard(state, pidfd, config)
                return
            number = _ending_signal(state, number, status)
        elif number not in HARMLESS:
            if status == CREATED or not _tell_guest(state, number):
                logs.detail(f"signal {number} means nothing to a guest: not sent")
            return
        elif number == SIGKILL:
            _forget_stop(state)
        if not process.send_signal(pidfd, number):
            raise WrongStatusError(f"kill '{state.id}': container not running")
        if number == SIGKILL and status == PAUSED:
            from urunc.lifecycle.pause import thaw

            thaw(state)  # v1 keeps even the dead frozen
    finally:
        posix.close(pidfd)


def _is_asked(state: State, number: int, status: str, config: Config) -> bool:
    """Whether the guest, or who is in it, has been told to stop."""
    if status == CREATED or (status == RUNNING and _is_silent(state, config)):
        return False
    return _tell_guest(state, number) or (status == RUNNING and _ask_to_stop(state, config))


def _ending_signal(state: State, wanted: int, status: str) -> int:
    """The signal that ends a monitor in place of a stop request, which is noted down."""
    from urunc.lifecycle.exit_reason import note_stop

    note_stop(state.directory, wanted)
    # a supervisor ends as if by the signal itself
    number = wanted if state.plan.supervisor else state.plan.stop_signal
    # PID 1 of a namespace is deaf to what it has no handler for: init, a monitor that has not set
    # itself up yet, and those that never do; nothing in them could be asked to stop anyway
    return number if status == RUNNING and process.hears(state.pid, number) else SIGKILL


def _forget_stop(state: State) -> None:
    from urunc.lifecycle.exit_reason import NOTE, forget_stop

    if exists(f"{state.directory}/{NOTE}"):
        forget_stop(state.directory)


def _is_silent(state: State, config: Config) -> bool:
    """Whether urunc's init in the guest has not said that the application runs: it may be long in
    coming, and has nothing yet that it could stop."""
    if state.plan.stop_order != CHANNEL:
        return False
    if not state.plan.supervisor:
        from urunc.guest_channel import is_silent

        return is_silent(state.directory)
    from urunc.lifecycle.order import is_attended

    return not is_attended(state, config)


def _tell_guest(state: State, number: int) -> bool:
    """Have urunc's init in the guest send the signal to its application; False where it is not
    there."""
    if state.plan.stop_order != CHANNEL:
        return False
    from urunc.guest_channel import signal

    return signal(state.directory, number)


def _ask_to_stop(state: State, config: Config) -> bool:
    """Have the monitor ask its guest to stop; False where it cannot be asked."""
    how = state.plan.stop_order
    if how in ("", CHANNEL):
        return False
    from urunc.lifecycle.order import order

    try:
        order(state, how, config)
    except MonitorError as error:
        logs.warn(f"ask '{state.id}' to stop ({how}): {error.message}: its monitor is ended")
        return False
    return True


def _leave_guard(state: State, pidfd: int, config: Config) -> None:
    """A child that outlives this verb, kills the container at the deadline (0: never) and ends
    with it."""
    deadline_s = config.get("timeouts.stop_s")
    if not deadline_s or posix.fork():
        return
    try:
        held = posix.dup2(pidfd, 3)
        posix.setsid()
        posix.chdir("/")
        null = posix.open("/dev/null", posix.O_RDWR)
        for number in (0, 1, 2):
            posix.dup2(null, number)
        _linux.close_range(4, 0xFFFFFFFF, 0)
        if not _wait_gone(state, held, deadline_s, config):
            logs.warn(f"container '{state.id}' did not stop within {deadline_s} s: killed")
            process.send_signal(held, SIGKILL)
            if state.paused():
                from urunc.lifecycle.pause import thaw

                thaw(state)
    finally:
        posix._exit(0)


def _wait_gone(state: State, pidfd: int, deadline_s: float, config: Config) -> bool:
    """Whether the container ends before the deadline. A button that was pressed before the guest
    looked at it is pressed again; a signal waits for urunc's init by itself."""
    from urunc.lifecycle.order import order

    how = state.plan.stop_order
    while how != CHANNEL and deadline_s > REPEAT_S:
        if process.wait_gone(pidfd, REPEAT_S):
            return True
        deadline_s -= REPEAT_S
        try:
            order(state, how, config)
        except MonitorError:
            pass  # it is paused, or about to end
    return process.wait_gone(pidfd, deadline_s)
