# SPDX-License-Identifier: Apache-2.0
"""Control groups of a guest's monitor (config-linux.md, Control groups): limits, devices, the
freezer, on v1 and hybrid hosts, on v2, without any; what `update` changes."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lib.busybox import BUSYBOX
from lib.patience import until
from lib.places.hierarchy import Hierarchy
from lib.support import PARTS, PREFIX, Bundle, Container, Urunc, need, nothing_left

V1 = pathlib.Path("/sys/fs/cgroup")
PURE = (V1 / "cgroup.controllers").exists()
"""Whether there is v2 alone."""
MIB = 1 << 20
HELD = {
    "memory": ("memory/{}/memory.limit_in_bytes", "{}/memory.max"),
    "pids": ("pids/{}/pids.max", "{}/pids.max"),
    "quota": ("cpu/{}/cpu.cfs_quota_us", "{}/cpu.max"),
    "shares": ("cpu/{}/cpu.shares", "{}/cpu.weight"),
}
"""Where a group's limit is, in v1 and in v2."""
SHARES = {"300": "12", "400": "16"}
"""v1's shares as v2's weight."""


@pytest.fixture
def bundle(bundle: Bundle) -> Bundle:
    """The same in a group that these tests know the name of."""
    bundle.config["linux"]["cgroupsPath"] = "/urunc-test/groups"
    return bundle


def group(controller: str, name: str = "urunc-test/groups") -> pathlib.Path:
    directory = V1 / controller
    if not (directory / "cgroup.procs").exists():
        pytest.skip(f"no v1 hierarchy of {controller} here")
    return directory / name


def file_of(what: str) -> pathlib.Path:
    """The file with a limit of the tests' group."""
    first, second = (V1 / pattern.format("urunc-test/groups") for pattern in HELD[what])
    if PURE:
        return second
    if not first.exists():
        pytest.skip(f"no control group has {what} here")
    return first


def held(what: str) -> str:
    """A limit of the tests' group; of v2's quota and period the first."""
    return file_of(what).read_text().split()[0]


def shares(value: str) -> str:
    """What `held` says of so many shares."""
    return SHARES[value] if PURE else value


def test_limits_on_v1(urunc: Urunc, bundle: Bundle) -> None:
    """Each field of linux.resources is in the file that means it."""
    bundle.config["linux"]["resources"] = {
        "memory": {"limit": 96 * MIB, "reservation": 64 * MIB, "swappiness": 7,
                   "swap": 128 * MIB, "disableOOMKiller": True},
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "burst": 1000,
                "cpus": "0", "mems": "0", "idle": 0},
        "pids": {"limit": 20},
    }  # fmt: skip
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        expected = {
            "memory/memory.limit_in_bytes": str(96 * MIB),
            "memory/memory.soft_limit_in_bytes": str(64 * MIB),
            "memory/memory.swappiness": "7",
            "memory/memory.memsw.limit_in_bytes": str(128 * MIB),
            "cpu/cpu.shares": "512",
            "cpu/cpu.cfs_quota_us": "50000",
            "cpu/cpu.cfs_period_us": "100000",
            "cpu/cpu.cfs_burst_us": "1000",
            "cpuset/cpuset.cpus": "0",
            "cpuset/cpuset.mems": "0",
            "pids/pids.max": str(20 + container.plan()["tasks"]),
        }
        for name, value in expected.items():
            controller, _, file = name.partition("/")
            assert (group(controller) / file).read_text().strip() == value, name
        oom = (group("memory") / "memory.oom_control").read_text()
        assert "oom_kill_disable 1" in oom
        for line in pathlib.Path(f"/proc/{container.pid}/cgroup").read_text().splitlines():
            assert line.endswith("/urunc-test/groups"), line
        container.delete("--force")


@pytest.mark.parametrize(
    ("annotations", "left_mib", "limit_mib", "guest_mib"),
    [({}, 96, 96, 93), ({}, 1, None, 256), ({"memory": "100"}, 96, None, 100)],
    ids=["held to it", "its files do not fit", "what it asks for does not fit"],
)
def test_what_a_pod_has_left(
    urunc: Urunc,
    bundle: Bundle,
    annotations: dict[str, str],
    left_mib: int,
    limit_mib: int | None,
    guest_mib: int,
) -> None:
    """A guest without limits of its own is held to it, if it fits into the memory."""
    bundle.config["linux"]["resources"] = {}
    bundle.config["annotations"] |= {f"{PREFIX}{key}": annotations[key] for key in annotations}
    file = bundle.path / "left.json"
    cpu = {"quota": 150_000, "period": 100_000, "shares": 300}
    file.write_text(json.dumps({"memory": {"limit": left_mib * MIB}, "cpu": cpu}))
    container = urunc.create(bundle, "--pod-resources", str(file))
    assert held("quota") == "150000"
    assert held("shares") == shares("300")
    limit = held("memory")
    assert limit == str(limit_mib * MIB) if limit_mib else limit == "max" or int(limit) > 1 << 50
    assert container.plan()["memory_bytes"] == guest_mib * MIB
    told = container.console.read_text()
    assert ("is not held to the memory that its pod has left" in told) == (limit_mib is None)
    container.delete("--force")


def test_what_the_kernel_refuses(urunc: Urunc, bundle: Bundle) -> None:
    """An error that names the file and the value, and nothing left."""
    bundle.config["linux"]["resources"] = {"cpu": {"cpus": "4095"}}
    if not PURE:
        group("cpuset")
    with nothing_left(urunc.root):
        refused = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    assert refused.returncode == 1
    assert "limit 'cpuset.cpus' to '4095'" in refused.stderr


def test_unified_where_there_is_v1(urunc: Urunc, bundle: Bundle) -> None:
    group("memory")
    bundle.config["linux"]["resources"] = {"unified": {"memory.high": "100000000"}}
    refused = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    assert "unified: 'memory.high': the memory controller of this machine is cgroup v1's" in (
        refused.stderr
    )


def test_a_group_that_is_frozen(urunc: Urunc, bundle: Bundle) -> None:
    """Whoever joins it stands still for good: refused, and the group is left as it is."""
    directory = V1 / "urunc-test/groups" if PURE else group("freezer")
    directory.mkdir(parents=True)
    file, frozen = ("cgroup.freeze", "1") if PURE else ("freezer.state", "FROZEN")
    (directory / file).write_text(frozen)
    with nothing_left(urunc.root):
        refused = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    assert refused.returncode == 1
    assert "it is there already, and frozen" in refused.stderr
    directory.rmdir()
    directory.parent.rmdir()


def test_devices_on_v1(urunc: Urunc, bundle: Bundle) -> None:
    """The monitor may open the devices it needs; a spec that allows everything changes nothing."""
    bundle.config["linux"]["resources"] = {"devices": [{"allow": True, "access": "rwm"}]}
    container = urunc.create(bundle)
    allowed = set((group("devices") / "devices.list").read_text().splitlines())
    tun = os.stat("/dev/net/tun").st_rdev
    node = f"c {os.major(tun)}:{os.minor(tun)} rwm"
    assert node in allowed
    assert not any(line.startswith(("a", "b", "c *")) for line in allowed)
    assert "c 1:1 rwm" not in allowed  # /dev/mem
    container.delete("--force")


def test_pids_limit_binds(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """A monitor that wants more threads than it may have does not get them. (The limit is made
    smaller behind urunc's back: urunc leaves room for them.)"""
    need("qemu", "probe")
    made = Bundle(tmp_path / "q", "unikraft", "qemu", accelerator="tcg", vcpus="8")
    made.add("unikernel", PARTS / "probe.pvh")
    made.args("app", "probe.hang")
    made.config["linux"]["cgroupsPath"] = "/urunc-test/groups"
    made.config["linux"]["resources"] |= {"pids": {"limit": 3}}
    container = urunc.create(made)
    file_of("pids").write_text("3")
    container.start()
    container.wait_stopped()
    text = container.console.read_text()
    assert "Resource temporarily unavailable" in text or "qemu_thread_create" in text
    container.delete()


def burn(container: Container, seconds: float) -> float:
    """The share of a CPU that a container has used over some seconds."""
    usage = V1 / "cpuacct" / "urunc-test/groups/cpuacct.usage"
    stat = V1 / "urunc-test/groups/cpu.stat"

    def read() -> int:
        if usage.exists():
            return int(usage.read_text())
        return int(stat.read_text().split()[1]) * 1000

    first, began = read(), time.monotonic_ns()
    time.sleep(seconds)
    return (read() - first) / (time.monotonic_ns() - began)


def burning(tmp_path: pathlib.Path, **resources: Any) -> Bundle:
    need("qemu", "probe")
    made = Bundle(tmp_path / "q", "unikraft", "qemu", accelerator="tcg")
    made.add("unikernel", PARTS / "probe.pvh")
    made.args("app", "probe.burn")
    made.config["linux"]["cgroupsPath"] = "/urunc-test/groups"
    made.config["linux"]["resources"] |= resources
    return made


def test_cpu_quota_binds_and_update_changes_it(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """A guest that burns gets its quota, at once another after `update`."""
    made = burning(tmp_path, cpu={"quota": 20_000, "period": 100_000})
    with nothing_left(urunc.root, tmp_path / "none"):
        container = urunc.create(made)
        # it gets its quota however many others want the CPUs
        parent = V1 / "cpu/urunc-test/cpu.shares"
        if parent.exists():
            parent.write_text("200000")
        container.start()
        container.wait_for('"cmdline"')
        before = burn(container, 1.0)
        assert 0.05 < before < 0.3
        urunc("update", "--cpu-quota", "60000", container.id)
        # how soon it gets more than it could have had before depends on who else wants the CPUs
        until(lambda: 0.3 < burn(container, 1.0) < 0.75, "the container gets its new quota", 30)
        container.delete("--force")


def test_update_in_all_its_ways(urunc: Urunc, bundle: Bundle, tmp_path: pathlib.Path) -> None:
    """By options, by a file, by standard input; what is not said stays."""
    container = urunc.create(bundle)
    container.start()
    urunc("update", container.id, "--pids-limit", "31", "--cpu-share=300")
    tasks = container.plan()["tasks"]
    assert held("pids") == f"{31 + tasks}"
    assert held("shares") == shares("300")
    resources = tmp_path / "resources.json"
    resources.write_text(json.dumps({"pids": {"limit": 32}}))
    urunc("update", "--resources", str(resources), container.id)
    assert held("pids") == f"{32 + tasks}"
    subprocess.run(
        urunc.command("update", "-r", "-", container.id),
        input=json.dumps({"cpu": {"shares": 400}, "pids": {"limit": -1}}), text=True, check=True,
    )  # fmt: skip
    assert held("shares") == shares("400")
    assert held("pids") == "max"
    urunc("update", "-m", "1g", container.id)
    assert held("memory") == f"{1 << 30}"
    for words, text in (
        (("--memory", "lots"), "option '--memory': 'lots' is not a size"),
        (("--pids-limit", "x"), "option '--pids-limit': 'x' is not a number"),
        (("--l3-cache-schema", "L3:0=f"), "not supported"),
        (("--resources", "/no/such"), "read resources '/no/such': no such file"),
    ):
        refused = urunc("update", *words, container.id, check=False)
        assert refused.returncode == 1
        assert text in refused.stderr
    container.delete("--force")


def test_memory_below_the_guest_s_is_refused(urunc: Urunc, bundle: Bundle) -> None:
    """With the number that would do; the guest lives on under its old limit."""
    container = urunc.create(bundle)
    container.start()
    plan = container.plan()
    least = plan["memory_bytes"] + plan["overhead_bytes"]
    refused = urunc("update", "--memory", str(least - 1), container.id, check=False)
    assert refused.returncode == 1
    assert f"{least} at least" in refused.stderr
    assert held("memory") == f"{192 * MIB}"
    urunc("update", "--memory", str(least + (1 << 20)), container.id)
    assert container.status() == "running"
    container.delete("--force")


def test_memory_in_use_is_looked_at(urunc: Urunc, bundle: Bundle) -> None:
    """checkBeforeUpdate: a limit below what the group uses, whatever else is in it."""
    bundle.config["annotations"][f"{PREFIX}memory"] = "32"
    container = urunc.create(bundle)
    container.start()
    join = f"echo $$ >{file_of('memory').with_name('cgroup.procs')}"
    hold = "import sys; a = bytearray(100 << 20); print(flush=True); sys.stdin.read()"
    command = ["sh", "-c", f'{join}; exec {sys.executable} -c "{hold}"']
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        file = bundle.path / "resources.json"
        file.write_text(json.dumps({"memory": {"limit": 64 * MIB, "checkBeforeUpdate": True}}))
        refused = urunc("update", "--resources", str(file), container.id, check=False)
        assert refused.returncode == 1
        assert "memory" in refused.stderr
        assert held("memory") == f"{192 * MIB}"
        holder.communicate()
    urunc("update", "--resources", str(file), container.id)
    container.delete("--force")


def test_update_of_a_stopped_container(urunc: Urunc, bundle: Bundle) -> None:
    container = urunc.create(bundle)
    urunc("kill", container.id, "KILL")
    container.wait_stopped()
    refused = urunc("update", "--pids-limit", "5", container.id, check=False)
    assert "container not running" in refused.stderr
    container.delete()


def test_limits_too_small(urunc: Urunc, bundle: Bundle) -> None:
    """Refused with the number that would do."""
    bundle.config["linux"]["resources"] = {"memory": {"limit": 3 * MIB}}
    with nothing_left(urunc.root):
        refused = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    assert refused.returncode == 1
    assert f"{3 * MIB} bytes are too few: the guest needs 2 MiB to run" in refused.stderr
    assert "at least" in refused.stderr


@pytest.fixture
def v2(urunc: Urunc) -> Iterator[Urunc]:
    """urunc where nothing but the v2 hierarchy is mounted, with the controllers that it has."""
    need("solo5", "probe")
    with Hierarchy("v2") as place:
        urunc.prefix = list(place.prefix)
        yield urunc
        urunc.clean()
        urunc.identifiers.clear()
        urunc.prefix = []
    for directory in (V1 / "unified", V1):
        for path in ("urunc-test/groups", "urunc-test"):
            if (directory / path).exists():
                (directory / path).rmdir()


def unified(urunc: Urunc, file: str) -> str:
    return subprocess.run(
        [*urunc.prefix, "cat", f"/sys/fs/cgroup/urunc-test/groups/{file}"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip


def test_v2(v2: Urunc, bundle: Bundle) -> None:
    """Born in its group (CLONE_INTO_CGROUP), its devices decided by a program, frozen, and gone."""
    bundle.config["linux"]["resources"] = {}
    container = v2.create(bundle)
    assert unified(v2, "cgroup.procs") == str(container.pid)
    container.start()
    container.wait_for('"cmdline"')
    state = json.loads((v2.root / container.id / "container.json").read_text())
    assert state["groups"] == {"paths": {"": "/sys/fs/cgroup/urunc-test/groups"}, "unit": ""}
    v2("pause", container.id)
    assert container.status() == "paused"
    assert "frozen 1" in unified(v2, "cgroup.events")
    v2("kill", container.id, "KILL")
    container.wait_stopped()
    container.delete()


def test_v2_devices(v2: Urunc, bundle: Bundle) -> None:
    """What the monitor has no use for it may not open, whoever it is: a hook in its groups, as root
    with the host's /dev, is stopped by the program."""
    need("busybox")
    bundle.config["linux"]["resources"] = {}
    bundle.add("bin/busybox", BUSYBOX)
    (bundle.root / "dev").mkdir()
    script = (
        "busybox mknod /dev/null c 1 3; busybox mknod /dev/mem c 1 1; "
        "echo >/dev/null && echo null; busybox head -c 1 /dev/mem >/dev/null; echo $?"
    )
    bundle.config["hooks"] = {
        "startContainer": [
            {"path": "/bin/busybox", "args": ["sh", "-c", f"({script}) >/out 2>&1"],
             "env": ["PATH=/bin"]}
        ]
    }  # fmt: skip
    container = v2.create(bundle)
    container.start()
    said = (bundle.root / "out").read_text()
    assert "null\n" in said
    assert "mknod: /dev/mem: Operation not permitted" in said
    container.delete("--force")


def test_v2_without_a_controller(v2: Urunc, bundle: Bundle) -> None:
    """A limit that the hierarchy has no controller for is an error that says so."""
    look = [*v2.prefix, "cat", "/sys/fs/cgroup/cgroup.controllers"]
    if "memory" in subprocess.run(look, capture_output=True, text=True, check=True).stdout.split():
        pytest.skip("this machine's v2 hierarchy has the memory controller")
    bundle.config["linux"]["resources"] = {"memory": {"limit": 64 * MIB}}
    path = str(bundle.write())
    refused = v2("create", "--bundle", path, v2.new_id(), check=False)
    assert "limit 'memory.max'" in refused.stderr
    assert "no such file" in refused.stderr


def test_no_control_groups_at_all(urunc: Urunc, bundle: Bundle) -> None:
    """Without limits a guest runs; with one it is refused, for it would not be kept."""
    with Hierarchy("none") as place:
        urunc.prefix = list(place.prefix)
        refused = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
        assert "no control groups to enforce limits with" in refused.stderr
        bundle.config["linux"]["resources"] = {}
        container = urunc.create(bundle)
        container.start()
        assert container.status() == "running"
        assert json.loads(urunc("ps", "--format", "json", container.id).stdout) == [container.pid]
        refused = urunc("pause", container.id, check=False)
        assert "it takes a freezer control group" in refused.stderr
        container.delete("--force")


@pytest.mark.parametrize(
    "path", ["/../urunc-out", "/a/../../urunc-out", "../urunc-out", "/", ".", "/./"]
)
def test_a_group_that_leads_out(urunc: Urunc, bundle: Bundle, path: str) -> None:
    """linux.cgroupsPath names a group of the container's own, below the hierarchy's root."""
    bundle.config["linux"]["cgroupsPath"] = path
    with nothing_left(urunc.root):
        refused = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    assert refused.returncode == 1
    assert "linux.cgroupsPath: '" in refused.stderr


def test_control_groups_that_are_not_ours(urunc: Urunc, bundle: Bundle) -> None:
    """Read-only ones, as in a container: without limits a guest runs."""
    with Hierarchy("read-only") as place:
        urunc.prefix = list(place.prefix)
        refused = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
        assert "make control group: read-only file system" in refused.stderr
        bundle.config["linux"]["resources"] = {}
        container = urunc.create(bundle)
        container.start()
        container.delete("--force")
