# SPDX-License-Identifier: Apache-2.0
"""Many containers of one large image: one file on the disk, built once, for all of them."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib import busybox
from lib.places.layers import Place
from lib.rooted import spared
from lib.stored import CONFIG
from lib.support import Bundle, Urunc, need, nothing_left

CONTAINERS = 50
IMAGE_MIB = 64
MIB = 1 << 20


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Iterator[Place]:
    """A directory with a layer of 64 MiB that no compression makes smaller."""
    need("root", "qemu", "linux", "images")
    made = Place(tmp_path)
    for number in range(IMAGE_MIB):
        made.directory("layer").joinpath(f"file{number}").write_bytes(os.urandom(MIB))
    busybox.install(made.directory("layer/bin"), "sh", "cat", "wc")
    yield made
    made.clean()


def bundle(place: Place, number: int) -> Bundle:
    """A container's own writable layer above the image's; what it wrote there is its own."""
    name = f"bundle{number}"
    made = Bundle(place.path / name, "linux", "qemu", binary="", mountRootfs="true")
    root = place.overlay(name, place.path / "layer")
    (root / "own").write_text(f"of {number}\n")
    made.args("/bin/sh", "-c", "cat /own; cat /file1* | wc -c")
    made.config["vm"] = spared()
    del made.config["linux"]["resources"]
    return made


def disk_mib(directory: str) -> float:
    """What a directory takes of the disk."""
    return sum(path.stat().st_blocks for path in pathlib.Path(directory).rglob("*")) * 512 / MIB


def test_fifty_containers_share_one_image(urunc: Urunc, place: Place) -> None:
    """It is built once."""
    directories = {name: f"{place.path}/{name}" for name in ("cache", "private")}
    config = CONFIG.replace("/run/", f"{place.path}/")
    urunc.config.write_text(f'{config}[timestamps]\nfile = "{urunc.stamps}"\n')
    bundles = [bundle(place, number) for number in range(CONTAINERS)]
    with nothing_left(urunc.root), ThreadPoolExecutor(4) as pool:
        containers = [urunc.create(bundles[0]), *pool.map(urunc.create, bundles[1:])]
        sizes = {name: disk_mib(directory) for name, directory in directories.items()}
        listed = json.loads(urunc("cache", "list", "--format", "json").stdout)
        for number in (0, CONTAINERS - 1):
            containers[number].start()
        for number in (0, CONTAINERS - 1):
            containers[number].wait_stopped(60)
            said = containers[number].console.read_text()
            assert said == f"of {number}\n{11 * MIB}\n"
        list(pool.map(lambda container: container.delete("--force"), containers))
        assert disk_mib(directories["private"]) == 0
    assert [entry["form"] for entry in listed].count("erofs") == 1
    assert len([entry for entry in listed if entry["bytes"] > IMAGE_MIB * MIB]) == 1
    assert IMAGE_MIB < sizes["cache"] < IMAGE_MIB + 32
    assert sizes["private"] < CONTAINERS
