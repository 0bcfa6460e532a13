# SPDX-License-Identifier: Apache-2.0
"""Root filesystems as engines mount them, from layers in a directory, and a cache of images
beside."""

from __future__ import annotations

import os
import pathlib
import stat
import subprocess
from collections.abc import Iterator
from typing import Any

from lib.support import need
from urunc.config import Config
from urunc.storage import cache, images
from urunc.storage.layers import Source, identify
from urunc.storage.ownership import Owners


class Place:
    """A directory with layers, what is mounted of them, and a cache."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.config = Config()
        self.cache = path / "cache"
        self.config.values["storage.cache"] = str(self.cache)
        self.mounted: list[pathlib.Path] = []

    def directory(self, name: str, **files: str) -> pathlib.Path:
        """A directory with files of these contents."""
        made = self.path / name
        made.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            (made / file).write_text(content)
        return made

    def mount(self, *words: object, where: pathlib.Path | None = None) -> None:
        """mount(8); the last word is the mount point."""
        subprocess.run(["mount", *map(str, words)], check=True, cwd=where)
        self.mounted.append(pathlib.Path(str(words[-1])))

    def umount(self, point: pathlib.Path) -> None:
        """Take a mount away again."""
        subprocess.run(["umount", "-d", point], check=True)
        self.mounted.remove(point)

    def overlay(self, name: str, *lowers: pathlib.Path, options: str = "") -> pathlib.Path:
        """An overlay of lower directories, the topmost first, as containerd mounts it."""
        point, upper, work = (self.directory(f"{name}/{part}") for part in ("rootfs", "fs", "work"))
        words = f"lowerdir={':'.join(map(str, lowers))},upperdir={upper},workdir={work}{options}"
        self.mount("-t", "overlay", "overlay", "-o", words, point)
        return point

    def obtain(
        self, root: pathlib.Path | Source, form: str = "ext4", owners: Owners | None = None
    ) -> cache.FilesystemImage:
        """The shared image of a root filesystem."""
        source = root if isinstance(root, Source) else identify(str(root))
        return images.obtain(source, form, self.config, owners)

    def look(
        self, image: cache.FilesystemImage | pathlib.Path, options: str = "ro"
    ) -> pathlib.Path:
        """An image, mounted."""
        point = self.directory(f"look-{len(self.mounted)}")
        path = image if isinstance(image, pathlib.Path) else image.path
        self.mount("-o", f"loop,{options}", path, point)
        return point

    def files(self) -> list[str]:
        """What is in the cache, without what stays there always."""
        return sorted(set(os.listdir(self.cache)) - {"mnt", "trees"})

    def clean(self) -> None:
        """Unmount everything."""
        for point in reversed(self.mounted):
            subprocess.run(["umount", "-d", point], check=True)


def contents(root: pathlib.Path) -> dict[bytes, Any]:
    """All of a tree that an image has to keep."""
    found: dict[bytes, Any] = {}
    nodes: dict[int, bytes] = {}
    top = os.fsencode(root)
    for directory, directories, names in os.walk(top):
        for name in sorted(
            [b".", *names, *directories] if directory == top else [*names, *directories]
        ):
            path = os.path.join(directory, name)
            facts = os.lstat(path)
            fact: list[Any] = [oct(facts.st_mode), facts.st_uid, facts.st_gid]
            if stat.S_ISREG(facts.st_mode):
                with open(path, "rb") as file:
                    fact += [facts.st_size, file.read(1 << 20), int(facts.st_mtime)]
            elif stat.S_ISLNK(facts.st_mode):
                fact.append(os.readlink(path))
            elif not stat.S_ISDIR(facts.st_mode):
                fact.append(facts.st_rdev)
            if not stat.S_ISDIR(facts.st_mode):
                fact.append(nodes.setdefault(facts.st_ino, path[len(top) :]))
            for key in sorted(os.listxattr(path, follow_symlinks=False)):
                if not key.startswith(("security.selinux", "trusted.overlay.")):
                    fact.append((key, os.getxattr(path, key, follow_symlinks=False)))
            found[path[len(top) :]] = fact
    return found


def native(place: Place, name: str, content: str = "abc") -> pathlib.Path:
    """A root filesystem without layers; all copies look the same from outside."""
    root = place.directory(name, program=content)
    (root / "etc").mkdir()
    os.utime(root / "program", ns=(10**18, 10**18))
    return root


def image_place(tmp_path: pathlib.Path) -> Iterator[Place]:
    """A fixture: a place whose end leaves no descriptor open."""
    need("root", "images")
    descriptors = sorted(os.listdir("/proc/self/fd"))
    made = Place(tmp_path)
    yield made
    made.clean()
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
