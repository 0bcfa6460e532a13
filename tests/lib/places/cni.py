# SPDX-License-Identifier: Apache-2.0
"""A node whose pods real CNI plugins connect, called as a container engine calls them.

The node is a network namespace with a mount namespace (its own /run, for iptables' lock), a router
between its pods and an outside host that is one hop away. A pod is a named network namespace, whose
path is good in the host's mount namespace too, so a runtime joins it from there. All of it, the
plugins' data included, is gone when the node is left; nothing of the host's own network namespace
is touched. Needs root, iproute2, iptables, and the plugins (Debian's containernetworking-plugins).
"""

from __future__ import annotations

import contextlib
import copy
import errno
import http.client
import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from lib.patience import patient
from lib.places import Place, hold, socket_at

DIRECTORIES = ("/usr/lib/cni", "/opt/cni/bin")
USED = ("loopback", "bridge", "ptp", "host-local", "portmap", "firewall", "tuning", "bandwidth")
VERSION = "1.0.0"
UPLINK = ("198.51.100.1/24", "2001:db8:1::1/64")
OUTSIDE = ("198.51.100.2/24", "2001:db8:1::2/64")
FORWARDING = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3
IPV6_MTU_DISCOVER, IPV6_DONTFRAG = 23, 62

# The node's mount namespace, within `ip netns exec`, which has made it a slave of the host's: named
# namespaces that come and go there do so here.
HOLD = r"""
set -eu
mkdir "$0/run" "$0/netns"
mount --rbind /run/netns "$0/netns"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/netns
mount --move "$0/netns" /run/netns
echo ready
read -r _
"""

Result = dict[str, Any]
Entry = tuple[dict[str, Any], str, dict[str, Any]]
"""A network's configuration list, the interface's name in the pod, what the runtime says to it."""


def directory() -> str:
    """Where the plugins are; "" where some of those that are used are missing."""
    for place in DIRECTORIES:
        if all(os.access(f"{place}/{name}", os.X_OK) for name in USED):
            return place
    return ""


def available() -> bool:
    """Whether a node can be had here."""
    tools = all(shutil.which(name) for name in ("ip", "tc", "nft", "iptables"))
    return os.geteuid() == 0 and tools and directory() != ""


def bare(address: str) -> str:
    """An address without its prefix length."""
    return address.partition("/")[0]


def family(address: str) -> socket.AddressFamily:
    """The address's family."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Namespace:
    """A named network namespace, made when this is, and an ordinary process's view from it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"/run/netns/{name}"
        self.ip("netns", "add", name, inside=False)
        self.set("net.ipv6.conf.default.accept_dad=0")  # an address is good at once

    def close(self) -> None:
        """Take it down; devices that are in it go with it."""
        self.ip("netns", "del", self.name, inside=False)

    def ip(self, *words: str, inside: bool = True) -> str:
        """iproute2's `ip`, in here."""
        where = ["-n", self.name] if inside else []
        return _run(["ip", *where, *words])

    def command(self, *words: str) -> str:
        """What a command prints that runs in here, and nowhere else than the host otherwise."""
        return _run(["nsenter", f"--net={self.path}", *words])

    def set(self, *settings: str) -> None:
        """Set kernel parameters of this namespace, `NAME=VALUE` each."""
        self.command("sysctl", "-qw", *settings)

    def mac(self, device: str) -> str:
        """A device's hardware address."""
        (link,) = json.loads(self.ip("-j", "link", "show", device))
        return str(link["address"])

    def socket(self, of: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        """A socket of this namespace, for this process."""
        return socket_at(self.path, of, kind)

    def udp(
        self, address: str, payload: bytes, port: int = 7, *, whole: bool = False, tries: int = 8
    ) -> bytes:
        """What is answered to a datagram; `whole` forbids to fragment it (then it is an OSError,
        EMSGSIZE, where the way out is too narrow)."""
        with self.socket(family(address), socket.SOCK_DGRAM) as sock:
            sock.settimeout(patient(1))
            if whole and family(address) == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
            elif whole:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_PROBE)
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_DONTFRAG, 1)
            for _ in range(tries):
                sock.sendto(payload, (address, port))
                with contextlib.suppress(TimeoutError):
                    return sock.recv(1 << 16)
        raise AssertionError(f"{address} does not answer {len(payload)} bytes over UDP")

    def http(
        self, address: str, path: str = "/", body: str = "", port: int = 80, timeout_s: float = 30
    ) -> str:
        """A page, or with a body what is answered to it; waits for a server to come."""
        end = time.monotonic() + patient(timeout_s)
        while True:
            try:
                return self._http(address, path, body, port)
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() > end:
                    raise AssertionError(f"no answer from {address}:{port}: {error}") from None
                time.sleep(0.1)

    def _http(self, address: str, path: str, body: str, port: int) -> str:
        with self.socket(family(address), socket.SOCK_STREAM) as sock:
            sock.settimeout(patient(5))
            sock.connect((address, port))
            sock.settimeout(patient(20))
            connection = http.client.HTTPConnection(address, port)
            connection.sock = sock
            connection.request("POST" if body else "GET", path, body or None)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
            if response.status != 200:
                raise http.client.HTTPException(f"{response.status}: {text}")
            return text

    def ping(self, address: str, size: int = 56, *, whole: bool = False, tries: int = 5) -> None:
        """Somebody of that address must answer (a guest, or a kernel that has it too)."""
        words = ["-c1", "-W2", "-s", str(size), *(("-M", "do") if whole else ()), address]
        for _ in range(tries):
            if not subprocess.run(
                ["nsenter", f"--net={self.path}", "ping", *words], capture_output=True
            ).returncode:
                return
        raise AssertionError(f"{address} does not answer ping ({size} bytes)")

    @contextlib.contextmanager
    def server(self, port: int = 8080) -> Iterator[None]:
        """An HTTP server in here that says who asks: one line, the client's address."""
        with self.socket(socket.AF_INET6, socket.SOCK_STREAM) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("::", port))
            listening.listen(16)
            thread = threading.Thread(target=_serve, args=(listening,))
            thread.start()
            try:
                yield
            finally:
                listening.shutdown(socket.SHUT_RDWR)
                thread.join()

    @contextlib.contextmanager
    def name_server(self, answer: str) -> Iterator[list[str]]:
        """A name server in here, on all of its IPv4 addresses, for which every name has this
        address; who asked is in the list that it gives."""
        asked: list[str] = []
        with self.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("", 53))
            thread = threading.Thread(target=_answer_names, args=(sock, answer, asked))
            thread.start()
            try:
                yield asked
            finally:
                with self.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
                    end.sendto(b"", ("127.0.0.1", 53))
                thread.join()


def _answer_names(sock: socket.socket, address: str, asked: list[str]) -> None:
    while True:
        question, client = sock.recvfrom(512)
        if not question:
            return
        asked.append(client[0])
        record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(address)
        head = question[:2] + struct.pack(">HHHHH", 0x8580, 1, 1, 0, 0)
        name = question[12:].partition(b"\0")[0] + b"\0"
        sock.sendto(head + name + struct.pack(">HH", 1, 1) + record, client)


def _serve(listening: socket.socket) -> None:
    while True:
        try:
            connection, (address, *_) = listening.accept()
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EBADF):
                return
            raise
        with (
            connection,
            contextlib.suppress(OSError),
        ):  # its client is gone, and says so
            connection.settimeout(patient(5))
            connection.recv(4096)
            text = f"{address.removeprefix('::ffff:')}\n"
            head = f"HTTP/1.0 200 OK\r\nContent-Length: {len(text)}\r\n\r\n"
            connection.sendall((head + text).encode())


class Pod(Namespace):
    """A pod of a node: `results` are what the plugins said, one for each interface; what is made
    by hand says its addresses itself."""

    def __init__(self, node: Node, name: str) -> None:
        super().__init__(name)
        self.node = node
        self.results: list[Result] = []
        self.addresses: list[str] = []
        """Of all interfaces, `ADDRESS/PREFIX`."""
        self._added: list[tuple[Entry, Result]] = []

    def add(
        self,
        network: dict[str, Any],
        interface: str = "eth0",
        **capabilities: object,
    ) -> Result:
        """Connect it (ADD with each of a list's plugins, in order); `capabilities` are what the
        runtime has to say: portMappings, bandwidth, ips, mac."""
        entry = (network, interface, capabilities)
        result: Result = {}
        self._added.append((entry, result))
        for plugin in network["plugins"]:
            result = self._call("ADD", entry, plugin, result) or result
        self._added[-1] = (entry, result)
        if interface != "lo":
            self.results.append(result)
            self.addresses += [item["address"] for item in result.get("ips", ())]
        return result

    def check(self) -> None:
        """Everything that the plugins made is there still (CHECK)."""
        for entry, result in self._added:
            for plugin in entry[0]["plugins"]:
                if plugin["type"] != "portmap":  # wants rules for IPv6 of every pod (1.1.1)
                    self._call("CHECK", entry, plugin, result)

    def remove(self) -> None:
        """Disconnect it (DEL, in reverse), and take it down; nothing where that is done."""
        if self not in self.node.pods:
            return
        self.node.pods.remove(self)
        try:
            for entry, result in reversed(self._added):
                for plugin in reversed(entry[0]["plugins"]):
                    self._call("DEL", entry, plugin, result)
        finally:
            self.close()

    def _call(
        self,
        command: str,
        entry: Entry,
        plugin: dict[str, Any],
        previous: Result,
    ) -> Result:
        network, interface, capabilities = entry
        config = copy.deepcopy(plugin) | {
            "name": network["name"],
            "cniVersion": network["cniVersion"],
        }
        wanted = config.pop("capabilities", {})
        runtime = {key: value for key, value in capabilities.items() if wanted.get(key)}
        if runtime:
            config["runtimeConfig"] = runtime
        if previous:
            config["prevResult"] = previous
        if config.get("ipam", {}).get("type") == "host-local":
            config["ipam"]["dataDir"] = f"{self.node.data}/networks"
        return self.node.plugin(
            config["type"],
            config,
            CNI_COMMAND=command,
            CNI_CONTAINERID=self.name,
            CNI_NETNS=self.path,
            CNI_IFNAME=interface,
        )


class Node(Place):
    """The place: `with Node("a1b2") as node: pod = node.pod(bridge("net", "10.22.0.0/24"))`, with a
    name of its own on this machine."""

    def __init__(self, name: str) -> None:
        self._name = name

    def boot(self, undo: contextlib.ExitStack) -> None:
        self._plugins = directory()
        self.pods: list[Pod] = []
        self._count = 0
        self.data = pathlib.Path(undo.enter_context(tempfile.TemporaryDirectory()))
        self.outside = Namespace(f"urunc-outside-{self._name}")
        undo.callback(self.outside.close)
        self.inside = Namespace(f"urunc-node-{self._name}")
        undo.callback(self.inside.close)
        self.inside.set(*FORWARDING)
        for place in (self.inside, self.outside):
            place.ip("link", "set", "lo", "up")
        self._hold(undo)
        self.inside.ip("link", "add", "uplink", "type", "veth", "peer", "name", "eth0",
                       "netns", self.outside.name)  # fmt: skip
        for place, device, addresses in (
            (self.inside, "uplink", UPLINK),
            (self.outside, "eth0", OUTSIDE),
        ):
            for address in addresses:
                place.ip("addr", "add", address, "dev", device)
            place.ip("link", "set", device, "up")
        for ours, theirs in zip(UPLINK, OUTSIDE, strict=True):
            self.outside.ip("route", "add", "default", "via", bare(ours))
            self.inside.ip("route", "add", "default", "via", bare(theirs))

    def _hold(self, undo: contextlib.ExitStack) -> None:
        command = ["ip", "netns", "exec", self.inside.name, "sh", "-c", HOLD, str(self.data)]
        self._holder = hold(undo, command, "node")

    @property
    def prefix(self) -> list[str]:
        script = 'cd "$0" 2>/dev/null || cd /; exec "$@"'
        enter = ["nsenter", "-t", str(self._holder.pid), "-m", "-n"]
        return [*enter, "sh", "-c", script, os.getcwd()]

    def pod(self, *networks: dict[str, Any], **capabilities: object) -> Pod:
        """A new pod: lo is up, and eth0, net1, … are on the networks."""
        self._count += 1
        pod = Pod(self, f"urunc-pod-{self._name}-{self._count}")
        self.pods.append(pod)
        self._left.callback(pod.remove)
        pod.add(network("loopback", {"type": "loopback"}), "lo")
        for number, wanted in enumerate(networks):
            pod.add(wanted, f"net{number}" if number else "eth0", **capabilities)
        return pod

    def veth(self, pod: Pod, here: str, device: str = "eth0", mtu: int = 1500) -> None:
        """A pair of devices, both up, by hand: `here` is the node's end."""
        self.inside.ip("link", "add", here, "mtu", str(mtu), "type", "veth", "peer", "name", device,
                       "mtu", str(mtu), "netns", pod.name)  # fmt: skip
        self.inside.ip("link", "set", here, "up")
        pod.ip("link", "set", device, "up")

    def plugin(self, name: str, config: dict[str, Any], **environment: str) -> Result:
        """One call of a plugin; its result, {} where it has none."""
        result = subprocess.run(
            [*self.prefix, f"{self._plugins}/{name}"],
            input=json.dumps(config),
            capture_output=True,
            text=True,
            timeout=patient(30),
            env=os.environ | environment | {"CNI_PATH": self._plugins},
        )
        if result.returncode:
            command = environment.get("CNI_COMMAND")
            raise AssertionError(f"CNI {name} {command}: {result.stdout}{result.stderr}")
        return dict(json.loads(result.stdout)) if result.stdout.strip() else {}


def network(name: str, *plugins: dict[str, Any], version: str = VERSION) -> dict[str, Any]:
    """A network's configuration list."""
    return {"cniVersion": version, "name": name, "plugins": list(plugins)}


def host_local(*subnets: str, gateway: bool = True) -> dict[str, Any]:
    """Addresses from each of the subnets, and default routes of their families."""
    everywhere = sorted({"::/0" if ":" in subnet else "0.0.0.0/0" for subnet in subnets})
    return {
        "type": "host-local",
        "ranges": [[{"subnet": subnet}] for subnet in subnets],
        "routes": [{"dst": destination} for destination in everywhere] if gateway else [],
    }


def bridge(
    name: str,
    *subnets: str,
    chained: Sequence[dict[str, Any]] = (),
    gateway: bool = True,
    version: str = VERSION,
    **settings: object,
) -> dict[str, Any]:
    """The network that most engines come with: a bridge of the node, which is the gateway and
    hides the pods' addresses from the outside."""
    plugin = {
        "type": "bridge",
        "bridge": f"br-{name}",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": host_local(*subnets, gateway=gateway),
    }
    return network(name, plugin | settings, *chained, version=version)


def ptp(name: str, *subnets: str, **settings: object) -> dict[str, Any]:
    """A pair of devices for each pod, and routes."""
    plugin = {"type": "ptp", "ipMasq": True, "ipam": host_local(*subnets)}
    return network(name, plugin | settings)


def _run(words: list[str]) -> str:
    result = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if result.returncode:
        raise AssertionError(f"{' '.join(words)}: {result.stdout}{result.stderr}")
    return result.stdout
