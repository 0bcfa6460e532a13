# SPDX-License-Identifier: Apache-2.0
"""linux.netDevices: moves network devices of the host into the container's network namespace,
before that is looked at.

Runs in the runtime, with the host's privilege, in its network namespace. A device gets the
configured name or keeps its own, keeps its permanent addresses of global scope, and is brought up
(config-linux.md, Network Devices). When the container ends, the kernel returns hardware and removes
other devices with the namespace. A `create` that fails gives a device back with the addresses and
routes that it had.

A device is not taken down before the move: the kernel does that itself once the move cannot fail
any more, so one that cannot be moved (loopback, a bridge) stays up.
"""

from __future__ import annotations

import posix

from urunc import logs
from urunc.errors import HostError, reason
from urunc.linux.namespaces import call_in_network, identity, open_namespace
from urunc.linux.rtnetlink import Rtnetlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from urunc.linux.rtnetlink import Link, Saved

HOME = "/proc/thread-self/ns/net"
MOVING = "it takes CAP_NET_ADMIN on the host, and a device that the kernel lets go"


class Moved:
    """The devices that were moved for one container, newest last."""

    def __init__(self, namespace: str) -> None:
        self.home = open_namespace(HOME)
        self.there = open_namespace(namespace)  # kept open for `give_back`
        self.done: list[tuple[Link, Link, Saved]] = []
        """For each device: (the link before, the link now, its former addresses and routes)."""

    def names(self) -> tuple[str, ...]:
        """The devices' names in the container's namespace."""
        return tuple(now.name for _, now, _ in self.done)

    def give_back(self) -> list[str]:
        """Move all devices back and restore them; the failures, in words."""
        problems = []
        for link, now, saved in reversed(self.done):
            there, home = _inside(self.there), _inside(self.home)
            try:
                there.move_link(now.index, self.home, link.name)
                index = home.index(link.name)
                home.set_flags(index, up=link.up)
                home.restore(index, saved)
            except OSError as error:
                problems.append(f"give back network device '{link.name}': {reason(error)}")
            finally:
                there.close()
                home.close()
        return problems

    def close(self) -> None:
        """Close the namespaces' descriptors."""
        posix.close(self.home)
        posix.close(self.there)


def move(devices: Mapping[str, str], namespace: str) -> Moved:
    """Move devices (name → name inside) to the namespace at a path, all or none; raises
    HostError."""
    if identity(namespace) == identity(HOME):
        raise HostError(
            "linux.netDevices: the container's network namespace is the host's, where they are",
            "give it one of its own",
        )
    moved = Moved(namespace)
    try:
        for name, wanted in devices.items():
            _one(moved, name, wanted)
    except BaseException:
        for problem in moved.give_back():
            logs.warn(problem)
        moved.close()
        raise
    return moved


def _one(moved: Moved, name: str, wanted: str) -> None:
    where = f"linux.netDevices.{name}"
    home, there = _open(), _inside(moved.there)
    doing, hint = "move to the container's network namespace", MOVING
    try:
        link = next((link for link in home.links() if link.name == name), None)
        if link is None:
            raise HostError(f"{where}: the host has no network device of this name")
        addresses = [
            address
            for address in home.addresses()
            if address.index == link.index and address.permanent and address.universe
        ]
        before = there.links()
        wanted = wanted or name
        if any(other.name == wanted for other in before):
            raise HostError(
                f"{where}.name: the container's network namespace has a '{wanted}' already",
                "choose another name, or one with %d for a free number",
            )
        saved = home.saved(link.index)
        try:
            home.move_link(link.index, moved.there, wanted)
        finally:
            # a kernel that refuses the name has moved the device all the same (do_setlink())
            now = _new(link, before, there.links())
            if now:
                moved.done.append((link, now, saved))
        if now is None:
            raise HostError(f"{where}: not found in the namespace that it was moved to")
        for address in addresses:
            doing = f"give it the address {address.address} in the container's network namespace"
            hint = "a namespace without IPv6 (sysctl net.ipv6.conf.all.disable_ipv6) takes none"
            there.add_address(now.index, address.address, address.prefix, address.peer)
        doing, hint = "bring it up in the container's network namespace", ""
        there.set_flags(now.index, up=True)
    except OSError as error:
        raise HostError(f"{where}: {doing}: {reason(error)}", hint) from None
    finally:
        home.close()
        there.close()


def _new(link: Link, before: list[Link], after: list[Link]) -> Link | None:
    """The moved device: the new one with the same hardware address, None if there is none."""
    known = {other.index for other in before}
    return next((it for it in after if it.index not in known and it.mac == link.mac), None)


def _inside(namespace: int) -> Rtnetlink:
    return call_in_network(f"/proc/self/fd/{namespace}", _open)


def _open() -> Rtnetlink:
    """A netlink socket that may change the host's network, for the devices that config.json
    names."""
    return Rtnetlink(host=True)
