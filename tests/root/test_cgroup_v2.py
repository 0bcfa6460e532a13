# SPDX-License-Identifier: Apache-2.0
"""cgroup v2 with every controller, in a Debian booted under QEMU's TCG: the limits of a guest's
monitor are where they belong and bind; by urunc's own hand and by systemd's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from lib.patience import until
from lib.places.machine import Machine
from lib.support import PARTS, PROJECT, SPT_TASKS, URUNC, Bundle, need

MIB = 1 << 20
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The Debian, for all tests of this module: it takes seconds to boot."""
    need("root", "installed", "solo5", "probe", "machine")
    shared = tmp_path_factory.mktemp("machine")
    with Machine(shared) as place:
        yield place


class Inside:
    """urunc in the machine."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.directory = machine.shared[0] / name
        self.directory.mkdir()
        self.group = f"/sys/fs/cgroup/urunc-test/{name}"

    def bundle(self, monitor: str, **resources: object) -> Bundle:
        solo5 = monitor == "spt"
        extra = {} if solo5 else {"accelerator": "tcg"}
        made = Bundle(self.directory / "b", "rumprun" if solo5 else "unikraft", monitor, **extra)
        made.add("unikernel", PARTS / ("probe-bare.spt" if solo5 else "probe.pvh"))
        made.args("probe.hang")
        made.config["linux"]["resources"] = resources
        made.config["linux"]["cgroupsPath"] = f"/urunc-test/{self.directory.name}"
        return made

    def urunc(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        path = f"{PARTS}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        command = (str(URUNC), "--root", f"/run/urunc-{self.directory.name}", *words)
        return self.machine.run(*command, check=check, PATH=path, timeout_s=120)

    def create(self, bundle: Bundle, *options: str) -> None:
        """Its console stays in the machine: a shared directory holds no FIFO of the host."""
        words = ("--bundle", str(bundle.write()), *options, "one")
        path = f"{PARTS}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        script = f"exec {URUNC} --root /run/urunc-{self.directory.name} create {' '.join(words)}"
        made = self.machine.run(
            "sh", "-c", f"{script} >/run/console 2>&1", check=False, PATH=path, timeout_s=120
        )
        if made.returncode:
            raise AssertionError(self.machine.run("cat", "/run/console").stdout)

    def read(self, file: str) -> str:
        return self.machine.run("cat", f"{self.group}/{file}").stdout.strip()

    def state(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.urunc("state", "one").stdout)
        return found


def test_limits(machine: Machine) -> None:
    """Each field in the file that means it; the monitor is born in its group; `update` changes what
    it says and nothing else."""
    inside = Inside(machine, "limits")
    bundle = inside.bundle(
        "spt",
        memory={"limit": 64 * MIB, "reservation": 32 * MIB, "swap": 96 * MIB},
        cpu={"shares": 1024, "quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0"},
        pids={"limit": 33},
        blockIO={"weight": 500},
        hugepageLimits=[{"pageSize": "2MB", "limit": 4 * MIB}],
        unified={"memory.high": str(60 * MIB)},
    )
    inside.create(bundle)
    inside.urunc("start", "one")
    expected = {
        "memory.max": str(64 * MIB),
        "memory.low": str(32 * MIB),
        "memory.swap.max": str(32 * MIB),
        "memory.high": str(60 * MIB),
        "cpu.weight": "39",
        "cpu.max": "50000 100000",
        "cpuset.cpus": "0",
        "cpuset.mems": "0",
        "pids.max": str(33 + SPT_TASKS),
        "hugetlb.2MB.max": str(4 * MIB),
    }
    assert {name: inside.read(name) for name in expected} == expected
    assert inside.read("cgroup.procs") == str(inside.state()["pid"])
    inside.urunc("update", "--cpu-quota", "20000", "--pids-limit", "-1", "one")
    assert inside.read("cpu.max") == "20000 100000"
    assert inside.read("pids.max") == "max"
    assert inside.read("memory.max") == str(64 * MIB)
    inside.urunc("update", "--memory", "128m", "--memory-swap=160m", "one")
    assert inside.read("memory.max") == str(128 * MIB)
    assert inside.read("memory.swap.max") == str(32 * MIB)
    stats = json.loads(inside.urunc("events", "--stats", "one").stdout)["data"]
    assert 0 < stats["memory"]["usage"]["usage"] < 128 * MIB
    assert stats["memory"]["usage"]["limit"] == 128 * MIB
    assert stats["pids"]["current"] == 1
    assert stats["cpu"]["usage"]["total"] > 0
    inside.urunc("pause", "one")
    assert "frozen 1" in inside.read("cgroup.events")
    assert inside.state()["status"] == "paused"
    inside.urunc("delete", "--force", "one")
    assert machine.run("ls", inside.group, check=False).returncode


def test_memory_binds(machine: Machine) -> None:
    """What goes over the limit is killed, and delete says so. (It is a program put beside the
    monitor: a monitor and its guest stay below.)"""
    inside = Inside(machine, "memory")
    inside.create(inside.bundle("spt", memory={"limit": 48 * MIB, "swap": 48 * MIB}))
    inside.urunc("start", "one")
    hog = "import sys; a = bytearray(200 << 20)"
    script = f'echo $$ >{inside.group}/cgroup.procs; exec /usr/bin/python3 -c "{hog}"'
    machine.run("sh", "-c", script, check=False)
    kills = dict(line.split() for line in inside.read("memory.events").splitlines())
    assert int(kills["oom_kill"]) >= 1
    removed = inside.urunc("delete", "--force", "one")
    assert "its memory limit was reached" in removed.stderr


def test_cpu_binds(machine: Machine) -> None:
    """A guest that burns gets its quota, though its monitor could take all."""
    inside = Inside(machine, "cpu")
    bundle = inside.bundle("qemu", cpu={"quota": 20_000, "period": 100_000})
    bundle.args("app", "probe.burn")
    inside.create(bundle)
    inside.urunc("start", "one")

    def used_us() -> tuple[int, float]:
        script = f"grep usage_usec {inside.group}/cpu.stat; cut -d' ' -f1 /proc/uptime"
        words = machine.run("sh", "-c", script).stdout.split()
        return int(words[1]), float(words[2])

    def throttled() -> int:
        return int(
            dict(line.split() for line in inside.read("cpu.stat").splitlines())["nr_throttled"]
        )

    first, began_s = used_us()
    before = throttled()
    until(lambda: throttled() > before + 5, timeout_s=60)
    last, ended_s = used_us()
    assert 0 < (last - first) / 1e6 / (ended_s - began_s) < 0.3
    inside.urunc("delete", "--force", "one")


def test_by_systemd(machine: Machine) -> None:
    """systemd as on today's hosts, on v2: the scope's properties and files, its end."""
    inside = Inside(machine, "systemd")
    bundle = inside.bundle(
        "spt", memory={"limit": 64 * MIB}, cpu={"shares": 1024, "cpus": "0"}, pids={"limit": 22}
    )
    bundle.config["linux"]["cgroupsPath"] = "system.slice:urunc:box"
    urunc = f"{URUNC} --root /run/urunc-systemd"
    script = f"""set -e
        {urunc} --systemd-cgroup create --bundle {bundle.write()} one >/run/console 2>&1 ||
            {{ cat /run/console; exit 1; }}
        {urunc} start one
        systemctl show urunc-box.scope -p MemoryMax -p CPUWeight -p TasksMax -p AllowedCPUs -p Slice
        group=/sys/fs/cgroup$(systemctl show urunc-box.scope -p ControlGroup --value)
        for file in memory.max cpu.weight pids.max cpuset.cpus; do cat $group/$file; done
        systemctl daemon-reload
        cat $group/memory.max
        {urunc} update --pids-limit 11 one
        systemctl show urunc-box.scope -p TasksMax
        cat $group/pids.max
        {urunc} delete --force one
        test ! -e $group
        systemctl is-active urunc-box.scope || true
    """
    path = f"{PARTS}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    said = machine.run(
        "/usr/bin/python3", "-m", "lib.places.systemd", str(inside.directory), "--",
        "sh", "-c", script,
        PYTHONPATH=f"{PROJECT}/tests", PATH=path, timeout_s=200,
    )  # fmt: skip
    lines = said.stdout.splitlines()
    shown = dict(line.split("=") for line in lines[:5])
    assert shown == {
        "MemoryMax": str(64 * MIB), "CPUWeight": "39", "TasksMax": str(22 + SPT_TASKS),
        "AllowedCPUs": "0", "Slice": "system.slice",
    }  # fmt: skip
    assert lines[5:] == [
        str(64 * MIB), "39", str(22 + SPT_TASKS), "0", str(64 * MIB),
        f"TasksMax={11 + SPT_TASKS}", str(11 + SPT_TASKS), "inactive",
    ]  # fmt: skip
