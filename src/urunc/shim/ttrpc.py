# SPDX-License-Identifier: Apache-2.0
"""ttrpc: containerd's remote calls over a local stream socket; both ends, for unary calls.

A server's connection never blocks and never grows without a bound, so that one peer's behaviour is
nobody else's trouble: it belongs into a poll loop, which calls `receive` when it can be read and
`send` when it can be written. `call` is the client, and does block, up to its time limit. Which
method does what is not decided here.

What a peer does wrong is answered as containerd/ttrpc's server answers it: on the stream in
question, with a status, and the connection goes on. In two cases that server would fall (data on a
unary stream) or close the connection (an answer that is too long); ours has a status there as well.
"""

from __future__ import annotations

from _socket import (
    AF_UNIX,
    MSG_NOSIGNAL,
    SO_SNDTIMEO,
    SOCK_CLOEXEC,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)
from _struct import pack, unpack_from
from time import monotonic

from urunc.record import record
from urunc.shim.messages import MessageError, decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Mapping

HEADER_BYTES = 10
LENGTH_MAX = 4 << 20
# what a client may leave unread: the longest answer, and as much again
OUTGOING_MAX = 2 * (HEADER_BYTES + LENGTH_MAX)
RECEIVE_BYTES = 1 << 16

REQUEST, RESPONSE, DATA = 1, 2, 3
NO_DATA = 4

# gRPC's codes, by number
CODES = (
    *("OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound"),
    *("AlreadyExists", "PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted"),
    *("OutOfRange", "Unimplemented", "Internal", "Unavailable", "DataLoss", "Unauthenticated"),
)
OK, UNKNOWN, INVALID_ARGUMENT, NOT_FOUND = 0, 2, 3, 5
ALREADY_EXISTS, RESOURCE_EXHAUSTED, FAILED_PRECONDITION = 6, 8, 9
UNIMPLEMENTED, INTERNAL = 12, 13


class StatusError(Exception):
    """A call's answer that is not OK: a gRPC code and a text."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        name = CODES[self.code] if 0 <= self.code < len(CODES) else str(self.code)
        return f"{name}: {self.message}"


@record
class Frame:
    """What one header stands before; without a payload where that was too long and is thrown
    away."""

    stream: int
    kind: int
    flags: int
    length: int
    payload: bytes | None


@record
class Request:
    """A call that waits for its answer."""

    stream: int
    service: str
    method: str
    payload: bytes
    # seconds from now on; None: no limit
    timeout_s: float | None
    # of several values for a key, the first
    metadata: Mapping[str, str]


def frame(stream: int, kind: int, payload: bytes, flags: int = 0) -> bytes:
    """A frame's bytes; the caller has checked the length."""
    return pack(">IIBB", len(payload), stream, kind, flags) + payload


class Parser:
    """Turns received bytes, cut anywhere, into frames. Holds one frame at most."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._oversize: Frame | None = None
        self._discard_bytes = 0

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are whole with these bytes. One that is too long comes after its last
        byte, which is when its sender can be expected to listen."""
        self._buffer += data
        frames = []
        while (whole := self._next()) is not None:
            frames.append(whole)
        return frames

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if self._oversize is not None:
            gone = min(self._discard_bytes, len(buffer))
            del buffer[:gone]
            self._discard_bytes -= gone
            if self._discard_bytes:
                return None
            oversize, self._oversize = self._oversize, None
            return oversize
        if len(buffer) < HEADER_BYTES:
            return None
        length, stream, kind, flags = unpack_from(">IIBB", buffer)
        if length > LENGTH_MAX:
            del buffer[:HEADER_BYTES]
            self._discard_bytes = length
            self._oversize = Frame(
                stream=stream, kind=kind, flags=flags, length=length, payload=None
            )
            return self._next()
        end = HEADER_BYTES + length
        if len(buffer) < end:
            return None
        payload = bytes(buffer[HEADER_BYTES:end])
        del buffer[:end]
        return Frame(stream=stream, kind=kind, flags=flags, length=length, payload=payload)


class Connection:
    """A server's end of one connection. `services` are the names of the methods of each.

    `closed` is True when the peer is gone, or was sent away because it does not read: the loop then
    calls `close` and forgets it. Answers to what is no longer asked go nowhere.
    """

    def __init__(self, peer: socket, services: Mapping[str, Container[str]]) -> None:
        peer.setblocking(False)
        self.closed = False
        self._socket = peer
        self._services = services
        self._parser = Parser()
        self._outgoing = bytearray()
        self._active: set[int] = set()
        self._last_stream = 0

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._socket.fileno()

    @property
    def sending(self) -> bool:
        """Whether something waits until it can be written."""
        return bool(self._outgoing)

    def close(self) -> None:
        """Let go of the socket, without another word."""
        self.closed = True
        self._active.clear()
        self._outgoing.clear()
        self._socket.close()

    def receive(self) -> list[Request]:
        """The calls that have come whole, once it can be read; what is wrong has its answer
        already."""
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.closed = True
        return self.feed(data)

    def feed(self, data: bytes) -> list[Request]:
        """`receive`, of bytes that were read already."""
        requests = []
        for received in self._parser.feed(data):
            try:
                request = self._request(received)
            except StatusError as error:
                self._answer(received.stream, b"", error)
                self._active.discard(received.stream)
            else:
                if request is not None:
                    self._active.add(request.stream)
                    requests.append(request)
        return requests

    def _request(self, received: Frame) -> Request | None:
        """The call in a frame, None for what is passed over."""
        stream = received.stream
        if received.payload is None:
            raise _too_long(received.length)
        if stream % 2 != 1:
            raise StatusError(INVALID_ARGUMENT, "StreamID must be odd for client initiated streams")
        if received.kind == DATA:
            if stream not in self._active:
                raise StatusError(INVALID_ARGUMENT, "StreamID is no longer active")
            if received.flags & NO_DATA and not received.payload:
                return None  # only says that no more will come
            raise StatusError(INVALID_ARGUMENT, "data on a unary stream")
        if received.kind != REQUEST:
            return None  # kept for later versions of the protocol
        if stream <= self._last_stream:
            raise StatusError(INVALID_ARGUMENT, "StreamID cannot be re-used and must increment")
        self._last_stream = stream
        # the flags of a request (more will come, or nothing more) say nothing to a unary method
        try:
            values = decode("ttrpc.Request", received.payload)
        except MessageError as error:
            raise StatusError(INVALID_ARGUMENT, f"unmarshal request error: {error}") from None
        service, method, timeout_ns = values["service"], values["method"], values["timeout_nano"]
        if service not in self._services:
            raise StatusError(UNIMPLEMENTED, f"service {service}")
        if method not in self._services[service]:
            raise StatusError(UNIMPLEMENTED, f"method {method}")
        metadata: dict[str, str] = {}
        for pair in values["metadata"]:
            metadata.setdefault(pair["key"], pair["value"])
        return Request(
            stream=stream,
            service=service,
            method=method,
            payload=values["payload"],
            timeout_s=max(timeout_ns, 0) / 1e9 if timeout_ns else None,
            metadata=metadata,
        )

    def respond(self, stream: int, payload: bytes) -> None:
        """Answer a call with its method's response."""
        if stream in self._active:
            self._active.discard(stream)
            self._answer(stream, payload, None)

    def fail(self, stream: int, error: StatusError) -> None:
        """Answer a call with an error."""
        if stream in self._active:
            self._active.discard(stream)
            self._answer(stream, b"", error)

    def _answer(self, stream: int, payload: bytes, error: StatusError | None) -> None:
        body = _response(payload, error)
        if len(body) > LENGTH_MAX:
            body = _response(b"", _too_long(len(body)))
        if not self.closed:
            self._outgoing += frame(stream, RESPONSE, body)
            self.send()

    def send(self) -> None:
        """Write as much as can be written now."""
        try:
            while self._outgoing:
                sent = self._socket.send(self._outgoing, MSG_NOSIGNAL)
                del self._outgoing[:sent]
        except BlockingIOError:
            if len(self._outgoing) > OUTGOING_MAX:
                self.closed = True
        except OSError:
            self.closed = True
        if self.closed:
            self._outgoing.clear()


def _response(payload: bytes, error: StatusError | None) -> bytes:
    status = {"code": error.code, "message": error.message} if error else None
    return encode("ttrpc.Response", {"status": status, "payload": payload})


def _too_long(length: int) -> StatusError:
    return StatusError(
        RESOURCE_EXHAUSTED,
        f"message length {length} exceed maximum message size of {LENGTH_MAX}",
    )


def call(
    address: str,
    service: str,
    method: str,
    payload: bytes,
    timeout_s: float,
    metadata: Mapping[str, str],
) -> bytes:
    """One call over a connection of its own; the answer's payload.

    A StatusError is the server's (or Internal: its answer was none); TimeoutError is ours, and any
    other OSError means that it could not be reached or hung up.
    """
    deadline = monotonic() + timeout_s
    request = encode(
        "ttrpc.Request",
        {
            "service": service,
            "method": method,
            "payload": payload,
            "timeout_nano": int(timeout_s * 1e9),
            "metadata": [{"key": key, "value": metadata[key]} for key in metadata],
        },
    )
    if len(request) > LENGTH_MAX:
        raise _too_long(len(request))
    peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        # a server that does not accept: connect waits as a write does, and says EAGAIN at the end
        seconds, microseconds = divmod(max(int(timeout_s * 1e6), 1), 1_000_000)
        peer.setsockopt(SOL_SOCKET, SO_SNDTIMEO, pack("@ll", seconds, microseconds))
        try:
            peer.connect(address.removeprefix("unix://"))
        except BlockingIOError:
            raise TimeoutError("timed out") from None
        _limit(peer, deadline)
        peer.sendall(frame(1, REQUEST, request), MSG_NOSIGNAL)
        return _answered(peer, deadline)
    finally:
        peer.close()


def _limit(peer: socket, deadline: float) -> None:
    remaining = deadline - monotonic()
    if remaining <= 0:
        raise TimeoutError("timed out")
    peer.settimeout(remaining)


def _answered(peer: socket, deadline: float) -> bytes:
    """The payload that answers the first stream."""
    parser = Parser()
    while True:
        _limit(peer, deadline)
        data = peer.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError("the connection ended before the answer")
        for received in parser.feed(data):
            if received.stream != 1:
                continue
            if received.payload is None:
                raise _too_long(received.length)
            if received.kind != RESPONSE:
                raise StatusError(INTERNAL, f"message of type {received.kind} for an answer")
            try:
                values = decode("ttrpc.Response", received.payload)
            except MessageError as error:
                raise StatusError(INTERNAL, str(error)) from None
            status = values["status"]
            if status is not None and status["code"] != OK:
                raise StatusError(status["code"], status["message"])
            answer: bytes = values["payload"]
            return answer
