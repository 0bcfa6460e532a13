# SPDX-License-Identifier: Apache-2.0
"""The host's namespaces, given by a path as CRI does: the host is as it was before, whatever is
asked.

The host here is a stand-in: a network, UTS, IPC, PID and mount namespace with a PID 1 of its own,
in which the runtime runs.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from lib.network_state import network_state
from lib.support import (
    PARTS,
    PREFIX,
    PROJECT,
    Bundle,
    Container,
    Network,
    Urunc,
    assert_same,
    ip,
    need,
    nothing_left,
    unchanged,
)

FILES = {
    "pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts", "user": "user",
    "cgroup": "cgroup", "time": "time",
}  # fmt: skip
UPLINK = """
sysctl -qw net.ipv6.conf.default.accept_dad=0
ip link set lo up
ip link add uplink type veth peer name far
ip addr add 10.77.0.1/24 dev uplink
ip link set uplink up
ip link set far up
ip route add default via 10.77.0.254
until ip link show uplink | grep -q "state UP" && ip link show far | grep -q "state UP"; do
    sleep 0.02
done
while ip addr | grep -q tentative; do
    sleep 0.02
done
hostname node
echo ready
exec sleep 1000
"""
WARNING = "host network namespace: the guest has no network"


class Host:
    """The stand-in, by the pid of its PID 1 as seen from outside."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.enter = ["nsenter", "-t", str(pid), "-m", "-n", "-u", "-i", "-p", "--"]

    def run(self, *words: str, check: bool = True) -> str:
        return subprocess.run(
            [*self.enter, *words], capture_output=True, text=True, check=check
        ).stdout

    def state(self) -> dict[str, set[str]]:
        """All that a container could have changed."""
        found = network_state(f"/proc/{self.pid}/ns/net")
        shown = self.run("sh", "-c", "hostname; sysctl kernel.domainname kernel.msgmax kernel.sem")
        return {**found, "names": set(shown.splitlines())}


@pytest.fixture
def host(urunc: Urunc) -> Iterator[Host]:
    """A host with an uplink, in which `urunc` runs."""
    command = ["unshare", "-m", "-n", "-u", "-i", "-p", "-f", "--kill-child", "--mount-proc"]
    with subprocess.Popen([*command, "sh", "-ec", UPLINK], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        text = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        made = Host(int(text.split()[0]))
        urunc.prefix = made.enter
        yield made
        urunc.clean()
        urunc.identifiers.clear()
        process.kill()


def given(bundle: Bundle, kind: str, path: str) -> None:
    """Have a namespace by a path."""
    items = bundle.config["linux"]["namespaces"]
    items[:] = [item for item in items if item["type"] != kind] + [{"type": kind, "path": path}]


def refusal(urunc: Urunc, bundle: Bundle) -> str:
    """What `create` refuses it with; nothing is left of it."""
    with nothing_left(urunc.root):
        refused = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    assert refused.returncode == 1
    return refused.stderr


def lived(urunc: Urunc, bundle: Bundle, host: Host) -> Container:
    """A container's whole life, in which the host stays as it is; its console is left."""
    before = host.state()
    with nothing_left(urunc.root), unchanged(host.state):
        container = urunc.create(bundle)
        assert_same(before, host.state())
        container.start()
        container.wait_for('"cmdline"')
        assert_same(before, host.state())
        assert container.status() == "running"
        container.delete("--force")
    return container


@pytest.fixture
def guest(tmp_path: pathlib.Path) -> Bundle:
    """A guest that takes any network: the probe on QEMU."""
    need("qemu", "probe", "tun")
    made = Bundle(tmp_path / "q", "unikraft", "qemu")
    made.add("unikernel", PARTS / "probe.pvh")
    made.args("app", "probe.hang")
    return made


@pytest.mark.parametrize("path", ["/proc/1/ns/net", "/proc/self/ns/net", "bound"])
def test_the_host_s_network_by_a_path(
    urunc: Urunc, guest: Bundle, host: Host, tmp_path: pathlib.Path, path: str
) -> None:
    """hostNetwork: CRI names the pod's process, whose network is the node's."""
    if path == "bound":
        path = str(tmp_path / "bound")
        pathlib.Path(path).touch()
        host.run("mount", "--bind", "/proc/1/ns/net", path)
    given(guest, "network", path)
    console = lived(urunc, guest, host).console.read_text()
    assert WARNING in console
    plan = urunc("plan", "--bundle", str(guest.path)).stdout
    assert "host network namespace" in plan


@pytest.mark.parametrize("path", ["/proc/1/ns/net", "/proc/self/ns/net"])
def test_a_runtime_in_a_network_of_its_own(
    urunc: Urunc, guest: Bundle, host: Host, path: str
) -> None:
    """An engine that has a network namespace to itself: both that and PID 1's are hosts'."""
    with subprocess.Popen(
        [*host.enter, "unshare", "-n", "sh", "-ec", UPLINK.replace("hostname node", "")],
        stdout=subprocess.PIPE,
    ) as engine:
        assert engine.stdout
        assert engine.stdout.readline() == b"ready\n"
        urunc.prefix = [*host.enter[:-1], f"--net=/proc/{engine.pid}/ns/net", "--"]
        given(guest, "network", path)
        with unchanged(lambda: network_state(f"/proc/{engine.pid}/ns/net")):
            container = lived(urunc, guest, host)
        assert WARNING in container.console.read_text()
        urunc.prefix = host.enter
        engine.kill()


def test_a_user_namespace_and_the_host_s_network(urunc: Urunc, guest: Bundle, host: Host) -> None:
    mapping = [{"containerID": 0, "hostID": 700_000, "size": 65_536}]
    guest.config["linux"] |= {"uidMappings": mapping, "gidMappings": mapping}
    guest.config["linux"]["namespaces"].append({"type": "user"})
    given(guest, "network", "/proc/1/ns/net")
    assert WARNING in lived(urunc, guest, host).console.read_text()


@pytest.mark.parametrize("mode", ["shared", "dynamic"])
def test_the_host_s_network_asked_for(urunc: Urunc, guest: Bundle, host: Host, mode: str) -> None:
    """By an annotation it is asked for, and refused; a node's configuration means the others."""
    given(guest, "network", "/proc/1/ns/net")
    urunc.config.write_text(f'[network]\nmode = "{mode}"\n')
    assert WARNING in lived(urunc, guest, host).console.read_text()
    guest.config["annotations"][f"{PREFIX}network"] = mode
    with unchanged(host.state):
        said = refusal(urunc, guest)
    assert f"annotation 'network': '{mode}' is not to be had in the host's network" in said
    plan = urunc("plan", "--bundle", str(guest.path), check=False)
    assert plan.returncode == 1
    assert "is not to be had in the host's network" in plan.stderr


@pytest.mark.parametrize("listed", [True, False])
def test_a_guest_that_declares_its_devices(
    urunc: Urunc, tmp_path: pathlib.Path, host: Host, *, listed: bool
) -> None:
    """A Solo5 tender wants a TAP device for each; there is none in the host's namespace."""
    need("solo5", "probe", "tun")
    bundle = Bundle(tmp_path / "m", "mirage", "spt", block="/disk")
    bundle.add("unikernel", PARTS / "probe-mirage.spt")
    bundle.add("disk", bytes(4096))
    bundle.args("--ipv4=10.0.0.2/24", "probe.hang")
    given(bundle, "network", "/proc/1/ns/net")
    if not listed:
        bundle.config["linux"]["namespaces"].pop()
    before = host.state()
    with nothing_left(urunc.root), unchanged(host.state):
        container = urunc.create(bundle)
        assert_same(before, host.state())
        container.start()
        container.wait_for('"cmdline"')
        assert_same(before, host.state())
        links = ip_in(container.pid, host)
        assert "tap0_urunc" in links
        container.delete("--force")
    assert WARNING in container.console.read_text()


def ip_in(pid: int, host: Host) -> str:
    """The links of the namespace of a process of the host's."""
    return host.run("nsenter", "-t", str(pid), "-n", "ip", "link")


@pytest.mark.parametrize(
    ("kind", "sysctl"),
    [
        ("network", "net.ipv4.ip_forward"),
        ("network", "net/ipv4/conf/uplink/rp_filter"),
        ("ipc", "kernel.msgmax"),
        ("ipc", "fs.mqueue.msg_max"),
        ("uts", "kernel.domainname"),
    ],
)
def test_a_kernel_parameter_of_the_host_s(
    urunc: Urunc, bundle: Bundle, host: Host, kind: str, sysctl: str
) -> None:
    """config-linux.md, Sysctl: those of the container's namespaces. runc refuses net.* so."""
    bundle.config["linux"]["sysctl"] = {sysctl: "1"}
    given(bundle, kind, f"/proc/1/ns/{FILES[kind]}")
    with unchanged(host.state):
        said = refusal(urunc, bundle)
    assert f"leads to the host's {kind} namespace" in said
    assert sysctl.replace(".", "/") in said


def test_names_are_not_the_host_s(urunc: Urunc, bundle: Bundle, host: Host) -> None:
    """The guest has the name that it was given; the host keeps its own."""
    bundle.config |= {"hostname": "guest-s-name", "domainname": "guest-s-domain"}
    given(bundle, "uts", "/proc/1/ns/uts")
    lived(urunc, bundle, host)
    assert host.run("hostname") == "node\n"


def test_ids_of_the_host_s(urunc: Urunc, bundle: Bundle, host: Host) -> None:
    """Mappings that would have no effect: the host's user namespace has its own."""
    mapping = [{"containerID": 0, "hostID": 700_000, "size": 65_536}]
    bundle.config["linux"] |= {"uidMappings": mapping, "gidMappings": mapping}
    given(bundle, "user", "/proc/1/ns/user")
    with unchanged(host.state):
        said = refusal(urunc, bundle)
    assert "linux.uidMappings: '/proc/1/ns/user' leads to the host's user namespace" in said


def test_every_namespace_is_the_host_s(urunc: Urunc, bundle: Bundle, host: Host) -> None:
    """A privileged pod's: hostNetwork, hostPID, hostIPC, and what a path can say beside. For user
    the kernel refuses to join what one is in (setns(2), EINVAL)."""
    bundle.config["linux"]["namespaces"] = [{"type": "mount"}] + [
        {"type": kind, "path": f"/proc/1/ns/{file}"} for kind, file in FILES.items()
    ]
    before = host.state()
    with nothing_left(urunc.root), unchanged(host.state):
        container = urunc.create(bundle)
        container.start()
        container.wait_for('"cmdline"')
        assert_same(before, host.state())
        for file in FILES.values():
            whose = [host.run("readlink", f"/proc/{pid}/ns/{file}") for pid in (1, container.pid)]
            assert whose[0] == whose[1], file
        container.delete("--force")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/run/netns/no-such", "no such file or directory"),
        ("/proc/self/ns/uts", "it is a uts namespace"),
        ("/etc/passwd", "it is not a namespace"),
        ("/proc/self", "it is not a namespace"),
    ],
)
@pytest.mark.parametrize("verb", ["create", "plan"])
def test_a_path_to_something_else(
    urunc: Urunc, bundle: Bundle, path: str, said: str, verb: str
) -> None:
    given(bundle, "network", path)
    words = [urunc.new_id()] if verb == "create" else []
    with nothing_left(urunc.root):
        refused = urunc(verb, "--bundle", str(bundle.write()), *words, check=False)
    assert refused.returncode == 1
    assert f"linux.namespaces: network namespace '{path}': {said}" in refused.stderr


def test_a_path_that_leads_elsewhere_by_start(
    urunc: Urunc, guest: Bundle, network: Network, host: Host, tmp_path: pathlib.Path
) -> None:
    """What is bound there now is the host's; the container is where it was."""
    path = tmp_path / "netns"
    path.touch()
    host.run("mount", "--bind", network.path, str(path))
    given(guest, "network", str(path))
    with unchanged(host.state):
        container = urunc.create(guest)
        host.run("umount", str(path))
        host.run("mount", "--bind", "/proc/1/ns/net", str(path))
        network.connect()
        container.start()
        assert "tap0_urunc" in ip("-n", network.inside, "link")
        container.delete("--force")
    assert "tap0_urunc" not in ip("-n", network.inside, "link")


def test_what_is_recorded_in_the_host_s_stays(urunc: Urunc, bundle: Bundle, host: Host) -> None:
    """A journal that leads into the host's namespace, by whatever way: `delete` warns, and removes
    nothing there."""
    container = urunc.create(bundle)
    device, inode = host.run("stat", "-Lc", "%d %i", "/proc/1/ns/net").split()
    host.run("ip", "tuntap", "add", "tap0_urunc", "mode", "tap")
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    where = {"namespace": "/proc/1/ns/net", "device": int(device), "inode": int(inode)}
    tap = {"name": "tap0_urunc", "uid": 0, "gid": 0, "mtu": 1500}
    entries: list[dict[str, Any]] = [
        {"kind": "tap", **where, **tap},
        {"kind": "rules", **where, "family": 1, "table": "urunc_tap0"},
        {"kind": "forwarding", **where, "ipv6": False},
    ]
    with (urunc.root / container.id / "journal").open("a") as journal:
        journal.writelines(json.dumps(entry) + "\n" for entry in entries)
    with unchanged(host.state):
        said = urunc("delete", "--force", container.id).stderr
    assert "left in the host's network namespace" in said
    assert "tap0_urunc" in said
    assert not (urunc.root / container.id).exists()


WRITERS = """
import sys
sys.path.insert(0, sys.argv[1])
from urunc.linux import namespaces, nftables, rtnetlink, tun
from urunc.errors import HostError
from urunc.net.connect import Place
from urunc.net.resources import Forwarding, Redirect, Rules, Tap

path = sys.argv[2]
device, inode = namespaces.identity(path)
where = dict(namespace=path, device=device, inode=inode)
index = rtnetlink.ask(path, lambda netlink: netlink.index("uplink"))
tap = dict(name="tap9_urunc", uid=0, gid=0, mtu=1500)
writers = [
    lambda: Tap(**where, **tap).make(),
    lambda: Redirect(**where, interface="uplink", index=index, tap="far", own=True).make(),
    lambda: Rules(**where, family=nftables.INET, table="t").make(),
    lambda: Forwarding(**where, ipv6=True).make(),
    lambda: rtnetlink.ask(path, lambda netlink: netlink.set_link(index, up=False)),
    lambda: rtnetlink.ask(path, lambda netlink: netlink.add_address(index, "10.9.9.9", 24)),
    lambda: nftables.ask(path, lambda tables: tables.delete_table(nftables.INET, "t")),
    lambda: namespaces.change_network(path, lambda: None),
    lambda: namespaces.call_in_network(path, lambda: tun.create_tap("tap9_urunc", 0, 0)),
]
for number, write in enumerate(writers):
    try:
        write()
    except OSError as error:
        assert "host's network namespace" in str(error), (number, error)
    else:
        raise SystemExit(f"writer {number} wrote")
try:
    Place(path, None, None, None)
except HostError as error:
    print(error)
"""


def written(enter: list[str], path: str) -> str:
    command = [*enter, sys.executable, "-c", WRITERS, str(PROJECT / "src"), path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("path", ["/proc/1/ns/net", "/proc/self/ns/net"])
def test_every_writer_refuses_the_host_s(host: Host, path: str) -> None:
    """The guard below all else: reading is allowed, changing is not."""
    need("tun", "nft")
    with unchanged(host.state):
        assert f"'{path}': it is the host's" in written(host.enter, path)


@contextlib.contextmanager
def namespace_of_a_user() -> Iterator[int]:
    """A process that is root in a user namespace, with a network namespace; its pid."""
    script = "ip link add uplink type veth peer name far; echo ready; exec sleep 100"
    command = ["unshare", "-U", "-r", "-n", "-m", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


def test_where_pid_1_cannot_be_seen(urunc: Urunc) -> None:
    """In a user namespace: what the runtime is at home in is its host; it may change others."""
    need("tun", "nft")
    with namespace_of_a_user() as home:
        enter = ["nsenter", "-t", str(home), "-U", "-n", "--preserve-credentials", "--"]
        looks = subprocess.run(
            [*enter, "stat", "-L", "/proc/1/ns/net"], capture_output=True, text=True
        )
        assert looks.returncode, "PID 1 is closed to it"
        with unchanged(lambda: network_state(f"/proc/{home}/ns/net")):
            assert "it is the host's" in written(enter, "/proc/self/ns/net")
        other = subprocess.run(
            [*enter, "unshare", "-n", sys.executable, "-c", ELSEWHERE, str(PROJECT / "src"),
             str(home)],
            capture_output=True, text=True,
        )  # fmt: skip
        assert other.stdout == "written\n", other.stderr


ELSEWHERE = """
import sys
sys.path.insert(0, sys.argv[1])
from urunc.linux import rtnetlink
path = f"/proc/{sys.argv[2]}/ns/net"
index = rtnetlink.ask(path, lambda netlink: netlink.index("uplink"))
rtnetlink.ask(path, lambda netlink: netlink.set_link(index, up=True))
print("written")
"""
