# SPDX-License-Identifier: Apache-2.0
"""The network of guests where a user namespace owns their network namespace: the container's own
(`uidMappings`, as Podman's --uidmap), one that it joins, and one that urunc itself runs in, as a
rootless engine's runtime.

Each answer is the guest's own. The network namespace is kept when the container goes, as engines
keep it, and must be as it was.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
from collections.abc import Iterator

import pytest
from test_shared_network import NAME_SERVER

from lib.neighbours import beside, echo, resolver, tables
from lib.places.rootless import Rootless
from lib.support import PARTS, Bundle, Container, Network, Urunc, ip, need

MAPPING = [{"containerID": 0, "hostID": 3_000_000_000, "size": 65_536}]
"""Ids as a kubelet gives them to pods: any that 32 bits hold."""


class Around:
    """A container's surroundings: which user namespace it has, and who makes it."""

    kind = ""

    def __init__(self, urunc: Urunc, network: Network, directory: pathlib.Path) -> None:
        self.urunc = urunc
        self.network = network
        self.directory = directory

    def fit(self, bundle: Bundle) -> None:
        """Change a bundle to what can be here."""

    def create(self, bundle: Bundle) -> Container:
        """`create`; the network namespace has no interface before."""
        self.fit(bundle)
        return self.urunc.create(bundle)


class Mapped(Around):
    """A user namespace and a network namespace of the container's own."""

    def fit(self, bundle: Bundle) -> None:
        linux = bundle.config["linux"]
        linux["namespaces"] += [{"type": "user"}]
        linux |= {"uidMappings": MAPPING, "gidMappings": MAPPING}

    def create(self, bundle: Bundle) -> Container:
        container = super().create(bundle)
        self.network.adopt(f"/proc/{container.pid}/ns/net")
        return container


class Joined(Around):
    """Namespaces of a pod."""

    pid = 0

    def fit(self, bundle: Bundle) -> None:
        bundle.network(self.network.path)
        path = f"/proc/{self.pid}/ns/user"
        bundle.config["linux"]["namespaces"] += [{"type": "user", "path": path}]


class Inside(Around):
    """urunc in an ordinary user's user namespace."""

    place: Rootless

    def fit(self, bundle: Bundle) -> None:
        bundle.network(self.place.network)
        bundle.config["linux"]["resources"] = {}  # no control group is the user's
        bundle.write()
        self.place.give(bundle.path)


@contextlib.contextmanager
def joined(urunc: Urunc, network: Network, directory: pathlib.Path) -> Iterator[Around]:
    """A process that holds the namespaces."""
    around = Joined(urunc, network, directory)
    script = "read go; echo ready; exec sleep infinity"
    with subprocess.Popen(
        ["unshare", "--user", "--net", "sh", "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdin and process.stdout
            around.pid = process.pid
            for name in ("uid_map", "gid_map"):
                write_map(process.pid, name)
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "ready\n"
            network.adopt(f"/proc/{process.pid}/ns/net")
            yield around
        finally:
            process.kill()


def write_map(pid: int, name: str) -> None:
    """Map the ids, once the process has its user namespace."""
    own = os.readlink("/proc/self/ns/user")
    while os.readlink(f"/proc/{pid}/ns/user") == own:
        pass
    pathlib.Path(f"/proc/{pid}/{name}").write_text("0 800000 65536")


@contextlib.contextmanager
def inside(
    urunc: Urunc, network: Network, _directory: pathlib.Path, tun_mode: str = "666"
) -> Iterator[Around]:
    """A rootless engine's user namespace."""
    need("rootless")
    with Rootless(tun_mode) as place:
        runtime = Urunc(place.directory)
        runtime.root.mkdir()
        place.give(runtime.root)
        runtime.prefix = place.prefix
        around = Inside(runtime, network, place.directory)
        around.place = place
        network.adopt(place.network_outside)
        yield around
        runtime.clean()


@pytest.fixture(params=["mapped", "joined", "inside"])
def around(
    request: pytest.FixtureRequest, urunc: Urunc, network: Network, tmp_path: pathlib.Path
) -> Iterator[Around]:
    """Each of the surroundings."""
    need("nft")
    if request.param == "mapped":
        yield Mapped(urunc, network, tmp_path)
        return
    make = joined if request.param == "joined" else inside
    with make(urunc, network, tmp_path) as made:
        yield made


def probe(around: Around, monitor: str, *words: str, **annotations: str) -> Bundle:
    """The probe, as a MirageOS guest on spt or a Unikraft one on QEMU."""
    need("probe", "solo5" if monitor == "spt" else monitor)
    guest = "mirage" if monitor == "spt" else "unikraft"
    if monitor == "spt":
        annotations["block"] = "/disk.img"
    else:
        annotations["accelerator"] = "tcg"
    bundle = Bundle(around.directory / "b", guest, monitor, **annotations)
    if monitor == "spt":
        bundle.add("unikernel", PARTS / "probe-mirage.spt")
        bundle.add("disk.img", bytes(512 * 64))
    else:
        bundle.add("unikernel", PARTS / "probe.pvh")
    bundle.args("app", "probe.serve=60000", *words)
    return bundle


def assert_given_back(around: Around) -> None:
    """No container is there, and its namespace has what others have put there, no more."""
    network = around.network
    assert list(around.urunc.root.iterdir()) == []
    links = ip("-n", network.inside, "-o", "link").splitlines()
    assert [line.split(": ")[1].split("@")[0] for line in links] == ["lo", "eth0"]
    queues = subprocess.run(
        ["tc", "-n", network.inside, "qdisc"], capture_output=True, text=True, check=True
    ).stdout
    assert "ingress" not in queues
    assert tables(network.inside) == ""
    assert forwards(network.inside) == forwards(network.outside)


def forwards(namespace: str) -> str:
    """Whether a namespace forwards IPv4 and IPv6."""
    names = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
    command = ["ip", "netns", "exec", namespace, "sysctl", "-n", *names]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("monitor", ["spt", "qemu"])
def test_interface_that_comes_late(around: Around, monitor: str) -> None:
    """Podman's --uidmap brings it between `create` and `start`; the guest takes it over, and
    `delete` gives it back."""
    container = around.create(probe(around, monitor))
    around.network.connect()
    container.start()
    container.wait_for('"serving"')
    around.network.ping()
    assert around.network.udp(b"echo") == b"echo"
    container.delete("--force")
    assert_given_back(around)


@pytest.mark.parametrize("monitor", ["spt", "qemu"])
def test_shared(around: Around, monitor: str) -> None:
    """Its port at the namespace's address and, for who is in the namespace, at localhost."""
    bundle = probe(around, monitor, network="shared", ports="17:7/udp")
    network = around.network
    container = around.create(bundle)
    network.connect()
    container.start()
    container.wait_for('"serving"')
    assert echo(network.outside, network.inside_address, 17, "from afar") == "from afar"
    assert echo(network.inside, "127.0.0.1", 17, "from near") == "from near"
    assert forwards(network.inside).startswith("1\n")
    container.delete("--force")
    assert_given_back(around)


@pytest.mark.parametrize("mode", ["dynamic", "shared"])
def test_resolver_on_loopback(around: Around, mode: str) -> None:
    """Rules of nftables and sysctls of the TAP device."""
    bundle = probe(around, "qemu", "probe.resolve=web", network=mode)
    resolver(bundle, "nameserver 127.0.0.11\n")
    network = around.network
    container = around.create(bundle)
    network.connect()
    with beside(network.inside, NAME_SERVER, "127.0.0.11", "40053", "40054"):
        container.start()
        assert container.event("resolved")["address"] == "198.51.100.7"
    container.delete("--force")
    assert_given_back(around)


@pytest.mark.parametrize("mode", ["dynamic", "shared"])
def test_ends(around: Around, mode: str) -> None:
    """`kill`, a monitor that somebody else killed, `delete` twice."""
    bundle = probe(around, "spt", network=mode)
    network, urunc = around.network, around.urunc
    container = around.create(bundle)
    network.connect()
    container.start()
    os.kill(container.pid, signal.SIGKILL)
    container.wait_stopped()
    assert "tap0_urunc" in ip("-n", network.inside, "link")
    container.delete()
    assert_given_back(around)
    again = urunc("delete", container.id, check=False)
    assert again.returncode == 1
    assert "does not exist" in again.stderr
    container.delete("--force")
    if isinstance(around, Mapped):
        return  # its user namespace is gone, and nobody can come back into the other
    other = urunc.create(bundle)
    other.start()
    urunc("kill", other.id, "KILL")
    other.wait_stopped()
    other.delete()
    assert_given_back(around)


def test_tun_that_is_closed(urunc: Urunc, network: Network, tmp_path: pathlib.Path) -> None:
    """A /dev/net/tun that is root's alone."""
    with inside(urunc, network, tmp_path, tun_mode="600") as around:
        network.connect()
        refused = refusal(around, "dynamic")
    assert "make TAP device 'tap0_urunc': permission denied" in refused
    assert "let this user open /dev/net/tun" in refused


def test_sysctls_that_are_read_only(urunc: Urunc, network: Network, tmp_path: pathlib.Path) -> None:
    """As in most containers."""
    with inside(urunc, network, tmp_path) as around:
        assert isinstance(around, Inside)
        network.connect()
        script = "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys"
        around.place.run("sh", "-c", script)
        refused = refusal(around, "shared")
        assert tables(network.inside) == ""
    assert "forward packets: set sysctl '/proc/sys/net/ipv4/ip_forward': read-only" in refused
    assert "/proc/sys must be writable where urunc runs" in refused


def refusal(around: Around, mode: str) -> str:
    """What `create` of a container says that cannot be."""
    bundle = probe(around, "spt", network=mode)
    around.fit(bundle)
    urunc = around.urunc
    found = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    assert found.returncode == 1
    assert list(urunc.root.iterdir()) == []
    return found.stderr
