# SPDX-License-Identifier: Apache-2.0
"""netlink(7): messages, attributes, dumps and acknowledgements, whatever the protocol.

Hand-written, because importing pyroute2 takes 200 ms and a whole container start takes a tenth of
that. A socket speaks to the network namespace in which it was opened, wherever the thread goes
later; to the host's it may put questions, and changes nothing there.
"""

from __future__ import annotations

import posix
from _socket import AF_NETLINK, SO_RCVBUF, SO_SNDBUF, SOCK_CLOEXEC, SOCK_RAW, SOL_SOCKET, socket
from _struct import pack, unpack_from

from urunc.linux.namespaces import call_in_network, host_network_error, in_host_network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TypeVar

    T = TypeVar("T")
    AnySocket = TypeVar("AnySocket", bound="Socket")

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF
RECEIVE_BYTES = 1 << 17
BUFFER_BYTES = 1 << 20
DUMPS = 10
"""How often a dump is begun anew before what it says is taken all the same."""
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33  # socket(7); the same on every architecture but a few old


class Socket:
    """One netlink socket. A refused request is an OSError with the kernel's errno."""

    def __init__(self, protocol: int, *, host: bool = False) -> None:
        """`host`: for what config.json says of the host's network by name, and nothing else."""
        self._of_host = not host and in_host_network()
        self._socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)
        for forced, usual in ((SO_RCVBUFFORCE, SO_RCVBUF), (SO_SNDBUFFORCE, SO_SNDBUF)):
            try:
                self._socket.setsockopt(SOL_SOCKET, forced, BUFFER_BYTES)
            except PermissionError:  # not the host's root: as much as sysctl lets everybody have
                self._socket.setsockopt(SOL_SOCKET, usual, BUFFER_BYTES)
        self._socket.bind((0, 0))
        self._sequence = 0
        self._interrupted = False
        self.said: list[tuple[int, bytes]] | None = None
        """Gets (kind, body) of each message that answers, where it is a list."""

    def close(self) -> None:
        """Let go of the socket (and with it of the namespace)."""
        self._socket.close()

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Everything of one kind, a message's body each. A dump in whose time something of that
        kind has changed may lack what was there all along, and says so (NLM_F_DUMP_INTR, Linux
        3.10): it is begun anew, some times."""
        before = len(self.said or ())
        for _ in range(DUMPS):
            if self.said is not None:
                del self.said[before:]
            self._interrupted = False
            self._socket.send(self._message(kind, NLM_F_DUMP, body))
            found = list(self._answers({self._sequence}))
            if not self._interrupted:
                break
        return found

    def get(self, kind: int, body: bytes) -> bytes:
        """One thing that is asked for, its message's body."""
        self._socket.send(self._message(kind, NLM_F_ACK, body))
        return b"".join(self._answers({self._sequence}))

    def request(self, kind: int, flags: int, body: bytes) -> None:
        """Have something changed; EOPNOTSUPP where the namespace is the host's."""
        self._refuse_host()
        self._socket.send(self._message(kind, NLM_F_ACK | flags, body))
        for _ in self._answers({self._sequence}):
            pass

    def transact(self, messages: Iterable[tuple[int, int, bytes]]) -> None:
        """Have all of several (kind, flags, body) done, or none of it where the protocol knows
        transactions; the first refusal is raised, EOPNOTSUPP where the namespace is the host's.
        What carries NLM_F_ACK is waited for."""
        self._refuse_host()
        batch, waiting = b"", set()
        for kind, flags, body in messages:
            batch += self._message(kind, flags, body)
            if flags & NLM_F_ACK:
                waiting.add(self._sequence)
        self._socket.send(batch)
        for _ in self._answers(waiting):
            pass

    def _refuse_host(self) -> None:
        if self._of_host:
            raise host_network_error()

    def _message(self, kind: int, flags: int, body: bytes) -> bytes:
        self._sequence += 1
        return message(kind, NLM_F_REQUEST | flags, self._sequence, body)

    def _answers(self, waiting: set[int]) -> Iterator[bytes]:
        """The bodies that answer these messages, until each has had its end."""
        failure = 0
        while waiting:
            datagram = self._socket.recv(RECEIVE_BYTES)
            offset = 0
            while offset + 16 <= len(datagram):
                length, kind, flags, sequence = unpack_from("IHHI", datagram, offset)
                body = datagram[offset + 16 : offset + length]
                offset += (length + 3) & ~3
                if sequence not in waiting:
                    if kind == NLMSG_ERROR and -unpack_from("i", body)[0] and not failure:
                        # a batch as a whole was refused: no more answers will come
                        failure = -unpack_from("i", body)[0]
                        waiting.clear()
                    continue
                if flags & NLM_F_DUMP_INTR:
                    self._interrupted = True
                if kind == NLMSG_DONE:
                    waiting.discard(sequence)
                elif kind == NLMSG_ERROR:
                    waiting.discard(sequence)
                    failure = failure or -unpack_from("i", body)[0]
                else:
                    if self.said is not None:
                        self.said.append((kind, body))
                    yield body
        if failure:
            raise OSError(failure, posix.strerror(failure))


_kept: dict[tuple[type[Socket], str], Socket] | None = None
"""What `ask` keeps open, by kind and namespace; None where it keeps nothing."""


class Kept:
    """While it is entered, `ask` keeps its sockets: for who has much to ask."""

    def __enter__(self) -> None:
        global _kept
        self._before, _kept = _kept, {}

    def __exit__(self, *problem: object) -> None:
        global _kept
        for kept in (_kept or {}).values():
            kept.close()
        _kept = self._before


def ask(kind: type[AnySocket], namespace: str, question: Callable[[AnySocket], T]) -> T:
    """Call a function with a socket of a kind that speaks to the namespace at a path."""
    known = None if _kept is None else _kept.get((kind, namespace))
    netlink: Any = known or call_in_network(namespace, kind)
    try:
        answer = question(netlink)
    except BaseException:  # there may be more answers to come
        if _kept is not None:
            _kept.pop((kind, namespace), None)
        netlink.close()
        raise
    if _kept is None:
        netlink.close()
    else:
        _kept[kind, namespace] = netlink
    return answer


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """A message (struct nlmsghdr, and its body), padded."""
    header = pack("IHHII", 16 + len(body), kind, flags, sequence, 0)
    return header + body + bytes(-len(body) % 4)


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute (struct nlattr), padded."""
    length = 4 + len(value)
    return pack("HH", length, kind) + value + bytes(-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def attributes(buffer: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, value) of each attribute in a buffer, as far as they are whole."""
    offset = 0
    while offset + 4 <= len(buffer):
        length, kind = unpack_from("HH", buffer, offset)
        if length < 4:
            return
        yield kind & NLA_TYPE_MASK, buffer[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def text(value: bytes) -> str:
    """A string attribute's value."""
    return value.rstrip(b"\0").decode("utf-8", "replace")
