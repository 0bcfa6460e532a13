# SPDX-License-Identifier: Apache-2.0
"""The resources of a guest's network in its namespace: TAP devices, redirects, rules, forwarding.

Each is in the container's journal before it is made, so that it is removed even if the monitor has
died: Docker, Podman and CNI keep the namespace. A namespace is identified by device and inode, as
another may have taken its path since. A TAP device's addresses, sysctls and filters go with it.
Nothing is ever made or removed in the host's namespace.
"""

from __future__ import annotations

import posix
from errno import EINVAL, ENODEV, ENOENT

from urunc import logs
from urunc.journal import Resource
from urunc.linux import rtnetlink
from urunc.linux.files import read_text, write_bytes
from urunc.linux.namespaces import change_network, identity, is_host_network
from urunc.linux.rtnetlink import (
    TC_H_CLSACT_EGRESS,
    TC_H_CLSACT_INGRESS,
    TC_H_INGRESS,
    Rtnetlink,
)
from urunc.linux.tun import create_tap
from urunc.net.facts import SHARED_GROUP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from urunc.linux.nftables import Chain

FILTER_PRIORITY = 0xFFF0
"""The priority by which our filters of an interface are found again. It is behind that of all
others: the kernel puts a filter without a priority before the first one."""
LOCALHOST_PRIORITY = 0xFE00
"""The first of those of the filters on the loopback device, one for each number of a TAP device."""
LOOPBACK_SYSCTLS = ("accept_local", "route_localnet")
"""What the loopback device needs to take a packet to or from 127.0.0.0/8 that it has not sent."""
FORWARDING = "urunc_forwarding"
"""The table that marks a namespace in which forwarding is on only because guests share it."""
SYSCTL = "/proc/sys/net"
IPV4_FORWARDING, IPV6_FORWARDING = "ipv4/ip_forward", "ipv6/conf/all/forwarding"
IPV4_REDIRECTS = "ipv4/conf/all/accept_redirects"
"""The kernel turns this off when forwarding is turned on, and on again with it off."""


def path_to(namespace: tuple[int, int], path: str) -> str:
    """A path that leads to the namespace of an identity: the given one or a bind mount, such as an
    engine's; "" for none."""
    if _is_at(path, namespace):
        return path
    for line in read_text("/proc/self/mountinfo", 1 << 24).splitlines():
        fields = line.split(" ")
        ours = len(fields) > 4 and fields[3] == f"net:[{namespace[1]}]"
        if ours and _is_at(fields[4], namespace):  # it may be below another mount
            return fields[4]
    return ""


def _is_at(path: str, namespace: tuple[int, int]) -> bool:
    try:
        return identity(path) == namespace
    except OSError:
        return False


class NetworkResource(Resource):
    """A resource in a network namespace: `namespace` is a path to it, (`device`, `inode`) its
    identity."""

    def __init__(self, *, namespace: str, device: int, inode: int) -> None:
        self.namespace = namespace
        self.device = device
        self.inode = inode

    def parameters(self) -> dict[str, object]:
        names = ("namespace", "device", "inode", *self.names)
        return {name: self.__dict__[name] for name in names}

    names: tuple[str, ...] = ()
    """The constructor's parameters beside those of the namespace."""

    def ask(self, path: str, question: Callable[[Rtnetlink], None]) -> None:
        """Call `question` with a socket in the namespace at a path; nothing happens for ""."""
        if path:
            rtnetlink.ask(path, question)

    def removal(self) -> list[tuple[str, ...]] | None:
        """That nothing is to be done where the namespace has gone, which is all that a recipe knows
        of most kinds."""
        return [("gone", self.namespace, f"{self.device} {self.inode}")]

    def written(
        self, question: Callable[[Rtnetlink], None], *fine: int
    ) -> list[tuple[str, ...]] | None:
        """What `question` says to the kernel, as actions of a recipe; `fine` are the refusals that
        do not matter. None where the namespace is the host's."""
        if is_host_network((self.device, self.inode)):
            return None
        netlink = rtnetlink.Written()
        question(netlink)
        errors = " ".join(map(str, fine))
        actions = [(word, message.hex(), errors) for word, message in netlink.messages]
        return [("namespace", self.namespace, f"{self.device} {self.inode}"), *actions]

    def find_to_remove(self) -> str:
        """A path to the namespace for `remove`, "" if it has gone; also "", with a warning, if it
        is the host's."""
        if not is_host_network((self.device, self.inode)):
            return self.find()
        names = {name: self.__dict__[name] for name in self.names}
        logs.warn(f"left in the host's network namespace, in which nothing is changed: "
                  f"{self.kind} {names}")  # fmt: skip
        return ""

    def find(self) -> str:
        """A path that still leads to the namespace, "" for none."""
        return path_to((self.device, self.inode), self.namespace)


class Tap(NetworkResource):
    """A persistent TAP device that the monitor's user may attach to."""

    kind = "tap"
    names = ("name", "uid", "gid", "mtu", "multiqueue", "group", "addresses")

    def __init__(
        self, *, namespace: str, device: int, inode: int, name: str, uid: int, gid: int, mtu: int,
        multiqueue: bool = False, group: int = 0, addresses: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        super().__init__(namespace=namespace, device=device, inode=inode)
        self.name = name
        self.uid = uid
        self.gid = gid
        self.mtu = mtu
        self.multiqueue = multiqueue
        self.group = group
        self.addresses = tuple(addresses)

    def make(self) -> None:
        path = self.find()
        if path:
            change_network(path, self._create)
            rtnetlink.ask(path, self._set_up)

    def _create(self) -> None:
        create_tap(self.name, self.uid, self.gid, multiqueue=self.multiqueue)
        if any(":" in address for address in self.addresses):
            allow_ipv6(self.name)

    def _set_up(self, netlink: Rtnetlink) -> None:
        index = netlink.index(self.name)
        # up even if connected to nothing: a Solo5 tender refuses a device that is down
        netlink.set_link(index, up=True, mtu=self.mtu, group=self.group)
        for address in self.addresses:
            own, _, prefix = address.partition("/")
            netlink.add_address(index, own, int(prefix))

    def remove(self) -> None:
        def remove(netlink: Rtnetlink) -> None:
            try:
                netlink.delete_link(self.name)
            except OSError as error:
                if error.errno != ENODEV:
                    raise

        self.ask(self.find_to_remove(), remove)

    def removal(self) -> list[tuple[str, ...]] | None:
        def remove(netlink: Rtnetlink) -> None:
            netlink.delete_link(self.name)

        return self.written(remove, ENODEV)


class Redirect(NetworkResource):
    """Every frame that arrives at an interface leaves by a TAP device, and the other way round."""

    kind = "redirect"
    names = ("interface", "index", "tap", "own", "queue_length")

    def __init__(
        self, *, namespace: str, device: int, inode: int, interface: str, index: int, tap: str,
        own: bool, queue_length: int = -1,
    ) -> None:  # fmt: skip
        super().__init__(namespace=namespace, device=device, inode=inode)
        self.interface = interface
        self.index = index
        self.tap = tap
        self.own = own
        """Whether the interface's ingress qdisc is ours to remove, and not older."""
        self.queue_length = queue_length
        """The interface's former queue length, -1 if unknown: with the first qdisc the kernel gives
        an interface without a queue the usual length (seen with 6.18), and does not undo that."""

    def make(self) -> None:
        def make(netlink: Rtnetlink) -> None:
            tap = netlink.index(self.tap)
            if self.own:
                netlink.add_ingress(self.index)
            try:
                netlink.add_ingress(tap)
            except FileExistsError:  # left on the device by a `start` that failed
                netlink.delete_ingress(tap)
                netlink.add_ingress(tap)
            netlink.redirect(self.index, tap, FILTER_PRIORITY)
            netlink.redirect(tap, self.index, FILTER_PRIORITY)

        self.ask(self.find(), make)

    def remove(self) -> None:
        def remove(netlink: Rtnetlink) -> None:
            if all(link.index != self.index for link in netlink.links()):
                return
            try:
                netlink.delete_filters(self.index, FILTER_PRIORITY)
            except OSError as error:
                if error.errno not in (EINVAL, ENODEV, ENOENT):  # half made, or removed already
                    raise
            if not self.own or netlink.filters(self.index):
                return  # others use it by now
            try:
                if netlink.has_qdisc(self.index, TC_H_INGRESS):
                    netlink.delete_ingress(self.index)
                if self.queue_length >= 0:
                    netlink.set_queue_length(self.index, self.queue_length)
            except OSError as error:
                if error.errno not in (EINVAL, ENODEV, ENOENT):
                    raise

        self.ask(self.find_to_remove(), remove)

    def removal(self) -> list[tuple[str, ...]] | None:
        def remove(netlink: Rtnetlink) -> None:
            netlink.delete_filters(self.index, FILTER_PRIORITY)
            if self.own:
                netlink.filters(self.index)  # where others use it by now, it stays
                netlink.delete_ingress(self.index)
                if self.queue_length >= 0:
                    netlink.set_queue_length(self.index, self.queue_length)

        return self.written(remove, EINVAL, ENODEV, ENOENT)


class Rules(NetworkResource):
    """A table of nftables. Its chains are not recorded, since it is removed as a whole."""

    kind = "rules"
    names = ("family", "table")

    def __init__(
        self, *, namespace: str, device: int, inode: int, family: int, table: str,
        chains: tuple[Chain, ...] = (),
    ) -> None:  # fmt: skip
        super().__init__(namespace=namespace, device=device, inode=inode)
        self.family = family
        self.table = table
        self.chains = chains

    def make(self) -> None:
        from urunc.linux import nftables

        path = self.find()
        if path:
            nftables.ask(path, lambda rules: rules.add_table(self.family, self.table, self.chains))

    def remove(self) -> None:
        path = self.find_to_remove()
        if path:
            remove_table(path, self.family, self.table)


class Forwarding(NetworkResource):
    """Forwarding is on in the namespace, but only to and from the guests that share it.

    It may have been on before, and guests come and go in any order. So a table of nftables marks
    that it is on for the guests' sake, and keeps the namespace from routing between its own
    interfaces; the last guest turns it off.
    """

    kind = "forwarding"
    names = ("ipv6",)

    def __init__(self, *, namespace: str, device: int, inode: int, ipv6: bool) -> None:
        super().__init__(namespace=namespace, device=device, inode=inode)
        self.ipv6 = ipv6

    def make(self) -> None:
        path = self.find()
        if path:
            change_network(path, lambda: self._turn_on(path))

    def _turn_on(self, path: str) -> None:
        from urunc.linux import nftables
        from urunc.linux.nftables import FILTER, FORWARD, INET, Chain

        wanted = [IPV4_FORWARDING, *((IPV6_FORWARDING,) if self.ipv6 else ())]
        off = [name for name in wanted if read_text(f"{SYSCTL}/{name}").strip() == "0"]
        if not off:
            return
        listening = []
        for link in rtnetlink.ask(path, Rtnetlink.links) if IPV6_FORWARDING in off else ():
            name = f"ipv6/conf/{link.name}/accept_ra"
            try:
                # a host that forwards accepts router advertisements only with 2, and its default
                # route may be from one (Documentation/networking/ip-sysctl.rst)
                if read_text(f"{SYSCTL}/{name}").strip() == "1":
                    listening.append(link.name)
            except OSError:
                pass  # a device without IPv6
        guests = nftables.group(SHARED_GROUP)
        rules = (
            guests + nftables.accept(),
            nftables.group(SHARED_GROUP, out=True) + nftables.accept(),
            nftables.drop(),
        )
        chains = [Chain(name="forward", kind="filter", hook=FORWARD, priority=FILTER, rules=rules)]
        names = [f"accept_ra_{name}" for name in listening] + [_was_off(name) for name in off]
        if IPV4_FORWARDING in off and read_text(f"{SYSCTL}/{IPV4_REDIRECTS}").strip() == "0":
            names.append(_was_off(IPV4_REDIRECTS))
        chains += [Chain(name=name, rules=()) for name in names]

        def add(tables: nftables.Nftables) -> None:
            try:
                tables.add_table(INET, FORWARDING, tuple(chains))
            except FileExistsError:  # made by another guest, perhaps for one family only
                tables.add_chains(INET, FORWARDING, names)

        nftables.ask(path, add)
        for name in listening:
            write_bytes(f"{SYSCTL}/ipv6/conf/{name}/accept_ra", b"2")
        for name in off:
            write_bytes(f"{SYSCTL}/{name}", b"1")

    def remove(self) -> None:
        path = self.find_to_remove()
        if path:
            change_network(path, lambda: self._turn_off(path))

    def _turn_off(self, path: str) -> None:
        from urunc.linux import nftables
        from urunc.linux.nftables import INET

        if any(link.group == SHARED_GROUP for link in rtnetlink.ask(path, Rtnetlink.links)):
            return
        chains = nftables.ask(path, lambda table: table.chains(INET))
        ours = {chain for table, chain in chains if table == FORWARDING}
        for name in (IPV4_FORWARDING, IPV6_FORWARDING):
            # if it could not be turned on, it need not be turned off
            if _was_off(name) in ours and read_text(f"{SYSCTL}/{name}").strip() != "0":
                write_bytes(f"{SYSCTL}/{name}", b"0")
        if _was_off(IPV4_REDIRECTS) in ours:
            write_bytes(f"{SYSCTL}/{IPV4_REDIRECTS}", b"0")
        for chain in ours:
            name = chain.removeprefix("accept_ra_")
            if name != chain:
                try:
                    write_bytes(f"{SYSCTL}/ipv6/conf/{name}/accept_ra", b"1")
                except OSError:
                    pass  # the device is gone
        if ours:
            remove_table(path, INET, FORWARDING)


class Localhost(NetworkResource):
    """What the namespace sends to itself and has no socket for goes to the guest behind a TAP
    device (`name`), which has the namespace's addresses (`own`), too (net/localhost.py)."""

    kind = "localhost"
    names = ("name", "own", "mtu", "macs", "discipline", "sysctls")

    def __init__(
        self, *, namespace: str, device: int, inode: int, name: str, own: tuple[str, ...],
        mtu: int, macs: tuple[str, str], discipline: bool, sysctls: tuple[str, ...],
    ) -> None:  # fmt: skip
        super().__init__(namespace=namespace, device=device, inode=inode)
        self.name = name
        self.own = tuple(own)
        self.mtu = mtu
        self.macs = tuple(macs)
        """The hardware addresses of the guest and of its TAP device."""
        self.discipline = discipline
        """Whether the loopback device's clsact is ours to remove, and not older."""
        self.sysctls = tuple(sysctls)
        """The loopback device's sysctls (LOOPBACK_SYSCTLS) that were off."""

    def make(self) -> None:
        path = self.find()
        if path:
            change_network(path, lambda: self._set("1"))
            self.ask(path, self._make)

    def _make(self, netlink: Rtnetlink) -> None:
        from urunc.linux import bpf
        from urunc.net import localhost

        tap, loopback = netlink.index(self.name), loopback_of(netlink)
        guest, mac = self.macs
        if self.discipline:
            netlink.add_clsact(loopback)
        netlink.add_ingress(tap)
        inward = localhost.to_guest(self.own, tap, self.mtu, (guest, mac))
        outward = localhost.from_guest(self.own, loopback)
        for index, parent, program in (
            (loopback, TC_H_CLSACT_EGRESS, inward),
            (tap, TC_H_CLSACT_INGRESS, outward),
        ):
            loaded = bpf.load(program)
            try:
                netlink.run_program(index, parent, self._priority(), loaded, "urunc")
            finally:
                posix.close(loaded)

    def _priority(self) -> int:
        """Of the filter, by which it is told from another guest's."""
        return LOCALHOST_PRIORITY + int(self.name.removeprefix("tap").removesuffix("_urunc"))

    def _set(self, value: str) -> None:
        for name in self.sysctls:
            write_bytes(f"{SYSCTL}/ipv4/conf/lo/{name}", value.encode())

    def remove(self) -> None:
        path = self.find_to_remove()
        if path:
            self.ask(path, self._remove)
            change_network(path, lambda: self._set("0"))

    def _remove(self, netlink: Rtnetlink) -> None:
        """The filter on the TAP device goes with it."""
        loopback = loopback_of(netlink)
        try:
            netlink.delete_filters(loopback, self._priority(), TC_H_CLSACT_EGRESS)
        except OSError as error:
            if error.errno not in (EINVAL, ENODEV, ENOENT):  # half made, or removed already
                raise
        used = netlink.filters(loopback) | netlink.filters(loopback, TC_H_CLSACT_EGRESS)
        if self.discipline and not used and netlink.has_qdisc(loopback, TC_H_INGRESS):
            netlink.delete_ingress(loopback)


def loopback_of(netlink: Rtnetlink) -> int:
    """The loopback device's index."""
    return next(link.index for link in netlink.links() if link.loopback)


def allow_ipv6(device: str) -> None:
    """Allow IPv6 addresses on a device of this thread's namespace; Docker disables them for new
    devices."""
    try:
        write_bytes(f"{SYSCTL}/ipv6/conf/{device}/disable_ipv6", b"0")
    except FileNotFoundError:
        pass  # a kernel without IPv6, which will refuse the address


def _was_off(sysctl: str) -> str:
    return f"was_off_{sysctl.replace('/', '_')}"


def remove_table(path: str, family: int, table: str) -> None:
    """Remove a table of the namespace at a path, if it is there; raises OSError."""
    from urunc.linux import nftables

    try:
        nftables.ask(path, lambda rules: rules.delete_table(family, table))
    except FileNotFoundError:
        pass


KINDS: dict[str, type[NetworkResource]] = {
    cls.kind: cls for cls in (Tap, Redirect, Rules, Forwarding, Localhost)
}
