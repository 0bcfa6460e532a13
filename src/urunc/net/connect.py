# SPDX-License-Identifier: Apache-2.0
"""TAP devices beside a namespace's interfaces, and the redirects that hand every frame both ways.

Each is a resource in the container's journal before it is made, and is removed also when the
monitor died first and the namespace lives on. A namespace is known by device and inode, not by a
path that another may have taken since.
"""

from __future__ import annotations

from errno import EBUSY, EEXIST, EINVAL, ENODEV, ENOENT

from urunc.errors import HostError, reason
from urunc.journal import Journal, Resource
from urunc.linux.files import read_text
from urunc.linux.namespaces import call_in_network, identity
from urunc.linux.rtnetlink import TC_H_INGRESS, Rtnetlink, ask
from urunc.linux.tun import create_tap
from urunc.net.facts import Interface, NetFacts
from urunc.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from urunc.plan import Plan

TAP_NAME = "tap{}_urunc"
TAP_LIMIT = 100
FILTER_PRIORITY = 49000
"""Ours among the filters of an interface: behind those of others, and found again by it."""


class NetworkResource(Resource):
    """What is made in a network namespace."""

    def __init__(self, *, namespace: str, device: int, inode: int) -> None:
        self.namespace = namespace
        self.device = device
        self.inode = inode

    def parameters(self) -> dict[str, object]:
        return {"namespace": self.namespace, "device": self.device, "inode": self.inode}

    def ask(self, question: Callable[[Netlink], None]) -> None:
        """Speak to the namespace; nothing happens where it is gone."""
        path = self.find()
        if path:
            ask(path, question)

    def find(self) -> str:
        """A path that leads to the namespace still: the recorded one, or where an engine has bound
        it."""
        try:
            if identity(self.namespace) == (self.device, self.inode):
                return self.namespace
        except OSError:
            pass
        for line in read_text("/proc/self/mountinfo", 1 << 24).splitlines():
            fields = line.split(" ")
            if len(fields) > 4 and fields[3] == f"net:[{self.inode}]":
                return fields[4]
        return ""


class Tap(NetworkResource):
    """A persistent TAP device that the monitor's user may attach to."""

    kind = "tap"

    def __init__(
        self, *, namespace: str, device: int, inode: int, name: str, uid: int, gid: int, mtu: int
    ) -> None:
        super().__init__(namespace=namespace, device=device, inode=inode)
        self.name = name
        self.uid = uid
        self.gid = gid
        self.mtu = mtu

    def parameters(self) -> dict[str, object]:
        return super().parameters() | {
            "name": self.name,
            "uid": self.uid,
            "gid": self.gid,
            "mtu": self.mtu,
        }

    def make(self) -> None:
        path = self.find()
        if path:
            call_in_network(path, lambda: create_tap(self.name, self.uid, self.gid))
            ask(path, self._bring_up)

    def _bring_up(self, netlink: Netlink) -> None:
        # up even where nothing is connected: a Solo5 tender refuses a device that is down
        netlink.set_link(_index(netlink, self.name), up=True, mtu=self.mtu)

    def remove(self) -> None:
        def remove(netlink: Netlink) -> None:
            try:
                index = _index(netlink, self.name)
                if index:
                    netlink.delete_link(index)
            except OSError as error:
                if error.errno != ENODEV:
                    raise

        self.ask(remove)


class Redirect(NetworkResource):
    """Every frame that arrives at an interface goes out of a TAP device, and back."""

    kind = "redirect"

    def __init__(
        self,
        *,
        namespace: str,
        device: int,
        inode: int,
        interface: str,
        index: int,
        tap: str,
        own: bool,
    ) -> None:
        super().__init__(namespace=namespace, device=device, inode=inode)
        self.interface = interface
        self.index = index
        self.tap = tap
        self.own = own
        """Whether the ingress discipline is ours to remove, or stood there before."""

    def parameters(self) -> dict[str, object]:
        return super().parameters() | {
            "interface": self.interface,
            "index": self.index,
            "tap": self.tap,
            "own": self.own,
        }

    def make(self) -> None:
        def make(netlink: Netlink) -> None:
            tap = _index(netlink, self.tap)
            if self.own:
                netlink.add_ingress(self.index)
            netlink.add_ingress(tap)
            netlink.redirect(self.index, tap, FILTER_PRIORITY)
            netlink.redirect(tap, self.index, FILTER_PRIORITY)

        self.ask(make)

    def remove(self) -> None:
        def remove(netlink: Netlink) -> None:
            try:
                if _index(netlink, self.interface) != self.index:
                    return  # another device of the same name, or none
                if self.own:
                    netlink.delete_ingress(self.index)
                else:
                    netlink.delete_filters(self.index, FILTER_PRIORITY)
            except OSError as error:
                if error.errno not in (EINVAL, ENODEV, ENOENT):  # half made, or taken back already
                    raise

        self.ask(remove)


RESOURCES = {cls.kind: cls for cls in (Tap, Redirect)}


def connect(
    net: NetFacts, namespace: str, plan: Plan, journal: Journal, known: NetFacts | None = None
) -> NetFacts:
    """Give every interface a TAP device and the redirects; `known` interfaces have theirs from
    before.

    Returns the facts with the devices' names. Raises HostError.
    """
    device, inode = identity(namespace)
    place = {"namespace": namespace, "device": device, "inode": inode}
    old = {(item.name, item.index): item for item in known.interfaces} if known else {}
    spare = list(known.spare_taps) if known else []
    connected: list[Interface] = []
    for interface in net.interfaces:
        before = old.get((interface.name, interface.index))
        if before:
            connected.append(replace(interface, tap=before.tap))
            continue
        tap = spare.pop(0) if spare else _make_tap(place, plan, interface.mtu, journal)
        _make_redirect(place, interface, tap, journal)
        connected.append(replace(interface, tap=tap))
    wanted = len(plan.net_names or ()) - len(connected)
    while len(spare) < wanted:
        spare.append(_make_tap(place, plan, 1500, journal))
    return replace(net, interfaces=tuple(connected), spare_taps=tuple(spare[: max(wanted, 0)]))


def _make_tap(place: dict[str, object], plan: Plan, mtu: int, journal: Journal) -> str:
    links = ask(str(place["namespace"]), Netlink.links)
    taken = {link.name for link in links}
    for number in range(TAP_LIMIT):
        name = TAP_NAME.format(number)
        if name in taken:
            continue
        tap = Tap(**place, name=name, uid=plan.uid, gid=plan.gid, mtu=mtu)  # type: ignore[arg-type]
        try:
            journal.make(tap)
        except OSError as error:
            if error.errno == EBUSY:
                continue  # another container's, made since we looked
            raise HostError(
                f"make TAP device '{name}': {reason(error)}", _tun_hint(error)
            ) from None
        return name
    raise HostError(
        f"make TAP device: all of the names {TAP_NAME.format(0)} to {TAP_LIMIT - 1} are taken"
    )


def _make_redirect(
    place: dict[str, object], interface: Interface, tap: str, journal: Journal
) -> None:
    def has_ingress(netlink: Netlink) -> tuple[bool, bool]:
        if not netlink.has_qdisc(interface.index, TC_H_INGRESS):
            return False, False
        return True, netlink.has_filters(interface.index, FILTER_PRIORITY)

    there, taken = ask(str(place["namespace"]), has_ingress)
    if taken:
        raise HostError(
            f"redirect interface '{interface.name}': another guest has taken it over",
            "one guest at a time can have an interface; give this one a namespace of its own, "
            "or no network",
        )
    own = not there
    redirect = Redirect(
        **place,  # type: ignore[arg-type]
        interface=interface.name,
        index=interface.index,
        tap=tap,
        own=own,
    )
    try:
        journal.make(redirect)
    except OSError as error:
        hint = ""
        if error.errno == EEXIST:
            hint = "another container uses this interface: one guest at a time can take it over"
        elif error.errno in (ENOENT, EINVAL):
            hint = "the kernel needs sch_ingress, act_mirred and cls_u32 or cls_matchall"
        raise HostError(f"redirect interface '{interface.name}': {reason(error)}", hint) from None


def _index(netlink: Netlink, name: str) -> int:
    """A device's index, 0 where there is none of this name."""
    for link in netlink.links():
        if link.name == name:
            return link.index
    return 0


def _tun_hint(error: OSError) -> str:
    return "load the tun module" if error.errno in (ENOENT, ENODEV) else ""
