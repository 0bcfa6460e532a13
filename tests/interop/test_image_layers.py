# SPDX-License-Identifier: Apache-2.0
"""Root filesystems as engines really make them: containers of one image have one key, and so one
image that they share, which holds nothing that one of them has written."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from lib import busybox
from lib.engines import taken_down
from lib.images import archive
from lib.places.containerd import RUNC, Containerd
from lib.places.docker import Docker
from lib.places.engine import Engine
from lib.places.podman import Podman
from lib.support import PROJECT, URUNC, need

SECRET = "correct-horse-battery-staple"
WRITE = ("/bin/sh", "-c", f"echo {SECRET} >/secret; echo up; exec /bin/busybox sleep 1000")
# in the engine's mount namespace: what each container's root filesystem is, and its image
LOOK = """
import json, re, sys
sys.path.insert(0, sys.argv[1])
from urunc.config import Config
from urunc.linux.mountinfo import parse
from urunc.storage.images import obtain
from urunc.storage.layers import identify
config = Config()
config.values["storage.cache"] = sys.argv[2] + "/urunc-cache"
found = []
for line in open("/proc/self/mountinfo"):
    mount = parse(line.rstrip())
    if re.search("/(merged|rootfs)$", mount.point):
        source = identify(mount.point)
        image = obtain(source, "erofs", config)
        content = open(image.path, "rb").read()
        found.append({"kind": source.kind, "key": image.key, "built": image.built,
                      "upper": source.upper, "clean": sys.argv[3].encode() not in content,
                      "whole": b"a file of the image" in content})
print(json.dumps(found))
"""


def looked_at(engine: Engine) -> list[dict[str, Any]]:
    words = [sys.executable, "-I", "-c", LOOK, str(PROJECT / "src"), engine.space, SECRET]
    found: list[dict[str, Any]] = json.loads(engine.run(*words).stdout)
    return found


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    need("root", "images", "runc")
    files = busybox.files("sh") | {"etc/note": b"a file of the image"}
    return archive(tmp_path_factory.mktemp("images") / "box.tar", "box", files, ["/bin/sh"])


@pytest.fixture(params=(Docker, Podman), ids=("docker", "podman"))
def engine(request: pytest.FixtureRequest, image: pathlib.Path) -> Iterator[Engine]:
    need(request.param.__name__.lower())
    with taken_down(request.param(str(URUNC))) as place:
        place("load", "--input", str(image))
        yield place


def run(engine: Engine, name: str, image: str = "box") -> None:
    engine("run", "-d", "--network", "none", "--name", name, image, *WRITE)


def test_docker_and_podman(engine: Engine) -> None:
    """Two containers of one image share; an image with another layer on it is another."""
    run(engine, "one")
    (first,) = looked_at(engine)
    assert (first["kind"], first["built"], first["clean"], first["whole"]) == (
        "layers", True, True, True,
    )  # fmt: skip
    run(engine, "two")
    both = looked_at(engine)
    assert [(found["key"], found["built"]) for found in both] == [(first["key"], False)] * 2
    assert both[0]["upper"] != both[1]["upper"]
    engine("commit", "one", "more")
    engine.remove("one")
    engine.remove("two")
    run(engine, "three", "more")
    (other,) = looked_at(engine)
    assert other["built"] and other["whole"] and other["key"] != first["key"]
    assert not other["clean"]  # it is in a layer now
    engine.remove("three")


@pytest.mark.parametrize(("snapshotter", "kind"), (("overlayfs", "layers"), ("native", "tree")))
def test_containerd(image: pathlib.Path, snapshotter: str, kind: str) -> None:
    """Of layers, what a container has written is not in the image. A tree is what its container
    has made of it: containers share as long as that is the same."""
    need("containerd", "installed")
    with taken_down(Containerd(str(URUNC))) as place:
        place.import_for(snapshotter, image)
        options = ("--detach", "--snapshotter", snapshotter)
        for name in ("a", "b"):
            command = ("/bin/busybox", "sleep", "1000")
            place.launch(name, "box", *command, runtime=RUNC, options=options)
        first, second = looked_at(place)
        assert (first["kind"], second["kind"]) == (kind, kind)
        assert first["key"] == second["key"]
        assert (first["built"], second["built"]) == (True, False)
        assert first["whole"] and second["whole"]
        write = ("/bin/sh", "-c", f"echo {SECRET} >/secret")
        place("tasks", "exec", "--exec-id", "x", "a", *write)
        again = looked_at(place)
        assert sorted(found["clean"] for found in again) == [kind == "layers", True]
        assert [found["built"] for found in again].count(True) == (kind == "tree")
        for name in ("a", "b"):
            place("tasks", "delete", "--force", name, check=False)
            place("containers", "delete", name)
