# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests that boot Linux with urunc's init (linux_guest), or disks."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from lib.linux_guest import Guest, image, initrd, root_tree
from lib.rooted import populate
from lib.support import Urunc, need
from lib.warm import Warm


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The initrd, a root filesystem, and images of it."""
    need("root", "qemu", "linux")
    directory = tmp_path_factory.mktemp("guest")
    initrd(directory / "initrd")
    tree = root_tree(directory / "root")
    for form in ("ext4", "erofs", "squashfs"):
        image(tree, form, directory / form)
    return directory


@pytest.fixture
def guest(files: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[Guest]:
    """A machine that is not started."""
    made = Guest(tmp_path, files / "initrd")
    yield made
    made.remove()


@pytest.fixture
def device(tmp_path: pathlib.Path) -> Iterator[str]:
    """A block device with a small root filesystem on it, as a snapshotter of devmapper has it."""
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("needs loop devices")
    need("root", "images")
    tree, image = tmp_path / "tree", tmp_path / "disk"
    populate(tree)
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(image)], check=True)
    command = ["losetup", "--find", "--show", str(image)]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    yield name
    subprocess.run(["losetup", "-d", name], check=True)


@pytest.fixture
def overlay(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A bundle's directory whose root filesystem is an overlay: files of the container's own are in
    its upper directory, and some of the image's are gone."""
    need("root")
    directory = tmp_path / "b"
    for name in ("lower", "upper", "work", "b/rootfs"):
        (tmp_path / name).mkdir(parents=True)
    populate(tmp_path / "lower")
    (tmp_path / "lower/etc/gone").write_text("gone")
    (tmp_path / "lower/opaque").mkdir()
    (tmp_path / "lower/opaque/old").write_text("old")
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    root = str(directory / "rootfs")
    subprocess.run(["mount", "-t", "overlay", "o", "-o", options, root], check=True)
    yield directory
    subprocess.run(["umount", root], check=True)


@pytest.fixture
def warm(urunc: Urunc, tmp_path: pathlib.Path) -> Warm:
    """Snapshots in a directory of the test's, for containers that ask for them."""
    found = Warm(urunc, tmp_path)
    found.configure()
    return found
