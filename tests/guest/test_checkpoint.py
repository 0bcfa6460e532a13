# SPDX-License-Identifier: Apache-2.0
"""Guests that are saved and go on: the probe on Firecracker and QEMU, Linux on QEMU."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from typing import Any

import pytest

from lib.patience import patient
from lib.rooted import configure, linux
from lib.saves import MONITORS, probe, restore, save
from lib.support import Network, Urunc, need, nothing_left


@pytest.mark.parametrize("monitor", MONITORS)
def test_a_guest_goes_on(
    urunc: Urunc, tmp_path: pathlib.Path, network: Network, monitor: str
) -> None:
    """With its memory, its clock and its network; then it is a container as any other. One that
    was saved is gone, unless it was to stay."""
    bundle = probe(tmp_path / "b", monitor, "probe.beat=100", "probe.serve", "probe.exit=3")
    image = tmp_path / "image"
    network.connect()
    bundle.network(network.path)
    container = urunc.create(bundle)
    container.start()
    container.event("serving")
    assert network.udp(b"one") == b"one"
    with nothing_left(urunc.root):
        manifest = save(container, image, "--leave-running")
        assert network.udp(b"two") == b"two"
    assert container.status() == "running"
    assert manifest["monitor"] == monitor
    assert manifest["interfaces"][0]["addresses"] == [f"{network.inside_address}/24"]
    container.event("beat")
    save(container, image)
    assert urunc("state", container.id, check=False).returncode == 1
    before = [json.loads(line) for line in container.shown().splitlines() if "beat" in line]
    pid_file = tmp_path / "pid"
    again = restore(urunc, bundle, image, container.id, "--pid-file", str(pid_file))
    assert int(pid_file.read_text()) == again.pid
    first = again.event("beat")
    assert first["ms"] > before[-1]["ms"]
    assert "serving" not in again.shown()
    assert network.udp(b"three") == b"three"
    assert again.status() == "running"
    urunc("pause", again.id)
    assert again.status() == "paused"
    urunc("resume", again.id)
    assert network.udp(b"quit 3") == b"quit 3"
    again.wait_stopped()
    again.delete()


@pytest.mark.parametrize("monitor", MONITORS)
def test_a_paused_guest(urunc: Urunc, tmp_path: pathlib.Path, monitor: str) -> None:
    """It stays paused, as containerd expects; what was saved runs. In the foreground `restore`
    ends as the guest does, and a second container comes from the same image."""
    bundle = probe(tmp_path / "b", monitor, "probe.beat=100", "probe.burn=2500", "probe.exit=7")
    image = tmp_path / "image"
    container = urunc.create(bundle)
    container.start()
    container.event("beat")
    urunc("pause", container.id)
    size = len(container.shown())
    save(container, image, "--leave-running", "--work-path", str(tmp_path / "work"))
    assert container.status() == "paused"
    assert len(container.shown()) == size
    other = restore(urunc, bundle, image, urunc.new_id())
    other.event("beat")
    urunc("resume", container.id)
    words = ("restore", "--bundle", str(bundle.path), "--image-path", str(image))
    done = urunc(*words, urunc.new_id(), check=False)
    assert '"event":"exit","code":7' in done.stdout
    for item in (container, other):
        item.wait_stopped()
        item.delete()
    assert not os.listdir(urunc.root)


@pytest.mark.parametrize("monitor", MONITORS)
def test_in_a_user_namespace(urunc: Urunc, tmp_path: pathlib.Path, monitor: str) -> None:
    """The monitor's own file system knows no user of the host's."""
    tmp_path.chmod(0o755)
    bundle = probe(tmp_path / "b", monitor, "probe.beat=100", "probe.hang")
    linux_keys = bundle.config["linux"]
    linux_keys["namespaces"].append({"type": "user"})
    for key in ("uidMappings", "gidMappings"):
        linux_keys[key] = [{"containerID": 0, "hostID": 300000, "size": 65536}]
    container = urunc.create(bundle)
    container.start()
    container.event("beat")
    save(container, tmp_path / "image")
    again = restore(urunc, bundle, tmp_path / "image", container.id)
    again.event("beat")
    again.delete("--force")


def test_linux(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """Its application's memory and the disk that it wrote to are as they were saved, although it
    went on meanwhile; input, output and the exit code are the new container's."""
    need("linux", "qemu", "images")
    configure(urunc, "erofs", "ext4")
    script = (
        "echo written >/file; sync; echo ready $$; read one; echo one $one;"
        "echo more >>/file; sync; read two; cat /file; echo got $two; exit 6"
    )
    bundle = linux(tmp_path / "b", script, "sh", rootfs="erofs", rootfsSize="64")
    image = tmp_path / "image"
    identifier = urunc.new_id()
    words = urunc.command("run", "--bundle", str(bundle.write()), identifier)
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, **pipes) as first:
        assert first.stdin and first.stdout and first.stderr
        assert first.stdout.readline().startswith(b"ready ")
        assert urunc.state(identifier)["status"] == "running"
        urunc("checkpoint", "--leave-running", "--image-path", str(image), identifier)
        first.stdin.write(b"a\n")
        first.stdin.flush()
        assert first.stdout.readline() == b"one a\n"
        urunc("checkpoint", "--image-path", str(tmp_path / "second"), identifier)
        assert first.wait(patient(60)) == 137, first.stderr.read()
    manifest = json.loads((image / "guest/manifest.json").read_text())
    assert [disk["kind"] for disk in manifest["disks"]] == ["same", "saved"]
    outputs = {
        image: "one b\nwritten\nmore\ngot c\n",
        tmp_path / "second": "written\nmore\ngot b\n",
    }
    for saved, expected in outputs.items():
        words = urunc.command("restore", "--bundle", str(bundle.path), "--image-path", str(saved))
        done = subprocess.run(
            [*words, urunc.new_id()], input=b"b\nc\n", capture_output=True, timeout=patient(60)
        )
        assert (done.returncode, done.stdout.decode()) == (6, expected), done
    # its port for input stays, whatever the input is
    done = subprocess.run([*words, urunc.new_id()], stdin=subprocess.DEVNULL, capture_output=True)
    assert (done.returncode, done.stdout) == (6, b"written\nmore\ngot\n"), done
