# SPDX-License-Identifier: Apache-2.0
"""The parts of config.json that few containers have (config-linux.md, config-vm.md): what they do
to a real monitor, and what a guest finds."""

from __future__ import annotations

import json
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from lib.network_state import network_unchanged
from lib.support import PARTS, Bundle, Urunc, ip, need, nothing_left

MIB = 1 << 20


def probe(path: pathlib.Path, **annotations: str) -> Bundle:
    """The probe on an emulated PC: it tells its memory, vCPUs and network devices."""
    need("probe", "qemu")
    made = Bundle(path, "unikraft", "qemu", **({"accelerator": "tcg"} | annotations))
    made.add("unikernel", PARTS / "probe.pvh")
    made.args("app", "probe.hang")
    made.config["linux"]["resources"] = {}
    return made


def refused(urunc: Urunc, bundle: Bundle) -> str:
    """What `create` says that does not come about, and leaves nothing."""
    with nothing_left(urunc.root):
        result = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) <= 2
        return result.stderr


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ({"mode": "MPOL_BIND", "nodes": "0"}, "bind:0"),
        ({"mode": "MPOL_PREFERRED", "nodes": "0"}, "prefer:0"),
        (
            {"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]},
            "interleave=static:0",
        ),
        ({"mode": "MPOL_LOCAL"}, "local"),
    ],
)
def test_memory_policy(
    urunc: Urunc, tmp_path: pathlib.Path, policy: dict[str, Any], wanted: str
) -> None:
    """The guest's memory, the largest mapping of its monitor, is under the policy (numa(7))."""
    bundle = probe(tmp_path / "b", memory="128")
    bundle.config["linux"]["memoryPolicy"] = policy
    container = urunc.create(bundle)
    container.start()
    assert container.report()["memory"] == 128 * MIB
    mappings = pathlib.Path(f"/proc/{container.pid}/numa_maps").read_text().splitlines()
    of_guest = next(line for line in mappings if _size(container.pid, line.split()[0]) == 128 * MIB)
    assert of_guest.split()[1] == wanted
    assert "N0=" in of_guest
    container.delete("--force")


def _size(pid: int, start: str) -> int:
    """The length in bytes of the mapping of a process that begins there."""
    for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
        first, _, last = line.split()[0].partition("-")
        if int(first, 16) == int(start, 16):
            return int(last, 16) - int(first, 16)
    return 0


def test_a_memory_policy_that_the_kernel_refuses(urunc: Urunc, bundle: Bundle) -> None:
    """A node that the machine has not."""
    bundle.config["linux"]["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "900"}
    assert "linux.memoryPolicy MPOL_BIND on nodes 900: " in refused(urunc, bundle)


@pytest.fixture
def home(urunc: Urunc) -> Iterator[str]:
    """A network namespace that is the runtime's own, with `uplink`, whose other end is `peer`."""
    name = f"urunc-home-{urunc.new_id()}"
    ip("netns", "add", name)
    try:
        settle = ["sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"]
        subprocess.run(["ip", "netns", "exec", name, *settle], check=True)
        ip("-n", name, "link", "add", "uplink", "type", "veth", "peer", "name", "peer")
        for device in ("lo", "peer", "uplink"):
            ip("-n", name, "link", "set", device, "up")
        ip("-n", name, "addr", "add", "10.99.0.2/24", "dev", "uplink")
        ip("-n", name, "addr", "add", "fd99::2/64", "dev", "uplink", "nodad")
        urunc.prefix = ["nsenter", f"--net=/run/netns/{name}"]
        yield name
    finally:
        urunc.clean()
        ip("netns", "del", name)


def devices(namespace: str, pid: int = 0) -> dict[str, Any]:
    """name → what `ip addr` says, in a namespace by name, or in a process's."""
    enter = ["nsenter", f"--net=/proc/{pid}/ns/net"] if pid else ["ip", "netns", "exec", namespace]
    shown = subprocess.run([*enter, "ip", "-j", "addr"], capture_output=True, check=True).stdout
    return {link["ifname"]: link for link in json.loads(shown)}


@pytest.mark.parametrize(("wanted", "inside"), [("", "uplink"), ("net7", "net7"), ("en%d", "en0")])
def test_a_device_of_the_host_s_is_the_guest_s(
    urunc: Urunc, tmp_path: pathlib.Path, home: str, wanted: str, inside: str
) -> None:
    """linux.netDevices: moved, renamed, its addresses of either family kept, up; and the guest
    takes it over."""
    mac = devices(home)["uplink"]["address"]
    bundle = probe(tmp_path / "b")
    bundle.config["linux"]["netDevices"] = {"uplink": {"name": wanted} if wanted else {}}
    container = urunc.create(bundle)
    found = devices("", container.pid)
    assert "uplink" not in devices(home)
    assert "UP" in found[inside]["flags"]
    assert {item["local"] for item in found[inside]["addr_info"] if item["scope"] == "global"} == {
        "10.99.0.2", "fd99::2",
    }  # fmt: skip
    container.start()
    report = container.report()
    assert "netdev.ip=10.99.0.2/24" in report["cmdline"]
    assert [nic["mac"] for nic in report["nics"]] == [mac]
    container.delete("--force")


def test_a_device_that_cannot_be_moved(urunc: Urunc, tmp_path: pathlib.Path, home: str) -> None:
    """A `create` that fails gives back what it had moved: same name, addresses, up."""
    bundle = probe(tmp_path / "b")
    with network_unchanged(f"/run/netns/{home}"):
        bundle.config["linux"]["netDevices"] = {"uplink": {}, "nothing": {}}
        said = refused(urunc, bundle)
        assert "linux.netDevices.nothing: the host has no network device of this name" in said
    with network_unchanged(f"/run/netns/{home}"):
        bundle.config["linux"]["netDevices"] = {"uplink": {"name": "lo"}}
        said = refused(urunc, bundle)
        assert "linux.netDevices.uplink.name: the container's network namespace has a 'lo'" in said
    with network_unchanged(f"/run/netns/{home}"):
        bundle.config["linux"]["netDevices"] = {"uplink": {}}
        bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
        assert "createRuntime" in refused(urunc, bundle)
    bundle.config["hooks"] = {}
    bundle.network(f"/run/netns/{home}")
    assert "linux.netDevices: the container's network namespace is the host's" in refused(
        urunc, bundle
    )


def test_a_device_that_is_refused_stays_as_it_is(
    urunc: Urunc, tmp_path: pathlib.Path, home: str
) -> None:
    """Whoever refuses it (the kernel, the container's namespace), the host has its device as it
    was: up, with its addresses and routes."""
    ip("-n", home, "link", "add", "bridge", "type", "bridge")
    ip("-n", home, "addr", "add", "10.98.0.1/24", "dev", "bridge")
    ip("-n", home, "link", "set", "bridge", "up")
    for route in (
        "default via 10.99.0.1",
        "10.97.0.0/24 metric 7",
        "10.96.0.0/24 via 10.99.0.9 table 99",
        "10.95.0.1 via 10.94.0.1 onlink",
    ):
        ip("-n", home, "route", "add", *route.split(), "dev", "uplink")
    ip("-n", home, "-6", "route", "add", "default", "via", "fd99::1", "dev", "uplink")
    ip("-n", home, "addr", "add", "10.99.0.3/24", "dev", "uplink", "label", "uplink:b")
    inside = f"{home}-in"
    ip("netns", "add", inside)
    try:
        without = ["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]
        subprocess.run(["ip", "netns", "exec", inside, *without], check=True)
        for moving, joined, why in (
            ({"lo": {"name": "lo9"}}, "", "linux.netDevices.lo: move to the container's"),
            ({"bridge": {}}, "", "linux.netDevices.bridge: move to the container's"),
            ({"uplink": {}, "lo": {"name": "lo9"}}, "", "linux.netDevices.lo: move to"),
            (
                {"uplink": {}},
                f"/run/netns/{inside}",
                "linux.netDevices.uplink: give it the address",
            ),
        ):
            bundle = probe(tmp_path / "b")
            bundle.config["linux"]["netDevices"] = moving
            bundle.network(joined)
            with network_unchanged(f"/run/netns/{home}"):
                assert why in refused(urunc, bundle)
    finally:
        ip("netns", "del", inside)


def test_a_create_that_is_killed(urunc: Urunc, tmp_path: pathlib.Path, home: str) -> None:
    """Nothing but a mount keeps the namespace that `create` has moved them to, and a `veth` in it
    would be gone: `delete` gives them back, also two with one hardware address."""
    for name in ("twin1", "twin2"):
        ip("-n", home, "link", "add", name, "type", "veth", "peer", "name", f"{name}-peer")
        ip("-n", home, "link", "set", name, "address", "02:00:00:00:00:02", "up")
        ip("-n", home, "link", "set", f"{name}-peer", "up")
    ip("-n", home, "route", "add", "default", "via", "10.99.0.1", "dev", "uplink")
    bundle = probe(tmp_path / "b")
    bundle.config["linux"]["netDevices"] = {
        "uplink": {"name": "net7"}, "twin1": {"name": "en%d"}, "twin2": {},
    }  # fmt: skip
    kill = {"path": "/bin/sh", "args": ["sh", "-c", "kill -KILL $PPID"]}
    bundle.config["hooks"] = {"createRuntime": [kill]}
    identifier = urunc.new_id()
    with nothing_left(urunc.root), network_unchanged(f"/run/netns/{home}"):
        made = urunc("create", "--bundle", str(bundle.write()), identifier, check=False)
        assert made.returncode == -9
        assert {"uplink", "twin1", "twin2"}.isdisjoint(devices(home))
        urunc("delete", "--force", identifier)


def test_a_device_is_the_namespace_s(urunc: Urunc, tmp_path: pathlib.Path, home: str) -> None:
    """Whoever owns the namespace owns what is in it: a whole `create` leaves no mount and no record
    of a device, and no `delete` moves one out (config-linux.md)."""
    bundle = probe(tmp_path / "b")
    bundle.config["linux"]["netDevices"] = {"uplink": {"name": "net7"}}
    inside = f"{home}-in"
    ip("netns", "add", inside)
    try:
        bundle.network(f"/run/netns/{inside}")
        mounts = pathlib.Path("/proc/self/mountinfo").read_text()
        container = urunc.create(bundle)
        assert pathlib.Path("/proc/self/mountinfo").read_text() == mounts
        assert '"devices"' not in (urunc.root / container.id / "journal").read_text()
        container.delete("--force")
        assert "net7" in devices(inside)
        assert "uplink" not in devices(home)
    finally:
        ip("netns", "del", inside)


@pytest.mark.parametrize("name", ["a%d%d", "a%s", "a%", "b/c", "sixteen-letters.", "\ud800", "a\0"])
def test_a_device_s_name_that_is_none(urunc: Urunc, bundle: Bundle, name: str) -> None:
    bundle.config["linux"]["netDevices"] = {"uplink": {"name": name}}
    assert "config.json: linux.netDevices.uplink" in refused(urunc, bundle)
    bundle.config["linux"]["netDevices"] = {name: {}}
    assert "config.json: linux.netDevices" in refused(urunc, bundle)


def test_a_guest_without_a_network_device(urunc: Urunc, bundle: Bundle) -> None:
    """The probe of these tests declares none in its manifest."""
    bundle.config["linux"]["netDevices"] = {"uplink": {}}
    assert "linux.netDevices: this rumprun guest can have no" in refused(urunc, bundle)


def test_the_machine_s_size(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """vm.hwConfig: the guest finds as much; an annotation that says otherwise is refused."""
    bundle = probe(tmp_path / "b")
    bundle.config["vm"] = {"hwConfig": {"vcpus": 2, "memory": 96 * MIB + 5}}
    container = urunc.create(bundle)
    container.start()
    report = container.report()
    assert (report["memory"], report["vcpus"]) == (96 * MIB, 2)
    container.delete("--force")
    bundle.config["annotations"]["com.urunc.unikernel.memory"] = "97"
    assert "'memory': 97 is not what vm.hwConfig.memory" in refused(urunc, bundle)
    del bundle.config["annotations"]["com.urunc.unikernel.memory"]
    bundle.config["linux"]["resources"] = {"memory": {"limit": 100 * MIB}}
    assert "vm.hwConfig.memory: " in (said := refused(urunc, bundle))
    assert "does not fit into the memory limit" in said


def test_the_machine_s_kernel(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """vm.kernel: a kernel and an initrd of the host's; a unikernel has no parameters beside its
    words."""
    bundle = probe(tmp_path / "b")
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"not in the bundle")
    tmp_path.chmod(0o755)
    for directory in tmp_path.parents[:2]:
        directory.chmod(directory.stat().st_mode | 0o011)
    bundle.config["vm"] = {"kernel": {"path": str(PARTS / "probe.pvh"), "initrd": str(initrd)}}
    assert "config.json has a vm.kernel, too" in refused(urunc, bundle)
    del bundle.config["annotations"]["com.urunc.unikernel.binary"]
    (bundle.root / "unikernel").unlink()
    container = urunc.create(bundle)
    container.start()
    assert container.report()["initrd"]["size"] == len(b"not in the bundle")
    container.delete("--force")
    bundle.config["vm"]["kernel"]["parameters"] = ["quiet"]
    assert "vm.kernel.parameters: unikraft has no words but" in refused(urunc, bundle)


def test_limits_of_a_user_namespace(urunc: Urunc, bundle: Bundle) -> None:
    """Sysctls of `user`: the container's own user namespace has them, and no other."""
    linux = bundle.config["linux"]
    linux["sysctl"] = {"user.max_net_namespaces": "7"}
    assert "linux.sysctl: 'user.max_net_namespaces' is not in" in refused(urunc, bundle)
    mapping = {"containerID": 0, "hostID": 700000, "size": 65536}
    linux["namespaces"].append({"type": "user"})
    linux |= {"uidMappings": [mapping], "gidMappings": [mapping]}
    before = pathlib.Path("/proc/sys/user/max_net_namespaces").read_text()
    container = urunc.create(bundle)
    shown = subprocess.run(
        ["nsenter", f"--user=/proc/{container.pid}/ns/user", "cat",
         "/proc/sys/user/max_net_namespaces"],
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert shown == "7\n"
    assert pathlib.Path("/proc/sys/user/max_net_namespaces").read_text() == before
    container.delete("--force")
