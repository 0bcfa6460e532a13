# SPDX-License-Identifier: Apache-2.0
"""What engines are given: images (an ordinary one, a Linux guest on QEMU, the probe on Firecracker)
and urunc's configuration."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from engines import PAGE
from images import archive
from support import PARTS, need

BUSYBOX = pathlib.Path("/bin/busybox")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    """Archives of the images `box`, `linux`, `bare` (the same, without urunc.json) and `probe`.

    A container of `box` serves its page; the others serve what their command says.
    """
    need("linux", "probe")
    folder = tmp_path_factory.mktemp("images")
    linux = {"vmlinuz": PARTS / "linux/vmlinuz", "initrd": PARTS / "linux/initrd.cpio"}
    box = {"bin/busybox": BUSYBOX, "bin/sh": BUSYBOX, "www/index.html": PAGE.encode()}
    return [
        archive(folder / "box.tar", "box", box, ["/bin/busybox", "httpd", "-f", "-h", "/www"]),
        archive(folder / "bare.tar", "bare", linux, ["/init"]),
        archive(folder / "linux.tar", "linux", linux, ["/init"], unikernelType="linux",
                hypervisor="qemu", binary="/vmlinuz", initrd="/initrd"),
        archive(folder / "probe.tar", "probe", {"probe": PARTS / "probe.pvh"},
                ["app", "probe.resolve=web", "probe.serve=60000"], unikernelType="unikraft",
                hypervisor="firecracker", binary="/probe"),
    ]  # fmt: skip


@pytest.fixture(scope="session")
def urunc_config() -> str:
    """What urunc's configuration says in the engines' places, where PATH is the system's."""
    firecracker = shutil.which("firecracker") or ""
    return f"""
        [monitors.qemu]
        accelerator = "tcg"
        [monitors.firecracker]
        path = "{firecracker}"
    """
