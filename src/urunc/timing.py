# SPDX-License-Identifier: Apache-2.0
"""Timestamps of a start: one JSON line per phase, appended to a file; docs/timestamps.md explains
each.

Off unless `create` has `URUNC_TIMESTAMPS=1`; then one comparison per phase is all it costs. `start`
knows by the container's state, since engines give it another environment. The file is opened before
the container's init leaves the host's root, and inherited by it. A line is one `write` on an
O_APPEND descriptor, so that concurrent containers do not mix.
"""

from __future__ import annotations

import posix
from time import clock_gettime_ns

from urunc.linux.files import open_log

CLOCK_REALTIME = 0

NAMES = {
    0: "create invoked",
    1: "spec read",
    2: "state written",
    3: "init about to be forked",
    4: "init runs",
    5: "init has its pipes and directory",
    6: "init's pid known",
    7: "createRuntime hooks done",
    8: "init told to go on",
    9: "init heard it",
    10: "create ends",
    11: "start invoked",
    12: "state read",
    13: "start sent to init",
    14: "init heard start",
    15: "network namespace joined",
    16: "network ready",
    17: "storage ready",
    18: "execve of the monitor",
    19: "saved guest goes on",
    20: "snapshot's key known",
    21: "saved guest taken up",
    22: "guest knows who it is",
}

enabled = posix.environ.get(b"URUNC_TIMESTAMPS") == b"1"
path = ""
"""The file that is open, "" for none."""
_fd = -1
_container = ""
_pending: list[tuple[int, int]] = []


def open_file(file: str, container: str, *, always: bool = False) -> None:
    """Write the stamps so far, and all later ones, to this file; `always`, whatever the environment
    says, since `create` was told so. The container's id must have been checked."""
    global path, _fd, _container, enabled
    enabled = enabled or always
    if not enabled or _fd >= 0:
        return
    try:
        _fd = open_log(file)
    except OSError as error:
        from urunc import logs

        logs.warn(f"open timestamps file '{file}': {error.strerror}")
        return
    path, _container = file, container
    for identifier, now_ns in _pending:
        _write(identifier, now_ns)
    _pending.clear()


def begin(identifier: int) -> None:
    """A phase that is reached before it is known whether the container's are to be recorded."""
    _pending.append((identifier, clock_gettime_ns(CLOCK_REALTIME)))


def stamp(identifier: int) -> None:
    """Record that a phase was reached; `identifier` is a key of NAMES."""
    if not enabled:
        return
    now_ns = clock_gettime_ns(CLOCK_REALTIME)
    if _fd < 0:
        _pending.append((identifier, now_ns))
    else:
        _write(identifier, now_ns)


def descriptor() -> int:
    """The open file's descriptor, -1 for none; init keeps it when it closes the others."""
    return _fd


def _write(identifier: int, now_ns: int) -> None:
    line = (
        f'{{"containerID":"{_container}","timestampID":"TS{identifier:02}",'
        f'"timestampName":"{NAMES[identifier]}","timestampNS":{now_ns}}}\n'
    )
    posix.write(_fd, line.encode())
