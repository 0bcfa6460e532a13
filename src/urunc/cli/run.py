# SPDX-License-Identifier: Apache-2.0
"""`urunc run`: create, start, wait for the end, delete; the exit code is the monitor's."""

from __future__ import annotations

import posix

from urunc import container, timing
from urunc.cli.create import create
from urunc.cli.options import CREATE, FLAG, Arguments
from urunc.errors import WrongStatusError
from urunc.state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.config import Config

OPTIONS = CREATE | {
    "--detach": (FLAG, "leave it running and return"),
    "--keep": (FLAG, "do not delete it when it ends"),
}
USAGE = "[OPTION...] ID"
SUMMARY = "Make a container from a bundle and run it."
FORWARDED = (1, 2, 3, 10, 12, 15)


def main(arguments: Arguments) -> int:
    """Run the verb."""
    config = arguments.config()
    state = create(arguments)
    detach = arguments.has("--detach")
    try:
        if not detach:
            _forward_signals(state, config)
        timing.stamp(11)
        container.start(arguments.root, state.id, config)
        if detach:
            return 0
        code = _wait(state.pid)
    except BaseException:
        container.delete(arguments.root, state.id, config, force=True)
        raise
    if not arguments.has("--keep"):
        container.delete(arguments.root, state.id, config, force=False)
    return code


def _forward_signals(state: State, config: Config) -> None:
    """Hand the signals that a person or an engine sends to us on to the container."""
    import _signal  # type: ignore[import-not-found]

    def forward(number: int, _frame: object) -> None:
        try:
            container.kill(state, number, config)
        except WrongStatusError:
            pass  # it is ending already

    for number in FORWARDED:
        _signal.signal(number, forward)


def _wait(pid: int) -> int:
    """The exit code of our child, 128 and the signal's number where one ended it."""
    while True:
        try:
            _, status = posix.waitpid(pid, 0)
        except InterruptedError:
            continue
        code = posix.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code
