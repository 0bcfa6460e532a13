# SPDX-License-Identifier: Apache-2.0
"""The ports of `-p [ADDRESS:][HOST:]GUEST[/tcp|udp]`, and the sockets that listen at them."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from errno import EADDRINUSE

from urunc.errors import HostError, UsageError, reason
from urunc.record import record

LOOPBACK = ("127.0.0.1", "::1")
"""Where a port is without an ADDRESS: on this machine alone."""
HIGHEST = 65535
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@record
class Port:
    """A port of this machine that leads to one of the guest's."""

    addresses: tuple[str, ...]
    host: int
    """0: any that is free."""
    guest: int
    protocol: str

    def shown(self, address: str) -> str:
        """Where it answers, as one types it."""
        scheme = "http://" if self.protocol == "tcp" and self.guest in (80, 8000, 8080) else ""
        return f"{scheme}{_written(address)}:{self.host}{'/udp' if self.protocol == 'udp' else ''}"


@record
class Listener:
    """A socket of a port."""

    port: Port
    address: str
    socket: socket.socket


def _written(address: str) -> str:
    """An address as it stands before a port."""
    return f"[{address}]" if ":" in address else address


def parse(text: str) -> Port:
    """A value of `-p`; raises UsageError."""
    rest, _, protocol = text.partition("/")
    address = ""
    if rest.startswith("["):
        address, closed, rest = rest[1:].partition("]")
        if not closed or not rest.startswith(":"):
            raise _wrong(text, "an IPv6 address is written [::1]:8080:80")
        rest = rest[1:]
    elif rest.count(":") > 1:
        address, _, rest = rest.partition(":")
    host, colon, guest = rest.rpartition(":")
    if protocol not in ("", *KINDS):
        raise _wrong(text, "a protocol is tcp or udp")
    for number in (guest, *([host] if colon and host else [])):
        if not number.isdecimal() or len(number) > 5 or int(number) > HIGHEST:
            raise _wrong(text, f"'{number}' is no port")
    if not int(guest):
        raise _wrong(text, "the guest's port cannot be 0")
    if address and not _is_address(address):
        raise _wrong(text, f"'{address}' is no address")
    return Port(
        addresses=(address,) if address else LOOPBACK,
        host=int(host or 0),
        guest=int(guest),
        protocol=protocol or "tcp",
    )


def _wrong(text: str, why: str) -> UsageError:
    return UsageError(
        f"option '--publish': '{text}': {why}",
        "[ADDRESS:][HOST:]GUEST[/udp], for example 8080:80 or 0.0.0.0:5353:53/udp",
    )


def _is_address(text: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
            return True
        except OSError:
            continue
    return False


def open_at(port: Port, stack: ExitStack) -> list[Listener]:
    """Listen at a port's addresses; of several, those that this machine does not have (IPv6 where
    it is off) are left out. The sockets are closed with the stack, or right now on errors. Raises
    HostError."""
    found: list[Listener] = []
    with ExitStack() as mine:
        for address in port.addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            number = found[0].port.host if found else port.host
            try:
                opened = mine.enter_context(socket.socket(family, KINDS[port.protocol]))
                if family == socket.AF_INET6:
                    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if port.protocol == "tcp":
                    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                opened.bind((address, number))
                if port.protocol == "tcp":
                    opened.listen(128)
            except OSError as error:
                if error.errno != EADDRINUSE and address != port.addresses[0]:
                    continue
                raise _refused(port, address, number, error) from None
            settled = Port(
                addresses=port.addresses,
                host=opened.getsockname()[1],
                guest=port.guest,
                protocol=port.protocol,
            )
            found.append(Listener(port=settled, address=address, socket=opened))
        stack.enter_context(mine.pop_all())
    return found


def _refused(port: Port, address: str, number: int, error: OSError) -> HostError:
    hint = "give it an address of this machine"
    if error.errno == EADDRINUSE:
        letter = "u" if port.protocol == "udp" else "t"
        hint = f"choose another (-p :{port.guest} takes a free one); ss -l{letter}np says whose"
    elif number and number < 1024:
        hint = "ports below 1024 are root's: choose a higher one"
    return HostError(f"port {_written(address)}:{number}/{port.protocol}: {reason(error)}", hint)
