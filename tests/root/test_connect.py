# SPDX-License-Identifier: Apache-2.0
"""Connecting what was found, where the namespace has changed since: the moment between the look and
the use, which no test of whole verbs can hit."""

from __future__ import annotations

import json
import pathlib
import subprocess
import types
from typing import Any

import pytest

from lib.network_state import network_unchanged
from lib.patience import until
from lib.support import Network, ip, need
from urunc import logs
from urunc.errors import HostError
from urunc.journal import Journal
from urunc.journaled import resource_class
from urunc.linux import bpf, nftables
from urunc.linux.nftables import Nftables
from urunc.net.connect import Place, connect
from urunc.net.facts import NetworkFound
from urunc.net.look import read_network
from urunc.net.pod import join
from urunc.plan.model import MonitorUser, NetworkPlan
from urunc.record import replace

NETWORK = NetworkPlan(
    mode="dynamic",
    reason="",
    net_names=None,
    max_nics=16,
    queues=1,
    ports=(),
    other_ports=False,
    shared_subnets=(),
)


@pytest.fixture
def place(network: Network, tmp_path: pathlib.Path) -> Place:
    """A container's namespace with one interface, and the little of a plan that is looked at."""
    need("nft")
    network.connect()

    def shown() -> str:
        return ip("-n", network.inside, "addr")

    until(lambda: "fe80" in shown() and "tentative" not in shown(), shown)
    plan: Any = types.SimpleNamespace(id="box", network=NETWORK)
    user = MonitorUser(uid=12345, gid=12345, groups=())
    return Place(network.path, plan, user, Journal(str(tmp_path), resource_class))


def found(place: Place) -> NetworkFound:
    return read_network(place.namespace, "", "", 16)


def test_an_interface_vanishes(
    network: Network, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(logs, "warn", said.append)
    ip("-n", network.inside, "link", "add", "net1", "type", "veth", "peer", "name", "p1")
    ip("-n", network.inside, "link", "set", "net1", "up")
    before = found(place)
    assert [item.name for item in before.interfaces] == ["eth0", "net1"]
    ip("-n", network.inside, "link", "del", "net1")
    with network_unchanged(network.path):
        net = connect(before, place)
        assert [(item.name, item.tap) for item in net.interfaces] == [("eth0", "tap0_urunc")]
        assert said == ["interface 'net1' vanished before it was connected"]
        place.journal.remove_all()


def test_another_takes_the_interface(
    network: Network, place: Place, tmp_path: pathlib.Path
) -> None:
    """Two containers that looked at the same time: one has it, the other is refused and leaves
    nothing."""
    seen = found(place)
    other = tmp_path / "other"
    other.mkdir()
    with network_unchanged(network.path):
        connect(seen, place)
        late = Place(place.namespace, place.plan, place.user, Journal(str(other), resource_class))
        with pytest.raises(HostError, match="another guest has taken it over") as caught:
            connect(seen, late)
        assert "'network' with 'shared'" in caught.value.hint
        late.journal.remove_all()
        assert "tap0_urunc" in ip("-n", network.inside, "link")
        place.journal.remove_all()


def test_a_namespace_that_is_reached_by_another_path(network: Network, place: Place) -> None:
    """An engine's bind mount stays when the process is gone whose path was recorded."""
    with network_unchanged(network.path):
        connect(found(place), place)
        recorded = [
            json.loads(line) for line in pathlib.Path(place.journal.path).read_text().splitlines()
        ]
        lines = [json.dumps({**entry, "namespace": "/proc/1/no/such/path"}) for entry in recorded]
        pathlib.Path(place.journal.path).write_text("\n".join(lines) + "\n")
        place.journal.remove_all()


def rules(network: Network, tap: str) -> list[str]:
    """What is done with every frame of a TAP device's guest."""
    command = ["ip", "netns", "exec", network.inside, "nft", "list", "ruleset", "netdev"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    hooks = [number for number, line in enumerate(lines) if f'device "{tap}"' in line]
    return [lines[number + 1].strip() for number in hooks]


def test_spare_taps_for_declared_devices(network: Network, place: Place) -> None:
    names = replace(NETWORK, net_names=("service", "other"))
    plan: Any = types.SimpleNamespace(id="box", network=names)
    place.plan = plan
    with network_unchanged(network.path):
        net = connect(found(place), place)
        assert net.spare_taps == ("tap1_urunc",)
        assert rules(network, "tap1_urunc") == ["drop"], "it leads nowhere"
        ip("-n", network.inside, "link", "add", "net1", "type", "veth", "peer", "name", "p1")
        ip("-n", network.inside, "link", "set", "net1", "mtu", "1300", "up")
        later = connect(found(place), place, net)
        assert [item.tap for item in later.interfaces] == ["tap0_urunc", "tap1_urunc"]
        assert "mtu 1300" in ip("-n", network.inside, "link", "show", "tap1_urunc")
        assert later.spare_taps == ()
        assert rules(network, "tap1_urunc") == []
        place.journal.remove_all()
        ip("-n", network.inside, "link", "del", "net1")


def test_known_interfaces_keep_their_devices(network: Network, place: Place) -> None:
    with network_unchanged(network.path):
        seen = found(place)
        net = connect(seen, place)
        moved = replace(seen, interfaces=(replace(seen.interfaces[0], name="renamed", mtu=1400),))
        later = connect(moved, place, net)
        assert [(item.name, item.tap) for item in later.interfaces] == [("renamed", "tap0_urunc")]
        assert "mtu 1400" in ip("-n", network.inside, "link", "show", "tap0_urunc")
        place.journal.remove_all()


def in_pod(place: Place, **changes: Any) -> Place:
    """The same container's, as one of a pod's."""
    network = replace(NETWORK, mode="pod", other_ports=True, **changes)
    plan: Any = types.SimpleNamespace(id="box", network=network)
    place.plan = plan
    return place


@pytest.mark.parametrize("lacking", ["nf_tables", "a part of it"])
def test_a_kernel_without_rules(
    network: Network, place: Place, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    """The guest of a pod takes its network over, as it would elsewhere; `start` finds it so."""
    said: list[str] = []
    monkeypatch.setattr(logs, "warn", said.append)

    def refuse(*_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    if lacking == "nf_tables":
        monkeypatch.setattr(nftables, "ask", refuse)
    else:
        monkeypatch.setattr(Nftables, "add_table", refuse)
    with network_unchanged(network.path):
        net = join(found(place), in_pod(place))
        assert [(item.name, item.tap) for item in net.interfaces] == [("eth0", "tap0_urunc")]
        assert len(said) == 1
        assert "the guest takes the network over, and others in the pod have none" in said[0]
        again = join(found(place), place, net)
        assert again == net
        monkeypatch.undo()
        place.journal.remove_all()


def test_a_kernel_without_bpf(
    network: Network, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(logs, "warn", said.append)

    def refuse(_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(bpf, "load", refuse)
    with network_unchanged(network.path):
        net = join(found(place), in_pod(place))
        assert net.interfaces[0].ipv4[0].address == network.inside_address
        assert len(said) == 1 and "localhost does not lead to the guest" in said[0]
        place.journal.remove_all()


def test_a_pod_behind_slirp4netns(network: Network, place: Place) -> None:
    """Published ports are connections from inside the namespace: as without a pod."""
    with network_unchanged(network.path):
        seen = replace(found(place), user_mode=("eth0",))
        net = join(seen, in_pod(place, net_names=("service",)))
        assert [item.tap for item in net.interfaces] == ["tap0_urunc"]
        made = {item.kind for item in place.journal.resources()}
        assert made == {"tap", "redirect", "rules"}
        place.journal.remove_all()


def test_a_pod_with_ipv6_alone(network: Network, place: Place) -> None:
    """The guest's gateway is the namespace, which answers for it; there is no IPv4 to stand in
    for."""
    ip("-n", network.inside, "addr", "flush", "dev", "eth0", "scope", "global")
    ip("-n", network.inside, "addr", "add", "fd00:77::2/64", "dev", "eth0", "nodad")
    with network_unchanged(network.path):
        (interface,) = join(found(place), in_pod(place)).interfaces
        assert interface.ipv4 == ()
        assert [(item.address, item.prefix) for item in interface.ipv6] == [("fd00:77::2", 128)]
        gateway = "fd75:7275:6e63:1::1"
        assert [(route.destination, route.gateway) for route in interface.routes] == [
            (f"{gateway}/128", ""),
            ("::/0", gateway),
        ]
        assert gateway in ip("-n", network.inside, "addr", "show", "tap0_urunc")
        assert "169.254" not in ip("-n", network.inside, "addr")
        place.journal.remove_all()


def test_a_pod_s_network_that_comes_late(network: Network, place: Place) -> None:
    """Without an interface in `create`, and with another address and MTU in `start`."""
    with network_unchanged(network.path):
        seen = found(place)
        names = ("service", "other")
        net = join(replace(seen, interfaces=()), in_pod(place, net_names=names))
        assert net.interfaces == () and len(net.spare_taps) == 2
        later = join(seen, place, net)
        assert later.interfaces[0].ipv4[0].address == network.inside_address
        assert len(later.spare_taps) == 1
        tap = later.interfaces[0].tap
        ip("-n", network.inside, "addr", "add", "fd00:77::2/64", "dev", "eth0", "nodad")
        # were the kernel forwarding before it has seen to that, it would join the subnet's anycast
        # address twice, and leave it once
        local = ("-n", network.inside, "-6", "route", "show", "table", "local")
        until(lambda: "local fd00:77::2" in ip(*local))
        ip("-n", network.inside, "link", "set", "eth0", "mtu", "1400")
        last = join(found(place), place, later)
        assert (last.interfaces[0].tap, last.interfaces[0].mtu) == (tap, 1400)
        assert "mtu 1400" in ip("-n", network.inside, "link", "show", tap)
        assert last.interfaces[0].ipv6[0].address == "fd00:77::2"
        ip("-n", network.inside, "link", "set", "eth0", "mtu", "1500")
        ip("-n", network.inside, "addr", "del", "fd00:77::2/64", "dev", "eth0")
        place.journal.remove_all()
