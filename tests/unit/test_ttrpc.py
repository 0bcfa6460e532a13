# SPDX-License-Identifier: Apache-2.0
"""urunc.shim.ttrpc over real sockets: what comes in pieces, what is broken, who does not read."""

from __future__ import annotations

import pathlib
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.patience import patient
from lib.ttrpc_peers import LONG, SERVICES, TASK, TOO_LONG, answers, asked
from urunc.shim import ttrpc
from urunc.shim.messages import encode
from urunc.shim.ttrpc import (
    DATA,
    INVALID_ARGUMENT,
    LENGTH_MAX,
    NO_DATA,
    OUTGOING_MAX,
    REQUEST,
    RESOURCE_EXHAUSTED,
    RESPONSE,
    UNIMPLEMENTED,
    Connection,
    Parser,
    Request,
    StatusError,
    frame,
)

SOURCE = pathlib.Path(ttrpc.__file__).parent.parent.parent


class Peers:
    """A server's connection and the client's socket."""

    def __init__(self) -> None:
        server, self.client = socket.socketpair(socket.AF_UNIX)
        self.connection = Connection(server, SERVICES)
        self.client.settimeout(patient(5))

    def read(self) -> bytes:
        """What has come to the client."""
        data = b""
        while select.select([self.client], [], [], 0)[0]:
            piece = self.client.recv(1 << 20)
            if not piece:
                break
            data += piece
        return data

    def answers(self) -> list[tuple[int, int, str, bytes]]:
        return answers(self.read())

    def exchange(self, data: bytes) -> list[Request]:
        """Have the server take bytes, however many there are."""
        requests = []
        writer = threading.Thread(target=self.client.sendall, args=(data,))
        writer.start()
        while writer.is_alive() or select.select([self.connection], [], [], 0)[0]:
            if select.select([self.connection], [], [], 0.01)[0]:
                requests += self.connection.receive()
        writer.join()
        return requests

    def flush(self) -> bytes:
        """What comes to a client that reads until nothing is left."""
        data = self.read()
        while self.connection.sending:
            self.connection.send()
            data += self.read()
        return data


@pytest.fixture
def peers() -> Iterator[Peers]:
    pair = Peers()
    yield pair
    pair.connection.close()
    pair.client.close()


# ---- frames


def test_a_frame_is_what_ttrpc_says() -> None:
    assert frame(3, REQUEST, b"abc", 2) == b"\0\0\0\x03\0\0\0\x03\x01\x02abc"


STREAM = frame(1, REQUEST, b"") + frame(3, DATA, b"x" * 300, 5) + frame(0xFFFFFFFF, 9, b"yz", 255)


def parts(frames: list[ttrpc.Frame]) -> list[tuple[int, int, int, int, bytes | None]]:
    return [(f.stream, f.kind, f.flags, f.length, f.payload) for f in frames]


WHOLE = [
    (1, REQUEST, 0, 0, b""),
    (3, DATA, 5, 300, b"x" * 300),
    (0xFFFFFFFF, 9, 255, 2, b"yz"),
]


@pytest.mark.parametrize("at", range(len(STREAM) + 1))
def test_cut_at_every_byte(at: int) -> None:
    parser = Parser()
    assert parts(parser.feed(STREAM[:at]) + parser.feed(STREAM[at:])) == WHOLE


def test_byte_by_byte() -> None:
    parser = Parser()
    assert parts([f for byte in STREAM for f in parser.feed(bytes((byte,)))]) == WHOLE


@given(st.lists(st.binary(max_size=40), max_size=8), st.data())
def test_cut_anywhere(payloads: list[bytes], data: Any) -> None:
    stream = b"".join(frame(2 * n + 1, REQUEST, body) for n, body in enumerate(payloads))
    parser, found = Parser(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += parser.feed(stream[:size])
        stream = stream[size:]
    assert [received.payload for received in found] == payloads


def test_the_longest_and_one_more() -> None:
    parser = Parser()
    assert parser.feed(frame(1, REQUEST, bytes(LENGTH_MAX)))[0].payload == bytes(LENGTH_MAX)
    found = parser.feed(frame(3, REQUEST, bytes(LENGTH_MAX + 1)) + frame(5, REQUEST, b"next"))
    assert parts(found) == [
        (3, REQUEST, 0, LENGTH_MAX + 1, None),
        (5, REQUEST, 0, 4, b"next"),
    ]


def test_what_is_too_long_is_not_kept() -> None:
    parser = Parser()
    length = 0xFFFFFFFF
    assert parser.feed(struct.pack(">IIBB", length, 7, REQUEST, 0)) == []
    piece = bytes(1 << 24)
    while length > len(piece):
        assert parser.feed(piece) == []
        assert not parser._buffer
        length -= len(piece)
    assert parts(parser.feed(piece[:length] + STREAM)) == [
        (7, REQUEST, 0, 0xFFFFFFFF, None),
        *WHOLE,
    ]


# ---- a server's connection


def test_a_call(peers: Peers) -> None:
    pairs = [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}, {"key": "b", "value": "3"}]
    data = asked(1, timeout_nano=1_500_000_000, metadata=pairs)
    (request,) = peers.exchange(data)
    assert request == Request(
        stream=1,
        service=TASK,
        method="State",
        payload=b"p1",
        timeout_s=1.5,
        metadata={"a": "1", "b": "3"},
    )
    assert peers.answers() == []
    peers.connection.respond(1, b"done")
    # not a byte more than Go's server writes
    assert peers.read() == frame(1, RESPONSE, b"\x12\x04done")


@pytest.mark.parametrize(("timeout_ns", "timeout_s"), [(0, None), (-1, 0.0), (1, 1e-9)])
def test_time_limits(peers: Peers, timeout_ns: int, timeout_s: float | None) -> None:
    (request,) = peers.exchange(asked(1, timeout_nano=timeout_ns))
    assert request.timeout_s == timeout_s


def test_an_empty_answer_and_an_error(peers: Peers) -> None:
    peers.exchange(asked(1) + asked(3))
    peers.connection.respond(1, b"")
    peers.connection.fail(3, StatusError(ttrpc.NOT_FOUND, "no container 'a'"))
    assert peers.answers() == [(1, 0, "", b""), (3, 5, "no container 'a'", b"")]


@pytest.mark.parametrize("size", [1, 7, 10, 11])
def test_calls_in_pieces(peers: Peers, size: int) -> None:
    data = asked(1) + asked(3, "Wait") + asked(5)
    requests = []
    for at in range(0, len(data), size):
        peers.client.sendall(data[at : at + size])
        requests += peers.connection.receive()
    assert [(r.stream, r.method, r.payload) for r in requests] == [
        (1, "State", b"p1"),
        (3, "Wait", b"p3"),
        (5, "State", b"p5"),
    ]


def test_interleaved(peers: Peers) -> None:
    """A Wait that stays open hinders nobody; answers come in any order, each once."""
    connection = peers.connection
    peers.exchange(asked(1, "Wait") + asked(3, "Wait"))
    for stream in range(5, 105, 2):
        (request,) = peers.exchange(asked(stream))
        connection.respond(stream, request.payload)
        assert peers.answers() == [(stream, 0, "", b"p%d" % stream)]
    connection.respond(3, b"three")
    connection.respond(3, b"again")
    connection.fail(3, StatusError(ttrpc.INTERNAL, "again"))
    connection.respond(1, b"one")
    connection.respond(7777, b"never asked")
    assert peers.answers() == [(3, 0, "", b"three"), (1, 0, "", b"one")]


ODD = "StreamID must be odd for client initiated streams"
GONE = "StreamID is no longer active"
AGAIN = "StreamID cannot be re-used and must increment"
# name → what is sent, what is answered; the texts are those of containerd/ttrpc
WRONG: dict[str, tuple[bytes, list[tuple[int, int, str]]]] = {
    "an unknown service": (
        asked(1, service="a.B"),
        [(1, UNIMPLEMENTED, "service a.B")],
    ),
    "no service": (frame(1, REQUEST, b""), [(1, UNIMPLEMENTED, "service ")]),
    "an unknown method": (asked(1, "Fly"), [(1, UNIMPLEMENTED, "method Fly")]),
    "a method of the other service": (
        asked(1, "Wait", "containerd.task.v3.Task"),
        [(1, UNIMPLEMENTED, "method Wait")],
    ),
    "too long": (frame(1, REQUEST, LONG), [(1, RESOURCE_EXHAUSTED, TOO_LONG)]),
    "too long, even, of no type": (frame(2, 77, LONG), [(2, RESOURCE_EXHAUSTED, TOO_LONG)]),
    "an even stream": (asked(2), [(2, INVALID_ARGUMENT, ODD)]),
    "stream 0": (asked(0), [(0, INVALID_ARGUMENT, ODD)]),
    "an even stream, of no type": (frame(4, 9, b""), [(4, INVALID_ARGUMENT, ODD)]),
    "data from nowhere": (frame(1, DATA, b"x"), [(1, INVALID_ARGUMENT, GONE)]),
    "the end of nothing": (frame(1, DATA, b"", 5), [(1, INVALID_ARGUMENT, GONE)]),
    "a stream twice": (
        asked(1, "Fly") + asked(1),
        [(1, UNIMPLEMENTED, "method Fly"), (1, INVALID_ARGUMENT, AGAIN)],
    ),
    "a stream backwards": (
        asked(5, "Fly") + asked(3),
        [(5, UNIMPLEMENTED, "method Fly"), (3, INVALID_ARGUMENT, AGAIN)],
    ),
    "no request": (
        frame(1, REQUEST, b"\xff"),
        [(1, INVALID_ARGUMENT, "unmarshal request error: ttrpc.Request: truncated")],
    ),
    "bad UTF-8": (
        frame(1, REQUEST, b"\x0a\x01\xff"),
        [(1, INVALID_ARGUMENT, "unmarshal request error: ttrpc.Request.service: not UTF-8")],
    ),
    # passed over, as later versions may mean something by it
    "a response": (frame(1, RESPONSE, b"x"), []),
    "no type": (frame(1, 0, b"x"), []),
    "type 255": (frame(1, 255, b"x", 255), []),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong(peers: Peers, case: str) -> None:
    """One clear answer, on its stream; a call from before and one from after are served."""
    data, expected = WRONG[case]
    peers.exchange(asked(1, "Wait"))
    (later,) = peers.exchange(shifted(data) + asked(1001))
    assert later.payload == b"p1001"
    assert peers.answers() == [(stream + 100, code, text, b"") for stream, code, text in expected]
    peers.connection.respond(1001, b"later")
    peers.connection.respond(1, b"sooner")
    assert peers.answers() == [(1001, 0, "", b"later"), (1, 0, "", b"sooner")]
    assert not peers.connection.closed


def shifted(data: bytes) -> bytes:
    """The frames, their streams 100 further."""
    out, at = b"", 0
    while at < len(data):
        length, stream, kind, flags = struct.unpack_from(">IIBB", data, at)
        out += frame(stream + 100, kind, data[at + 10 : at + 10 + length], flags)
        at += 10 + length
    return out


def test_data_on_a_unary_stream_ends_it(peers: Peers) -> None:
    peers.exchange(asked(1, "Wait") + asked(3, "Wait"))
    assert peers.exchange(frame(1, DATA, b"more")) == []
    assert peers.answers() == [(1, INVALID_ARGUMENT, "data on a unary stream", b"")]
    peers.connection.respond(1, b"nobody waits")
    peers.connection.respond(3, b"three")
    assert peers.answers() == [(3, 0, "", b"three")]


@pytest.mark.parametrize("flags", [1, 2, 255])
def test_a_call_with_flags_is_a_call(peers: Peers, flags: int) -> None:
    """A client that takes the method for a streaming one, and says that no more will come."""
    data = bytearray(asked(1))
    data[9] = flags
    (request,) = peers.exchange(bytes(data) + frame(1, DATA, b"", 1 | NO_DATA))
    peers.connection.respond(request.stream, b"one")
    assert peers.answers() == [(1, 0, "", b"one")]


def test_an_answer_that_is_too_long(peers: Peers) -> None:
    peers.exchange(asked(1) + asked(3) + asked(5))
    peers.connection.respond(1, bytes(LENGTH_MAX))
    text = f"message length {LENGTH_MAX + 5} exceed maximum message size of {LENGTH_MAX}"
    assert peers.answers() == [(1, RESOURCE_EXHAUSTED, text, b"")]
    body = bytes(LENGTH_MAX - 5)
    peers.connection.respond(3, body)
    assert peers.connection.sending
    assert answers(peers.flush()) == [(3, 0, "", body)]
    peers.connection.fail(5, StatusError(ttrpc.UNKNOWN, "x" * LENGTH_MAX))
    ((stream, code, _, _),) = peers.answers()
    assert (stream, code) == (5, RESOURCE_EXHAUSTED)


def test_a_client_that_stops_reading_is_sent_away_and_nobody_waits(peers: Peers) -> None:
    other, connection = Peers(), peers.connection
    body = bytes(1 << 20)
    answered = 0
    for stream in range(1, 201, 2):
        peers.client.sendall(asked(stream))
        for request in connection.receive():
            connection.respond(request.stream, body)
        if connection.closed:
            break
        answered += 1
        assert len(connection._outgoing) <= OUTGOING_MAX
        (request,) = other.exchange(asked(stream))
        other.connection.respond(stream, b"quick")
        assert other.answers() == [(stream, 0, "", b"quick")]
    assert connection.closed and not connection.sending
    assert 8 <= answered < 12
    connection.respond(999, b"goes nowhere")
    connection.close()
    # what was written before it was sent away, then the end; never a frame that is not whole
    peers.client.settimeout(patient(5))
    data = b""
    while piece := peers.client.recv(1 << 20):
        data += piece
    assert (
        data
        and data == (frame(1, RESPONSE, encode("ttrpc.Response", {"payload": body})))[: len(data)]
    )
    other.connection.close()
    other.client.close()


def test_a_client_that_reads_slowly_gets_everything(peers: Peers) -> None:
    streams = range(1, 41, 2)
    data = b""
    for stream in streams:
        peers.exchange(asked(stream))
        peers.connection.respond(stream, b"%d" % stream * 100_000)
        data += peers.client.recv(50_000)
        peers.connection.send()
    assert peers.connection.sending and not peers.connection.closed
    data += peers.flush()
    assert answers(data) == [(s, 0, "", b"%d" % s * 100_000) for s in streams]


def test_a_client_that_is_gone(peers: Peers) -> None:
    peers.exchange(asked(1, "Wait"))
    peers.client.close()
    assert peers.connection.receive() == []
    assert peers.connection.closed
    peers.connection.respond(1, b"goes nowhere")
    peers.connection.send()
    peers.connection.close()
    peers.connection.respond(1, b"goes nowhere")


def test_a_client_that_is_gone_when_it_is_answered(peers: Peers) -> None:
    peers.exchange(asked(1, "Wait"))
    peers.client.close()
    peers.connection.respond(1, b"goes nowhere")
    assert peers.connection.closed and not peers.connection.sending


def test_a_client_that_ends_amid_a_frame(peers: Peers) -> None:
    peers.client.sendall(asked(1) + asked(3)[:-1])
    peers.client.shutdown(socket.SHUT_WR)
    assert [request.stream for request in peers.connection.receive()] == [1]
    assert peers.connection.receive() == []
    assert peers.connection.closed


def test_nothing_to_read(peers: Peers) -> None:
    assert peers.connection.receive() == []
    assert not peers.connection.closed and not peers.connection.sending
    assert peers.connection.fileno() >= 0


@given(st.lists(st.binary(max_size=30), max_size=6))
def test_anything(pieces: list[bytes]) -> None:
    pair = Peers()
    for piece in pieces:
        pair.connection.feed(piece)
    assert not pair.connection.closed
    answers(pair.read())
    pair.connection.close()
    pair.client.close()


# ---- a client's call


# ---- the rest


def test_codes() -> None:
    names = {name for name in vars(ttrpc) if name.isupper() and name not in ("DATA", "REQUEST")}
    for name in ttrpc.CODES:
        constant = "".join(f"_{c}" if c.isupper() else c for c in name).strip("_").upper()
        if constant in names:
            assert ttrpc.CODES[vars(ttrpc)[constant]] == name
    assert ttrpc.CODES[ttrpc.OK] == "OK" and len(ttrpc.CODES) == 17


def test_what_is_imported() -> None:
    probe = (
        "import sys; bare = set(sys.modules); sys.path.insert(0, sys.argv[1]); "
        "import urunc.shim.ttrpc; print(*sorted(set(sys.modules) - bare))"
    )
    command = [sys.executable, "-I", "-S", "-c", probe, str(SOURCE)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    ours = ["urunc", "urunc.record", "urunc.shim", "urunc.shim.messages", "urunc.shim.tables"]
    assert answer.stdout.split() == ["__future__", "_socket", "_struct", *ours, "urunc.shim.ttrpc"]
