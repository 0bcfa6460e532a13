# SPDX-License-Identifier: Apache-2.0
"""Images of root filesystems: layers of real overlays, the filesystems' own programs, and what is
in the images in the end."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from support import need
from urunc.config import Config
from urunc.storage import images
from urunc.storage.layers import Source, identify

FORMS = ("ext2", "ext4", "erofs", "squashfs")
SECRET = "correct-horse-battery-staple"


class Place:
    """A folder with layers, what is mounted of them, and a cache."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.config = Config()
        self.cache = path / "cache"
        self.config.values["storage.cache"] = str(self.cache)
        self.mounted: list[pathlib.Path] = []

    def folder(self, name: str, **files: str) -> pathlib.Path:
        made = self.path / name
        made.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            (made / file).write_text(content)
        return made

    def mount(self, *words: object) -> None:
        subprocess.run(["mount", *map(str, words)], check=True)
        self.mounted.append(pathlib.Path(str(words[-1])))

    def overlay(self, name: str, *lowers: pathlib.Path, options: str = "") -> pathlib.Path:
        """An overlay of lower folders, the topmost first, as containerd mounts it."""
        point, upper, work = (self.folder(f"{name}/{part}") for part in ("rootfs", "fs", "work"))
        words = f"lowerdir={':'.join(map(str, lowers))},upperdir={upper},workdir={work}{options}"
        self.mount("-t", "overlay", "overlay", "-o", words, point)
        return point

    def obtain(self, root: pathlib.Path | Source, form: str = "ext4") -> images.Image:
        source = root if isinstance(root, Source) else identify(str(root))
        return images.obtain(source, form, self.config)

    def look(self, image: images.Image) -> pathlib.Path:
        """An image, mounted."""
        point = self.folder(f"look-{len(self.mounted)}")
        self.mount("-o", "loop,ro", image.path, point)
        return point

    def clean(self) -> None:
        for point in reversed(self.mounted):
            subprocess.run(["umount", "-d", point], check=True)


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Iterator[Place]:
    need("root")
    descriptors = sorted(os.listdir("/proc/self/fd"))
    made = Place(tmp_path)
    yield made
    made.clean()
    assert sorted(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("form", FORMS)
def test_layers_become_an_image(place: Place, form: str) -> None:
    """What lower folders hold together, and nothing of the upper one; the second time it is
    there."""
    bottom = place.folder("bottom", kept="kept", changed="old", gone="gone")
    top = place.folder("top", changed="new")
    os.mknod(top / "gone", 0o600 | 0o020000, 0)  # overlay's sign for "removed"
    root = place.overlay("c1", top, bottom)
    (root / "secret").write_text(SECRET)
    first = place.obtain(root, form)
    assert first.built
    again = place.obtain(place.overlay("c2", top, bottom), form)
    assert (again.path, again.built) == (first.path, False)
    assert SECRET.encode() not in pathlib.Path(first.path).read_bytes()
    seen = place.look(first)
    assert {file.name: file.read_text() for file in seen.iterdir()} == {
        "kept": "kept",
        "changed": "new",
    }
