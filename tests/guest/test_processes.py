# SPDX-License-Identifier: Apache-2.0
"""How many processes there may be: in a Linux guest the application's, on the host its monitor's
with as many more. QEMU emulates: Linux does not run on every nested KVM."""

from __future__ import annotations

import json
import pathlib
import time

import pytest

from lib.rooted import configure, linux, run
from lib.support import PARTS, Bundle, Urunc, need, nothing_left

FORKS = """
cat /proc/self/cgroup; cat /sys/fs/cgroup/pids.max
n=0
while [ $n -lt 40 ]; do sleep 3 & n=$((n+1)); done 2>&1
cat /sys/fs/cgroup/pids.current
"""


def limited(path: pathlib.Path, script: str, limit: int) -> Bundle:
    bundle = linux(path, script)
    bundle.config["linux"]["resources"] = {"pids": {"limit": limit}}
    return bundle


def test_a_limit(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """It is the application's, as with runc: init is not counted, and a fork too many fails."""
    need("linux", "qemu", "images")
    configure(urunc, "ext4")
    with nothing_left(urunc.root):
        result = run(urunc, limited(tmp_path / "b", FORKS, 12))
    assert result.stdout.startswith("0::/\n12\n"), result.stdout + result.stderr
    assert "can't fork: Resource temporarily unavailable" in result.stdout
    assert result.returncode == 2  # busybox' shell gives up


def test_no_limit(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    need("linux", "qemu", "images")
    configure(urunc, "ext4")
    with nothing_left(urunc.root):
        result = run(urunc, linux(tmp_path / "b", FORKS))
    assert result.stdout == "0::/\nmax\n42\n", result.stderr


def test_the_smallest_limit(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """One process, and neither the monitor nor what is beside it wants for any."""
    need("linux", "qemu", "images", "virtiofsd")
    for number, form in enumerate(("ext4", "virtiofs")):
        configure(urunc, form, **{"monitors.qemu.supervisor": True})
        bundle = limited(tmp_path / f"b{number}", "echo runs; (true); echo on", 1)
        with nothing_left(urunc.root):
            result = run(urunc, bundle)
        assert result.stdout.startswith("runs\n"), result.stderr
        assert "can't fork" in result.stdout + result.stderr


def test_another_limit_while_it_runs(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    need("linux", "qemu", "images")
    configure(urunc, "ext4")
    script = "echo is up; while :; do cat /sys/fs/cgroup/pids.max; sleep 0.2; done"
    with nothing_left(urunc.root):
        container = urunc.create(limited(tmp_path / "b", script, 50))
        container.start()
        container.wait_for("\n50\n", 60)
        urunc("update", "--pids-limit", "30", container.id)
        container.wait_for("\n30\n")
        found = json.loads(urunc("events", "--stats", container.id).stdout)
        assert found["data"]["pids"]["limit"] == 30 + container.plan()["tasks"]
        urunc("update", "--pids-limit", "-1", container.id)
        container.wait_for("\nmax\n")
        container.delete("--force")


@pytest.mark.parametrize("monitor", ["qemu", "firecracker", "spt"])
def test_what_monitors_need(urunc: Urunc, tmp_path: pathlib.Path, monitor: str) -> None:
    """A limit of one process keeps no monitor from starting, and what it has stays far below."""
    need(
        "probe",
        *{"firecracker": ("firecracker", "kvm"), "spt": ("solo5",)}.get(monitor, (monitor,)),
    )
    guest = "rumprun" if monitor == "spt" else "unikraft"
    extra = {"accelerator": "tcg"} if monitor == "qemu" else {}
    bundle = Bundle(tmp_path / "b", guest, monitor, **extra)
    bundle.add("unikernel", PARTS / ("probe-bare.spt" if monitor == "spt" else "probe.pvh"))
    bundle.args("app", "probe.hang")
    bundle.config["linux"]["resources"] = {"pids": {"limit": 1}}
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        container.wait_for('"cmdline"')
        time.sleep(0.2)
        threads = len(list(pathlib.Path(f"/proc/{container.pid}/task").iterdir()))
        assert threads < container.plan()["tasks"]
        print(monitor, threads)
        container.delete("--force")
