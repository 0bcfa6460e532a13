# SPDX-License-Identifier: Apache-2.0
"""The keeper: a process beside `urunc try` that makes its network, passes its ports on, and takes
all of it away when `urunc try` has ended, however that was.

It is forked from `urunc try`, in a session of its own, so that Ctrl-C is not for it; it learns of
the end by a word from there, or by a pidfd.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress

from urunc.errors import Error, HostError, reason
from urunc.jsontext import dumps, loads
from urunc.record import plain, rebuild
from urunc.trial import rootless
from urunc.trial.forward import Forwarder
from urunc.trial.nat import Made, Nat
from urunc.trial.rootless import Rootless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from urunc.trial.ports import Listener

ANSWER_BYTES = 1 << 16
IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGPIPE)


class Keeper:
    """The side of `urunc try`: `start` it, and `end` it."""

    def __init__(self, clean: Callable[[], None]) -> None:
        """`clean` removes the container and all files; it is called in the keeper."""
        self._clean = clean
        self._pid = 0
        self._line, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def start(self, place: Nat | Rootless | None, listeners: list[Listener]) -> Made | None:
        """Fork it; the network that it has made, None without one. Without root, this process is
        root of a user namespace afterwards. Raises HostError."""
        sys.stdout.flush()
        parent = os.pidfd_open(os.getpid())
        self._pid = os.fork()
        if not self._pid:
            self._line.close()
            _keep(self._far, parent, place, listeners, self._clean)
        os.close(parent)
        self._far.close()
        for item in listeners:
            item.socket.close()
        if isinstance(place, Rootless):
            rootless.enter()
            self._line.send(b"entered")
        answer = self._line.recv(ANSWER_BYTES)
        ended = {"error": "network: its process ended", "hint": ""}
        document: dict[str, Any] = loads(answer.decode()) if answer else ended
        if "error" in document:
            raise HostError(document["error"], document["hint"])
        return rebuild(Made, document["made"]) if document["made"] else None

    def end(self) -> bool:
        """Have it remove everything, and wait until it has; whether there was one."""
        if not self._pid:
            return False
        with suppress(OSError):
            self._line.send(b"end")
        while True:
            try:
                os.waitpid(self._pid, 0)
                break
            except InterruptedError:
                continue
            except ChildProcessError:
                break
        self._pid = 0
        return True


def _keep(
    line: socket.socket,
    parent: int,
    place: Nat | Rootless | None,
    listeners: list[Listener],
    clean: Callable[[], None],
) -> None:
    """The keeper's whole life; does not return."""
    os.setsid()
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    nothing = os.open("/dev/null", os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    code = 1
    try:
        made = _make(place, line, listeners)
        line.send(dumps({"made": plain(made) if made else None}).encode())
        asyncio.run(_serve(line, parent, made if isinstance(place, Nat) else None, listeners))
        code = 0
    except Error as error:
        with suppress(OSError):
            line.send(dumps({"error": error.message, "hint": error.hint}).encode())
    except OSError as error:
        with suppress(OSError):
            line.send(dumps({"error": f"network: {reason(error)}", "hint": ""}).encode())
    finally:
        try:
            if isinstance(place, Rootless):
                place.within(clean)
            else:
                clean()
        except (Error, OSError) as error:
            sys.stderr.write(f"urunc: error: clean up: {error}\n")
        finally:
            if place:
                place.remove()
            sys.stderr.flush()
            os._exit(code)


def _make(
    place: Nat | Rootless | None, line: socket.socket, listeners: list[Listener]
) -> Made | None:
    if place is None:
        return None
    if isinstance(place, Nat):
        return place.make()
    if line.recv(ANSWER_BYTES) != b"entered":
        raise HostError("user namespace: not to be had")
    return place.make(listeners, _answered)


async def _serve(
    line: socket.socket, parent: int, made: Made | None, listeners: list[Listener]
) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    line.setblocking(False)
    for source in (parent, line.fileno()):
        loop.add_reader(source, ended.set)
    if made:
        await Forwarder(made.addresses, _answered).serve(listeners)
    await ended.wait()


def _answered(item: Listener) -> None:
    with suppress(OSError):
        os.write(2, f"urunc try: the guest answers at {item.port.shown(item.address)}\n".encode())
