# SPDX-License-Identifier: Apache-2.0
"""Ordinary containers through urunc: runc's own output, exit codes and state, in the same
--root."""

from __future__ import annotations

import json
import pathlib
import subprocess

import pytest

from lib.busybox import BUSYBOX
from lib.support import PARTS, Bundle, Urunc, need


@pytest.fixture
def bundle(tmp_path: pathlib.Path) -> Bundle:
    need("runc", "busybox")
    made = Bundle(tmp_path / "ordinary")
    made.add("bin/sh", BUSYBOX)
    made.config["process"]["env"] = ["PATH=/bin"]
    for name in ("proc", "dev"):
        (made.root / name).mkdir()
    made.config["mounts"] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
    ]
    return made


def test_run(urunc: Urunc, bundle: Bundle) -> None:
    bundle.args("/bin/sh", "-c", "echo out; echo err >&2; exit 42")
    result = urunc("run", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    assert (result.returncode, result.stdout, result.stderr) == (42, "out\n", "err\n")


def test_whole_life_beside_a_guest(urunc: Urunc, bundle: Bundle, tmp_path: pathlib.Path) -> None:
    need("qemu", "probe")
    bundle.args("/bin/sh", "-c", "sleep 30")
    identifier = urunc.new_id()
    subprocess.run(
        urunc.command("create", "--bundle", str(bundle.write()), identifier),
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    theirs = subprocess.run(
        ["runc", "--root", str(urunc.root), "state", identifier], capture_output=True, text=True
    ).stdout
    assert urunc("state", identifier).stdout == theirs
    guest = Bundle(tmp_path / "guest", "unikraft", "qemu", accelerator="tcg")
    guest.add("unikernel", PARTS / "probe.pvh")
    guest.args("app", "probe.hang")
    container = urunc.create(guest)
    listed = {
        item["id"]: item["status"] for item in json.loads(urunc("list", "--format", "json").stdout)
    }
    assert listed == {identifier: "created", container.id: "created"}
    taken = urunc("create", "--bundle", str(bundle.path), container.id, check=False)
    assert taken.returncode == 1
    taken = urunc("create", "--bundle", str(guest.path), identifier, check=False)
    assert taken.returncode == 1
    assert "already exists" in taken.stderr
    urunc("start", identifier)
    done = urunc("exec", identifier, "/bin/sh", "-c", "echo inside; exit 7", check=False)
    assert (done.returncode, done.stdout) == (7, "inside\n")
    assert json.loads(urunc("ps", "--format", "json", identifier).stdout)
    refused = urunc("exec", container.id, "/bin/sh", check=False)
    assert refused.returncode == 255
    assert "no processes" in refused.stderr
    urunc("kill", identifier, "KILL")
    for _ in range(100):
        if json.loads(urunc("state", identifier).stdout)["status"] == "stopped":
            break
    urunc("delete", identifier)
    assert not (urunc.root / identifier).exists()
    container.delete("--force")
