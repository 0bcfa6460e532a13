# SPDX-License-Identifier: Apache-2.0
"""Namespaces of a guest's monitor (config-linux.md, Namespaces, User namespace mappings, Offset for
Time Namespace): new ones, given ones, the host's; user and time in the order the kernel wants."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import stat
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from lib.busybox import BUSYBOX
from lib.support import PARTS, Bundle, Network, Urunc, need, nothing_left

KINDS = {
    "pid": "pid", "network": "net", "mount": "mnt", "ipc": "ipc", "uts": "uts", "user": "user",
    "cgroup": "cgroup", "time": "time",
}  # fmt: skip
FIRST = 3_000_000_000
"""An id as a kubelet gives them to pods: any that 32 bits hold."""
MAPPING = [{"containerID": 0, "hostID": FIRST, "size": 65_536}]


def kernel_s(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{KINDS[kind]}")


def namespaces(bundle: Bundle, *items: dict[str, str]) -> None:
    bundle.config["linux"]["namespaces"] = list(items)


@contextlib.contextmanager
def holder(*options: str) -> Iterator[int]:
    """A process in new namespaces; gives its pid."""
    command = ["unshare", *options, "sh", "-c", "echo ready; exec sleep 100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        yield int(children.split()[0]) if children.split() else process.pid
        for child in children.split():
            os.kill(int(child), 9)
        process.kill()


def test_those_that_are_not_listed_are_the_host_s(urunc: Urunc, bundle: Bundle) -> None:
    """A kind that the array does not name is inherited from the runtime; a monitor's mounts are its
    own all the same."""
    namespaces(bundle, {"type": "pid"})
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        for kind in ("network", "ipc", "uts", "cgroup", "user"):
            assert kernel_s(container.pid, kind) == kernel_s("self", kind), kind
        for kind in ("pid", "mount"):
            assert kernel_s(container.pid, kind) != kernel_s("self", kind), kind
        container.delete("--force")


def test_given_ones_are_joined(urunc: Urunc, bundle: Bundle) -> None:
    """The container process is in the namespaces that the paths are associated with."""
    with (
        nothing_left(urunc.root),
        holder("-n", "-i", "-u", "-C", "-p", "-f", "--kill-child") as pid,
    ):
        given = ("network", "ipc", "uts", "cgroup", "pid")
        items = [{"type": kind, "path": f"/proc/{pid}/ns/{KINDS[kind]}"} for kind in given]
        namespaces(bundle, *items, {"type": "mount"})
        container = urunc.create(bundle)
        container.start()
        for kind in given:
            assert kernel_s(container.pid, kind) == kernel_s(pid, kind), kind
        assert container.status() == "running"
        container.delete("--force")


def test_a_namespace_of_another_kind(urunc: Urunc, bundle: Bundle) -> None:
    """A path that is not associated with a namespace of its type is an error."""
    namespaces(bundle, {"type": "ipc", "path": "/proc/self/ns/uts"}, {"type": "mount"})
    with nothing_left(urunc.root):
        refused = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    assert refused.returncode == 1
    assert "ipc namespace '/proc/self/ns/uts': it is a uts namespace" in refused.stderr


def test_a_waiting_init_is_closed_to_its_neighbours(urunc: Urunc, bundle: Bundle) -> None:
    """In a pid namespace that is shared, init gives away nothing while it waits: it cannot be
    traced, and its files in /proc are root's."""
    with holder("-p", "-f", "--kill-child") as pid:
        namespaces(bundle, {"type": "pid", "path": f"/proc/{pid}/ns/pid"}, {"type": "mount"})
        container = urunc.create(bundle)
        facts = os.stat(f"/proc/{container.pid}/environ")
        assert (facts.st_uid, facts.st_mode & 0o777) == (0, 0o400)
        uid = int(
            next(
                line.split()[1]
                for line in pathlib.Path(f"/proc/{container.pid}/status").read_text().splitlines()
                if line.startswith("Uid:")
            )
        )
        peek = subprocess.run(
            ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups",
             "ls", f"/proc/{container.pid}/fd"],
            capture_output=True, text=True,
        )  # fmt: skip
        assert peek.returncode
        assert "Permission denied" in peek.stderr
        container.delete("--force")


def monitor_facts(pid: int) -> dict[str, str]:
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def user_namespace(bundle: Bundle) -> None:
    bundle.config["linux"]["namespaces"] += [{"type": "user"}]
    bundle.config["linux"] |= {"uidMappings": MAPPING, "gidMappings": MAPPING}


def test_user_namespace(urunc: Urunc, bundle: Bundle) -> None:
    """uidMappings and gidMappings; the other namespaces belong to the new one; the monitor runs
    under a mapped id that is not the namespace's root, without a capability even there."""
    user_namespace(bundle)
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        for name in ("uid_map", "gid_map"):
            words = pathlib.Path(f"/proc/{container.pid}/{name}").read_text().split()
            assert words == ["0", str(FIRST), "65536"]
        container.start()
        container.wait_for('"cmdline"')
        facts = monitor_facts(container.pid)
        assert FIRST < int(facts["Uid"].split()[0]) < FIRST + 65_536
        assert facts["Groups"] == ""
        assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
        for kind in ("user", "network", "mount", "ipc", "uts", "pid"):
            assert kernel_s(container.pid, kind) != kernel_s("self", kind), kind
        owner = subprocess.run(
            ["lsns", "-n", "-o", "ONS", "-t", "net", "-p", str(container.pid)],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        assert f"user:[{owner}]" == kernel_s(container.pid, "user")
        container.delete("--force")


def test_user_namespace_with_kvm_and_network(
    urunc: Urunc, tmp_path: pathlib.Path, network: Network
) -> None:
    """Devices that nobody could make inside, a TAP device in a network namespace of the host's, a
    disk of the image, an image behind a closed directory."""
    need("solo5", "probe", "kvm")
    closed = tmp_path / "closed"
    made = Bundle(closed / "b", "rumprun", "hvt", block="/disk")
    closed.chmod(0o700)
    made.add("unikernel", PARTS / "probe.hvt")
    made.add("disk", bytes(4096))
    (made.root / "disk").chmod(0o600)
    made.args("probe.serve=30000")
    network.connect()
    made.network(network.path)
    user_namespace(made)
    with nothing_left(urunc.root):
        container = urunc.create(made)
        container.start()
        report = container.report()
        assert report["disks"][0]["size"] == 4096
        container.wait_for('"serving"')
        network.ping()
        container.delete("--force")
        assert os.stat(made.root / "disk").st_uid == 0
        assert os.stat(made.root / "disk").st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("guest", "monitor", "binary"),
    [
        ("rumprun", "hvt", "probe-bare.hvt"),
        ("unikraft", "qemu", "probe.pvh"),
        ("unikraft", "firecracker", "probe.pvh"),
    ],
)
def test_user_namespace_without_the_group_of_kvm(
    urunc: Urunc, tmp_path: pathlib.Path, guest: str, monitor: str, binary: str
) -> None:
    """/dev/kvm as most distributions have it, 0660 root:kvm, and a namespace that has no id for
    that group: the container's node is the monitor's own, the host's stays as it is."""
    need("solo5", "qemu", "firecracker", "probe", "kvm")
    node = tmp_path / "kvm"
    os.mknod(node, stat.S_IFCHR, os.stat("/dev/kvm").st_rdev)
    os.chmod(node, 0o660)
    os.chown(node, 0, 107)
    urunc.prefix = ["unshare", "-m", "sh", "-c", f'mount --bind {node} /dev/kvm && exec "$@"', "sh"]
    made = Bundle(tmp_path / "b", guest, monitor)
    made.add("unikernel", PARTS / binary)
    made.args("app", "probe.hang")
    user_namespace(made)
    with nothing_left(urunc.root):
        container = urunc.create(made)
        assert container.plan()["accelerator"] == "kvm"
        container.start()
        container.wait_for('"cmdline"')
        facts = monitor_facts(container.pid)
        inside = os.stat(f"/proc/{container.pid}/root/dev/kvm")
        assert (inside.st_uid, inside.st_mode & 0o777) == (int(facts["Uid"].split()[0]), 0o600)
        assert facts["Groups"] == ""
        container.delete("--force")
    host = os.stat(node)
    assert (host.st_uid, host.st_gid, host.st_mode & 0o777) == (0, 107, 0o660)


def test_user_namespace_joined(urunc: Urunc, bundle: Bundle) -> None:
    """As containers of a pod join the pod's: user, and a network namespace that belongs to it."""
    with holder("-U", "-n", "-i") as pid:
        for name in ("uid_map", "gid_map"):
            pathlib.Path(f"/proc/{pid}/{name}").write_text("0 800000 1000")
        bundle.config["linux"]["namespaces"] = [
            {"type": "user", "path": f"/proc/{pid}/ns/user"},
            {"type": "network", "path": f"/proc/{pid}/ns/net"},
            {"type": "ipc", "path": f"/proc/{pid}/ns/ipc"},
            *({"type": kind} for kind in ("pid", "mount", "uts")),
        ]
        with nothing_left(urunc.root):
            container = urunc.create(bundle)
            container.start()
            container.wait_for('"cmdline"')
            for kind in ("user", "network", "ipc"):
                assert kernel_s(container.pid, kind) == kernel_s(pid, kind), kind
            assert 800_000 < int(monitor_facts(container.pid)["Uid"].split()[0]) < 801_000
            container.delete("--force")
            # engines say the mappings again (CRI): the same, in whatever pieces
            pieces = [
                {"containerID": 400, "hostID": 800_400, "size": 600},
                {"containerID": 0, "hostID": 800_000, "size": 400},
            ]
            bundle.config["linux"] |= {"uidMappings": pieces, "gidMappings": pieces}
            urunc.create(bundle).delete("--force")
            bundle.config["linux"]["gidMappings"] = MAPPING
            refused = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
            assert f"linux.gidMappings: the user namespace '/proc/{pid}/ns/user'" in refused.stderr
            assert "has others (leave them out, or say what it has" in refused.stderr
            assert "0:800000:1000" in refused.stderr


def test_a_user_that_is_not_mapped(urunc: Urunc, bundle: Bundle) -> None:
    user_namespace(bundle)
    bundle.config["process"]["user"] = {"uid": 70_000, "gid": 70_000}
    with nothing_left(urunc.root):
        refused = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    assert "process.user: 70000:70000 is not mapped" in refused.stderr


def test_the_specification_s_user_inside(urunc: Urunc, bundle: Bundle) -> None:
    user_namespace(bundle)
    bundle.config["process"]["user"] = {"uid": 33, "gid": 44, "additionalGids": [55]}
    container = urunc.create(bundle)
    container.start()
    facts = monitor_facts(container.pid)
    assert facts["Uid"].split()[0] == str(FIRST + 33)
    assert facts["Gid"].split()[0] == str(FIRST + 44)
    assert facts["Groups"] == str(FIRST + 55)
    container.delete("--force")


def test_time_namespace(urunc: Urunc, bundle: Bundle) -> None:
    """timeOffsets are the monitor's clocks' (config-linux.md, Offset for Time Namespace)."""
    bundle.config["linux"]["namespaces"] += [{"type": "time"}]
    bundle.config["linux"]["timeOffsets"] = {
        "monotonic": {"secs": 1_000_000, "nanosecs": 5},
        "boottime": {"secs": 2_000_000},
    }
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        assert kernel_s(container.pid, "time") != kernel_s("self", "time")
        lines = pathlib.Path(f"/proc/{container.pid}/timens_offsets").read_text().split()
        assert lines == ["monotonic", "1000000", "5", "boottime", "2000000", "0"]
        container.delete("--force")


def test_time_and_user_namespaces(urunc: Urunc, bundle: Bundle) -> None:
    user_namespace(bundle)
    bundle.config["linux"]["namespaces"] += [{"type": "time"}, {"type": "cgroup"}]
    bundle.config["linux"]["timeOffsets"] = {"boottime": {"secs": 3}}
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        for kind in KINDS:
            assert kernel_s(container.pid, kind) != kernel_s("self", kind), kind
        container.delete("--force")


def test_time_namespace_joined(urunc: Urunc, bundle: Bundle) -> None:
    with holder("-T", "--boottime", "77", "-f", "--kill-child") as pid:
        bundle.config["linux"]["namespaces"] += [{"type": "time", "path": f"/proc/{pid}/ns/time"}]
        container = urunc.create(bundle)
        container.start()
        assert kernel_s(container.pid, "time") == kernel_s(pid, "time")
        container.delete("--force")


def test_start_container_hook_in_a_user_namespace(
    urunc: Urunc, bundle: Bundle, ordinary_user: dict[str, Any]
) -> None:
    """The hook's process is the namespace's root, in the image's root."""
    need("busybox")
    bundle.path = ordinary_user["directory"] / "b"  # a way that the namespace's root can go
    bundle.root = shutil.copytree(bundle.root, bundle.path / "rootfs")
    user_namespace(bundle)
    bundle.add("bin/busybox", BUSYBOX)
    (bundle.root / "out").mkdir()
    os.chown(bundle.root / "out", FIRST, FIRST)
    script = "busybox id -u >/out/uid; busybox cat /proc/self/uid_map 2>/dev/null; true"
    bundle.config["hooks"] = {
        "startContainer": [
            {"path": "/bin/busybox", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}
        ]
    }
    container = urunc.create(bundle)
    container.start()
    assert (bundle.root / "out/uid").read_text() == "0\n"
    assert os.stat(bundle.root / "out/uid").st_uid == FIRST
    container.delete("--force")


@pytest.fixture
def ordinary_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A directory of an ordinary user's, and the words that run a command as that user."""
    directory = pathlib.Path("/var/tmp") / f"urunc-rootless-{os.getpid()}"
    directory.mkdir(mode=0o755)
    os.chown(directory, 65_534, 65_534)
    yield {
        "directory": directory,
        "as": ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"],
    }
    shutil.rmtree(directory)


SUBORDINATE = [
    {"containerID": 0, "hostID": 65_534, "size": 1},
    {"containerID": 1, "hostID": 600_000, "size": 1000},
]


@pytest.mark.parametrize("mappings", [SUBORDINATE[:1], SUBORDINATE])
def test_rootless(
    ordinary_user: dict[str, Any], bundle: Bundle, mappings: list[dict[str, int]]
) -> None:
    """An ordinary user with its own id mapped, and with subordinate ones (newuidmap(1)): the
    monitor is that user, in its own namespaces, without a capability; no control group, no TAP
    device, and nothing left."""
    from lib.support import URUNC

    directory = ordinary_user["directory"]
    shutil.copytree(bundle.path, directory / "b")
    first: list[str] = []
    if len(mappings) > 1:
        if not shutil.which("newuidmap") or not os.path.exists("/etc/subuid"):
            pytest.skip("needs uidmap")
        allowed = directory / "subid"
        allowed.write_text("65534:600000:1000\n")
        mounts = " && ".join(f"mount --bind {allowed} /etc/{name}" for name in ("subuid", "subgid"))
        first = ["unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh"]
    config = dict(bundle.config)
    config["linux"] = {
        "namespaces": [
            {"type": kind} for kind in ("pid", "network", "mount", "ipc", "uts", "user")
        ],
        "uidMappings": mappings,
        "gidMappings": mappings,
    }
    (directory / "b/config.json").write_text(json.dumps(config))
    command = [*ordinary_user["as"], str(URUNC), "--root", f"{directory}/state"]
    console = directory / "console"

    def urunc(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    with console.open("wb") as out:
        made = subprocess.run(
            [*first, *command, "create", "--bundle", f"{directory}/b", "one"],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    assert made.returncode == 0, console.read_text()
    try:
        started = urunc("start", "one")
        assert started.returncode == 0, started.stderr
        state = json.loads(urunc("state", "one").stdout)
        assert state["status"] == "running"
        facts = monitor_facts(state["pid"])
        assert facts["Uid"].split()[0] == "65534"
        lines = pathlib.Path(f"/proc/{state['pid']}/uid_map").read_text().splitlines()
        assert [[int(word) for word in line.split()] for line in lines] == [
            list(item.values()) for item in mappings
        ]
        assert int(facts["CapEff"], 16) == 0
        assert kernel_s(state["pid"], "user") != kernel_s("self", "user")
    finally:
        removed = urunc("delete", "--force", "one")
    assert removed.returncode == 0, removed.stderr
    assert '"cmdline"' in console.read_text()
    assert list((directory / "state").iterdir()) == []
