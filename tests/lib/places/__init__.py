# SPDX-License-Identifier: Apache-2.0
"""Places: surroundings for the commands of a test that the machine itself does not offer.

Each is a context manager and takes all of itself down when it is left. It must touch nothing of the
host but what it says. All need root, and none a network.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Self

from lib.patience import patient

if TYPE_CHECKING:
    from types import TracebackType

CLONE_NEWNET = 0x40000000


class Place:
    """Where commands run; a subclass says how they get there, and what it takes to be there."""

    _left: contextlib.ExitStack

    def boot(self, undo: contextlib.ExitStack) -> None:
        """Bring it about; `undo` gets what takes it back, also half made."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            self.boot(undo)
            self._left = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.close()

    @property
    def prefix(self) -> list[str]:
        """The words before a command line that make it run here, with the caller's environment and
        its directory (`/` where there is none of that name); its exit status is passed on."""
        raise NotImplementedError

    def run(
        self,
        *command: str,
        check: bool = True,
        timeout_s: float = 60,
        stdin: str | None = None,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end; `stdin` is what it reads."""
        result = subprocess.run(
            [*self.prefix, *command],
            capture_output=True,
            text=True,
            timeout=patient(timeout_s),
            stdin=subprocess.DEVNULL if stdin is None else None,
            input=stdin,
            env=os.environ | environment,
        )
        if check and result.returncode:
            raise AssertionError(
                f"{' '.join(command)}: {result.returncode}\n{result.stdout}{result.stderr}"
            )
        return result


def hold(undo: contextlib.ExitStack, command: list[str], what: str) -> subprocess.Popen[str]:
    """A process with a place's namespaces, which says `ready` and ends with its standard input."""
    holder = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # whose end, also by this process's death, is the holder's
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout
    if holder.stdout.readline() != "ready\n":
        raise AssertionError(f"no {what} here: {holder.communicate()[1]}")
    undo.callback(holder.communicate, timeout=patient(10))
    return holder


def child(process: subprocess.Popen[bytes]) -> int:
    """The only child of a process, or 0."""
    try:
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    except OSError:
        return 0
    return int(children.split()[0]) if children.strip() else 0


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a PID namespace by its first process, the only child of ours; ours waits for its end."""
    first = child(process)
    if first:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
    else:
        process.kill()
    process.wait(patient(30))


def socket_at(
    path: str, of: socket.AddressFamily, kind: socket.SocketKind = socket.SOCK_STREAM
) -> socket.socket:
    """A socket of the network namespace at a path, for this process."""
    from urunc.linux import _linux

    with contextlib.ExitStack() as undo:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        undo.callback(os.close, home)
        there = os.open(path, os.O_RDONLY)
        undo.callback(os.close, there)
        _linux.setns(there, CLONE_NEWNET)
        try:
            return socket.socket(of, kind)
        finally:
            _linux.setns(home, CLONE_NEWNET)
