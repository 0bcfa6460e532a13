# SPDX-License-Identifier: Apache-2.0
"""A Solo5 guest with a disk that is a file of its image, from each storage driver of each engine,
with nothing set up for it."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from lib.engines import taken_down
from lib.images import archive
from lib.places.containerd import Containerd
from lib.places.docker import Docker
from lib.places.podman import Podman
from lib.support import PARTS, URUNC, need

CONTENT = b"of the probe's disk\n".ljust(1 << 20, b"\0")


class Vfs(Podman):
    """Podman with a whole copy of an image for each container."""

    driver = "vfs"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The archive of an image that names its disk."""
    need("root", "tun", "installed", "solo5", "probe")
    return archive(
        tmp_path_factory.mktemp("images") / "disk.tar", "disk",
        {"probe": PARTS / "probe-mirage.spt", "disk": CONTENT}, ["probe.exit=5"],
        unikernelType="mirage", hypervisor="spt", binary="/probe", block="/disk",
    )  # fmt: skip


def has_the_disk(said: str) -> None:
    """The guest's report names it, with its size and first bytes."""
    reports: list[dict[str, Any]] = [
        json.loads(line) for line in said.splitlines() if '"cmdline"' in line
    ]
    (disk,) = reports[0]["disks"]
    assert disk["name"] == "storage"
    assert disk["size"] == len(CONTENT)
    assert bytes.fromhex(disk["first"]) == CONTENT[:16]


def test_containerd(image: pathlib.Path, urunc_config: str) -> None:
    need("containerd")
    with taken_down(Containerd(str(URUNC), urunc_config)) as place:
        for snapshotter in ("overlayfs", "native"):
            options = ("--snapshotter", snapshotter)
            place.import_for(snapshotter, image)
            done = place.launch("guest", "disk", options=("--rm", *options), check=False)
            assert done.returncode == 5, done
            has_the_disk(done.stdout)


@pytest.mark.parametrize("kind", [Docker, Podman, Vfs], ids=["docker", "podman", "podman-vfs"])
def test_docker_and_podman(
    image: pathlib.Path, urunc_config: str, kind: type[Docker | Podman]
) -> None:
    need("podman" if issubclass(kind, Podman) else "docker")
    with taken_down(kind(str(URUNC), urunc_config)) as place:
        place("load", "--input", str(image))
        done = place("run", "--rm", "--runtime", "urunc", "disk", check=False)
        assert done.returncode == 5, done
        has_the_disk(done.stdout)
