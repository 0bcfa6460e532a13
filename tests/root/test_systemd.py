# SPDX-License-Identifier: Apache-2.0
"""`--systemd-cgroup` with a real systemd, as PID 1 of namespaces of its own: a scope holds the
monitor, its properties are the limits, and stopping it leaves nothing."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from lib.patience import patient
from lib.places.systemd import Systemd
from lib.support import PARTS, SPT_TASKS, Bundle, Urunc, need

MIB = 1 << 20
PURE = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
"""Whether there is cgroup v2 alone."""


@pytest.fixture
def place(urunc: Urunc, tmp_path: pathlib.Path) -> Iterator[Systemd]:
    """A systemd, and urunc beside it."""
    need("solo5", "probe", "systemd")
    with Systemd(tmp_path) as place:
        urunc.prefix = list(place.prefix)
        yield place
        urunc.clean()
        urunc.identifiers.clear()
        urunc.prefix = []


@pytest.fixture
def bundle(tmp_path: pathlib.Path) -> Bundle:
    """The probe on Solo5's spt."""
    made = Bundle(tmp_path / "b", "rumprun", "spt")
    made.add("unikernel", PARTS / "probe-bare.spt")
    made.args("probe.hang")
    made.config["linux"]["cgroupsPath"] = "system.slice:urunc:box"
    made.config["linux"]["resources"] = {
        "memory": {"limit": 128 * MIB},
        "cpu": {"quota": 55_555, "period": 100_000, "shares": 700},
        "pids": {"limit": 44},
    }
    return made


def show(place: Systemd, unit: str, *names: str) -> dict[str, str]:
    words = [f"--property={name}" for name in names]
    text = place.run("systemctl", "show", unit, *words).stdout
    return dict(line.split("=", 1) for line in text.splitlines())


def command(urunc: Urunc, *words: str) -> list[str]:
    first, *rest = words
    return [*urunc.command(), "--systemd-cgroup", first, *rest]


def create(urunc: Urunc, bundle: Bundle) -> tuple[str, str]:
    """(id, what it printed) of `--systemd-cgroup create`."""
    identifier = urunc.new_id()
    console = bundle.path / "console"
    with console.open("wb") as out:
        made = subprocess.run(
            command(urunc, "create", "--bundle", str(bundle.write()), identifier),
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=patient(60),
        )  # fmt: skip
    return identifier, "" if made.returncode == 0 else console.read_text()


def test_a_scope(urunc: Urunc, bundle: Bundle, place: Systemd) -> None:
    """systemd knows the container: its processes, its limits, its slice; `update` tells it, delete
    ends it."""
    memory, cpu = ("MemoryMax", "CPUWeight") if PURE else ("MemoryLimit", "CPUShares")
    identifier, problem = create(urunc, bundle)
    assert not problem
    urunc("start", identifier)
    state = urunc.state(identifier)
    facts = show(
        place, "urunc-box.scope", "ActiveState", "Slice", "Delegate", "TasksMax",
        "CPUQuotaPerSecUSec", "ControlGroup", memory, cpu, "DevicePolicy",
    )  # fmt: skip
    assert facts["ActiveState"] == "active"
    assert facts["Slice"] == "system.slice"
    assert facts["Delegate"] == "yes"
    assert facts["TasksMax"] == str(44 + SPT_TASKS)
    assert facts["CPUQuotaPerSecUSec"] == "560ms"  # whole 10 ms, up
    assert facts["ControlGroup"] == "/system.slice/urunc-box.scope"
    assert facts[memory] == str(128 * MIB)
    assert facts[cpu] == ("27" if PURE else "700")
    assert facts["DevicePolicy"] == "strict"
    groups = place.run("cat", f"/proc/{state['pid']}/cgroup").stdout.splitlines()
    assert groups
    for line in groups:
        assert line.endswith("/system.slice/urunc-box.scope"), line
    scope = "system.slice/urunc-box.scope"
    v1 = f"/sys/fs/cgroup/memory/{scope}/memory.limit_in_bytes"
    limit = f"/sys/fs/cgroup/{scope}/memory.max" if PURE else v1
    assert place.run("cat", limit).stdout == f"{128 * MIB}\n"
    assert place.run("systemctl", "daemon-reload").returncode == 0
    assert place.run("cat", limit).stdout == f"{128 * MIB}\n"
    urunc("update", "--pids-limit", "33", "-m", "256m", identifier)
    facts = show(place, "urunc-box.scope", "TasksMax", memory)
    assert facts == {"TasksMax": str(33 + SPT_TASKS), memory: str(256 * MIB)}
    assert place.run("cat", limit).stdout == f"{256 * MIB}\n"
    urunc("pause", identifier)
    assert urunc.state(identifier)["status"] == "paused"
    urunc("resume", identifier)
    urunc("delete", "--force", identifier)
    assert show(place, "urunc-box.scope", "ActiveState")["ActiveState"] == "inactive"
    found = place.run("find", "/sys/fs/cgroup/", "-name", "*urunc-box*").stdout
    assert found == ""


def test_properties_by_annotation(urunc: Urunc, bundle: Bundle, place: Systemd) -> None:
    """As Podman and CRI-O give them."""
    named = {"TimeoutStopUSec": "uint64 7000000", "CollectMode": "'inactive-or-failed'",
             "RuntimeMaxSec": "500", "After": "['basic.target']"}  # fmt: skip
    bundle.config["annotations"] |= {
        f"org.systemd.property.{name}": value for name, value in named.items()
    }
    identifier, problem = create(urunc, bundle)
    assert not problem
    names = ("TimeoutStopUSec", "CollectMode", "RuntimeMaxUSec", "After")
    facts = show(place, "urunc-box.scope", *names)
    assert facts["TimeoutStopUSec"] == "7s"
    assert facts["CollectMode"] == "inactive-or-failed"
    assert facts["RuntimeMaxUSec"] == "8min 20s"
    assert "basic.target" in facts["After"].split()
    urunc("delete", "--force", identifier)
    bundle.config["annotations"] = {
        **bundle.config["annotations"], "org.systemd.property.CollectMode": "nonsense",
    }  # fmt: skip
    _, problem = create(urunc, bundle)
    assert "org.systemd.property.CollectMode': 'nonsense' is not a value" in problem


def test_a_slice_that_is_not_there_yet(urunc: Urunc, bundle: Bundle, place: Systemd) -> None:
    """As Kubernetes names them."""
    bundle.config["linux"]["cgroupsPath"] = "kubepods-besteffort-pod7.slice:cri-containerd:abc"
    identifier, problem = create(urunc, bundle)
    assert not problem
    facts = show(place, "cri-containerd-abc.scope", "ControlGroup", "ActiveState")
    assert facts["ControlGroup"] == (
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod7.slice/"
        "cri-containerd-abc.scope"
    )
    urunc("delete", "--force", identifier)


def test_the_default_path(urunc: Urunc, bundle: Bundle, place: Systemd) -> None:
    del bundle.config["linux"]["cgroupsPath"]
    identifier, problem = create(urunc, bundle)
    assert not problem
    assert show(place, f"urunc-{identifier}.scope", "ActiveState")["ActiveState"] == "active"
    urunc("delete", "--force", identifier)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/a/path", "is not of the form slice:prefix:name"),
        ("no-such-thing:urunc:box", "systemd: StartTransientUnit"),
    ],
)
def test_bad_paths(urunc: Urunc, bundle: Bundle, place: Systemd, path: str, words: str) -> None:
    """One clear error, and nothing left in systemd or the hierarchies."""
    bundle.config["linux"]["cgroupsPath"] = path
    _, problem = create(urunc, bundle)
    assert words in problem
    assert place.run("find", "/sys/fs/cgroup/", "-name", "*urunc-box*").stdout == ""


def test_without_systemd(urunc: Urunc, bundle: Bundle) -> None:
    """Where none answers, the error says what to do."""
    need("solo5", "probe")
    if pathlib.Path("/run/systemd/private").exists():
        pytest.skip("a systemd runs here")
    _, problem = create(urunc, bundle)
    assert "systemd: connect over D-Bus" in problem
    assert "without --systemd-cgroup" in problem
