# SPDX-License-Identifier: Apache-2.0
"""containerd by ctr, with urunc's own shim: ordinary images as Linux guests, by annotations. Their
root filesystems from the overlayfs and native snapshotters, and volumes."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from lib.engines import taken_down
from lib.places.containerd import Containerd
from lib.stored import (
    CONFIG,
    COPYING,
    LOOK,
    LOOK_AT_VOLUMES,
    SEEN,
    VOLUMES_SEEN,
    WRITE,
    WRITTEN,
    Volumes,
    annotation_words,
    answers,
    cached,
    image,
    script,
)
from lib.support import URUNC, need, unchanged

SNAPSHOTTERS = ("overlayfs", "native")


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """containerd with the image in both snapshotters."""
    need("root", "installed", "containerd", "linux", "qemu", "images")
    path = image(tmp_path_factory.mktemp("images"))
    with taken_down(Containerd(str(URUNC), CONFIG, copies=COPYING)) as place:
        for snapshotter in SNAPSHOTTERS:
            place.import_for(snapshotter, path)
        yield place


@pytest.fixture(autouse=True)
def nothing_stays(containerd: Containerd) -> Iterator[None]:
    """The place holds after a test what it held before it."""
    with unchanged(containerd.holds, 10):
        yield


def run(
    containerd: Containerd, *command: str, code: int = 0, options: tuple[str, ...] = (), **more: str
) -> str:
    """`ctr run` of a guest that ends with this code; what it says."""
    words = ("--rm", *annotation_words("--annotation", **more), *options)
    done = containerd.launch("guest", "stored", *command, options=words, check=False)
    assert done.returncode == code, done
    return done.stdout


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
def test_root(containerd: Containerd, snapshotter: str) -> None:
    """The guest has the image's files and writes to none of them; the second one's image is the
    first one's."""
    options = ("--snapshotter", snapshotter)
    before = cached(containerd)
    assert answers(run(containerd, *script(LOOK, code=7), code=7, options=options)) == SEEN
    first = cached(containerd)
    assert answers(run(containerd, *script(LOOK), options=options)) == SEEN
    assert len(first) == len(before) + 1
    assert cached(containerd) == first


@pytest.mark.parametrize("config", ["config", "copies"])
def test_volumes(containerd: Containerd, tmp_path: pathlib.Path, config: str) -> None:
    """Directories, a file, memory, a device; copies where an annotation allows it."""
    volumes = Volumes(tmp_path)
    with volumes.device() as device:
        options = (
            "--runtime-config-path", f"/etc/urunc/{config}.toml",
            "--mount", f"type=bind,src={volumes.directory},dst=/in/directory,options=rbind:ro",
            "--mount", f"type=bind,src={volumes.file},dst=/in/file,options=bind:ro",
            "--mount", f"type=bind,src={volumes.out},dst=/out,options=rbind:rw",
            "--mount", "type=tmpfs,src=tmpfs,dst=/scratch,options=size=1m",
            "--device", device,
        )  # fmt: skip
        command = script(LOOK_AT_VOLUMES | WRITE, device=device)
        said = answers(run(containerd, *command, options=options, volumes="copy"))
    assert said == VOLUMES_SEEN | WRITTEN
    volumes.are_left(written=config == "config")
