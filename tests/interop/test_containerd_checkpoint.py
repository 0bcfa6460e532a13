# SPDX-License-Identifier: Apache-2.0
"""Guests that containerd saves and restores, by ctr and urunc's shim."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Iterator

import pytest

from lib.engines import containerd_with
from lib.images import archive
from lib.patience import until
from lib.places.containerd import Containerd
from lib.support import PARTS, URUNC, need

WORDS = ("app", "probe.burn=3000")


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
    with containerd_with(Containerd(str(URUNC), urunc_config), probe) as place:
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
