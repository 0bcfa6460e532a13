# SPDX-License-Identifier: Apache-2.0
"""Guests in pods as clusters and engines make them: every network of the table, with every guest.

A pod's namespace keeps its address while the guest uses it, so whoever is asked must be seen to be
the guest: over HTTP and UDP, where the namespace's kernel has no server, and over ping, which that
kernel is told not to answer. Those who ask are ordinary processes: the node's, another pod's on the
same network, and a host's outside the node.
"""

from __future__ import annotations

import dataclasses
import errno
import pathlib
import re
import shlex
import uuid
from collections.abc import Callable, Iterator

import pytest

from lib.network_state import network_unchanged
from lib.patience import patient
from lib.places.cni import OUTSIDE, UPLINK, Namespace, Node, Pod, bare, bridge, network, ptp
from lib.rooted import own_init
from lib.support import PARTS, RUN, Bundle, Container, Urunc, need, nothing_left

FIREWALL = ({"type": "firewall"}, {"type": "tuning"})
PORTS = [
    {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
    {"hostPort": 8007, "containerPort": 7, "protocol": "udp"},
]
RATES = {f"{way}{what}": 16_000_000 for way in ("ingress", "egress") for what in ("Rate", "Burst")}
LINK = "169.254.1.1"
"""The gateway of every pod of some networks; nobody has the address."""
HEADERS = {4: 20 + 8, 6: 40 + 8}
"""Bytes in front of what a datagram or a ping carries, by the version of IP."""


# the networks: each function makes one more pod


def by_bridge(node: Node) -> Pod:
    return node.pod(bridge("net", "10.22.0.0/24", chained=FIREWALL))


def by_old_bridge(node: Node) -> Pod:
    return node.pod(bridge("net", "10.22.0.0/24", version="0.4.0"))


def by_ptp(node: Node) -> Pod:
    return node.pod(ptp("net", "10.22.0.0/24"))


def by_route(node: Node) -> Pod:
    """A /32 address and a gateway on the link, as Calico; the node answers ARP for all there is."""
    pod = _routed(node)
    here = f"cali{len(node.pods)}"
    node.inside.set(f"net.ipv4.conf.{here}.proxy_arp=1", f"net.ipv4.neigh.{here}.proxy_delay=0")
    return pod


def by_neighbour(node: Node) -> Pod:
    """The same with the gateway's hardware address in the pod's table, as on AWS; nobody answers
    ARP for it."""
    pod = _routed(node)
    station = node.inside.mac(f"cali{len(node.pods)}")
    pod.ip("neigh", "add", LINK, "lladdr", station, "dev", "eth0", "nud", "permanent")
    return pod


def _routed(node: Node) -> Pod:
    pod = node.pod()
    here, address = f"cali{len(node.pods)}", f"10.22.0.{len(node.pods)}"
    node.veth(pod, here)
    pod.ip("addr", "add", f"{address}/32", "dev", "eth0")
    pod.ip("route", "add", LINK, "dev", "eth0", "scope", "link")
    pod.ip("route", "add", "default", "via", LINK, "dev", "eth0")
    node.inside.ip("route", "add", f"{address}/32", "dev", here, "scope", "link")
    pod.addresses.append(f"{address}/32")
    return pod


def by_peer(node: Node) -> Pod:
    """An address with a peer's, which is the gateway."""
    pod = node.pod()
    here, address = f"peer{len(node.pods)}", f"10.22.0.{1 + len(node.pods)}"
    node.veth(pod, here)
    node.inside.ip("addr", "add", "10.22.0.1", "peer", address, "dev", here)
    pod.ip("addr", "add", address, "peer", "10.22.0.1", "dev", "eth0")
    pod.ip("route", "add", "default", "via", "10.22.0.1")
    pod.addresses.append(f"{address}/32")
    return pod


def by_ipv6(node: Node) -> Pod:
    return node.pod(bridge("net", "fd00:22::/64"))


def by_ptp_ipv6(node: Node) -> Pod:
    return node.pod(ptp("net", "fd00:22::/64"))


def by_both(node: Node) -> Pod:
    return node.pod(bridge("net", "10.22.0.0/24", "fd00:22::/64"))


def by_two(node: Node) -> Pod:
    """Two interfaces; the second has no default route."""
    return node.pod(
        bridge("one", "10.22.0.0/24"),
        bridge("two", "10.23.0.0/24", gateway=False),
    )


def by_narrow(node: Node) -> Pod:
    return node.pod(bridge("net", "10.22.0.0/24", mtu=1400))


def by_wide(node: Node) -> Pod:
    return node.pod(bridge("net", "10.22.0.0/24", mtu=9000))


def by_ports(node: Node) -> Pod:
    mapper = {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}}
    network = bridge("net", "10.22.0.0/24", chained=(mapper,))
    first = not node.pods
    return node.pod(network, **({"portMappings": PORTS} if first else {}))


def by_limited(node: Node) -> Pod:
    limiter = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
    return node.pod(bridge("net", "10.22.0.0/24", chained=(limiter,)), bandwidth=RATES)


def by_all(node: Node) -> Pod:
    """All that engines chain to a bridge."""
    mapper = {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}}
    limiter = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
    given: dict[str, object] = {} if node.pods else {"portMappings": PORTS}
    chained = (*FIREWALL, mapper, limiter)
    return node.pod(bridge("net", "10.22.0.0/24", chained=chained), bandwidth=RATES, **given)


def by_narrow_and_wide(node: Node) -> Pod:
    """As by_two, of another MTU each."""
    return node.pod(
        bridge("one", "10.22.0.0/24", mtu=1400),
        bridge("two", "10.23.0.0/24", gateway=False, mtu=9000),
    )


def by_macvlan(node: Node) -> Pod:
    """A device of the node's own network; pods see each other and the outside, but not the node."""
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": "198.51.100.0/24", "rangeStart": "198.51.100.10"}]],
        "routes": [{"dst": "0.0.0.0/0", "gw": bare(OUTSIDE[0])}],
    }
    plugin = {"type": "macvlan", "master": "uplink", "mode": "bridge", "ipam": addresses}
    return node.pod(network("net", plugin))


# the guests


class Guest:
    """A guest in a pod, and how one sees that it is the guest that answers."""

    name = ""
    families: tuple[int, ...] = (4,)

    def bundle(self, path: pathlib.Path, *more: str) -> Bundle:
        """`more` are addresses of further interfaces, for a guest that is not told them."""
        raise NotImplementedError

    def wait(self, container: Container) -> None:
        """Until it serves."""
        container.wait_for('"serving"')

    def answers(
        self, client: Namespace, address: str, size: int = 0, *, mapped: bool = False
    ) -> None:
        """It answers this client, also a packet as large as the way there (`size`, if that is
        known); `mapped`: at the node's port."""
        payload = b"echo this"
        assert client.udp(address, payload, 8007 if mapped else 7) == payload
        if size:
            payload = bytes(number % 251 for number in range(size))
            assert client.udp(address, payload, whole=True) == payload
        if not mapped:
            client.ping(address)

    def looks(self, container: Container, pod: Pod, other: Pod, row: Row) -> None:
        """What only this guest can say of its network."""


class Linux(Guest):
    """Debian's kernel on QEMU's own code generator, with a web server; a page of it is a shell."""

    name = "linux"
    families = (4, 6)

    def bundle(self, path: pathlib.Path, *more: str) -> Bundle:
        need("linux", "qemu")
        script = (
            "cd /www; mkdir cgi-bin; printf '%s\\n' '#!/bin/sh' echo 'exec sh 2>&1' >cgi-bin/sh; "
            "chmod +x cgi-bin/sh; udp-echo 7 & echo it is serving; exec httpd -f -p 80 -h /www"
        )
        made = own_init(path, "/init", "/bin/sh", "-c", script, initrd="/initrd.cpio")
        made.add("initrd.cpio", PARTS / "linux/initrd.cpio")
        return made

    def wait(self, container: Container) -> None:
        container.wait_for("it is serving", 60)

    def answers(
        self, client: Namespace, address: str, size: int = 0, *, mapped: bool = False
    ) -> None:
        page = client.http(address, port=8080 if mapped else 80, timeout_s=10)
        assert page == "hello from a Linux guest\n"
        super().answers(client, address, size, mapped=mapped)

    def shell(self, client: Namespace, address: str, *commands: str) -> str:
        """What commands print that the guest runs."""
        script = "\n".join(["export PATH=/usr/sbin:/usr/bin:/sbin:/bin", *commands, ""])
        return client.http(address, "/cgi-bin/sh", script, timeout_s=10)

    def looks(self, container: Container, pod: Pod, other: Pod, row: Row) -> None:
        first = bare(pod.addresses[0])
        shown = self.shell(other, first, "ip -o addr; ip route; ip -6 route; cat /proc/cmdline")
        for address in pod.addresses:
            ways = address if row.subnet else f"{bare(address)}(/32|/128| peer)"
            assert re.search(f" inet6? {ways} ", shown), shown
        mtus = self.shell(other, first, "cat /sys/class/net/eth?/mtu").split()
        assert mtus == [str(mtu) for mtu in row.mtus], mtus
        with pod.node.inside.server(), other.server(), pod.node.outside.server():
            for address in pod.addresses:
                ip6 = ":" in address
                own, neighbours = (
                    [item for item in of.addresses if (":" in item) == ip6] for of in (pod, other)
                )
                for target in (*neighbours, *((UPLINK[ip6],) if row.node else ()), OUTSIDE[ip6]):
                    seen = self.fetch(other, first, bare(target))
                    if target in neighbours:
                        assert seen == bare(own[neighbours.index(target)])
                # more than fits is sent in fragments, which a bridge of the kernel's drops where
                # they are large, those of ordinary pods too
                for target in neighbours:
                    mtu = row.mtu_of(other.addresses.index(target))
                    size = 3 * mtu if mtu <= 1500 else mtu - HEADERS[6 if ip6 else 4]
                    ping = f"ping -c 1 -W 2 -s {size} {bare(target)}"
                    said = self.shell(other, first, f"{ping} || {ping}")
                    assert " 0% packet loss" in said, said

    def fetch(self, client: Namespace, address: str, target: str) -> str:
        """What the guest gets from a server there."""
        host = f"[{target}]" if ":" in target else target
        url = shlex.quote(f"http://{host}:8080/")
        return self.shell(client, address, f"timeout {patient(5):.0f} wget -q -O - {url}").strip()


class Firecracker(Guest):
    """The probe as a Unikraft guest on Firecracker."""

    name = "firecracker"

    def bundle(self, path: pathlib.Path, *more: str) -> Bundle:
        need("firecracker", "kvm", "probe")
        made = Bundle(path, "unikraft", "firecracker")
        made.add("unikernel", PARTS / "probe.pvh")
        made.args("app", "probe.serve=60000")
        return made


class Spt(Guest):
    """The probe as a MirageOS guest on Solo5's spt; in place of the tender there may be its
    contract double. MirageOS is told one address, so the probe takes others as its arguments."""

    name = "spt"

    def bundle(self, path: pathlib.Path, *more: str) -> Bundle:
        need("solo5", "probe")
        made = Bundle(path, "mirage", "spt", block="/disk.img")
        made.add("unikernel", PARTS / f"probe-{'2if' if more else 'mirage'}.spt")
        made.add("disk.img", bytes(512 * 8))
        words = (f"probe.address{number}={address}" for number, address in enumerate(more, 1))
        made.args("probe.serve=60000", *words)
        return made

    def looks(self, container: Container, pod: Pod, other: Pod, row: Row) -> None:
        """Its devices are its manifest's, in order, each with an interface's hardware address."""
        seen = [(item["name"], item["mac"]) for item in container.report()["nics"]]
        wanted = (("service", "eth0"), ("other", "net1"))[: len(row.mtus)]
        assert seen == [(name, pod.mac(interface)) for name, interface in wanted]


GUESTS: tuple[Guest, ...] = (Linux(), Firecracker(), Spt())
LINUX, FIRECRACKER, SPT = GUESTS
PROBES = (FIRECRACKER, SPT)
"""They start at once: where Linux has several networks' features in one row, each has its own."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A network, and who can be in it."""

    pod: Callable[[Node], Pod]
    guests: tuple[Guest, ...] = GUESTS
    mtus: tuple[int, ...] = (1500,)
    """Of its interfaces. Where there are several, each has one address."""
    ports: bool = False
    """Whether the node's PORTS are the pod's."""
    subnet: bool = True
    """Whether its routes say of all addresses of its subnet that they are on the link."""
    node: bool = True
    """Whether the node itself is reached."""

    def mtu_of(self, number: int) -> int:
        """Of the interface that has the pod's address with this number."""
        return self.mtus[number if len(self.mtus) > 1 else 0]


ROWS = {
    "bridge": Row(by_bridge, PROBES),
    "bridge, ports, bandwidth": Row(by_all, (LINUX,), ports=True),
    "bridge of CNI 0.4": Row(by_old_bridge, (FIRECRACKER,)),
    "ptp": Row(by_ptp, subnet=False),
    "route": Row(by_route),
    "neighbour": Row(by_neighbour),
    "peer": Row(by_peer, subnet=False),
    "IPv6": Row(by_ipv6, (LINUX,)),
    "IPv6 by ptp": Row(by_ptp_ipv6, (LINUX,), subnet=False),
    "both": Row(by_both),
    "two interfaces": Row(by_two, PROBES, mtus=(1500, 1500)),
    "two interfaces, MTU 1400 and 9000": Row(by_narrow_and_wide, (LINUX,), mtus=(1400, 9000)),
    "MTU 1400": Row(by_narrow, PROBES, mtus=(1400,)),
    "MTU 9000": Row(by_wide, PROBES, mtus=(9000,)),
    "ports": Row(by_ports, PROBES, ports=True),
    "bandwidth": Row(by_limited, PROBES),
    "macvlan": Row(by_macvlan, node=False),
}


@pytest.fixture
def node() -> Iterator[Node]:
    """A node without pods."""
    need("cni", "root", "tun", "installed")
    with Node(RUN + uuid.uuid4().hex[:6]) as made:
        yield made


def silent(pod: Pod) -> Pod:
    """The same pod, whose own kernel does not answer ping: who does is the guest."""
    pod.set("net.ipv4.icmp_echo_ignore_all=1", "net.ipv6.icmp.echo_ignore_all=1")
    return pod


def create(urunc: Urunc, guest: Guest, pod: Pod, path: pathlib.Path) -> Container:
    """A container of this guest in this pod."""
    more = (result["ips"][0]["address"] for result in pod.results[1:])
    bundle = guest.bundle(path, *more)
    bundle.network(pod.path)
    return urunc.create(bundle)


@pytest.mark.parametrize(
    ("row", "guest"),
    [
        pytest.param(row, guest, id=f"{name}-{guest.name}")
        for name, row in ROWS.items()
        for guest in row.guests
    ],
)
def test_guest_answers(
    urunc: Urunc, node: Node, tmp_path: pathlib.Path, row: Row, guest: Guest
) -> None:
    pod, other = silent(row.pod(node)), row.pod(node)
    with nothing_left(urunc.root), network_unchanged(pod.path):
        container = create(urunc, guest, pod, tmp_path / "b")
        container.start()
        guest.wait(container)
        for number, address in enumerate(map(bare, pod.addresses)):
            version = 6 if ":" in address else 4
            if version not in guest.families:
                continue
            size = row.mtu_of(number) - HEADERS[version]
            guest.answers(other, address, size)
            if row.node:
                guest.answers(node.inside, address, size)
            guest.answers(node.outside, address)
            if row.mtu_of(number) < 1500:
                with pytest.raises(OSError) as refused:
                    node.inside.udp(address, bytes(size + 1), whole=True)
                assert refused.value.errno == errno.EMSGSIZE
        if row.ports:
            for client, address in (
                (node.inside, bare(UPLINK[0])),
                (node.inside, "127.0.0.1"),
                (node.outside, bare(UPLINK[0])),
                (other, bare(UPLINK[0])),
                (other, pod.results[0]["ips"][0]["gateway"]),
            ):
                guest.answers(client, address, mapped=True)
        guest.looks(container, pod, other, row)
        container.delete("--force")
    pod.check()


@pytest.mark.parametrize("far", [False, True], ids=["neighbour", "outside"])
@pytest.mark.parametrize("name", ["bridge", "ptp", "route", "neighbour", "peer", "both"])
def test_guest_asks(urunc: Urunc, node: Node, tmp_path: pathlib.Path, name: str, far: bool) -> None:
    """What a guest sends of itself arrives, at another pod and beyond its gateway: the probe finds
    its next hop by ARP, where an answer would only go back to where the question came from."""
    row = ROWS[name]
    pod, other = silent(row.pod(node)), row.pod(node)
    server = bare(OUTSIDE[0]) if far else bare(other.addresses[0])
    resolver = tmp_path / "resolv.conf"
    resolver.write_text(f"nameserver {server}\n")
    bundle = FIRECRACKER.bundle(tmp_path / "b")
    bundle.args("app", "probe.resolve=some.name.test", "probe.serve=60000")
    bundle.config["mounts"] = [
        {"destination": "/etc/resolv.conf", "type": "bind", "source": str(resolver)}
    ]
    bundle.network(pod.path)
    with nothing_left(urunc.root), (node.outside if far else other).name_server("192.0.2.7"):
        container = urunc.create(bundle)
        container.start()
        FIRECRACKER.wait(container)
        said = container.console.read_text()
        assert '"event":"resolved"' in said, said
        assert '"address":"192.0.2.7"' in said, said
        container.delete("--force")


@pytest.mark.parametrize("guest", [FIRECRACKER, SPT], ids=lambda guest: guest.name)
@pytest.mark.parametrize("connect", [by_ipv6, by_ptp_ipv6], ids=["bridge", "ptp"])
def test_probe_with_ipv6_alone(
    urunc: Urunc, node: Node, tmp_path: pathlib.Path, guest: Guest, connect: Callable[[Node], Pod]
) -> None:
    """A guest whose dialect has no IPv6 starts all the same, is told no address, and the log says
    so; one whose dialect has is told."""
    log = tmp_path / "log"
    urunc.options += ["--log", str(log)]
    pod = silent(connect(node))
    with nothing_left(urunc.root), network_unchanged(pod.path):
        bundle = guest.bundle(tmp_path / "b")
        bundle.args("app", "probe.hang")
        bundle.network(pod.path)
        container = urunc.create(bundle)
        container.start()
        assert container.status() == "running"
        report = container.report()
        said = log.read_text() if log.exists() else ""
        warnings = [line for line in said.splitlines() if "level=warning" in line]
        if guest is SPT:
            prefix = 64 if connect is by_ipv6 else 128
            assert f"--ipv6=fd00:22::2/{prefix} --ipv6-gateway=fd00:22::1 " in report["cmdline"]
            assert warnings == []
        else:
            assert "netdev.ip" not in report["cmdline"]
            assert (report["ip"], len(report["nics"])) == (None, 1)
            assert any("IPv6" in line for line in warnings), warnings
        container.delete("--force")


def test_guests_talk(urunc: Urunc, node: Node, tmp_path: pathlib.Path) -> None:
    """Guests of one bridge: pages over HTTP both ways, and pings that only the guest answers."""
    linux = LINUX
    assert isinstance(linux, Linux)
    pods = [silent(by_bridge(node)) for _ in range(3)]
    a, b, c = (bare(pod.addresses[0]) for pod in pods)
    with nothing_left(urunc.root):
        containers = [
            create(urunc, guest, pod, tmp_path / str(number))
            for number, (guest, pod) in enumerate(
                zip((LINUX, LINUX, FIRECRACKER), pods, strict=True)
            )
        ]
        for container in containers:
            container.start()
        for container, guest in zip(containers, (LINUX, LINUX, FIRECRACKER), strict=True):
            guest.wait(container)
        for one, another in ((a, b), (b, a)):
            # the other guest has an address before its server listens
            page = f"timeout {patient(5):.0f} wget -q -O - http://{another}/"
            fetch = (
                f"for i in $(seq 20); do {page} && break; sleep 1; done; ip -o addr show dev eth0"
            )
            said = linux.shell(node.inside, one, fetch)
            assert "hello from a Linux guest" in said
            assert f"inet {one}/24" in said
            said = linux.shell(node.inside, one, f"ping -c 3 -W 2 {c}")
            assert " 0% packet loss" in said, said
        for container in containers:
            container.delete("--force")
