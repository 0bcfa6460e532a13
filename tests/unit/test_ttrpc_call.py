# SPDX-License-Identifier: Apache-2.0
"""A client's call by urunc.shim.ttrpc: what servers answer, and servers that do not."""

from __future__ import annotations

import contextlib
import pathlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lib.patience import patient
from lib.ttrpc_peers import EVENTS, LONG, TOO_LONG
from urunc.shim.messages import encode
from urunc.shim.ttrpc import (
    DATA,
    LENGTH_MAX,
    RESPONSE,
    Connection,
    Request,
    StatusError,
    call,
    frame,
)


@contextlib.contextmanager
def served(directory: pathlib.Path, serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that lives for one connection."""
    path = str(directory / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)

        def run() -> None:
            peer, _ = listener.accept()
            with peer, contextlib.suppress(ConnectionError):
                serve(peer)

        thread = threading.Thread(target=run)
        thread.start()
        yield path
        thread.join(patient(10))
        assert not thread.is_alive()


@pytest.mark.parametrize("prefix", ["", "unix://"])
def test_a_call_to_our_own_server(tmp_path: pathlib.Path, prefix: str) -> None:
    seen: list[Request] = []

    def serve(peer: socket.socket) -> None:
        connection = Connection(peer, {EVENTS: {"Forward"}})
        while not connection.closed:
            select.select([connection], [connection] if connection.sending else [], [])
            connection.send()
            for request in connection.receive():
                seen.append(request)
                connection.respond(request.stream, request.payload * 2)

    payload = bytes(range(256)) * 4000
    with served(tmp_path, serve) as path:
        metadata = {"containerd-namespace-ttrpc": "default"}
        answer = call(prefix + path, EVENTS, "Forward", payload, 5, metadata)
    assert answer == payload * 2
    (request,) = seen
    assert (request.metadata, request.timeout_s, request.stream) == (metadata, 5.0, 1)


def answering(data: bytes, *, stay: bool = False) -> Callable[[socket.socket], None]:
    """A server that reads a request and writes these bytes."""

    def serve(peer: socket.socket) -> None:
        peer.recv(1 << 16)
        peer.sendall(data)
        while stay and peer.recv(1 << 16):
            pass

    return serve


def response(stream: int = 1, **values: Any) -> bytes:
    return frame(stream, RESPONSE, encode("ttrpc.Response", values))


def forwarded(path: str, timeout_s: float = 5) -> bytes:
    return call(path, EVENTS, "Forward", b"event", timeout_s, {})


@pytest.mark.parametrize(
    "data",
    [
        response(payload=b"yes"),
        response(payload=b"yes", status={}),
        response(3, payload=b"no") + frame(2, DATA, b"no") + response(payload=b"yes"),
        frame(5, RESPONSE, LONG) + response(payload=b"yes"),
    ],
    ids=["plain", "with a status", "after others' answers", "after one that is too long"],
)
def test_answers(tmp_path: pathlib.Path, data: bytes) -> None:
    with served(tmp_path, answering(data)) as path:
        assert forwarded(path) == b"yes"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (response(status={"code": 5, "message": "no"}, payload=b"x"), "NotFound: no"),
        (response(status={"code": 99, "message": "no"}), "99: no"),
        (response(status={"code": -1, "message": "no"}), "-1: no"),
        (frame(1, DATA, b"x"), "Internal: message of type 3 for an answer"),
        (frame(1, RESPONSE, b"\xff"), "Internal: ttrpc.Response: truncated"),
        (frame(1, RESPONSE, LONG), f"ResourceExhausted: {TOO_LONG}"),
    ],
    ids=["an error", "code 99", "code -1", "data", "nonsense", "too long"],
)
def test_refusals(tmp_path: pathlib.Path, data: bytes, text: str) -> None:
    with served(tmp_path, answering(data)) as path, pytest.raises(StatusError) as caught:
        forwarded(path)
    assert str(caught.value) == text


@pytest.mark.parametrize("data", [b"", response(payload=b"yes")[:-1]], ids=["nothing", "half"])
def test_a_server_that_hangs_up(tmp_path: pathlib.Path, data: bytes) -> None:
    with served(tmp_path, answering(data)) as path, pytest.raises(ConnectionError):
        forwarded(path)


def test_a_server_that_says_nothing(tmp_path: pathlib.Path) -> None:
    with served(tmp_path, answering(b"\0", stay=True)) as path, pytest.raises(TimeoutError):
        forwarded(path, 0.2)


def test_a_server_that_talks_of_other_things(tmp_path: pathlib.Path) -> None:
    """The time limit is the whole call's."""

    def serve(peer: socket.socket) -> None:
        while True:
            peer.sendall(response(3))
            time.sleep(0.02)

    with served(tmp_path, serve) as path, pytest.raises(TimeoutError):
        forwarded(path, 0.2)


def test_a_server_that_reads_nothing(tmp_path: pathlib.Path) -> None:
    done = threading.Event()

    def serve(_: socket.socket) -> None:
        done.wait(patient(10))

    with served(tmp_path, serve) as path:
        with pytest.raises(TimeoutError):
            call(path, EVENTS, "Forward", bytes(LENGTH_MAX // 2), 0.2, {})
        done.set()


def test_a_server_that_does_not_accept(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(path)
        with pytest.raises(TimeoutError):
            forwarded(path, 0.3)


def test_no_server(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        forwarded(str(tmp_path / "s"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
    with pytest.raises(ConnectionRefusedError):
        forwarded(str(tmp_path / "s"))
    with pytest.raises(OSError):
        forwarded("/" + "x" * 200)


def test_a_call_that_is_too_long() -> None:
    with pytest.raises(StatusError, match="ResourceExhausted"):
        call("/nowhere", EVENTS, "Forward", LONG, 1, {})


def test_no_descriptor_is_left(tmp_path: pathlib.Path) -> None:
    before = set(pathlib.Path("/proc/self/fd").iterdir())
    for data in (response(payload=b"yes"), b""):
        (tmp_path / "s").unlink(missing_ok=True)
        with served(tmp_path, answering(data)) as path, contextlib.suppress(OSError):
            forwarded(path)  # the second answer is none
    assert set(pathlib.Path("/proc/self/fd").iterdir()) == before
