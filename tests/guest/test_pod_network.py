# SPDX-License-Identifier: Apache-2.0
"""Guests that have their pod's address, beside sidecars (network mode `pod`).

Each answer is the guest's own: an HTTP page that only it has, a UDP echo, or a line on its console.
"""

from __future__ import annotations

import pathlib
import subprocess

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
    started,
    tables,
    told,
)
from lib.patience import patient
from lib.support import Bundle, Network, Urunc, ip, nothing_left

# A sidecar of a service mesh, as a user of its own: what comes from outside is led to port 15006,
# what the others send, to 15001; each goes on to where it was sent, as Istio's does it.
MESH_UID = 1337
MESH = """
import os, socket, struct, sys, threading
log = open(sys.argv[1], "a", buffering=1)
os.setgid(1337), os.setuid(1337)
def original(near):
    family, port, address = struct.unpack(">HH4s8x", near.getsockopt(0, 80, 16))
    return socket.inet_ntoa(address), port
def serve(near, source, name):
    target = original(near)
    print(name, "to", *target, file=log)
    far = socket.create_connection(target, timeout=10, source_address=source)
    far.sendall(near.recv(65536))
    while part := far.recv(65536):
        near.sendall(part)
    near.close()
def listen(port, source, name):
    listener = socket.create_server(("", port))
    def accept():
        while True:
            near, _ = listener.accept()
            threading.Thread(target=serve, args=(near, source, name), daemon=True).start()
    threading.Thread(target=accept).start()
listen(15006, ("127.0.0.6", 0), "inbound")
listen(15001, None, "outbound")
print("ready", flush=True)
"""
MESH_RULES = f"""*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner {MESH_UID} -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner {MESH_UID} -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner {MESH_UID} -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
"""
# A UDP server on port $1 that answers with a text of its own
ANSWER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", int(sys.argv[1])))
print("ready", flush=True)
while True:
    _, sender = s.recvfrom(2048)
    s.sendto(b"sidecar", sender)
"""
# A web server on port $1, of both families, that tells each who that is.
EVERYBODY = """
import socket, sys, threading
listener = socket.create_server(("", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
def serve(near, host):
    near.recv(4096)
    near.sendall(f"HTTP/1.0 200 OK\\r\\n\\r\\nyou are {host}\\n".encode())
    near.close()
print("ready", flush=True)
while True:
    near, (host, *_) = listener.accept()
    threading.Thread(target=serve, args=(near, host), daemon=True).start()
"""
# Says on TCP port $1 how much came
COUNT = """
import socket, sys
listener = socket.create_server(("", int(sys.argv[1])))
print("ready", flush=True)
while True:
    near, _ = listener.accept()
    count = 0
    while count < 300000:
        count += len(near.recv(65536))
    near.sendall(f"{count} came\\n".encode())
    near.close()
"""
# Whether UDP port $2 of $1 is refused
REFUSED = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[3]))
s.connect((sys.argv[1], int(sys.argv[2])))
s.send(b"x")
try:
    s.recv(9)
except ConnectionRefusedError:
    print("refused")
"""
# A connection from port $1 to $2:$3, kept
HOLD = """
import socket, sys, time
s = socket.create_connection((sys.argv[2], int(sys.argv[3])), source_address=("", int(sys.argv[1])))
print("ready", flush=True)
time.sleep(600)
"""


def in_pod(bundle: Bundle, name: str = "web") -> Bundle:
    """As containerd's CRI writes it for a container of a pod."""
    bundle.config["annotations"] |= {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": name,
    }
    return bundle


def dual_stack(network: Network) -> None:
    network.connect()
    ip("-n", network.inside, "addr", "add", "fd00:77::2/64", "dev", "eth0", "nodad")
    ip("-n", network.inside, "route", "add", "default", "via", "fd00:77::1")
    ip("-n", network.outside, "addr", "add", "fd00:77::1/64", "dev", "peer0", "nodad")


@pytest.mark.parametrize("monitor", ["firecracker", "spt"])
def test_probe(urunc: Urunc, network: Network, tmp_path: pathlib.Path, monitor: str) -> None:
    """It answers at the pod's address and on localhost, but for ports that a sidecar has, even one
    that comes later; its successor does while it is kept for its logs; without it all is as
    before."""
    network.connect()
    address = network.inside_address
    bundle = in_pod(probe(tmp_path / "1", network, monitor))
    with nothing_left(urunc.root), beside(network.inside, PEER, "9000"):
        before = forwarding(network.inside)
        container = started(urunc, bundle)
        assert container.plan()["network"] == "pod"
        assert container.plan()["network_reason"] == "the default in a pod"
        assert f"{address}" in container.report()["cmdline"]
        assert echo(network.outside, address, 7, "outside") == "outside"
        for host in (address, "127.0.0.1"):
            assert echo(network.inside, host, 7, host) == host
        assert "you are 10.123.0.1" in fetch(network.outside, f"http://{address}:9000/")
        assert "you are 127.0.0.1" in fetch(network.inside, "http://127.0.0.1:9000/")
        with beside(network.inside, ANSWER, "7"):
            assert echo(network.outside, address, 7, "outside") == "sidecar"
            for host in (address, "127.0.0.1"):
                assert echo(network.inside, host, 7, host) == "sidecar"
        assert echo(network.inside, "127.0.0.1", 7, "again") == "again"
        network.ping()  # the namespace's own answer
        assert echo(network.inside, "127.0.0.1", 7, "quit 3") == "quit 3"
        container.wait_stopped()
        second = started(urunc, in_pod(probe(tmp_path / "2", network, monitor)))
        assert echo(network.outside, address, 7, "second") == "second"
        assert echo(network.inside, "127.0.0.1", 7, "second") == "second"
        container.delete()
        assert echo(network.inside, "127.0.0.1", 7, "still") == "still"
        second.delete("--force")
        assert forwarding(network.inside) == before
        assert tables(network.inside) == ""
        assert "you are 10.123.0.1" in fetch(network.outside, f"http://{address}:9000/")


def test_two_guests(urunc: Urunc, network: Network, tmp_path: pathlib.Path) -> None:
    """Each has the pod's address and its own ports; a third, without ports, has none to have."""
    network.connect()
    address = network.inside_address
    first = in_pod(probe(tmp_path / "1", network, "spt", ports="7/udp"), "one")
    second = in_pod(probe(tmp_path / "2", network, "spt", ports="17:7/udp,*"), "two")
    third = in_pod(probe(tmp_path / "3", network, "spt"), "three")
    with nothing_left(urunc.root):
        before = forwarding(network.inside)
        one, two = started(urunc, first), started(urunc, second)
        refused = urunc("create", "--bundle", str(third.write()), urunc.new_id(), check=False)
        assert "has all other tcp ports" in refused.stderr
        assert "in a pod, one without 'ports'" in refused.stderr
        for container in (one, two):
            assert address in container.report()["cmdline"]
        for where in (network.outside, network.inside):
            for port in (7, 17):
                assert echo(where, address, port, f"to {port}") == f"to {port}"
        for port in (7, 17):
            assert echo(network.inside, "127.0.0.1", port, "local") == "local"
        assert echo(network.outside, address, 7, "quit 3") == "quit 3"
        one.wait_stopped()
        assert two.status() == "running"
        one.delete()
        assert echo(network.inside, "127.0.0.1", 17, "still") == "still"
        two.delete("--force")
        assert forwarding(network.inside) == before
        assert tables(network.inside) == ""


def test_linux(urunc: Urunc, network: Network, tmp_path: pathlib.Path) -> None:
    """IPv4 and IPv6: inbound, localhost, outbound; both of a pod from one port to the same place;
    the guest reaches a sidecar that listens on localhost alone; ICMP's errors come through both
    ways: a path with a smaller MTU, a port on which nobody listens."""
    dual_stack(network)
    path = ("10.123.0.0/24", "dev", "eth0", "src", network.inside_address, "mtu", "1200")
    ip("-n", network.inside, "route", "replace", *path)
    script = (
        "ip addr show dev eth0; httpd -p [::]:80 -h /www; wget -qO- http://10.123.0.1:9000/;"
        " wget -qO- 'http://[fd00:77::1]:9000/'; ping6 -c1 -w9 fd00:77::1 && echo reached;"
        " wget -qO- http://169.254.54.1:9001/; echo | nc -p 40000 10.123.0.1 9000;"
        " head -c 300000 /dev/zero | nc 10.123.0.1 9002; echo served; sleep 600"
    )
    bundle = in_pod(linux(tmp_path / "b", network, script))
    local = PEER.replace('("", int', '("127.0.0.1", int')
    with (
        nothing_left(urunc.root),
        beside(network.outside, EVERYBODY, "9000"),
        beside(network.outside, COUNT, "9002"),
        beside(network.inside, local, "9001"),
        beside(network.inside, HOLD, "40000", "10.123.0.1", "9000"),
    ):
        before = forwarding(network.inside)
        container = started(urunc, bundle)
        # a guest that has sent nothing yet is reached, too: nobody has to ask for its neighbour
        words = ("-n", network.inside, "neigh", "show", "dev", "tap0_urunc", "nud", "permanent")
        known = {line.split()[0] for line in ip(*words).splitlines()}
        assert known >= {"10.123.0.2", "fd00:77::2"}
        console = container.wait_for("\nserved", 90)
        for text in ("inet 10.123.0.2/24", "inet6 fd00:77::2/128", "\nreached"):
            assert text in console
        assert console.count("you are ::ffff:10.123.0.2") == 2
        assert "you are fd00:77::2" in console
        assert "you are 127.0.0.1" in console
        assert "300000 came" in console
        asked = ("10.123.0.2", "5", str(patient(2)))
        assert told(network.outside, REFUSED, *asked, timeout_s=3) == "refused\n"
        for host in ("10.123.0.2", "[fd00:77::2]"):
            assert PAGE in fetch(network.outside, f"http://{host}/")
        for host in ("10.123.0.2", "[fd00:77::2]", "127.0.0.1", "[::1]"):
            assert PAGE in fetch(network.inside, f"http://{host}/", timeout_s=0)
        container.delete("--force")
        assert forwarding(network.inside) == before
        assert tables(network.inside) == ""


def test_service_mesh(urunc: Urunc, network: Network, tmp_path: pathlib.Path) -> None:
    """A sidecar has every TCP connection to the guest and of it, by rules for processes."""
    network.connect()
    subprocess.run(
        ["ip", "netns", "exec", network.inside, "iptables-nft-restore"],
        input=MESH_RULES, text=True, check=True,
    )  # fmt: skip
    script = "httpd -p 80 -h /www; wget -qO- http://10.123.0.1:9000/; echo served; sleep 600"
    bundle, log = in_pod(linux(tmp_path / "b", network, script)), tmp_path / "log"
    with (
        nothing_left(urunc.root),
        beside(network.inside, MESH, str(log)),
        beside(network.outside, PEER, "9000"),
    ):
        container = started(urunc, bundle)
        console = container.wait_for("\nserved", 90)
        assert "you are 10.123.0.2" in console
        assert log.read_text() == "outbound to 10.123.0.1 9000\n"
        assert PAGE in fetch(network.outside, "http://10.123.0.2/")
        assert log.read_text().splitlines()[1:] == ["inbound to 10.123.0.2 80"]
        assert PAGE in fetch(network.inside, "http://127.0.0.1/", timeout_s=0)
        container.delete("--force")
