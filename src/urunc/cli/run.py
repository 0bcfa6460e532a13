# SPDX-License-Identifier: Apache-2.0
"""`urunc run`: creates and starts a container, waits for its end and deletes it; the exit code is
the container's."""

from __future__ import annotations

import posix

from urunc import guest_channel, logs, monitors, timing
from urunc.cli.create import create
from urunc.cli.options import CREATE, FLAG, Arguments
from urunc.errors import NotFoundError, WrongStatusError
from urunc.lifecycle import delete, exit_reason, kill, start
from urunc.state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from urunc.config import Config
    from urunc.lifecycle.relay import Relay
    from urunc.lifecycle.terminal import Session

    Make = Callable[[Arguments, Callable[[], int] | None, Relay | None], State]

OPTIONS = CREATE | {
    "--detach": (FLAG, "return while it runs"),
    "--keep": (FLAG, "do not delete it when it ends"),
}
USAGE = "[OPTION...] ID"
SUMMARY = "Create a container from a bundle and run it."
FORWARDED = (1, 2, 3, 10, 12, 15)


def main(arguments: Arguments) -> int:
    return carry(arguments, create, start.start)


def carry(arguments: Arguments, make: Make, begin: Callable[[str, str, Config], object]) -> int:
    """Make a container, let it run, and (without --detach) see it to its end; the exit code."""
    config = arguments.config()
    detach = arguments.has("--detach")
    session = relay = None
    if not detach and not arguments.get("--console-socket"):

        def open_session() -> int:
            from urunc.lifecycle.terminal import Session

            nonlocal session
            session = Session()
            return session.init_end

        from urunc.lifecycle.relay import Relay

        relay = Relay()
        state = make(arguments, open_session, relay)
    else:
        state = make(arguments, None, None)
    try:
        if relay:
            relay.release()
        if not detach:
            _forward_signals(state, config, session)
        if session:
            session.take()
        told = guest_channel.listen(state.directory) if not detach else -1
        timing.stamp(11)
        begin(arguments.root, state.id, config)
        if detach:
            return 0
        if session:
            _resize(state, session)
            session.copy(posix.pidfd_open(state.pid))
        elif relay:
            relay.copy(
                posix.pidfd_open(state.pid),
                lambda number: guest_channel.closed(state.directory, number),
            )
        code = _wait(state.pid)
    except BaseException:
        delete.delete(arguments.root, state.id, config, force=True)
        raise
    finally:
        if session:
            session.close()
        if relay:
            relay.close()
    said, stop = guest_channel.last_words(told), exit_reason.stop_of(state.directory)
    plan = state.plan
    monitor = monitors.load(plan.monitor, config)
    why = exit_reason.reason(plan, monitor, code, said, stop)
    logs.info(f"container '{state.id}' ended: {why}")
    if not arguments.has("--keep"):
        try:
            delete.delete(arguments.root, state.id, config, force=False)
        except NotFoundError:
            pass  # `checkpoint` has ended and deleted it
    return exit_reason.exit_code(plan, code, said, stop)


def _forward_signals(state: State, config: Config, session: Session | None) -> None:
    """Pass on to the container the signals that this process gets, and changes of the terminal's
    size."""
    import _signal

    def forward(number: int, _frame: object) -> None:
        try:
            kill.kill(state, number, config)
        except WrongStatusError:
            pass  # it has just ended

    for number in FORWARDED:
        _signal.signal(number, forward)
    if session:
        _signal.signal(_signal.SIGWINCH, lambda *_: _resize(state, session))


def _resize(state: State, session: Session) -> None:
    """Set the size of the container's terminal, also in the guest, to the user's."""
    size = session.resize()
    if size and state.plan.has_process:
        guest_channel.resize(state.directory, *size)


def _wait(pid: int) -> int:
    """Wait for our child; its exit code, negative for a signal that ended it."""
    while True:
        try:
            _, status = posix.waitpid(pid, 0)
        except InterruptedError:
            continue
        return posix.waitstatus_to_exitcode(status)
