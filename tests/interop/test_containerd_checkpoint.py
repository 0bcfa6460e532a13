# SPDX-License-Identifier: Apache-2.0
"""Guests that containerd saves and restores, by ctr and urunc's shim, and those that start from a
snapshot of urunc's own."""

from __future__ import annotations

import json
import pathlib
import shutil
import textwrap
from collections.abc import Iterator

import pytest

from lib.engines import containerd_with
from lib.images import archive
from lib.patience import until
from lib.places.containerd import Containerd
from lib.support import PARTS, URUNC, need

WORDS = ("app", "probe.burn=3000")
WARM = """
[start]
snapshots = "asked"
directory = "/run/warm"
"""
ASKS = ("start=snapshot same-random", "ready=line:beat")


@pytest.fixture(scope="module")
def containerd(urunc_config: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    need("root", "tun", "installed", "runc", "containerd", "probe", "firecracker", "kvm")
    directory = tmp_path_factory.mktemp("images")
    probe = archive(
        *(directory / "fc.tar", "fc", {"probe": PARTS / "probe.pvh"}, ["app"]),
        unikernelType="unikraft",
        hypervisor="firecracker",
        binary="/probe",
    )
    config = textwrap.dedent(urunc_config) + WARM
    with containerd_with(Containerd(str(URUNC), config), probe) as place:
        yield place


@pytest.fixture(autouse=True)
def no_copies(containerd: Containerd) -> Iterator[None]:
    """containerd leaves the checkpoint that it has unpacked for a task where it was."""
    before = set(pathlib.Path("/tmp").glob("ctrd-checkpoint*"))
    yield
    for path in set(pathlib.Path("/tmp").glob("ctrd-checkpoint*")) - before:
        shutil.rmtree(path)


def status(containerd: Containerd, task: str) -> str:
    """What `ctr tasks ls` says of a task."""
    found = [line.split() for line in containerd("tasks", "ls").stdout.splitlines()]
    return next((words[2] for words in found if words[0] == task), "")


def test_a_container_from_another(containerd: Containerd) -> None:
    """Its image, configuration and memory come from containerd's store; it runs to its end."""
    options = ("-d", "--memory-limit", str(140 << 20))
    containerd.launch("one", "fc", *WORDS, options=options)
    whole = ("--image", "--task")
    containerd("containers", "checkpoint", *whole, "one", "saved:1")
    assert status(containerd, "one") == "RUNNING"
    containerd("tasks", "kill", "-s", "KILL", "one")
    until(lambda: status(containerd, "one") == "STOPPED")
    assert "exit code 137" in containerd("tasks", "delete", "one", check=False).stderr
    containerd("containers", "restore", "--live", "two", "saved:1")
    until(lambda: status(containerd, "two") == "STOPPED")
    containerd("tasks", "delete", "two")
    containerd("containers", "delete", "one", "two")


def test_a_start_from_a_snapshot(containerd: Containerd, tmp_path: pathlib.Path) -> None:
    """The second container of an image does not boot: it goes on, and is heard and ended as the
    first."""
    asks = [word for pair in ASKS for word in ("--annotation", f"com.urunc.unikernel.{pair}")]
    limit = ("--memory-limit", str(140 << 20))

    def launched(name: str) -> str:
        console = tmp_path / name
        log = ("--log-uri", f"file://{console}")
        options = ("-d", *limit, *asks, *log)
        containerd.launch(name, "fc", "app", "probe.beat=20", "probe.hang", options=options)
        until(lambda: "beat" in console.read_text(), "no beat", 30)
        return console.read_text()

    def hits() -> list[int]:
        said = containerd.run(str(URUNC), "snapshot", "list", "--format", "json").stdout
        return [entry["hits"] for entry in json.loads(said)]

    assert "cmdline" in launched("first")
    until(lambda: hits() == [0], "it is not saved", 30)
    assert "cmdline" not in launched("second")
    assert hits() == [1]
    names = ("first", "second")
    for name in names:
        assert status(containerd, name) == "RUNNING"
        containerd("tasks", "kill", "-s", "KILL", name)
    until(lambda: all(status(containerd, name) == "STOPPED" for name in names))
    for name in names:
        containerd("tasks", "delete", name, check=False)
    containerd("containers", "delete", *names)
