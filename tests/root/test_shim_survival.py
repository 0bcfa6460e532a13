# SPDX-License-Identifier: Apache-2.0
"""The shim and clients that are wrong, slow or gone; processes that are killed: one clear answer,
and nobody else notices."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lib.patience import patient, until
from lib.shims import Shim, box, runc_options
from lib.support import RUN, Bundle, need, nothing_left
from urunc.shim.messages import decode, encode
from urunc.shim.ttrpc import (
    INVALID_ARGUMENT,
    LENGTH_MAX,
    OUTGOING_MAX,
    REQUEST,
    RESOURCE_EXHAUSTED,
    UNIMPLEMENTED,
    UNKNOWN,
    Parser,
    StatusError,
    frame,
)

TASK = "containerd.task.v3.Task"
SLOW = """#!/bin/sh
# Stands in for runc; it takes its time to pause.
case " $* " in *" pause "*) touch {mark}; while [ -e {mark} ]; do sleep 0.05; done;; esac
exec runc "$@"
"""


@pytest.fixture(params=["ordinary", "guest"])
def shim(request: pytest.FixtureRequest, tmp_path: pathlib.Path, bundle: Bundle) -> Iterator[Shim]:
    """A shim whose container runs."""
    need("root", "installed", "runc")
    if request.param == "ordinary":
        bundle = box(tmp_path / f"t{RUN}box", "/bin/sleep", "100")
    with nothing_left(), contextlib.closing(Shim(tmp_path, bundle)) as made:
        made.id = f"t{RUN}survivor"
        made.start()
        made.create()
        made("Start")
        yield made


ordinary = pytest.mark.parametrize("shim", ["ordinary"], indirect=True)


class Client:
    """A connection of its own, to write whatever it likes."""

    def __init__(self, shim: Shim) -> None:
        self.id = shim.id
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(shim.address.removeprefix("unix://"))
        self.socket.settimeout(patient(10))
        self.parser = Parser()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def request(self, method: str = "State", service: str = TASK, **values: Any) -> bytes:
        payload = encode("containerd.task.v3.StateRequest", {"id": self.id})
        named = {"service": service, "method": method, "payload": payload}
        return encode("ttrpc.Request", named | values)

    def ask(self, stream: int, request: bytes) -> int:
        """Send a request; its answer's code."""
        self.socket.sendall(frame(stream, REQUEST, request))
        while True:
            for received in self.parser.feed(self.socket.recv(1 << 16)):
                assert received.stream == stream
                answer = decode("ttrpc.Response", received.payload or b"")
                return int((answer["status"] or {"code": 0})["code"])


def test_wrong_requests(shim: Shim) -> None:
    """Each has its answer, on a connection that serves on."""
    with Client(shim) as client:
        for stream, (request, code) in enumerate(
            [
                (client.request(), 0),
                (client.request(payload=bytes(LENGTH_MAX)), RESOURCE_EXHAUSTED),
                (client.request(method="Fly"), UNIMPLEMENTED),
                (client.request(service="containerd.task.v9.Task"), UNIMPLEMENTED),
                (b"\xff\xff", INVALID_ARGUMENT),
                (client.request(payload=b"\xff\xff"), INVALID_ARGUMENT),
                (client.request(), 0),
            ]
        ):
            assert client.ask(2 * stream + 1, request) == code
    shim.end(137)


def test_clients_that_hang_up(shim: Shim) -> None:
    """In the middle of a frame, and while they wait."""
    with Client(shim) as client:
        client.socket.sendall(frame(1, REQUEST, client.request())[:-3])
    with Client(shim) as client:
        client.socket.sendall(frame(1, REQUEST, client.request("Wait")))
    assert shim("State")["status"] == 2
    shim.end(137)


def test_a_client_that_does_not_read(shim: Shim) -> None:
    """It is sent away; others are answered meanwhile."""
    with Client(shim) as client:
        ended = threading.Event()

        def ask() -> None:
            stream = 1
            with contextlib.suppress(OSError):  # the shim ends the connection
                while stream < OUTGOING_MAX // 8:
                    part = b"".join(
                        frame(number, REQUEST, client.request())
                        for number in range(stream, stream + 2000, 2)
                    )
                    client.socket.sendall(part)
                    stream += 2000
            ended.set()

        asking = threading.Thread(target=ask)
        asking.start()
        answers = 0
        while not ended.is_set():
            assert shim("State")["status"] == 2
            answers += 1
        asking.join()
        assert answers
        received = 0
        with contextlib.suppress(OSError):  # likewise
            while part := client.socket.recv(1 << 20):
                received += len(part)
        assert received < OUTGOING_MAX
    shim.end(137)


def test_killed_from_outside(shim: Shim) -> None:
    """Who waits knows at once, and there is an event."""
    codes: list[int] = []
    waiting = threading.Thread(target=lambda: codes.append(shim("Wait")["exit_status"]))
    waiting.start()
    os.kill(shim("State")["pid"], signal.SIGKILL)
    waiting.join(patient(10))
    assert codes == [137]
    until(lambda: "exit" in shim.events.topics())
    # who asks for none is taken for a shim without a task by containerd
    assert shim("Pids")["processes"]
    shim("Delete")
    until(lambda: len(shim.events.topics()) == 4)
    assert shim.events.topics() == ["create", "start", "exit", "delete"]
    shim.leave()


def test_shim_is_killed(shim: Shim) -> None:
    """Its program cleans up: 137, and nothing of the container is left."""
    pid = shim("State")["pid"]
    os.kill(shim.pid, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{shim.pid}"))
    shim.pid = 0
    done = shim.command("delete", "-bundle", str(shim.bundle.path))
    assert (done.returncode, done.stderr) == (0, b"")
    assert decode("containerd.task.v2.DeleteResponse", done.stdout)["exit_status"] == 137
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert os.listdir(shim.sockets) == []


@ordinary
def test_others_are_answered_meanwhile(shim: Shim, tmp_path: pathlib.Path) -> None:
    """While a runtime takes its time."""
    shim.end(137)
    shim.events.seen.clear()
    mark = tmp_path / "pausing"
    slow = tmp_path / "slow"
    slow.write_text(SLOW.format(mark=mark))
    slow.chmod(0o755)
    shim.start()
    shim.create(runc_options(binary_name=str(slow), root=shim.root))
    shim("Start")
    pausing = threading.Thread(target=lambda: shim("Pause"))
    pausing.start()
    until(mark.exists)
    assert shim("State")["status"] == 2
    assert pausing.is_alive()
    mark.unlink()
    pausing.join()
    assert shim("State")["status"] == 4
    shim("Resume")
    shim.end(137)


@ordinary
def test_an_exec_that_cannot_start(shim: Shim) -> None:
    """An error, and no end of what never was."""
    process = {"args": ["no-such-program"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
    spec = {"type_url": "Process", "value": json.dumps(process).encode()}
    shim("Exec", exec_id="e", spec=spec)
    with pytest.raises(StatusError, match=r"OCI runtime exec failed: .*no-such-program") as failed:
        shim("Start", exec_id="e")
    assert failed.value.code == UNKNOWN
    shim("Delete", exec_id="e")
    shim.end(137)
    until(lambda: "delete" in shim.events.topics())
    assert shim.events.topics() == ["create", "start", "exec-added", "exit", "delete"]
