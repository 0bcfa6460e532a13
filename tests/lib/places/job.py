# SPDX-License-Identifier: Apache-2.0
"""Runs one command in a Machine: `python job.py DIRECTORY QEMU'S_PID -- COMMAND [WORD...]`.

A job is a directory that the machine and the host share: `run`, a script, goes in; `out`, `err` and
`status` come back. The machine is told its name through the serial line, which has one caller at a
time, for as long as it takes to be heard. What comes out is passed on while the command runs; the
exit status is the command's. It must work by itself: no import but the standard library's.
"""

from __future__ import annotations

import fcntl
import os
import pathlib
import shlex
import socket
import sys
import time
import uuid

FAILED = 125
"""The exit status where it is not the command's, as of env(1)."""


def script(command: list[str]) -> str:
    """What a shell of the machine does to run a command with this process's directory and
    environment, but for variables that a shell cannot have."""
    lines = [
        f"export {name}={shlex.quote(value)}"
        for name, value in os.environ.items()
        if name.isidentifier() and name.isascii()
    ]
    lines += [f"cd {shlex.quote(os.getcwd())} 2>/dev/null || cd /", f"exec {shlex.join(command)}"]
    return "\n".join(lines) + "\n"


def tell(here: pathlib.Path, name: str) -> None:
    """Name the job to the machine, which answers with its name. It may be slow: how long is waited
    is for the caller to say, who ends this process."""
    lock = (here / "jobs.lock").open("w")
    with lock, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        fcntl.flock(lock, fcntl.LOCK_EX)
        line.connect(str(here / "jobs.sock"))
        line.sendall(f"{name}\n".encode())
        heard = b""
        while name.encode() not in heard:
            data = line.recv(4096)
            if not data:
                raise ConnectionError("the machine has ended")
            heard += data


class Output:
    """A file of the job's that is passed on as it grows."""

    def __init__(self, path: pathlib.Path, target: int) -> None:
        self._path = path
        self._target = target
        self._offset = 0

    def pass_on(self) -> None:
        """Write what has come since."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        while data:
            data = data[os.write(self._target, data) :]


def main(here: pathlib.Path, machine: str, command: list[str]) -> int:
    """Run it, and return its exit status."""
    name = uuid.uuid4().hex
    job = here / "shared/jobs" / name
    job.mkdir()
    (job / "run").write_text(script(command))
    tell(here, name)
    outputs = [Output(job / "out", 1), Output(job / "err", 2)]
    while True:
        status = (job / "status").read_text() if (job / "status").exists() else ""
        alive = os.path.exists(f"/proc/{machine}/fd/0")  # not a zombie either
        for output in outputs:
            output.pass_on()
        if status.endswith("\n"):
            return int(status)
        if not alive:
            raise ConnectionError("the machine has ended")
        time.sleep(0.01)


if __name__ == "__main__":
    try:
        sys.exit(main(pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[4:]))
    except OSError as error:  # FileNotFoundError: the machine was left while this waited
        sys.stderr.write(f"no answer from the machine: {error}\n")
        sys.exit(FAILED)
