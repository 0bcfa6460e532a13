# SPDX-License-Identifier: Apache-2.0
"""`urunc plan`: the script that runs a monitor by hand, and what differs between two bundles."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess

import pytest

from lib.support import PARTS, Bundle, Network, Urunc, need

EXIT = {"qemu": 7 * 2 + 1, "firecracker": 0, "hvt": 7, "spt": 7}


@pytest.mark.parametrize("monitor", EXIT)
def test_script(urunc: Urunc, network: Network, tmp_path: pathlib.Path, monitor: str) -> None:
    """It boots the same guest with the same words, with a TAP device of one's own and the image's
    files where they are, whatever their names."""
    solo5 = monitor in ("hvt", "spt")
    need("probe", "solo5" if solo5 else monitor)
    need(*(("kvm",) if monitor in ("firecracker", "hvt") else ()))
    extra = {"accelerator": "tcg"} if monitor == "qemu" else {}
    directory = tmp_path / 'a "$b"'
    bundle = Bundle(directory, "rumprun" if solo5 else "linux", monitor, block="/disk", **extra)
    bundle.add("unikernel", PARTS / (f"probe.{monitor}" if solo5 else "probe.pvh"))
    bundle.add("disk", b"written by hand!" + bytes((1 << 20) - 16))
    bundle.args("app", "probe.exit=7", "a$b `c`")
    path = str(bundle.write())
    script = tmp_path / "script"
    script.write_text(urunc("plan", "--bundle", path, "--shell").stdout)
    (tmp_path / "tmp").mkdir()
    alone = subprocess.run(["sh", script], capture_output=True, text=True, check=False)
    assert alone.returncode == 2
    assert "TAP: a TAP device: ip tuntap add" in alone.stderr
    inside = ["ip", "netns", "exec", network.inside]
    for words in ("tuntap add byhand mode tap", "link set byhand up"):
        subprocess.run([*inside, "ip", *words.split()], check=True)
    done = subprocess.run(
        [*inside, "sh", script],
        env={
            **os.environ, "TAP": "byhand", "MAC": "02:00:00:00:00:01", "TMPDIR": f"{tmp_path}/tmp",
        },
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == EXIT[monitor], done.stderr
    (report,) = (
        json.loads(line[line.index("{") :])
        for line in done.stdout.splitlines()
        if "cmdline" in line
    )
    assert "a$b `c`" in report["cmdline"]
    assert bytes.fromhex(report["disks"][0]["first"]) == b"written by hand!"
    assert os.listdir(tmp_path / "tmp") == []


def test_script_of_what_create_makes(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """An initrd that urunc would make is asked for; an ordinary container has no monitor."""
    need("qemu", "linux")
    bundle = Bundle(tmp_path / "b", "linux", "qemu", mountRootfs="true", accelerator="tcg")
    bundle.add("unikernel", PARTS / "linux/vmlinux")
    script = urunc("plan", "--bundle", str(bundle.write()), "--shell").stdout
    assert '"${FILE0:?an initrd that is made, a file}"' in script
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0
    bundle.config["annotations"] = {}
    refused = urunc("plan", "--bundle", str(bundle.write()), "--shell", check=False)
    assert refused.returncode == 1
    assert "there is no monitor to run" in refused.stderr
    refused = urunc("plan", "--shell", "--format", "json", check=False)
    assert "option '--shell': neither with --diff nor with --format json" in refused.stderr


def test_difference(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    need("qemu", "probe")
    paths = []
    for name, limit_mib in (("old", 192), ("new", 256)):
        bundle = Bundle(tmp_path / name, "unikraft", "qemu", accelerator="tcg")
        bundle.add("unikernel", PARTS / "probe.pvh")
        bundle.config["linux"]["resources"] = {"memory": {"limit": limit_mib << 20}}
        paths.append(str(bundle.write()))
    old, new = paths
    text = urunc("plan", "--bundle", old, "--diff", new).stdout
    assert text.startswith(f"--- {old}\n+++ {new}\n")
    changed = [line for line in text.splitlines()[2:] if line[0] in "+-"]
    assert [line.split()[0] for line in changed[:4]] == ["-memory:", "+memory:", "-", "+"]
    words = ("plan", "--bundle", old, "--format", "json", "--diff")
    found = json.loads(urunc(*words, new).stdout)
    before, after = found["plan.memory_bytes"]
    assert before < after
    assert json.loads(urunc(*words, old).stdout) == {}
    assert urunc("plan", "--bundle", old, "--diff", old).stdout == ""
