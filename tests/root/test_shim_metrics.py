# SPDX-License-Identifier: Apache-2.0
"""Metrics of real control groups: a guest's, a process's like an ordinary container's, on v1, v2
and hybrid hosts."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from lib.places.hierarchy import Hierarchy
from lib.support import PROJECT, Bundle, Urunc, need, nothing_left
from urunc.linux import cgroups
from urunc.shim import metrics

V1 = pathlib.Path("/sys/fs/cgroup")
MIB = 1 << 20


def encoded(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """The values once more, as a client reads them."""
    messages = pytest.importorskip("urunc.shim.messages")
    found: dict[str, Any] = messages.decode(name, messages.encode(name, values))
    return found


def has_v1() -> bool:
    return "memory" in cgroups.hierarchies()


@pytest.fixture
def groups() -> Iterator[dict[str, pathlib.Path]]:
    """A group with one below it in each hierarchy."""
    need("root")
    name = f"urunc-test-{uuid.uuid4().hex[:8]}"
    made = {}
    for controller, (mount_point, _) in cgroups.hierarchies().items():
        directory = pathlib.Path(mount_point, name)
        cgroups.make(str(directory / "below"))
        made[controller] = directory
    yield made
    for directory in made.values():
        for path in (directory / "below", directory):
            if path.exists():
                path.rmdir()


@pytest.fixture
def process(groups: dict[str, pathlib.Path]) -> Iterator[subprocess.Popen[bytes]]:
    """One that has used some memory and time in these groups."""
    script = "read -r _; x=$(head -c 4000000 /dev/zero | tr '\\0' x); echo ready; read -r _"
    started = subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    for directory in groups.values():
        cgroups.join(str(directory), started.pid)
    assert started.stdin and started.stdout
    started.stdin.write(b"\n")
    assert started.stdout.readline() == b"ready\n"
    yield started
    started.communicate()


def test_process(
    groups: dict[str, pathlib.Path], process: subprocess.Popen[bytes], tmp_path: pathlib.Path
) -> None:
    """An ordinary container: its groups from /proc, its use as the files say."""
    found = metrics.groups_of(str(tmp_path), "ordinary", process.pid)
    assert found.paths == {name: str(directory) for name, directory in groups.items()}
    name, values = metrics.metrics(found)
    if not has_v1():
        assert name == metrics.V2
        assert values["memory"]["usage"] > 1_000_000
        return
    assert name == metrics.V1
    memory = groups["memory"]
    assert values["memory"]["usage"]["usage"] > 1_000_000
    limit = int((memory / "memory.limit_in_bytes").read_text())
    assert values["memory"]["usage"]["limit"] == limit
    assert values["memory"]["hierarchical_memory_limit"] > 0
    assert values["memory"]["pg_fault"] > 100
    assert values["memory"]["usage"]["max"] >= values["memory"]["usage"]["usage"]
    assert values["pids"]["current"] == 1
    usage = values["cpu"]["usage"]
    assert usage["total"] > 0
    assert usage["total"] == sum(usage["per_cpu"])
    read = encoded(name, values)
    assert read["memory"]["usage"]["limit"] == limit
    assert read["pids"]["current"] == 1


def test_processes_below(
    groups: dict[str, pathlib.Path], process: subprocess.Popen[bytes], tmp_path: pathlib.Path
) -> None:
    found = metrics.groups_of_process(process.pid)
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    for directory in groups.values():
        cgroups.join(str(directory / "below"), child.pid)
    assert sorted(metrics.pids(found)) == sorted((process.pid, child.pid))
    child.communicate()


def test_no_groups_of_its_own(tmp_path: pathlib.Path) -> None:
    """A process in the shim's own groups has none: nobody else's use is told as its."""
    need("root")
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        assert metrics.groups_of(str(tmp_path), "x", child.pid).paths == {}
    finally:
        child.communicate()
    assert metrics.groups_of(str(tmp_path), "x", child.pid).paths == {}
    name, values = metrics.metrics(metrics.groups_of(str(tmp_path), "x", child.pid))
    assert name == (metrics.V1 if has_v1() else metrics.V2)
    assert values["pids"]["current"] == 0


def test_guest(urunc: Urunc, bundle: Bundle) -> None:
    """Its monitor's groups, also of one that has ended."""
    bundle.config["linux"]["resources"] = {
        "memory": {"limit": 96 * MIB},
        "pids": {"limit": 20},
        "cpu": {"quota": 50_000, "period": 100_000},
    }
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        found = metrics.groups_of(str(urunc.root), container.id, container.pid)
        name, values = metrics.metrics(found)
        assert name == (metrics.V1 if has_v1() else metrics.V2)
        assert values["pids"] == {"current": 1, "limit": 20 + container.plan()["tasks"]}
        if has_v1():
            assert values["memory"]["usage"]["limit"] == 96 * MIB
            assert values["memory"]["usage"]["usage"] > 0
            assert values["cpu"]["usage"]["total"] > 0
            assert values["memory_oom_control"]["oom_kill"] == 0
        else:
            assert values["memory"]["usage_limit"] == 96 * MIB
            assert values["memory"]["usage"] > 0
            assert values["cpu"]["usage_usec"] > 0
            assert values["memory_events"]["oom_kill"] == 0
        assert metrics.pids(found) == [container.pid]
        urunc("kill", container.id, "KILL")
        container.wait_stopped()
        again = metrics.groups_of(str(urunc.root), container.id, 0)
        assert again.paths == found.paths
        memory = metrics.metrics(again)[1]["memory"]
        assert (memory["usage"]["limit"] if has_v1() else memory["usage_limit"]) == 96 * MIB
        container.delete()
    assert metrics.groups_of(str(urunc.root), container.id, 0).paths == {}


READ = """
import json, sys
from urunc.shim import metrics
print(json.dumps(metrics.metrics(metrics.groups_of_process(int(sys.argv[1])))))
"""


@pytest.mark.parametrize(("kind", "name"), [("v2", metrics.V2), ("v1", metrics.V1)])
def test_in_another_hierarchy(process: subprocess.Popen[bytes], kind: str, name: str) -> None:
    """Pure v2 (with the controllers that this machine has there), and v1 without v2."""
    if not has_v1() or "" not in cgroups.hierarchies():
        pytest.skip("needs a hybrid host")
    with Hierarchy(kind) as place:
        command = ["env", f"PYTHONPATH={PROJECT / 'src'}", sys.executable, "-c", READ]
        answer = place.run(*command, str(process.pid))
    found, values = json.loads(answer.stdout)
    assert found == name
    if kind == "v2":
        assert values["cpu"]["usage_usec"] > 0
        assert set(values["io"]) == {"usage", "psi"}
    else:
        assert values["pids"]["current"] == 1
    encoded(found, values)
