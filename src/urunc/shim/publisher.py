# SPDX-License-Identifier: Apache-2.0
"""Events to containerd, in order, without waiting for it.

One at a time goes to containerd's ttrpc socket (containerd.services.events.ttrpc.v1.Events); while
containerd is away they queue, and each is tried several times, as containerd's own shims do.
"""

from __future__ import annotations

from _socket import AF_UNIX, MSG_DONTWAIT, MSG_NOSIGNAL, SOCK_CLOEXEC, SOCK_STREAM, socket
from select import POLLIN, POLLOUT
from time import monotonic, time_ns

from urunc.shim import ttrpc
from urunc.shim.messages import MessageError, any_of, decode, encode, timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SERVICE = "containerd.services.events.ttrpc.v1.Events"
TOPICS = {
    "TaskCreate": "/tasks/create",
    "TaskStart": "/tasks/start",
    "TaskOOM": "/tasks/oom",
    "TaskExit": "/tasks/exit",
    "TaskDelete": "/tasks/delete",
    "TaskExecAdded": "/tasks/exec-added",
    "TaskExecStarted": "/tasks/exec-started",
    "TaskPaused": "/tasks/paused",
    "TaskResumed": "/tasks/resumed",
    "TaskCheckpointed": "/tasks/checkpointed",
}
TRIES = 5
QUEUE_LIMIT = 2048
"""As containerd's own shims: what does not fit is lost, the newest first."""
PATIENCE_S = 5.0
"""How long one event may take."""


class Publisher:
    """The queue of events, and the connection that takes them away."""

    def __init__(self, address: str, namespace: str) -> None:
        self.address = address.removeprefix("unix://")
        self.namespace = namespace
        self._queue: list[tuple[bytes, int]] = []
        self._client: _Forward | None = None
        self._deadline_s = 0.0
        self._retry_s = 0.0

    def publish(self, name: str, **values: Any) -> None:
        """Queue an event: the name and the fields of a message of containerd.events."""
        if not self.address or len(self._queue) >= QUEUE_LIMIT:
            return
        envelope = {
            "timestamp": timestamp(time_ns()),
            "namespace": self.namespace,
            "topic": TOPICS[name],
            "event": any_of(f"containerd.events.{name}", values),
        }
        request = encode(
            "containerd.services.events.ttrpc.v1.ForwardRequest", {"envelope": envelope}
        )
        self._queue.append((request, TRIES))
        self.advance()

    @property
    def busy(self) -> bool:
        """Whether there is something to tell still."""
        return bool(self._queue)

    def descriptors(self) -> list[tuple[int, int, Callable[[int], None]]]:
        """(descriptor, events, what to call then) to poll for."""
        return [(*self._client.interest(), lambda _: self.advance())] if self._client else []

    def timeout_s(self) -> float | None:
        """When to be asked again, whatever happens; None: not at all."""
        if self._client:
            return max(0.0, self._deadline_s - monotonic())
        return max(0.0, self._retry_s - monotonic()) if self._queue else None

    def advance(self) -> None:
        """Go on as far as it goes without waiting."""
        while self._queue:
            if not self._client:
                if monotonic() < self._retry_s:
                    return
                request, tries = self._queue[0]
                try:
                    self._client = _Forward(self.address, self.namespace, request)
                except OSError:
                    self._failed(tries)
                    return
                self._deadline_s = monotonic() + PATIENCE_S
            try:
                if not self._client.advance():
                    if monotonic() > self._deadline_s:
                        raise TimeoutError
                    return
                self._queue.pop(0)
            except (OSError, ttrpc.StatusError):
                self._client.close()
                self._client = None
                self._failed(self._queue[0][1])
                return
            self._client.close()
            self._client = None

    def _failed(self, tries: int) -> None:
        request, _ = self._queue[0]
        if tries <= 1:
            self._queue.pop(0)
        else:
            self._queue[0] = (request, tries - 1)
        self._retry_s = monotonic() + 0.5 * (TRIES - tries + 1)


class _Forward:
    """One Forward, on a connection of its own that never blocks."""

    def __init__(self, address: str, namespace: str, payload: bytes) -> None:
        values = {
            "service": SERVICE,
            "method": "Forward",
            "payload": payload,
            "timeout_nano": int(PATIENCE_S * 1e9),
            "metadata": [{"key": "containerd-namespace-ttrpc", "value": namespace}],
        }
        self._outgoing = ttrpc.frame(1, ttrpc.REQUEST, encode("ttrpc.Request", values))
        self._parser = ttrpc.Parser()
        self._socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        self._socket.setblocking(False)
        try:
            self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise

    def interest(self) -> tuple[int, int]:
        """(descriptor, events) to poll for."""
        return self._socket.fileno(), POLLIN | (POLLOUT if self._outgoing else 0)

    def advance(self) -> bool:
        """Whether it is answered; raises OSError, StatusError."""
        try:
            while self._outgoing:
                sent = self._socket.send(self._outgoing, MSG_DONTWAIT | MSG_NOSIGNAL)
                self._outgoing = self._outgoing[sent:]
            data = self._socket.recv(ttrpc.RECEIVE_BYTES, MSG_DONTWAIT)
        except BlockingIOError:
            return False
        if not data:
            raise ConnectionResetError
        for received in self._parser.feed(data):
            try:
                status = decode("ttrpc.Response", received.payload or b"")["status"]
            except MessageError as error:
                raise ttrpc.StatusError(ttrpc.INTERNAL, str(error)) from None
            if status and status["code"]:
                raise ttrpc.StatusError(status["code"], status["message"])
            return True
        return False

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
