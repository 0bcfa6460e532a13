# SPDX-License-Identifier: Apache-2.0
"""A namespace that outlives its containers: what urunc makes in it is taken back, whatever has
happened to container and namespace meanwhile, and what is somebody else's stays.

What a guest would get is read from the recorded launch: no guest has to boot for that.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from lib.network_state import network_unchanged
from lib.patience import until
from lib.support import PARTS, PREFIX, Bundle, Container, Network, Urunc, ip, need, nothing_left

GATEWAY = Network.outside_address
ADDRESS = Network.inside_address


@pytest.fixture
def pod(network: Network) -> Network:
    """The container's namespace, connected."""
    need("nft")
    network.connect()
    return network


@pytest.fixture
def bundle(tmp_path: pathlib.Path, network: Network) -> Bundle:
    """The probe as a MirageOS guest on Solo5's spt, which declares one network device."""
    need("solo5", "probe")
    made = Bundle(tmp_path / "b", "mirage", "spt", block="/disk.img")
    made.add("unikernel", PARTS / "probe-mirage.spt")
    made.add("disk.img", bytes(512))
    made.args("probe.hang")
    made.network(network.path)
    return made


def machine(path: pathlib.Path, monitor: str, network: Network) -> Bundle:
    """The probe as a Unikraft guest on a monitor with many network devices."""
    need("probe", monitor, *(("kvm",) if monitor == "firecracker" else ()))
    accelerator = {"accelerator": "tcg"} if monitor == "qemu" else {}
    made = Bundle(path / monitor, "unikraft", monitor, **accelerator)
    made.add("unikernel", PARTS / "probe.pvh")
    made.args("app", "probe.hang")
    made.network(network.path)
    return made


def loaded(pod: Network, bundle: Bundle, directory: pathlib.Path) -> None:
    """Everything that makes urunc make something: a gateway by decree, and a resolver on
    loopback."""
    within(pod, f"neigh add {GATEWAY} lladdr 02:00:00:00:00:01 dev eth0 nud permanent")
    within(pod, "addr add fd00:9::2/64 dev eth0 nodad")
    (directory / "resolv.conf").write_text("nameserver 127.0.0.11\n")
    bundle.config["mounts"] = [
        {
            "destination": "/etc/resolv.conf",
            "type": "bind",
            "source": str(directory / "resolv.conf"),
        }
    ]


def within(pod: Network, *commands: str) -> None:
    """Commands of ip(8) in the container's namespace."""
    for command in commands:
        ip("-n", pod.inside, *command.split())


def tc(pod: Network, command: str) -> str:
    """tc(8) in the container's namespace."""
    words = ["tc", "-n", pod.inside, *command.split()]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def create(urunc: Urunc, bundle: Bundle) -> str:
    """`create` and no more."""
    identifier = urunc.new_id()
    said = bundle.path / "said"
    with said.open("wb") as out:
        result = subprocess.run(
            urunc.command("create", "--bundle", str(bundle.path), identifier),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=out,
        )
    assert result.returncode == 0, said.read_text()
    return identifier


def recorded(container: Container) -> dict[str, Any]:
    """The container's container.json."""
    state = json.loads((container.urunc.root / container.id / "container.json").read_text())
    return dict(state)


def argv(container: Container) -> list[str]:
    """The monitor's command line."""
    return list(recorded(container)["launch"]["argv"])


def mtu(pod: Network, device: str) -> int:
    (link,) = json.loads(ip("-n", pod.inside, "-j", "link", "show", device))
    return int(link["mtu"])


def mac(pod: Network, device: str = "eth0") -> str:
    (link,) = json.loads(ip("-n", pod.inside, "-j", "link", "show", device))
    return str(link["address"])


def second(pod: Network, name: str, address: str) -> None:
    """One more interface."""
    ip("-n", pod.outside, "link", "add", "peer1", "type", "veth",
       "peer", "name", name, "netns", pod.inside)  # fmt: skip
    ip("-n", pod.outside, "link", "set", "peer1", "up")
    within(pod, f"addr add {address} dev {name}", f"link set {name} up")


def same(pod: Network) -> contextlib.AbstractContextManager[None]:
    """Compare the container's namespace, once its links are up, before and after the block."""
    until(lambda: "NO-CARRIER" not in ip("-n", pod.inside, "link", "show", "up"))
    return network_unchanged(pod.path)


CYCLES = 20
"""All that a namespace holds is compared, so one container would show what is left of each; some
more, what is left of the one before when the next one comes. No number or name of the kernel's that
is used up runs out in hundreds."""


@pytest.mark.parametrize("mode", ["dynamic", "pod", "shared"])
def test_cycles(
    urunc: Urunc, bundle: Bundle, pod: Network, tmp_path: pathlib.Path, mode: str
) -> None:
    """Containers, one after the other, in a namespace that is kept."""
    loaded(pod, bundle, tmp_path)
    bundle.config["annotations"] |= {f"{PREFIX}network": mode}
    if mode == "shared":
        bundle.config["annotations"][f"{PREFIX}ports"] = "8080:80/tcp"
    bundle.write()
    with nothing_left(urunc.root), same(pod):
        for _ in range(CYCLES):
            urunc("delete", "--force", create(urunc, bundle))


@pytest.mark.parametrize("mode", ["dynamic", "pod", "shared"])
def test_killed_monitors(
    urunc: Urunc, bundle: Bundle, pod: Network, tmp_path: pathlib.Path, mode: str
) -> None:
    """A monitor that dies takes nothing with it; `delete` does, and needs to be told once."""
    loaded(pod, bundle, tmp_path)
    bundle.config["annotations"] |= {f"{PREFIX}network": mode}
    with nothing_left(urunc.root), same(pod):
        for _ in range(3):
            container = urunc.create(bundle)
            container.start()
            os.kill(container.pid, 9)
            container.wait_stopped()
            assert "tap0_urunc" in ip("-n", pod.inside, "link")
            container.delete()
            again = urunc("delete", container.id, check=False)
            assert again.returncode == 1
            assert "does not exist" in again.stderr
            container.delete("--force")
            container.console.unlink()


Change = Callable[[Network], None]


def renamed(pod: Network) -> None:
    within(pod, "link set eth0 down", "link set eth0 name net7", "link set net7 up")
    within(pod, f"route add default via {GATEWAY}")


def replaced(pod: Network) -> None:
    within(pod, "link del eth0")
    pod.connect()


CHANGES: dict[str, tuple[Change, str, int, str]] = {
    "MTU": (lambda pod: within(pod, "link set eth0 mtu 1400"), "eth0", 1400, ADDRESS),
    "larger MTU": (lambda pod: within(pod, "link set eth0 mtu 4000"), "eth0", 4000, ADDRESS),
    "MAC": (
        lambda pod: within(pod, "link set eth0 address 02:00:00:00:12:34"),
        "eth0",
        1500,
        ADDRESS,
    ),
    "address": (
        lambda pod: within(
            pod,
            "addr flush dev eth0 scope global",
            "addr add 10.123.0.77/24 dev eth0",
            f"route add default via {GATEWAY}",
        ),
        "eth0",
        1500,
        "10.123.0.77",
    ),
    "name": (renamed, "net7", 1500, ADDRESS),
    "another one of that name": (replaced, "eth0", 1500, ADDRESS),
}


@pytest.mark.parametrize("what", CHANGES)
def test_changes_before_start(urunc: Urunc, bundle: Bundle, pod: Network, what: str) -> None:
    """What an interface is when the guest starts is what the guest gets."""
    change, device, its_mtu, address = CHANGES[what]
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        change(pod)
        container.start()
        line = argv(container)
        (tap,) = [word.partition("=")[2] for word in line if word.startswith("--net:")]
        assert f"--net-mac:service={mac(pod, device)}" in line
        assert f"--ipv4={address}/24" in line
        assert f"--ipv4-gateway={GATEWAY}" in line
        assert mtu(pod, tap) == its_mtu
        for one, other in ((device, tap), (tap, device)):
            assert f"Redirect to device {other}" in tc(pod, f"filter show dev {one} ingress")
        assert container.report()["cmdline"] == " ".join(line[line.index("--") + 2 :])
        container.delete("--force")
        within(pod, f"link set {device} down", f"link set {device} name eth0", "link set eth0 up")
    assert "tap" not in ip("-n", pod.inside, "link")
    assert "ingress" not in tc(pod, "qdisc")


def test_interface_that_comes_or_goes(urunc: Urunc, bundle: Bundle, network: Network) -> None:
    """A device that the guest declares is there before and after its interface."""
    need("nft")
    with nothing_left(urunc.root):
        for comes in (True, False):
            if not comes:
                within(network, "link del eth0")
                network.connect()
            container = urunc.create(bundle)
            if comes:
                network.connect()
            else:
                within(network, "link del eth0")
            container.start()
            line = argv(container)
            assert sum(word.startswith("--net:service=tap") for word in line) == 1
            assert (f"--ipv4={ADDRESS}/24" in line) == comes
            found = recorded(container)["net"]["interfaces"]
            assert [item["name"] for item in found] == (["eth0"] if comes else [])
            if comes:
                assert f"--net-mac:service={mac(network)}" in line
            container.delete("--force")
            assert "tap" not in ip("-n", network.inside, "link")


@pytest.mark.parametrize("gone", ["before create", "while it runs", "before delete"])
def test_namespace_that_is_gone(urunc: Urunc, bundle: Bundle, pod: Network, gone: str) -> None:
    """Its name, that is: `create` says so, and `delete` has nothing to do there."""
    if gone == "before create":
        ip("netns", "del", pod.inside)
        until(lambda: "peer0" not in ip("-n", pod.outside, "link"))
        with nothing_left(urunc.root):
            refused = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
        assert refused.returncode == 1
        assert f"'{pod.path}'" in refused.stderr
        assert "Traceback" not in refused.stderr
        return
    container = urunc.create(bundle)
    container.start()
    if gone == "before delete":
        os.kill(container.pid, 9)
        container.wait_stopped()
    ip("netns", "del", pod.inside)
    log = bundle.path / "log"
    urunc.options = ["--log", str(log)]
    container.delete("--force")
    assert not log.exists(), log.read_text()
    assert not (urunc.root / container.id).exists()


def test_same_address_in_two_pods(
    urunc: Urunc, bundle: Bundle, pod: Network, tmp_path: pathlib.Path
) -> None:
    """Pods of two networks may have the same addresses, and names of TAP devices."""
    other = Network()
    try:
        other.connect()
        twin = Bundle(tmp_path / "twin")
        twin.config = json.loads(json.dumps(bundle.config))
        for name in ("unikernel", "disk.img"):
            twin.add(name, bundle.root / name)
        twin.network(other.path)
        with nothing_left(urunc.root), same(pod), same(other):
            containers = [urunc.create(bundle), urunc.create(twin)]
            lines = [argv(container) for container in containers]
            for line in lines:
                assert f"--ipv4={ADDRESS}/24" in line
                assert "--net:service=tap0_urunc" in line
            for container in containers:
                container.start()
                container.report()
            for container in containers:
                container.delete("--force")
    finally:
        other.remove()


def test_same_address_on_two_interfaces(urunc: Urunc, pod: Network, tmp_path: pathlib.Path) -> None:
    """What the namespace has twice, the guest is told twice."""
    second(pod, "net1", f"{ADDRESS}/24")
    bundle = machine(tmp_path, "qemu", pod)
    with nothing_left(urunc.root), same(pod):
        container = urunc.create(bundle)
        line = " ".join(argv(container))
        assert line.count(f"netdev.ip={ADDRESS}/24") == 2
        assert line.index(mac(pod, "eth0")) < line.index(mac(pod, "net1"))
        container.delete("--force")


@pytest.mark.parametrize(("outside", "inside"), [(68, 68), (65535, 65521)])
def test_extreme_mtus(
    urunc: Urunc, bundle: Bundle, network: Network, outside: int, inside: int
) -> None:
    """The least for IPv4, and more than a TAP device takes."""
    need("nft")
    network.connect(mtu=outside)
    with nothing_left(urunc.root), same(network):
        container = urunc.create(bundle)
        assert mtu(network, "tap0_urunc") == inside
        container.start()
        container.report()
        container.delete("--force")


def test_long_name(urunc: Urunc, bundle: Bundle, network: Network) -> None:
    """A name as long as the kernel has them, with all that it takes."""
    need("nft")
    network.connect("a-.x_3456789abc")
    with nothing_left(urunc.root), same(network):
        container = urunc.create(bundle)
        assert f"--ipv4={ADDRESS}/24" in argv(container)
        container.start()
        container.delete("--force")


@pytest.mark.parametrize(("monitor", "most"), [("qemu", 16), ("firecracker", 8)])
def test_fifty_interfaces(
    urunc: Urunc, pod: Network, tmp_path: pathlib.Path, monitor: str, most: int
) -> None:
    """The guest has as many as its monitor can give, the first ones; a warning says what is
    left out."""
    script = "".join(
        f"link add n{number} type veth peer name p{number} netns {pod.outside}\n"
        f"link set n{number} up\naddr add 10.50.{number}.2/24 dev n{number}\n"
        for number in range(1, 50)
    )
    subprocess.run(["ip", "-n", pod.inside, "-batch", "-"], input=script, check=True, text=True)
    script = "".join(f"link set p{number} up\n" for number in range(1, 50))
    subprocess.run(["ip", "-n", pod.outside, "-batch", "-"], input=script, check=True, text=True)
    bundle = machine(tmp_path, monitor, pod)
    log = tmp_path / "log"
    urunc.options = ["--log", str(log)]
    with nothing_left(urunc.root), same(pod):
        container = urunc.create(bundle)
        names = [item["name"] for item in recorded(container)["net"]["interfaces"]]
        assert names == ["eth0", *(f"n{number}" for number in range(1, most))]
        launch = json.dumps(recorded(container)["launch"])
        assert len(set(re.findall(r"tap\d+_urunc", launch))) == most
        warnings = [line for line in log.read_text().splitlines() if "level=warning" in line]
        assert any(f"n{most}" in line for line in warnings), warnings
        assert not any(f" n{most - 1}," in line for line in warnings), warnings
        container.start()
        assert container.status() == "running"
        if monitor == "firecracker":
            assert len(container.report()["nics"]) == most
        container.delete("--force")


def test_no_default_route(urunc: Urunc, bundle: Bundle, pod: Network) -> None:
    within(pod, "route del default")
    with nothing_left(urunc.root), same(pod):
        container = urunc.create(bundle)
        line = argv(container)
        assert f"--ipv4={ADDRESS}/24" in line
        assert not any("gateway" in word for word in line)
        container.start()
        container.report()
        container.delete("--force")


@pytest.mark.parametrize("mode", ["dynamic", "pod", "shared"])
def test_namespace_without_ipv6(urunc: Urunc, bundle: Bundle, network: Network, mode: str) -> None:
    """IPv6 is turned off, as Docker does by default."""
    need("nft")
    for where in ("all", "default"):
        setting = f"net.ipv6.conf.{where}.disable_ipv6=1"
        ip("netns", "exec", network.inside, "sysctl", "-qw", setting)
    network.connect()
    bundle.config["annotations"] |= {f"{PREFIX}network": mode}
    with nothing_left(urunc.root), same(network):
        container = urunc.create(bundle)
        assert any(word.startswith("--ipv4=") for word in argv(container))
        container.start()
        container.report()
        container.delete("--force")


def test_strangers_tap(urunc: Urunc, bundle: Bundle, pod: Network) -> None:
    """A name that somebody else has is left to him."""
    within(pod, "tuntap add tap0_urunc mode tap")
    with nothing_left(urunc.root), same(pod):
        container = urunc.create(bundle)
        assert "--net:service=tap1_urunc" in argv(container)
        container.start()
        container.delete("--force")


@pytest.mark.parametrize("kind", ["ingress", "clsact"])
def test_strangers_filters(urunc: Urunc, bundle: Bundle, pod: Network, kind: str) -> None:
    """A discipline that stands there before, and its filters, are as they were."""
    tc(pod, f"qdisc add dev eth0 {kind}")
    match = "u32 match ip dst 192.0.2.9/32 action mirred egress mirror dev eth0"
    tc(pod, f"filter add dev eth0 ingress protocol ip prio 10 {match}")
    if kind == "clsact":
        tc(pod, f"filter add dev eth0 egress protocol ip prio 10 {match}")
    with nothing_left(urunc.root), same(pod):
        container = urunc.create(bundle)
        shown = tc(pod, "filter show dev eth0 ingress")
        assert "pref 10 " in shown
        assert "Redirect to device tap0_urunc" in shown
        container.start()
        container.delete("--force")


def test_strangers_filters_on_ours(urunc: Urunc, bundle: Bundle, pod: Network) -> None:
    """A discipline that urunc made and somebody else uses by then stays for him."""
    container = urunc.create(bundle)
    match = "u32 match ip dst 192.0.2.9/32 action mirred egress mirror dev eth0"
    tc(pod, f"filter add dev eth0 ingress protocol ip prio 10 {match}")
    container.delete("--force")
    shown = tc(pod, "filter show dev eth0 ingress")
    assert "pref 10 " in shown
    assert "Redirect" not in shown
    assert "tap" not in ip("-n", pod.inside, "link")


@pytest.mark.parametrize("late", [False, True], ids=["create", "start"])
def test_more_names_than_there_is_room_for(
    urunc: Urunc, pod: Network, tmp_path: pathlib.Path, late: bool
) -> None:
    """60 lines of a hosts file are too many for Linux's command line: it starts without them, and
    the log says so; fewer at `start` are told."""
    need("probe", "qemu")
    hosts, log = tmp_path / "hosts", tmp_path / "log"
    many = "".join(f"10.9.0.{n} host{n} host{n}.some.example\n" for n in range(60))
    few = "10.9.0.1 db\n"
    made = Bundle(tmp_path / "b", "linux", "qemu", accelerator="tcg")
    made.add("unikernel", PARTS / "probe.pvh")
    made.args("app", "probe.hang")
    made.network(pod.path)
    made.config["mounts"] = [{"destination": "/etc/hosts", "type": "bind", "source": str(hosts)}]
    urunc.options += ["--log", str(log)]
    with nothing_left(urunc.root):
        hosts.write_text(few if late else many)
        container = urunc.create(made)
        lines = [" ".join(argv(container))]
        said = [log.read_text() if log.exists() else ""]
        hosts.write_text(many if late else few)
        container.start()
        lines.append(" ".join(argv(container)))
        said.append(log.read_text().removeprefix(said[0]) if log.exists() else "")
        short, long = (0, 1) if late else (1, 0)
        assert "urunc.hosts=10.9.0.1@db" in lines[short]
        assert "urunc.hosts" not in lines[long]
        assert "no room in 2047 bytes for 60 lines of the hosts file" in said[long]
        assert "no room" not in said[short]
        container.delete("--force")
