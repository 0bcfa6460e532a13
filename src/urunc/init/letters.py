# SPDX-License-Identifier: Apache-2.0
"""What the processes that make a container tell each other, all of it as records.

| letter | from | to | by |
|-|-|-|-|
| Setup | create | init | the fork: never written |
| MapIds, Forked, Problem | the stage | create | a pipe |
| Proceed | create | the stage | a pipe |
| RunHooks, Prepare | create | init | a pipe |
| Done, Problem | init | create | a pipe |
| Start | start | init | the FIFO `start`, whole, until its end |
| Problem | init | start | the FIFO `started`, which ends without one where the monitor runs |
| RunHooks | init | its helper in the image's root | a pipe |
| Done, Problem | the helper | init | a pipe: that it is there, and what its hooks did |

Pipes are between processes of one urunc, as JSON lines: {NAME: FIELDS} (Channel). The FIFOs may be
between two versions of it, so what goes through them is the fields alone, and keeps their names.
After `PivotRoot` nothing can be imported, so this imports what init has anyway.
"""

from __future__ import annotations

import posix
from select import POLLIN, poll

from urunc.jsontext import dumps, loads
from urunc.linux.files import write_all
from urunc.record import plain, rebuild, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from urunc.bundle.spec import Hook
    from urunc.monitors import Launch


@record
class Setup:
    """What init knows from its birth: v1 control groups and namespaces to join by path, and
    descriptors: of the FIFOs, and of what the runtime prepared for the steps."""

    image_root: str
    groups: tuple[str, ...]
    join: dict[str, str]
    start_fd: int
    started_fd: int
    prepared: frozenset[int]
    streams: tuple[int, ...]
    """What shall be its standard streams, () where it keeps those that it has."""
    readers: tuple[int, ...]
    """The outputs' reading ends, for a monitor that shall wait for a reader."""
    keep_descriptors: int
    create_hooks: tuple[Hook, ...]
    start_hooks: tuple[Hook, ...]
    """createContainer's and startContainer's."""
    hook_capabilities: int
    """The capabilities that startContainer's may have at most: their programs are the image's."""


@record
class MapIds:
    """The stage has made its user namespace: its ids are to be mapped now."""


@record
class Proceed:
    """They are."""


@record
class Forked:
    """Init is there: its pid in the runtime's pid namespace."""

    pid: int


@record
class RunHooks:
    """Run the hooks that are for this process: createContainer's in init, startContainer's in its
    helper."""

    state: str
    """The container's, as JSON: what a hook has on its standard input."""


@record
class MonitorExec:
    """What init needs of a launch to become the monitor (monitors.Launch)."""

    argv: tuple[str, ...]
    files: Mapping[str, str]
    claims: tuple[str, ...]
    held: tuple[str, ...]
    streams: bool


@record
class Prepare:
    """Execute the steps, and wait for `start`."""

    unshare: int
    """CLONE_NEWCGROUP where init makes that namespace itself, else 0."""
    steps: tuple[tuple[str, Any], ...]
    """By init.steps.pack."""
    launch: MonitorExec
    filters: tuple[tuple[int, str], ...]
    """Seccomp programs in the order to install them: flags, and the program in hexadecimal."""


@record
class Done:
    """What was asked for is done."""


@record
class Problem:
    """What went wrong, for the user; who says so ends."""

    error: str
    hint: str = ""


@record
class Start:
    """Become the monitor."""

    launch: MonitorExec | None
    """In place of what Prepare said, None for no change."""
    state: str
    """For startContainer hooks: the container's, as JSON."""


LETTERS: dict[str, Any] = {
    cls.__name__: cls for cls in (MapIds, Proceed, Forked, RunHooks, Prepare, Done, Problem)
}
"""Those that travel as lines."""


def monitor_exec(launch: Launch) -> MonitorExec:
    """What init needs of a launch."""
    return MonitorExec(
        argv=launch.argv,
        files=dict(launch.files),
        claims=launch.claims,
        held=launch.held,
        streams=launch.streams,
    )


def line(letter: object) -> bytes:
    """A letter as a line for a pipe."""
    return dumps({type(letter).__name__: plain(letter)}).encode() + b"\n"


def from_line(text: bytes) -> Any:
    """The letter of a line."""
    ((name, fields),) = loads(text.decode()).items()
    return rebuild(LETTERS[name], fields)


def whole(letter: Start | Problem) -> bytes:
    """A letter for a FIFO."""
    return dumps(plain(letter)).encode()


def start_of(text: bytes) -> Start:
    """What `start` wrote to its FIFO; an older one has {} for no change."""
    values = loads(text.decode())
    return rebuild(Start, {**values, "launch": values["launch"] or None})


def problem_of(text: bytes) -> Problem:
    """What init wrote to `started`."""
    return rebuild(Problem, loads(text.decode()))


class Channel:
    """One end of a talk in lines: a pipe to read and one to write."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        self._buffer = b""

    def send(self, letter: object) -> None:
        """Say something; BrokenPipeError where the other side is gone."""
        write_all(self.write_fd, line(letter))

    def receive(self, timeout_s: float | None = None) -> Any:
        """The next letter; None where the other side is gone, TimeoutError after the time limit."""
        poller = poll()
        poller.register(self.read_fd, POLLIN)
        while b"\n" not in self._buffer:
            if timeout_s is not None and not poller.poll(int(timeout_s * 1000)):
                raise TimeoutError
            part = posix.read(self.read_fd, 1 << 16)
            if not part:
                return None
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\n")
        return from_line(text)

    def close(self) -> None:
        """Let go of both pipes."""
        posix.close(self.read_fd)
        posix.close(self.write_fd)
