# SPDX-License-Identifier: Apache-2.0
"""Guests that share their network namespace, with each other and with ordinary processes; and name
servers on the namespace's loopback, in either mode.

Each answer is the guest's own: an HTTP page that only it has, a UDP echo, or a line on its console.
"""

from __future__ import annotations

import pathlib
import subprocess
import time

import pytest

from lib.neighbours import (
    PAGE,
    PEER,
    beside,
    echo,
    fetch,
    forwarding,
    linux,
    probe,
    resolver,
    started,
    tables,
)
from lib.support import Network, Urunc, ip, nothing_left

# $1: listens on that port of every address; what it hears goes to $2:$3, and back: what Knative's
# queue-proxy does for its application
PROXY = """
import socket, sys, threading
listener = socket.create_server(("", int(sys.argv[1])))
def serve(near):
    far = socket.create_connection((sys.argv[2], int(sys.argv[3])), timeout=10)
    far.sendall(near.recv(65536))
    far.shutdown(socket.SHUT_WR)
    while part := far.recv(65536):
        near.sendall(part)
    near.close()
print("ready", flush=True)
while True:
    near, _ = listener.accept()
    threading.Thread(target=serve, args=(near,), daemon=True).start()
"""
# A name server at $1, UDP port $2 and TCP port $3, that knows one address for every name.
NAME_SERVER = """
import socket, sys, threading
host, udp_port, tcp_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def answer(query):
    question = query[12:query.index(b"\\0", 12) + 5]
    if question[-4:-2] != b"\\0\\1":  # there are IPv4 addresses alone
        return query[:2] + b"\\x81\\x80\\0\\1\\0\\0\\0\\0\\0\\0" + question
    return (query[:2] + b"\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0" + question
            + b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4" + bytes((198, 51, 100, 7)))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind((host, udp_port))
tcp = socket.create_server((host, tcp_port))
def serve():
    while True:
        near, _ = tcp.accept()
        with near:
            reply = answer(near.recv(4096)[2:])
            near.sendall(len(reply).to_bytes(2, "big") + reply)
threading.Thread(target=serve, daemon=True).start()
print("ready", flush=True)
while True:
    query, sender = udp.recvfrom(4096)
    udp.sendto(answer(query), sender)
"""


def test_knative_pod(urunc: Urunc, network: Network, tmp_path: pathlib.Path) -> None:
    """queue-proxy has the pod's address and reaches its application, a guest, on localhost."""
    network.connect()
    bundle = linux(tmp_path / "b", network, "exec httpd -f -p 8080 -h /www")
    bundle.config["annotations"]["io.kubernetes.cri.container-name"] = "user-container"
    bundle.config["process"]["env"] = ["PORT=8080"]
    with (
        nothing_left(urunc.root),
        beside(network.inside, PROXY, "8012", "127.0.0.1", "8080"),
    ):
        before = forwarding(network.inside)
        container = started(urunc, bundle)
        assert container.plan()["network"] == "shared"
        assert PAGE in fetch(network.outside, f"http://{network.inside_address}:8012/")
        assert PAGE in fetch(network.inside, "http://127.0.0.1:8080/")
        assert PAGE in fetch(network.outside, f"http://{network.inside_address}:8080/")
        assert forwarding(network.inside)[0] == "1"
        container.delete("--force")
        assert forwarding(network.inside) == before
        assert tables(network.inside) == ""


@pytest.mark.parametrize("monitor", ["firecracker", "spt"])
def test_knative_pod_of_the_probe(
    urunc: Urunc, network: Network, tmp_path: pathlib.Path, monitor: str
) -> None:
    """The same with the probe: on localhost, and at the pod's address."""
    network.connect()
    bundle = probe(tmp_path / "b", network, monitor)
    bundle.config["annotations"]["io.kubernetes.cri.container-name"] = "user-container"
    bundle.config["process"]["env"] = ["PORT=7"]
    with nothing_left(urunc.root):
        container = started(urunc, bundle)
        assert echo(network.inside, "127.0.0.1", 7, "from a sidecar") == "from a sidecar"
        assert echo(network.outside, network.inside_address, 7, "outside") == "outside"
        container.delete("--force")


def test_a_guest_reaches_out(urunc: Urunc, network: Network, tmp_path: pathlib.Path) -> None:
    """Its connections leave under the pod's address; its own ports are reached through it, too;
    the pod's localhost is not its own."""
    network.connect()
    script = (
        "httpd -p 80 -h /www; wget -qO- http://10.123.0.1:9000/; wget -qO- http://10.123.0.2:8080/;"
        " wget -qO- http://172.16.1.1:9001/; echo served; sleep 60"
    )
    bundle = linux(tmp_path / "b", network, script, network="shared", ports="8080:80/tcp")
    with (
        nothing_left(urunc.root),
        beside(network.outside, PEER, "9000"),
        beside(network.inside, PEER, "9001"),
    ):
        container = started(urunc, bundle)
        console = container.wait_for("\nserved", 60)
        assert f"you are {network.inside_address}" in console, "not the pod's address"
        assert "you are 172.16.1.2" in console, "a sidecar sees the guest"
        assert PAGE in console, "its own port at the pod's address"
        container.delete("--force")


@pytest.mark.parametrize("monitor", ["firecracker", "spt"])
def test_two_guests(urunc: Urunc, network: Network, tmp_path: pathlib.Path, monitor: str) -> None:
    """Each has its ports; all others are one guest's, but for those that a sidecar listens on."""
    network.connect()
    sidecar = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.bind(('', 9000))\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    _, sender = s.recvfrom(2048)\n"
        "    s.sendto(b'sidecar', sender)\n"
    )
    first = probe(tmp_path / "1", network, monitor, network="shared", ports="*")
    second = probe(tmp_path / "2", network, monitor, network="shared", ports="17:7/udp")
    address = network.inside_address
    with nothing_left(urunc.root), beside(network.inside, sidecar):
        before = forwarding(network.inside)
        one, two = started(urunc, first), started(urunc, second)
        assert echo(network.outside, address, 7, "to the first") == "to the first"
        assert echo(network.outside, address, 17, "to the second") == "to the second"
        assert echo(network.inside, "127.0.0.1", 17, "localhost") == "localhost"
        assert echo(network.outside, address, 9000, "x") == "sidecar"
        assert "172.16.1.2/24" in one.report()["cmdline"]
        assert "172.16.2.2/24" in two.report()["cmdline"]
        # which of them answers, they tell by ending
        assert echo(network.outside, address, 7, "quit 3") == "quit 3"
        one.wait_stopped()
        assert two.status() == "running"
        one.delete()
        assert forwarding(network.inside)[0] == "1", "the second guest's need"
        assert echo(network.outside, address, 17, "still there") == "still there"
        two.delete("--force")
        assert forwarding(network.inside) == before
        assert tables(network.inside) == ""


def test_refusals(urunc: Urunc, network: Network, tmp_path: pathlib.Path) -> None:
    """What one guest has, another cannot have; nothing of the attempt is left."""
    network.connect()
    kinds = {"network": "shared", "ports": "7/udp,*"}
    one = urunc.create(probe(tmp_path / "1", network, "spt", **kinds))
    for asked, message in (
        ({"network": "shared", "ports": "1-9/udp"}, "'1-9/udp': another guest of the namespace"),
        ({"network": "shared", "ports": "*"}, "'*': another guest of the namespace"),
        ({}, "shares the namespace"),
    ):
        bundle = probe(tmp_path / "2", network, "spt", **asked)
        with nothing_left(urunc.root):
            before = tables(network.inside)
            found = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
            assert found.returncode == 1
            assert message in found.stderr
            assert tables(network.inside) == before
    one.delete("--force")
    taker = urunc.create(probe(tmp_path / "3", network, "spt"))
    bundle = probe(tmp_path / "4", network, "spt", network="shared")
    found = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    assert "a guest has taken interface 'eth0' over" in found.stderr
    taker.delete("--force")


@pytest.mark.parametrize("when", ["at create", "at start"])
def test_dual_stack(urunc: Urunc, network: Network, tmp_path: pathlib.Path, when: str) -> None:
    """IPv6, too, is behind NAT; what hears router advertisements goes on hearing them."""
    network.connect()
    address = ("-n", network.inside, "addr", "add", "fd00:77::2/64", "dev", "eth0", "nodad")
    if when == "at create":
        ip(*address)
    ip("-n", network.outside, "addr", "add", "fd00:77::1/64", "dev", "peer0", "nodad")
    subprocess.run(
        ["ip", "netns", "exec", network.inside, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=1"],
        check=True,
    )
    script = "ping6 -c1 -w5 fd00:77::1 && echo reached; exec httpd -f -p 80 -h /www"
    bundle = linux(tmp_path / "b", network, script, network="shared", ports="80/tcp")
    with nothing_left(urunc.root):
        before = forwarding(network.inside)
        container = urunc.create(bundle)
        if when == "at start":
            ip(*address)
        container.start()
        container.wait_for("\nreached", 60)
        assert PAGE in fetch(network.outside, "http://[fd00:77::2]/")
        assert PAGE in fetch(network.outside, f"http://{network.inside_address}/")
        assert forwarding(network.inside) == ["1", "1", "2"]
        container.delete("--force")
        assert forwarding(network.inside) == before


def test_a_guest_is_held_to_its_own(urunc: Urunc, network: Network, tmp_path: pathlib.Path) -> None:
    """It sends from its own address, and is reached by its ports. Without each rule the same is
    seen to get through."""
    network.connect()
    script = (
        "ip addr add 10.9.9.9/32 dev eth0; httpd -p 80 -h /www; ping -c1 -w9 10.123.0.1 && echo up;"
        " while :; do ping -c1 -w1 -I 10.9.9.9 10.123.0.1 >/dev/null && echo forged; done"
    )
    bundle = linux(tmp_path / "b", network, script, network="shared", ports="8080:80/tcp")

    def without(chain: str) -> None:
        words = ["nft", "flush", "chain", "inet", "urunc_tap0", chain]
        subprocess.run(["ip", "netns", "exec", network.inside, *words], check=True)

    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        ip("-n", network.inside, "route", "add", "10.9.9.9/32", "dev", "tap0_urunc")
        for there in ("10.9.9.9/32", "172.16.1.2/32"):
            ip("-n", network.outside, "route", "add", there, "via", network.inside_address)
        container.start()
        container.wait_for("\nup", 60)
        assert PAGE in fetch(network.outside, f"http://{network.inside_address}:8080/")
        assert fetch(network.outside, "http://172.16.1.2/", timeout_s=0) == ""
        time.sleep(2)  # two pings' worth
        assert "\nforged" not in container.wait_for("\nup")
        without("forward")
        assert PAGE in fetch(network.outside, "http://172.16.1.2/")
        without("source")
        container.wait_for("\nforged", 15)
        container.delete("--force")


def test_a_network_of_the_guests_own_comes(
    urunc: Urunc, network: Network, tmp_path: pathlib.Path
) -> None:
    """What an engine connects between `create` and `start` has the subnet that was chosen."""
    network.connect()
    bundle = probe(tmp_path / "b", network, "spt", network="shared", ports="7")
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        ip("-n", network.inside, "link", "add", "net1", "type", "veth", "peer", "name", "p1")
        ip("-n", network.inside, "addr", "add", "172.16.1.9/24", "dev", "net1")
        ip("-n", network.inside, "link", "set", "net1", "up")
        container.start()
        address = network.inside_address
        assert echo(network.outside, address, 7, "elsewhere") == "elsewhere"
        assert "192.168.1.2/24" in container.report()["cmdline"]
        container.delete("--force")
        ip("-n", network.inside, "link", "del", "net1")


@pytest.mark.parametrize("mode", ["dynamic", "shared"])
def test_loopback_resolver_of_the_probe(
    urunc: Urunc, network: Network, tmp_path: pathlib.Path, mode: str
) -> None:
    """A resolver that listens at 127.0.0.11, on a port of its own, as Docker's. MirageOS is told no
    name server."""
    network.connect()
    bundle = probe(tmp_path / "b", network, "firecracker", "probe.resolve=web", network=mode)
    resolver(bundle, "nameserver 127.0.0.11\noptions ndots:0\n")
    with (
        nothing_left(urunc.root),
        beside(network.inside, NAME_SERVER, "127.0.0.11", "40053", "40054"),
    ):
        container = started(urunc, bundle)
        assert container.event("resolved", 20)["address"] == "198.51.100.7"
        # the guest has its own way still
        if mode == "dynamic":
            network.ping()
            assert network.udp(b"echo") == b"echo"
        container.delete("--force")
        assert tables(network.inside) == ""


@pytest.mark.parametrize("mode", ["dynamic", "shared", "internal"])
def test_loopback_resolver_of_linux(
    urunc: Urunc, network: Network, tmp_path: pathlib.Path, mode: str
) -> None:
    """UDP and TCP; also in a network without a default route; what listens beside the resolver
    stays out of reach. Search domains and options are the container's."""
    network.connect()
    if mode == "internal":
        ip("-n", network.inside, "route", "del", "default")
    # the query is an A record's for `tcp`, its length before it
    over_tcp = (
        "printf '\\000\\035\\022\\064\\001\\000\\000\\001\\000\\000\\000\\000\\000\\000"
        "\\003tcp\\004host\\000\\000\\001\\000\\001' | nc -w 3 $s 53 | tail -c 4 | od -An -tu1"
    )
    script = (
        "s=$(sed -n 's/nameserver //p' /etc/resolv.conf); cat /etc/resolv.conf; nslookup web; "
        f"{over_tcp}; wget -qO- http://$s:7777/ & sleep 2; echo asked; sleep 60"
    )
    annotations = {"network": "shared"} if mode == "shared" else {}
    bundle = linux(tmp_path / "b", network, script, **annotations)
    resolver(
        bundle, "nameserver 127.0.0.11\nsearch a.example b.example\noptions ndots:5 timeout:2\n"
    )
    with (
        nothing_left(urunc.root),
        beside(network.inside, NAME_SERVER, "127.0.0.11", "40053", "40054"),
        beside(network.inside, PEER, "7777"),
    ):
        container = started(urunc, bundle)
        console = container.wait_for("\nasked", 60).replace("\r", "")
        assert console.startswith(
            "search a.example b.example\noptions ndots:5 timeout:2\nnameserver "
        )
        assert "Address: 198.51.100.7" in console
        assert "198  51 100   7" in console
        assert ("you are" in console) == (mode == "shared")
        container.delete("--force")


def test_a_resolver_that_comes_late(urunc: Urunc, network: Network, tmp_path: pathlib.Path) -> None:
    """resolv.conf and the resolver are those of `start`."""
    network.connect()
    bundle = linux(tmp_path / "b", network, "nslookup web; echo asked; sleep 60")
    resolver(bundle, "")
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        (bundle.path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        with beside(network.inside, NAME_SERVER, "0.0.0.0", "53", "53"):
            container.start()
            assert "Address: 198.51.100.7" in container.wait_for("\nasked", 60)
            container.delete("--force")
        assert tables(network.inside) == ""
