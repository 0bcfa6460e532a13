# SPDX-License-Identifier: Apache-2.0
"""`run` in the foreground without a terminal: what comes on its standard streams goes to the
container's, and what that writes to its own, until it has ended.

The monitor gets pipes of ours, so it changes nothing of the caller's descriptors, whatever they
are; nor does this: it writes what surely fits without waiting (pipe(7)). Runs in the caller's
process.
"""

from __future__ import annotations

import posix
from errno import EAGAIN
from select import POLLIN, POLLOUT, poll

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PIECE_BYTES = 1 << 16
SURE_BYTES = 4096
"""What can be written where poll(2) says so: PIPE_BUF, a page."""


class Output:
    """One way out: from the container's pipe to a descriptor of ours."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.source, self.given = posix.pipe()
        self.held = b""
        self.gone = False
        """Whether nobody reads any more."""


class Relay:
    """The streams of one `run`."""

    def __init__(self) -> None:
        self._given: tuple[int, ...] = ()
        self._input = -1
        self._outputs: list[Output] = []

    def open(self) -> tuple[int, ...]:
        """The container's ends: of standard input, output and error."""
        from urunc.linux.files import is_null

        if is_null(0):
            first = posix.dup(0)
        else:
            first, self._input = posix.pipe()
            posix.set_blocking(self._input, False)
        self._outputs = [Output(number) for number in (1, 2)]
        for output in self._outputs:
            posix.set_blocking(output.source, False)
        self._given = (first, *(output.given for output in self._outputs))
        return self._given

    def release(self) -> None:
        """The container has its ends."""
        for fd in self._given:
            posix.close(fd)
        self._given = ()

    def copy(self, pidfd: int, gone: Callable[[int], object]) -> None:
        """Pass bytes on until the process of a pidfd has ended and all that it wrote is written;
        `gone` is told the number of an output that nobody reads any more."""
        if not self._outputs:
            return
        pending, ended = b"", False
        while True:
            wanted = {} if ended else {pidfd: POLLIN}
            if self._input >= 0 and not ended:
                wanted[self._input if pending else 0] = POLLOUT if pending else POLLIN
            for output in self._outputs:
                if output.held:
                    wanted[output.target] = POLLOUT
                elif output.source >= 0 and not ended:
                    wanted[output.source] = POLLIN
            ready = _poll(wanted)
            if pidfd in ready:
                ended = True
            if 0 in ready and not pending:
                pending = self._take()
            if self._input in ready and pending:
                pending = self._feed(pending)
            for output in self._outputs:
                if not output.held and (ended or output.source in ready):
                    self._drain(output)
                if output.held and output.target in ready and not _write(output):
                    output.gone, output.held = True, b""
                    gone(output.target)
            if ended and not any(output.held or self._drain(output) for output in self._outputs):
                return

    def _take(self) -> bytes:
        try:
            part = posix.read(0, PIECE_BYTES)
        except OSError as error:
            if error.errno == EAGAIN:  # the caller's own mode
                return b""
            part = b""
        if not part:
            self._end_input()
        return part

    def _feed(self, pending: bytes) -> bytes:
        try:
            return pending[posix.write(self._input, pending) :]
        except OSError as error:
            if error.errno == EAGAIN:
                return pending
            self._end_input()
            return b""

    def _end_input(self) -> None:
        posix.close(self._input)
        self._input = -1

    def _drain(self, output: Output) -> bool:
        """Read what there is; whether some of it is to be written."""
        while output.source >= 0 and not output.held:
            try:
                part = posix.read(output.source, PIECE_BYTES)
            except OSError:  # EAGAIN
                return False
            if not part:
                posix.close(output.source)
                output.source = -1
            elif not output.gone:
                output.held = part
        return bool(output.held)

    def close(self) -> None:
        """Let go of everything."""
        self.release()
        if self._input >= 0:
            self._end_input()
        for output in self._outputs:
            if output.source >= 0:
                posix.close(output.source)
        self._outputs = []


def _poll(wanted: dict[int, int]) -> dict[int, int]:
    poller = poll()
    for fd, events in wanted.items():
        poller.register(fd, events)
    try:
        return {fd: events for fd, events in poller.poll() if events}
    except InterruptedError:
        return {}


def _write(output: Output) -> bool:
    """Write a part that surely fits; False where nobody reads any more."""
    try:
        output.held = output.held[posix.write(output.target, output.held[:SURE_BYTES]) :]
    except OSError as error:
        return error.errno == EAGAIN
    return True
