# SPDX-License-Identifier: Apache-2.0
"""A process's streams in the shim, with clients, processes and logging binaries that tests play."""

from __future__ import annotations

import fcntl
import os
import pathlib
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator

import pytest

from lib.patience import patient, until
from urunc.shim.stdio import Settling, TaskStreams

NAMES = ("stdin", "stdout", "stderr")
SETTLING = Settling()
"""What outlives the processes of a test."""


def nothing_left_open() -> Iterator[None]:
    """A fixture: no descriptor and no child is there in the end that was not before."""
    SETTLING._items.clear()  # a failed test's
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    until(lambda: not SETTLING.settle(), timeout_s=15)
    assert sorted(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def three_fifos(tmp_path: pathlib.Path) -> tuple[str, str, str]:
    """A fixture: FIFOs for the three streams."""
    for name in NAMES:
        os.mkfifo(tmp_path / name, 0o700)
    stdin, stdout, stderr = (str(tmp_path / name) for name in NAMES)
    return stdin, stdout, stderr


def opened(stdin: str, stdout: str, stderr: str, *, terminal: bool = False) -> TaskStreams:
    streams = TaskStreams(
        stdin,
        stdout,
        stderr,
        terminal=terminal,
        namespace="ns",
        identifier="container",
        settling=SETTLING,
    )
    streams.open()  # waits for nobody, or the test would hang
    return streams


def run(streams: TaskStreams, *command: str) -> subprocess.Popen[bytes]:
    """As a worker does: the process has the descriptors, the shim lets go of them."""
    given = [fd if fd >= 0 else subprocess.DEVNULL for fd in streams.child]
    process = subprocess.Popen(command, stdin=given[0], stdout=given[1], stderr=given[2])
    streams.release_child()
    return process


def unread(pipe: int) -> int:
    """How many bytes a pipe holds that nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def wait_full(pipe: int) -> None:
    """Wait until a pipe holds all that it can: who writes has to wait."""
    until(lambda: unread(pipe) >= fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ), timeout_s=60)


class Client:
    """One that opens a FIFO as containerd's does, waiting, in a thread of its own."""

    def __init__(self, path: str, content: bytes | None = None) -> None:
        self.path = path
        self.content = content
        self.read = b""
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        if self.content is None:
            with open(self.path, "rb", buffering=0) as file:
                while part := file.read(1 << 16):
                    self.read += part
        else:
            with open(self.path, "wb", buffering=0) as file:
                file.write(self.content)
        self.ended.set()

    def finish(self) -> bytes:
        until(lambda: (SETTLING.settle(), self.ended.is_set())[1])
        self.thread.join(patient(5))
        return self.read


LOGGER = """#!{python} -S
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: (open({directory!r} + "/terminated", "w"), os._exit(0)))
with open({directory!r} + "/facts", "w") as file:
    fds = [os.readlink(f"/proc/self/fd/{{fd}}").partition(":")[0] for fd in range(6)]
    print(sys.argv[1:], sorted(os.environ.items())[:2], fds, file=file)
    fds = [fd for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + fd)]
    print(*fds, file=file)
{ready}
os.close(5)
for fd, name in ((3, "out"), (4, "err")):
    with open({directory!r} + "/" + name, "wb") as file:
        while part := os.read(fd, 1 << 16):
            file.write(part)
{end}
"""


def logger(directory: pathlib.Path, ready: str = "os.write(5, b'x')", end: str = "") -> str:
    program = directory / "logger"
    program.write_text(
        LOGGER.format(python=sys.executable, directory=str(directory), ready=ready, end=end)
    )
    program.chmod(0o755)
    return str(program)
