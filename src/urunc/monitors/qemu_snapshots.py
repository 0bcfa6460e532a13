# SPDX-License-Identifier: Apache-2.0
"""QEMU's snapshots: its migration stream, state and memory in one file (docs/devel/migration).

It is saved through a pipe, which every version can write to: what comes out is written by this
process, bounded, and on its account, not on that of the container's memory limit. It is loaded from
the file's own descriptor, which QEMU is given once it waits; it never has a path to it.
"""

from __future__ import annotations

import posix
from select import POLLIN, poll
from time import monotonic, sleep

from urunc.errors import MonitorError
from urunc.monitors import Launch, Program, Snapshots, numbers
from urunc.monitors.qemu import execute

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from urunc.monitor_client import Control
    from urunc.vocabulary import ChannelKind

STATE = "state"
SEEK_SET = 0
NAME = "urunc"
"""Of the descriptors that QEMU is given."""
BY_FILE = (8, 2)
"""The first version that has `file:`; from 9.1 on `fd:` is not meant for files any more."""
FDSET = 1000
UNLIMITED = 1 << 50
"""Bytes per second: a guest that stands still has nothing to lose by it."""
PIPE_BYTES = 1 << 20
F_SETPIPE_SZ = 1031
INTERVAL_S = 0.002
SILENCE_S = 60
WAIT_S = 600
"""How long a migration may take to end once all of it was read."""
NOT_SEEN = frozenset(
    ("-chardev", "-add-fd", "-serial", "-qmp", "-sandbox", "-append", "-netdev", "-blockdev",
     "-kernel", "-initrd", "-incoming")
)  # fmt: skip
"""Options whose values are the host's side of a device, or read only when the guest boots."""

OTHER_CHARDEVS = ("pipe,id=channel", "socket,id=share")
"""What is not for something that the guest prints."""


class QemuSnapshots(Snapshots):
    """What it does by QMP."""

    files = (STATE,)

    def problem(self, version: str, channel: ChannelKind) -> str:
        return ""

    def machine(self, launch: Launch, program: Program) -> tuple[str, ...]:
        words = launch.argv[launch.argv.index(program.path) + 1 :]
        found: list[str] = []
        hidden = False
        for word in words:
            if hidden:
                hidden = False
                continue
            hidden = word in NOT_SEEN
            if not hidden or word == "-serial":
                found.append(word)
        return tuple(found)

    def words(self, launch: Launch) -> tuple[str, ...]:
        argv = launch.argv
        return tuple(
            argv[index + 1]
            for index, word in enumerate(argv[:-1])
            if word in ("-append", "-initrd")
        )

    def logging(self, launch: Launch, path: str) -> Launch | None:
        log = f"logfile={path},logappend=on"
        argv: list[str] = []
        for word in launch.argv:
            before = argv[-1:]
            if before == ["-serial"] and word == "stdio":
                argv[-1:] = ["-chardev", f"stdio,id=console,{log}", "-serial"]
                word = "chardev:console"
            elif before == ["-chardev"] and not word.startswith(OTHER_CHARDEVS):
                word = f"{word},{log}"
            argv.append(word)
        return Launch(**{**launch.__dict__, "argv": tuple(argv)})

    def waiting(self, launch: Launch) -> Launch:
        return Launch(**{**launch.__dict__, "argv": (*launch.argv, "-incoming", "defer")})

    def save(
        self,
        control: Control,
        files: Mapping[str, int],
        paths: Mapping[str, str],
        most_bytes: int,
    ) -> None:
        _greet(control)
        limits = {"max-bandwidth": UNLIMITED}
        execute(control, {"execute": "migrate-set-parameters", "arguments": limits})
        source, target = posix.pipe()
        try:
            arguments = {"fdname": NAME}
            execute(control, {"execute": "getfd", "arguments": arguments}, (target,))
            posix.close(target)
            target = -1
            execute(control, {"execute": "migrate", "arguments": {"uri": f"fd:{NAME}"}})
            _receive(source, files[STATE], most_bytes)
            _wait(control)
        except BaseException:
            posix.close(source)  # it may wait to write, and hears of nothing else meanwhile
            source = -1
            _cancel(control)
            raise
        finally:
            for fd in (source, target):
                if fd >= 0:
                    posix.close(fd)

    def load(
        self,
        control: Control,
        files: Mapping[str, int],
        paths: Mapping[str, str],
        version: str,
        taps: Mapping[str, str],
    ) -> None:
        _greet(control)
        posix.lseek(files[STATE], 0, SEEK_SET)
        if numbers(version) >= BY_FILE:
            arguments: dict[str, Any] = {"fdset-id": FDSET}
            uri = f"file:/dev/fdset/{FDSET}"
            execute(control, {"execute": "add-fd", "arguments": arguments}, (files[STATE],))
        else:
            uri = f"fd:{NAME}"
            arguments = {"fdname": NAME}
            execute(control, {"execute": "getfd", "arguments": arguments}, (files[STATE],))
        execute(control, {"execute": "migrate-incoming", "arguments": {"uri": uri}})
        _wait(control)


def _greet(control: Control) -> None:
    control.line()
    execute(control, {"execute": "qmp_capabilities"})


def _receive(source: int, target: int, most_bytes: int) -> None:
    """All that comes through the pipe, into the file; raises MonitorError, OSError."""
    from fcntl import fcntl

    try:
        fcntl(source, F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        pass  # the user's pipes have their most already: then it is slower
    poller = poll()
    poller.register(source, POLLIN)
    left = most_bytes
    while poller.poll(int(SILENCE_S * 1000)):
        count = posix.splice(source, target, PIPE_BYTES)
        if not count:
            return
        left -= count
        if left < 0:
            raise MonitorError(f"migration: more than {most_bytes} bytes")
    raise MonitorError(f"migration: nothing for {SILENCE_S} s")


def _wait(control: Control) -> None:
    """Until the migration is done; raises MonitorError where it has failed, or never ends."""
    until = monotonic() + WAIT_S
    while monotonic() < until:
        answer = execute(control, {"execute": "query-migrate"})
        status = str(answer.get("status", ""))
        if status == "completed":
            return
        if status in ("failed", "cancelled", "cancelling"):
            raise MonitorError(f"migration: {answer.get('error-desc') or status}")
        sleep(INTERVAL_S)
    raise MonitorError(f"migration: not done within {WAIT_S} s")


def _cancel(control: Control) -> None:
    """Give up saving, so that the guest can go on; a failure is nothing against what led here."""
    try:
        execute(control, {"execute": "migrate_cancel"})
        until = monotonic() + 2
        while monotonic() < until:
            answer = execute(control, {"execute": "query-migrate"})
            if answer.get("status") in ("failed", "cancelled", "completed"):
                return
            sleep(INTERVAL_S)
    except MonitorError:
        pass


SNAPSHOTS = QemuSnapshots
