# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' termination message: a file of the host's that a guest writes, and nothing else."""

from __future__ import annotations

import json
import pathlib

import pytest

from lib.patience import until
from lib.rooted import configure, linux, volume
from lib.support import Urunc, need, nothing_left

KUBELET = "var/lib/kubelet/pods/0b5cdf5c-1b2f/containers/app/3f2a91bc"


@pytest.mark.parametrize("filesystem", ["erofs", "virtiofs"])
@pytest.mark.parametrize("verb", ["state", "delete"])
def test_a_termination_message(
    urunc: Urunc, tmp_path: pathlib.Path, filesystem: str, verb: str
) -> None:
    """What the guest has written where terminationMessagePath says is in kubelet's file once the
    container is seen to have stopped: its last 4096 bytes, or with virtiofs all of it."""
    need("root", "linux", "qemu", "images", "virtiofsd")
    path = tmp_path / KUBELET
    path.parent.mkdir(parents=True)
    path.write_text("there before\n")
    path.chmod(0o666)
    configure(urunc, filesystem)
    script = """
        cat /var/message; i=0; while [ $i -lt 1000 ]; do echo $i; i=$((i + 1)); done >/var/message
        umount /var/message; echo covered >/var/message; exit 3
    """
    bundle = linux(tmp_path / "b", script, rootfs=filesystem)
    bundle.config["mounts"] = [volume("/var/message", path, "rprivate", "rw")]
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        container.wait_stopped(60)
        assert "there before" in container.console.read_text()
        if verb == "state":
            assert urunc.state(container.id)["status"] == "stopped"
        else:
            container.delete()
        content = path.read_text()
        if verb == "state":
            path.write_text("read\n")  # it is given back once
            assert urunc.state(container.id)["status"] == "stopped"
            container.delete()
            assert path.read_text() == "read\n"
    expected = "".join(f"{number}\n" for number in range(1000))
    assert content == (expected if filesystem == "virtiofs" else expected[-4 << 10 :])
    assert path.stat().st_mode & 0o777 == 0o666


def test_a_termination_message_of_a_guest_that_is_killed(
    urunc: Urunc, tmp_path: pathlib.Path
) -> None:
    """Nobody in it can say any more what it had written last; so that has been said before, also
    what came shortly after something else."""
    need("root", "linux", "qemu", "images")
    path = tmp_path / KUBELET
    path.parent.mkdir(parents=True)
    path.touch()
    configure(urunc, "erofs")
    script = "echo one >/var/message; sleep 0.05; echo two >>/var/message; echo done; sleep 600"
    bundle = linux(tmp_path / "b", script, rootfs="erofs")
    bundle.config["mounts"] = [volume("/var/message", path, "rprivate", "rw")]
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        container.wait_for("done\n", 60)
        state = json.loads((urunc.root / container.id / "container.json").read_text())
        storage = state["storage"]
        disk = pathlib.Path(storage["disks"][storage["returned"]]["source"])
        until(lambda: b"two\n" in disk.read_bytes(), "the last of it is on the disk", 60)
        urunc("kill", container.id, "KILL")
        container.wait_stopped(60)
        container.delete()
        assert path.read_text() == "one\ntwo\n"


def test_a_message_goes_to_no_other_file(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """A link in its place leads nowhere."""
    need("root", "linux", "qemu", "images")
    configure(urunc, "erofs")
    path, other = tmp_path / KUBELET, tmp_path / "other"
    path.parent.mkdir(parents=True)
    path.touch()
    other.write_text("another's\n")
    bundle = linux(tmp_path / "b", "echo out >/dev/termination-log; echo done", rootfs="erofs")
    bundle.config["mounts"] = [volume("/dev/termination-log", path)]
    container = urunc.create(bundle)
    path.unlink()
    path.symlink_to(other)
    container.start()
    container.wait_for("done\n", 60)
    container.wait_stopped(60)
    container.delete()
    assert other.read_text() == "another's\n"
