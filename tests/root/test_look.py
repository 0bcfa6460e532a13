# SPDX-License-Identifier: Apache-2.0
"""What is found in a network namespace, however its owner set it up with ip(8), and in the files
that engines mount."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from lib.support import Network, ip, need
from urunc.bundle.network_files import read_hostname
from urunc.linux.namespaces import call_in_network
from urunc.linux.netlink import Kept, ask
from urunc.linux.rtnetlink import Rtnetlink
from urunc.net.facts import Address, Interface, NetworkFound, Resolver, Route
from urunc.net.look import network_of, read_hosts, read_network, read_resolver

Ip = Callable[..., str]


@pytest.fixture
def place() -> Iterator[Network]:
    need("root")
    network = Network()
    ip("-n", network.outside, "link", "add", "peer0", "type", "veth",
       "peer", "name", "eth0", "netns", network.inside)  # fmt: skip
    ip("-n", network.outside, "link", "set", "peer0", "up")
    ip("-n", network.inside, "link", "set", "eth0", "up")
    yield network
    network.remove()


def within(place: Network, *commands: str) -> None:
    """Commands of ip(8) in the container's namespace."""
    for command in commands:
        ip("-n", place.inside, *command.split())


def found(place: Network, count: int = 16) -> NetworkFound:
    return read_network(place.path, "", "", count)


def only(place: Network) -> Interface:
    (interface,) = found(place).interfaces
    return interface


def v4(address: str, prefix: int, *, on_link: bool = True) -> Address:
    return Address(address=address, prefix=prefix, on_link=on_link)


def route(destination: str, gateway: str = "", metric: int = 0) -> Route:
    return Route(destination=destination, gateway=gateway, metric=metric)


def test_another_machines_tap(place: Network) -> None:
    """One that has no address but the one that IPv6 gives each device leads nowhere."""
    within(
        place,
        "tuntap add tap1 mode tap",
        "link set tap1 up",
        "addr add fe80::5/64 dev tap1 nodad",
    )
    assert only(place).name == "eth0"
    within(place, "addr add 10.9.0.5/24 dev tap1")
    assert [interface.name for interface in found(place).interfaces] == ["eth0", "tap1"]


def test_bridge(place: Network) -> None:
    within(place, "addr add 10.1.0.5/24 dev eth0", "route add default via 10.1.0.1")
    interface = only(place)
    assert interface.ipv4 == (v4("10.1.0.5", 24),)
    assert interface.routes == (route("0.0.0.0/0", "10.1.0.1"),)


def test_ptp(place: Network) -> None:
    """As CNI's ptp: a prefix whose other addresses are behind the gateway."""
    within(
        place,
        "addr add 10.1.0.5/24 dev eth0",
        "route del 10.1.0.0/24 dev eth0",
        "route add 10.1.0.1 dev eth0 scope link",
        "route add 10.1.0.0/24 via 10.1.0.1",
        "route add default via 10.1.0.1",
    )
    interface = only(place)
    assert interface.ipv4 == (v4("10.1.0.5", 24, on_link=False),)
    assert interface.routes[0] == route("10.1.0.1/32")
    assert set(interface.routes[1:]) == {
        route("0.0.0.0/0", "10.1.0.1"),
        route("10.1.0.0/24", "10.1.0.1"),
    }


def test_on_link_gateway_by_decree(place: Network) -> None:
    within(
        place,
        "addr add 10.1.0.5/32 dev eth0",
        "route add 169.254.1.1 dev eth0 scope link",
        "route add default via 169.254.1.1",
        "neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent",
        "neigh add 169.254.1.9 lladdr ee:ee:ee:ee:ee:99 dev eth0 nud permanent",
    )
    interface = only(place)
    assert interface.ipv4 == (v4("10.1.0.5", 32, on_link=False),)
    assert interface.routes == (route("169.254.1.1/32"), route("0.0.0.0/0", "169.254.1.1"))
    assert interface.gateway_mac == "ee:ee:ee:ee:ee:ee"


def test_point_to_point(place: Network) -> None:
    within(place, "addr add 10.1.0.5 peer 10.9.0.1 dev eth0", "route add default via 10.9.0.1")
    interface = only(place)
    assert interface.ipv4 == (v4("10.1.0.5", 32, on_link=False),)
    assert interface.routes == (route("10.9.0.1/32"), route("0.0.0.0/0", "10.9.0.1"))


def test_several_addresses_and_routes(place: Network) -> None:
    within(
        place,
        "addr add 10.1.0.5/24 dev eth0",
        "addr add 10.2.0.5/24 dev eth0",
        "-6 addr add fd00::5/64 dev eth0 nodad",
        "-6 addr add fd00:1::5/64 dev eth0 nodad",
        "route add default via 10.1.0.1 metric 300",
        "route add default via 10.2.0.1 metric 100",
        "route add 192.168.0.0/16 nexthop via 10.1.0.9 nexthop via 10.1.0.10",
        "route add blackhole 192.0.2.0/24",
        "route add 198.51.100.0/24 via 10.1.0.1 table 100",
        "-6 route add default via fe80::1 dev eth0",
        "-6 route add fd00:9::/48 via fd00::1",
    )
    interface = only(place)
    assert interface.ipv4 == (v4("10.1.0.5", 24), v4("10.2.0.5", 24))
    # the kernel lists IPv6 addresses newest first
    assert set(interface.ipv6) == {v4("fd00::5", 64), v4("fd00:1::5", 64)}
    assert set(interface.routes) == {
        route("0.0.0.0/0", "10.1.0.1", 300),
        route("0.0.0.0/0", "10.2.0.1", 100),
        route("192.168.0.0/16", "10.1.0.9"),
        route("192.168.0.0/16", "10.1.0.10"),
        route("::/0", "fe80::1", 1024),
        route("fd00:9::/48", "fd00::1", 1024),
    }


def test_what_is_no_interface(place: Network) -> None:
    """Ports of a bridge, TAP devices of other machines and ours, what nobody has set up."""
    within(
        place,
        "addr add 10.1.0.5/24 dev eth0",
        "link add name net1 type veth peer name port1",
        "link add name br0 type bridge",
        "link set port1 master br0",
        "link set port1 up",
        "link set br0 up",
        "tuntap add dev tap0_urunc mode tap",
        "link set tap0_urunc up",
        "tuntap add dev tap0_kata mode tap",
        "link set tap0_kata up",
        "tuntap add dev tap0 mode tap",
        "link set tap0 up",
        "addr add 10.0.2.100/24 dev tap0",
        "tuntap add dev tun0 mode tun",
        "addr add 10.0.3.1/24 dev tun0",
        "link set tun0 up",
    )
    assert {item.name for item in found(place).interfaces} == {"eth0", "br0", "tap0"}
    within(place, "link set net1 up")  # without an address: its owner may mean it
    assert {item.name for item in found(place).interfaces} == {"eth0", "br0", "tap0", "net1"}


def test_what_rides_on_an_interface(place: Network) -> None:
    within(
        place,
        "addr add 10.1.0.5/24 dev eth0",
        "link add link eth0 name mv0 type macvlan mode bridge",
        "addr add 10.1.0.6/24 dev mv0",
        "link set mv0 up",
    )
    assert [item.name for item in found(place).interfaces] == ["eth0"]


def test_order_and_number(place: Network) -> None:
    for number in (2, 1):
        within(place, f"link add name net{number} type veth peer name p{number}",
               f"addr add 10.{number}.0.1/24 dev net{number}")  # fmt: skip
    within(place, "link set eth0 down", "link set eth0 name zzz", "link set zzz up",
           "addr add 10.9.0.1/24 dev zzz", "link set net1 down", "link set net1 name eth0",
           "link set eth0 up")  # fmt: skip
    seen = found(place, 2)
    assert seen.interfaces[0].name == "eth0"
    assert len(seen.interfaces) == 2
    assert len(seen.others) == 1


def test_mtu_within_what_a_tap_takes(place: Network) -> None:
    within(place, "link set eth0 mtu 65535", "addr add 10.1.0.5/24 dev eth0")
    assert only(place).mtu == 65521
    within(place, "link set eth0 mtu 68")
    assert only(place).mtu == 68


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.11:40000", Resolver(address="127.0.0.11", udp_port=40000, tcp_port=53)),
        ("127.0.0.11:53", Resolver(address="127.0.0.11", udp_port=53, tcp_port=53)),
        ("0.0.0.0:53", Resolver(address="", udp_port=53, tcp_port=53)),
        ("127.0.0.1:40000", Resolver(address="127.0.0.11", udp_port=53, tcp_port=53)),
    ],
)
def test_resolver(place: Network, tmp_path: pathlib.Path, listen: str, expected: Resolver) -> None:
    """Docker's resolver is at a port that only rules of its own know."""
    host, _, port = listen.partition(":")
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 10.0.0.53\nnameserver 127.0.0.11\noptions ndots:0\n")
    code = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.bind((sys.argv[1], int(sys.argv[2])))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    within(place, "link set lo up")
    command = ["ip", "netns", "exec", place.inside, "python3", "-c", code, host, port]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        seen = read_network(place.path, str(file), "", 1)
        process.kill()
    assert seen.resolver == expected
    assert seen.dns == ("10.0.0.53", "127.0.0.11")
    assert seen.options == ("ndots:0",)


def test_files(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "file"
    file.write_text(
        "# made by an engine\nnameserver 10.0.0.53 # the first\nnameserver 10.0.0.53\n"
        "nameserver fd00::53\ndomain old.example\nsearch a.example b.example\n"
        'options ndots:1 timeout:2 # few\noptions ndots:5 trust-ad a=b "c,d" no_tld_query é\n'
        "nameserver\nnameserver fe80::1%eth0\nnameserver resolver.example\n"
        'search a.example b"quoted b.example\n'
    )
    assert read_resolver(str(file)) == (
        ("10.0.0.53", "fd00::53"),
        ("a.example", "b.example"),
        ("ndots:5", "timeout:2", "trust-ad", "no_tld_query"),
    )
    file.write_text(
        "127.0.0.1\tlocalhost\n::1 localhost ip6-localhost\nfe00::0 ip6-localnet\n"
        "10.1.0.5 box # own\n10.0.0.9\tdb  db.example\n10.0.0.9 db db.example\nbroken\n"
        '10.0.0.8 a"b\nname name\n'
    )
    assert read_hosts(str(file)) == ("10.1.0.5 box", "10.0.0.9 db db.example")
    file.write_text("options\nsearch\n")
    assert read_resolver(str(file)) == ((), (), ())
    assert read_resolver(str(tmp_path / "none")) == ((), (), ())
    assert read_hosts(str(tmp_path / "none")) == ()


def test_read_hostname(tmp_path: pathlib.Path) -> None:
    """A name alone; what no guest could be told is none."""
    file = tmp_path / "hostname"
    for text, name in (
        ("# of the pod\n\nfront-0.shop\n", "front-0.shop"),
        ("two words\n", ""),
        ("a;b\n", ""),
        ("", ""),
    ):
        file.write_text(text)
        assert read_hostname(str(file)) == name
    assert read_hostname(str(tmp_path / "none")) == ""


@pytest.mark.parametrize("kind", ["FIFO", "FIFO with a writer", "directory", "socket", "endless"])
def test_what_is_no_file(place: Network, tmp_path: pathlib.Path, kind: str) -> None:
    """It is neither waited for nor read."""
    path, held = tmp_path / "odd", -1
    with socket.socket(socket.AF_UNIX) as listener:
        if kind.startswith("FIFO"):
            os.mkfifo(path)
        elif kind == "directory":
            path.mkdir()
        elif kind == "socket":
            listener.bind(str(path))
        else:
            path.symlink_to("/dev/zero")
        if kind == "FIFO with a writer":
            held = os.open(path, os.O_RDWR)
            os.write(held, b"nameserver 10.0.0.53\n10.0.0.9 db\n")
        seen = read_network(place.path, str(path), str(path), 1)
        if held >= 0:
            os.close(held)
    assert (seen.dns, seen.search, seen.options, seen.hosts) == ((), (), (), ())


def test_networks() -> None:
    assert network_of("10.1.2.3", 20) == "10.1.0.0/20"
    assert network_of("fd00:0:0:1:2::3", 64) == "fd00:0:0:1::/64"


class Disturbed:
    """A netlink socket in whose first dump, between two of its datagrams, something happens."""

    def __init__(self, inner: socket.socket, event: Callable[[], object]) -> None:
        self.inner = inner
        self.event = event
        self.begun = self.heard = 0

    def send(self, data: bytes) -> int:
        self.begun += 1
        return self.inner.send(data)

    def recv(self, size: int) -> bytes:
        self.heard += 1
        data = self.inner.recv(size)
        if self.heard == 1:
            self.event()
        return data


def test_addresses_that_change_while_they_are_read(place: Network) -> None:
    """The kernel says that its list is not whole (NLM_F_DUMP_INTR): it is asked again."""
    batch = "".join(f"addr add 10.9.{n // 250}.{n % 250 + 1}/32 dev eth0\n" for n in range(2500))
    command = ["ip", "-n", place.inside, "-batch", "-"]
    subprocess.run(command, input=batch, text=True, check=True)
    netlink = call_in_network(place.path, Rtnetlink)
    inner = cast("socket.socket", netlink._socket)
    changing = Disturbed(inner, lambda: within(place, "addr del 10.9.0.1/32 dev eth0"))
    said: list[tuple[int, bytes]] = []
    netlink.said = said
    netlink.links()
    before = len(said)
    changing.begun = changing.heard = 0
    netlink._socket = cast("socket.socket", changing)
    try:
        found = [address.address for address in netlink.addresses()]
    finally:
        inner.close()
    assert changing.begun == 2
    ours = [address for address in found if address.startswith("10.9.")]
    assert len(ours) == len(set(ours)) == 2499
    assert len(said) - before == len(found)


def test_sockets_that_are_kept(place: Network) -> None:
    """One for all questions, until one fails, whose answers may still come."""
    path = f"/run/netns/{place.inside}"

    def itself(netlink: Rtnetlink) -> Rtnetlink:
        assert netlink.index("eth0")
        return netlink

    def fails(netlink: Rtnetlink) -> None:
        netlink.delete_link("nobody")

    assert ask(Rtnetlink, path, itself) is not ask(Rtnetlink, path, itself)
    with Kept():
        first = ask(Rtnetlink, path, itself)
        assert ask(Rtnetlink, path, itself) is first
        with pytest.raises(OSError, match="No such device"):
            ask(Rtnetlink, path, fails)
        second = ask(Rtnetlink, path, itself)
        assert second is not first
    for ended in (first, second):
        with pytest.raises(OSError, match="Bad file descriptor"):
            ended.links()
    assert ask(Rtnetlink, path, itself) is not second
