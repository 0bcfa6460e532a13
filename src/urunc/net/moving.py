# SPDX-License-Identifier: Apache-2.0
"""linux.netDevices: devices of the host's that move into the container's network namespace, before
anything looks at what is there.

Runs in the runtime, with the host's privilege, in its network namespace. A device keeps what it is
called or gets the name that is asked for, keeps its permanent addresses of global scope, and is up
(config-linux.md, Network Devices). Nothing brings it back when the container ends: the kernel does
so with hardware, and removes the rest with the namespace. A `create` that fails gives it back.
"""

from __future__ import annotations

import posix

from urunc.errors import HostError, reason
from urunc.linux.namespaces import call_in_network, identity, open_namespace
from urunc.linux.rtnetlink import Address, Link, Rtnetlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

HOME = "/proc/thread-self/ns/net"


class Moved:
    """The devices of one container that were moved, newest last."""

    def __init__(self, namespace: str) -> None:
        self.home = open_namespace(HOME)
        self.there = open_namespace(namespace)  # kept, so that a failure can give them back
        self.done: list[tuple[Link, str, list[Address]]] = []

    def names(self) -> tuple[str, ...]:
        """What the devices are called now."""
        return tuple(name for _, name, _ in self.done)

    def give_back(self) -> list[str]:
        """Bring all of them back, as they were; what could not be, in words."""
        problems = []
        for link, name, addresses in reversed(self.done):
            try:
                _move(_inside(self.there), self.home, name, link.name, addresses, up=link.up)
            except OSError as error:
                problems.append(f"give back network device '{link.name}': {reason(error)}")
        return problems

    def close(self) -> None:
        """Let go of the namespaces."""
        posix.close(self.home)
        posix.close(self.there)


def move(devices: Mapping[str, str], namespace: str) -> Moved:
    """Move devices (name → name inside) to the namespace at a path; on failure none is. Raises
    HostError."""
    if identity(namespace) == identity(HOME):
        raise HostError(
            "linux.netDevices: the container's network namespace is the one that they are in",
            "give it one of its own",
        )
    moved = Moved(namespace)
    try:
        for name, wanted in devices.items():
            _one(moved, name, wanted)
    except BaseException:
        moved.give_back()
        moved.close()
        raise
    return moved


def _one(moved: Moved, name: str, wanted: str) -> None:
    where = f"linux.netDevices.{name}"
    home = _open()
    try:
        link = next((link for link in home.links() if link.name == name), None)
        if link is None:
            raise HostError(f"{where}: the host has no network device of this name")
        addresses = [
            address
            for address in home.addresses()
            if address.index == link.index and address.permanent and address.universe
        ]
        wanted = wanted or name
        taken = {other.name for other in _links(moved.there)}
        if wanted in taken:
            raise HostError(
                f"{where}.name: the container's network namespace has a '{wanted}' already",
                "choose another name, or one with %d for a free number",
            )
        now = _move(home, moved.there, name, wanted, addresses, up=True)
        moved.done.append((link, now, addresses))
    except OSError as error:
        raise HostError(
            f"{where}: move to the container's network namespace: {reason(error)}",
            "it takes CAP_NET_ADMIN on the host, and a device that the kernel lets go",
        ) from None
    finally:
        home.close()


def _move(
    netlink: Rtnetlink, target: int, name: str, wanted: str, addresses: list[Address], *, up: bool
) -> str:
    """Move a device of the socket's namespace to another one; its name there."""
    index = netlink.index(name)
    if not index:
        raise FileNotFoundError(2, posix.strerror(2))
    before = {link.index for link in _links(target)}
    netlink.set_flags(index, up=False)
    netlink.move_link(index, target, wanted)
    there = _inside(target)
    try:
        now = next(link for link in there.links() if link.index not in before)
        for address in addresses:
            there.add_address(now.index, address.address, address.prefix, address.peer)
        if up:
            there.set_flags(now.index, up=True)
    finally:
        there.close()
    return now.name


def _inside(namespace: int) -> Rtnetlink:
    return call_in_network(f"/proc/self/fd/{namespace}", _open)


def _open() -> Rtnetlink:
    """A socket that may change the host's network: its devices that config.json names."""
    return Rtnetlink(host=True)


def _links(namespace: int) -> list[Link]:
    netlink = _inside(namespace)
    try:
        return netlink.links()
    finally:
        netlink.close()
