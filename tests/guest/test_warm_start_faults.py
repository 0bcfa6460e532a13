# SPDX-License-Identifier: Apache-2.0
"""What goes wrong while a guest is saved for later starts, or taken up: the guest that is there
goes on, nothing stays, and the next one boots."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
from collections.abc import Iterator

import pytest

from lib.patience import until
from lib.saves import MONITORS, goes_on
from lib.support import Network, nothing_left
from lib.warm import READY, Warm, asking
from urunc.snapshot import store

NETWORK, PORTS = "com.urunc.unikernel.network", "com.urunc.unikernel.ports"


def saver(identifier: str) -> int:
    """The pid of the process that `start` has left behind for a container, 0 for none."""
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"start" in words and identifier.encode() in words:
            return int(path.parent.name)
    return 0


@pytest.fixture
def small_disk(warm: Warm) -> Iterator[pathlib.Path]:
    """The snapshots' directory is on a disk that has room for half a guest."""
    warm.path.mkdir(mode=0o700)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "warm", warm.path], check=True
    )
    try:
        yield warm.path
    finally:
        subprocess.run(["umount", "--lazy", warm.path], check=True)


def test_a_full_disk(warm: Warm, tmp_path: pathlib.Path, small_disk: pathlib.Path) -> None:
    """The guest goes on; of the snapshot there is nothing."""
    bundle = asking(tmp_path / "b", "firecracker", "probe.fill=64M", "probe.hang")
    with nothing_left(warm.urunc.root):
        container = warm.start(bundle)
        until(lambda: warm.said("no space left on device"), warm.log.read_text)
        until(lambda: not list(small_disk.glob("?*[0-9a-f]/")), "something of it stays")
        goes_on(container)
        container.delete("--force")


@pytest.mark.parametrize("monitor", MONITORS)
@pytest.mark.parametrize("when", ["it waits", "it saves"])
def test_the_saver_is_killed(warm: Warm, tmp_path: pathlib.Path, monitor: str, when: str) -> None:
    """The guest goes on, and what was written is swept away by the next, which is saved."""
    bundle = asking(tmp_path / "b", monitor, "probe.hang")
    if when == "it waits":
        bundle.config["annotations"][READY] = "line:never said"
    with nothing_left(warm.urunc.root):
        for _ in range(5):  # it may be through before anybody has looked
            container = warm.start(bundle)
            pid = saver(container.id)
            assert pid
            if when == "it saves":
                until(
                    lambda: list(warm.path.glob("*/.guest.*")) or warm.sealed(), "it is not saved"
                )
            if not warm.sealed():
                os.kill(pid, signal.SIGKILL)
            if not warm.sealed():
                break
            container.delete("--force")
            warm.urunc("snapshot", "prune", "--all")
        until(lambda: not saver(container.id), "it has not ended")
        container.event("beat")
        goes_on(container)
        container.delete("--force")
    bundle.config["annotations"][READY] = "line:beat"
    warm.saved(bundle)
    assert not list(warm.path.glob("*/.guest.*"))


@pytest.mark.parametrize("monitor", MONITORS)
def test_what_the_monitor_does_not_load(warm: Warm, tmp_path: pathlib.Path, monitor: str) -> None:
    """Files that are as they were sealed, and that make no guest: this start fails, with the
    monitor's reason, and the next one boots."""
    bundle = asking(tmp_path / "b", monitor, "probe.hang")
    warm.saved(bundle)
    (snapshot,) = warm.sealed()
    with (snapshot / "guest/state").open("r+b") as file:
        file.write(b"\xff" * 64)
    (entry,) = store.entries(str(warm.path))
    store.Place(str(warm.path), snapshot.name).seal(store.manifest_of(entry))
    with nothing_left(warm.urunc.root):
        container = warm.urunc.create(bundle)
        done = warm.urunc("start", container.id, check=False)
        assert done.returncode == 1, done.stderr
        assert f"{monitor}" in done.stderr or "load" in done.stderr
        container.wait_stopped()
        container.delete()
    assert not warm.sealed()
    container = warm.start(bundle)
    assert warm.said("it boots, to be saved")
    container.event("beat")
    container.delete("--force")


def test_the_least_recently_used_goes(warm: Warm, tmp_path: pathlib.Path) -> None:
    """There is room for one; a guest that came from the other goes on."""
    first = asking(tmp_path / "1", "firecracker", "probe.hang")
    second = asking(tmp_path / "2", "firecracker", "probe.hang", "other")
    warm.saved(first)
    (old,) = warm.sealed()
    running = warm.start(first)
    assert warm.said("from the snapshot")
    warm.keys["start.limit_mib"] = -(-running.plan()["memory_bytes"] // (1 << 20))
    warm.configure()
    container = warm.start(second)
    until(lambda: warm.said(": saved as"), warm.log.read_text, 60)
    until(lambda: old not in warm.sealed(), "both stay")
    assert len(warm.sealed()) == 1
    goes_on(running)
    for item in (running, container):
        item.delete("--force")
    container = warm.start(first)
    assert warm.said("it boots, to be saved")
    container.delete("--force")


@pytest.mark.parametrize("monitor", MONITORS)
def test_a_port_as_ready_mark(
    warm: Warm, tmp_path: pathlib.Path, network: Network, monitor: str
) -> None:
    """Saved when the server takes a connection, asked within the container's network, and not
    where nobody listens."""
    bundle = asking(tmp_path / "b", monitor, "probe.serve", "probe.http=8080", "probe.page=served")
    bundle.config["annotations"] |= {READY: "port:8080", NETWORK: "shared", PORTS: "8080/tcp"}
    network.connect()
    bundle.network(network.path)
    warm.saved(bundle)
    bundle.config["annotations"][READY] = "port:8081"
    warm.keys["start.wait_s"] = 1
    warm.configure()
    container = warm.start(bundle)
    until(lambda: warm.said("it was not ready within 1 s"), warm.log.read_text)
    container.delete("--force")


@pytest.mark.parametrize("monitor", MONITORS)
def test_in_a_user_namespace(warm: Warm, tmp_path: pathlib.Path, monitor: str) -> None:
    """From one snapshot, with other users of the host's each time."""
    tmp_path.chmod(0o755)
    bundle = asking(tmp_path / "b", monitor, "probe.hang")
    keys = bundle.config["linux"]
    keys["namespaces"].append({"type": "user"})

    def mapped(first: int) -> None:
        for key in ("uidMappings", "gidMappings"):
            keys[key] = [{"containerID": 0, "hostID": first, "size": 65536}]

    mapped(300000)
    warm.saved(bundle)
    for first in (300000, 400000):
        mapped(first)
        container = warm.start(bundle)
        assert warm.said("from the snapshot"), warm.log.read_text()
        container.event("beat")
        container.delete("--force")
