# SPDX-License-Identifier: Apache-2.0
"""Passes connections and datagrams at this machine's ports on to the guest, as Docker's userland
proxy does: so a port works at 127.0.0.1, at ::1 and at any address, whatever rules this machine
has.

Runs in the keeper, in this machine's network namespace. A client that comes before the guest has
booted waits for it.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from functools import partial
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from urunc.trial.ports import Listener

CHUNK_BYTES = 1 << 16
BOOT_S = 120.0
"""How long a client waits for a guest that has not answered yet."""
RETRY_S, CONNECT_S = 0.1, 2.0
CLIENTS = 256
"""UDP clients of a port that are remembered; the longest silent one is forgotten first."""


class Forwarder:
    """All ports of one guest."""

    def __init__(self, addresses: tuple[str, ...], answered: Callable[[Listener], None]) -> None:
        """`addresses` are the guest's, best first; `answered` is told where it answered first."""
        self.addresses = addresses
        self.answered = answered
        self.first = True
        self._since = monotonic()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listeners: list[Listener]) -> None:
        """Begin to listen; what is served goes on until the loop ends."""
        loop = asyncio.get_running_loop()
        for item in listeners:
            item.socket.setblocking(False)
            if item.port.protocol == "tcp":
                await asyncio.start_server(self._handler(item), sock=item.socket)
            else:
                protocol = partial(_Datagrams, self.addresses[0], item.port.guest)
                await loop.create_datagram_endpoint(protocol, sock=item.socket)
        tcp = [item for item in listeners if item.port.protocol == "tcp"]
        if tcp:
            task = loop.create_task(self._watch(tcp[0]))
            self._tasks.add(task)

    async def _watch(self, item: Listener) -> None:
        """Find out when the guest answers at a port for the first time, by a connection."""
        found = await self._connect(item)
        if found:
            found[1].close()

    def _handler(
        self, item: Listener
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found = await self._connect(item)
            if found:
                inner, out = found
                await asyncio.gather(_copy(reader, out), _copy(inner, writer))
                out.close()
            writer.close()

        return handle

    async def _connect(
        self, item: Listener
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        while True:
            for address in self.addresses:
                with suppress(OSError, TimeoutError):
                    found = await asyncio.wait_for(
                        asyncio.open_connection(address, item.port.guest), CONNECT_S
                    )
                    if self.first:
                        self.first = False
                        self.answered(item)
                    return found
            if not self.first or monotonic() > self._since + BOOT_S:
                return None
            await asyncio.sleep(RETRY_S)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while part := await reader.read(CHUNK_BYTES):
            writer.write(part)
            await writer.drain()
        writer.write_eof()


class _Datagrams(asyncio.DatagramProtocol):
    """A UDP port: each client has a socket of its own towards the guest, and so its answers."""

    def __init__(self, address: str, port: int) -> None:
        self.address, self.port = address, port
        self.clients: dict[Any, socket.socket] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The port is open."""
        assert isinstance(transport, asyncio.DatagramTransport)
        self.transport = transport

    def datagram_received(self, data: bytes, client: Any) -> None:
        """Pass a client's datagram on."""
        known = self.clients.pop(client, None) or self._new(client)
        self.clients[client] = known
        with suppress(OSError):
            known.send(data)

    def _new(self, client: Any) -> socket.socket:
        loop = asyncio.get_running_loop()
        while len(self.clients) >= CLIENTS:
            old = self.clients.pop(next(iter(self.clients)))
            loop.remove_reader(old)
            old.close()
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.setblocking(False)
        opened.connect((self.address, self.port))
        loop.add_reader(opened, self._back, opened, client)
        return opened

    def _back(self, opened: socket.socket, client: Any) -> None:
        with suppress(OSError):
            data = opened.recv(1 << 16)
            self.transport.sendto(data, client)
