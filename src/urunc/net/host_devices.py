# SPDX-License-Identifier: Apache-2.0
"""linux.netDevices: moves network devices of the host into the container's network namespace,
before that is looked at.

Runs in the runtime, with the host's privilege, in its network namespace. A device gets the
configured name or keeps its own, keeps its permanent addresses of global scope, and is brought up
(config-linux.md, Network Devices). From the end of `create` on it is the business of whoever owns
the namespace, and not even `delete` moves it out, as that page demands: when the namespace goes,
the kernel returns hardware and removes other devices. A `create` that fails or is killed gives a
device back with the addresses and routes that it had.

A device is not taken down before the move: the kernel does that itself once the move cannot fail
any more, so one that cannot be moved (loopback, a bridge) stays up.
"""

from __future__ import annotations

import posix
from errno import EINVAL, ENOENT

from urunc import logs
from urunc.errors import HostError, reason
from urunc.linux import _linux
from urunc.linux.files import unlink
from urunc.linux.namespaces import call_in_network, identity, open_namespace
from urunc.linux.rtnetlink import Rtnetlink
from urunc.net.resources import NetworkResource, path_to

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from urunc.journal import Journal
    from urunc.linux.rtnetlink import Link

HOME = "/proc/thread-self/ns/net"
KEPT = "netns"
"""The file in the container's directory on which its network namespace is mounted meanwhile."""
MOVING = "it takes CAP_NET_ADMIN on the host, and a device that the kernel lets go"
MS_BIND = 0x1000
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8


class MovedDevices(NetworkResource):
    """Devices that `create` moves. It is in the journal until `create` is done.

    What keeps a namespace of the container's own is init, which ends when `create` does; so a mount
    keeps it, too: a virtual device would be gone otherwise.
    """

    kind = "devices"
    names = ("kept", "home", "known", "devices")

    def __init__(
        self, *, namespace: str, device: int, inode: int, kept: str, home: tuple[int, int],
        known: list[int], devices: list[dict[str, Any]],
    ) -> None:  # fmt: skip
        super().__init__(namespace=namespace, device=device, inode=inode)
        self.kept = kept
        self.home = home[0], home[1]
        """(device, inode) of the namespace that they are from."""
        self.known = known
        """The indexes of the devices that the container's namespace had before."""
        self.devices = devices
        """Of each, in the order in which they are moved: `name`, `wanted` (its name inside), `mac`,
        `up`, and `saved`, its addresses and routes: [kind, hexadecimal body] of each message."""
        self.inside: list[str] = []
        """The names of those that have been moved."""

    def make(self) -> None:
        try:
            posix.close(posix.open(self.kept, posix.O_CREAT | posix.O_CLOEXEC, 0o600))
            _linux.mount(self.namespace, self.kept, None, MS_BIND, None)
        except OSError as error:
            raise HostError(f"keep network namespace in '{self.kept}': {reason(error)}") from None
        namespace = open_namespace(self.namespace)
        try:
            for device in self.devices:
                self.inside.append(_one(namespace, device["name"], device["wanted"]))
        finally:
            posix.close(namespace)

    def remove(self) -> None:
        """Give them back."""
        home = path_to(self.home, HOME)
        if not home:
            names = ", ".join(device["name"] for device in self.devices)
            logs.warn(f"not given back: {names}: the network namespace that had them is gone")
        else:
            for device in reversed(self.devices):
                self._give_back(device, home)
        self.let_go()

    def let_go(self) -> None:
        """Keep the namespace no longer."""
        try:
            _linux.umount2(self.kept, MNT_DETACH | UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno not in (EINVAL, ENOENT):
                raise
        unlink(self.kept)

    def removal(self) -> list[tuple[str, ...]] | None:
        """Where `create` leaves a recipe, this is not in the journal any more."""
        return []

    def find(self) -> str:
        return super().find() or path_to((self.device, self.inode), self.kept)

    def _give_back(self, device: dict[str, Any], home: str) -> None:
        path = self.find()
        there = call_in_network(path, _open) if path else None
        back = call_in_network(home, _open)
        fd = open_namespace(home)
        try:
            now = there and _moved(there.links(), self.known, device["mac"], device["wanted"])
            if there and now:
                there.move_link(now.index, fd, device["name"])
            link = next((it for it in back.links() if it.name == device["name"]), None)
            if link and link.mac == device["mac"]:
                back.set_flags(link.index, up=device["up"])
                saved = [(kind, bytes.fromhex(body)) for kind, body in device["saved"]]
                back.restore(link.index, saved)
        except OSError as error:
            why = f"give back network device '{device['name']}': {reason(error)}"
            raise OSError(error.errno, why) from None
        finally:
            posix.close(fd)
            back.close()
            if there:
                there.close()


def move(
    devices: Mapping[str, str], namespace: str, directory: str, journal: Journal
) -> MovedDevices:
    """Move devices (name → name inside, "" for the same) to the namespace at a path; raises
    HostError. What has been moved by then is in the journal, for which `directory` is the
    container's."""
    home = identity(HOME)
    there = identity(namespace)
    if there == home:
        raise HostError(
            "linux.netDevices: the container's network namespace is the host's, where they are",
            "give it one of its own",
        )
    moved = MovedDevices(
        namespace=namespace,
        device=there[0],
        inode=there[1],
        kept=f"{directory}/{KEPT}",
        home=home,
        known=call_in_network(namespace, _indexes),
        devices=[_before(name, wanted or name) for name, wanted in devices.items()],
    )
    journal.make(moved)
    return moved


def _indexes() -> list[int]:
    """Those of the devices that are here."""
    here = _open()
    try:
        return [link.index for link in here.links()]
    finally:
        here.close()


def _before(name: str, wanted: str) -> dict[str, Any]:
    """What is to be known of a device to give it back."""
    home = _open()
    try:
        link = _named(home, name)
        saved = [[kind, body.hex()] for kind, body in home.saved(link.index)]
        return {"name": name, "wanted": wanted, "mac": link.mac, "up": link.up, "saved": saved}
    finally:
        home.close()


def _named(home: Rtnetlink, name: str) -> Link:
    """A device of the host's."""
    link = next((link for link in home.links() if link.name == name), None)
    if link is None:
        raise HostError(f"linux.netDevices.{name}: the host has no network device of this name")
    return link


def _one(namespace: int, name: str, wanted: str) -> str:
    """Move one to the namespace of a descriptor; its name there."""
    where = f"linux.netDevices.{name}"
    home, there = _open(), call_in_network(f"/proc/self/fd/{namespace}", _open)
    doing, hint = "move to the container's network namespace", MOVING
    try:
        link = _named(home, name)
        addresses = [
            address
            for address in home.addresses()
            if address.index == link.index and address.permanent and address.universe
        ]
        before = there.links()
        if any(other.name == wanted for other in before):
            raise HostError(
                f"{where}.name: the container's network namespace has a '{wanted}' already",
                "choose another name, or one with %d for a free number",
            )
        home.move_link(link.index, namespace, wanted)
        now = _moved(there.links(), [other.index for other in before], link.mac, wanted)
        if now is None:
            raise HostError(f"{where}: not found in the namespace that it was moved to")
        for address in addresses:
            doing = f"give it the address {address.address} in the container's network namespace"
            hint = "a namespace without IPv6 (sysctl net.ipv6.conf.all.disable_ipv6) takes none"
            there.add_address(now.index, address.address, address.prefix, address.peer)
        doing, hint = "bring it up in the container's network namespace", ""
        there.set_flags(now.index, up=True)
        return now.name
    except OSError as error:
        raise HostError(f"{where}: {doing}: {reason(error)}", hint) from None
    finally:
        home.close()
        there.close()


def _moved(links: list[Link], known: list[int], mac: str, wanted: str) -> Link | None:
    """The moved device: a new one with the same hardware address, None if there is none. A kernel
    that refuses the name has moved it all the same (do_setlink()); of several that share their
    address (VLANs) it is the one that has the name, or came last."""
    new = [link for link in links if link.index not in known and link.mac == mac]
    return next((link for link in new if link.name == wanted), new[-1] if new else None)


def _open() -> Rtnetlink:
    """A netlink socket that may change the host's network, for the devices that config.json
    names."""
    return Rtnetlink(host=True)
