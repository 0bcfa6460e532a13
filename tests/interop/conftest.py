# SPDX-License-Identifier: Apache-2.0
"""What engines are given: images (an ordinary one, a Linux guest on QEMU, the probe on Firecracker
and on Solo5) and urunc's configuration."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Iterator

import pytest

from lib import busybox
from lib.engines import PAGE
from lib.images import archive, solo5_images
from lib.places.containerd import Containerd
from lib.places.cri import Cri
from lib.pods import kubelet
from lib.rooted import SPARED
from lib.support import PARTS, need

pytest.register_assert_rewrite("smoke")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    """Archives of the images `box`, `linux`, `bare` (the same, without urunc.json), `probe`,
    `solo5`, and solo5_images.

    A container of `box` serves its page; the others serve what their command says.
    """
    need("linux", "probe")
    directory = tmp_path_factory.mktemp("images")
    linux = {"vmlinuz": PARTS / "linux/vmlinuz", "initrd": PARTS / "linux/initrd.cpio"}
    solo5: dict[str, pathlib.Path | bytes | str] = {
        "probe": PARTS / "probe-mirage.spt",
        "disk": bytes(512 * 8),
    }
    box = busybox.files("sh") | {"www/index.html": PAGE.encode()}
    return [
        archive(directory / "box.tar", "box", box, ["/bin/busybox", "httpd", "-f", "-h", "/www"]),
        archive(directory / "bare.tar", "bare", linux, ["/init"]),
        archive(directory / "linux.tar", "linux", linux, ["/init"], unikernelType="linux",
                hypervisor="qemu", binary="/vmlinuz", initrd="/initrd"),
        archive(directory / "probe.tar", "probe", {"probe": PARTS / "probe.pvh"},
                ["app", "probe.resolve=web", "probe.serve=60000"], unikernelType="unikraft",
                hypervisor="firecracker", binary="/probe"),
        archive(directory / "solo5.tar", "solo5", solo5, ["probe.serve=60000"],
                unikernelType="mirage", hypervisor="spt", binary="/probe", block="/disk"),
        *solo5_images(directory, PARTS),
    ]  # fmt: skip


@pytest.fixture(scope="session")
def urunc_config() -> str:
    """What urunc's configuration says in the engines' places, where PATH is the system's."""
    firecracker = shutil.which("firecracker") or ""
    hvt, spt = shutil.which("solo5-hvt") or "", shutil.which("solo5-spt") or ""
    return f"""
        [monitors.qemu]
        accelerator = "tcg"
        [guests.linux]
        parameters = {json.dumps(("quiet", *SPARED))}
        [monitors.firecracker]
        path = "{firecracker}"
        [monitors.hvt]
        path = "{hvt}"
        [monitors.spt]
        path = "{spt}"
    """


@pytest.fixture
def cri(containerd: Containerd) -> Iterator[Cri]:
    """The node's CRI, of the module's own `containerd`. A test leaves it as it was."""
    with kubelet(containerd) as made:
        yield made
