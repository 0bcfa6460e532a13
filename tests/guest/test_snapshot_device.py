# SPDX-License-Identifier: Apache-2.0
"""A snapshot that is a block device, as containerd's devmapper and blockfile snapshotters give it
to a shim: mounted by the shim, taken over by the guest. A loop device stands for devmapper."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess

from lib.patience import until
from lib.rooted import configure, spared
from lib.shims import Shim
from lib.support import RUN, Bundle, Urunc, need, nothing_left
from urunc.shim.messages import any_of


def test_a_snapshot_that_is_a_device(urunc: Urunc, tmp_path: pathlib.Path, device: str) -> None:
    need("linux", "qemu")
    configure(urunc, "ext4")
    bundle = Bundle(tmp_path / f"t{RUN}device", "linux", "qemu", binary="", mountRootfs="true")
    bundle.args("sh", "-c", "mount >/mounts; exit 7")
    bundle.config["process"]["env"] = ["PATH=/bin"]
    bundle.config["vm"] = spared()
    del bundle.config["linux"]["resources"]
    mount = {"type": "ext4", "source": device, "options": ["rw"]}
    with nothing_left(), contextlib.closing(Shim(tmp_path, bundle)) as shim:
        shim.start()
        options = any_of("runtimeoptions.v1.Options", {"config_path": str(urunc.config)})
        shim.create(options, rootfs=[mount])
        assert not os.path.ismount(bundle.root)
        shim("Start")
        until(lambda: "exit" in shim.events.topics(), timeout_s=60)
        (end,) = (event for topic, event in shim.events.seen if topic == "/tasks/exit")
        assert end["exit_status"] == 7
        shim("Delete")
    point = tmp_path / "point"
    point.mkdir()
    subprocess.run(["mount", "-o", "ro", device, str(point)], check=True)
    try:
        assert "/dev/vda on / type ext4 (rw" in (point / "mounts").read_text()
    finally:
        subprocess.run(["umount", str(point)], check=True)
