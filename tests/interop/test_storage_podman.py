# SPDX-License-Identifier: Apache-2.0
"""Podman: ordinary images as Linux guests, by annotations. Their root filesystems from the storage
drivers overlay and vfs, and each kind of volume."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator

import pytest

from lib.engines import taken_down
from lib.places.podman import Podman
from lib.stored import (
    CONFIG,
    CONTENT,
    COPYING,
    DENIED,
    KEEP,
    KEPT,
    LOOK,
    LOOK_AT_MEMORY,
    LOOK_AT_VOLUMES,
    SEEN,
    SETTINGS,
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


class Vfs(Podman):
    """Podman with a whole copy of an image for each container."""

    driver = "vfs"


@pytest.fixture(scope="module", params=[(Podman, CONFIG), (Vfs, COPYING)], ids=["overlay", "vfs"])
def podman(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Podman]:
    """Podman with the image; with overlay there is a kernel that mounts shared directories."""
    need("root", "installed", "podman", "linux", "qemu", "images")
    kind, config = request.param
    with taken_down(kind(str(URUNC), config)) as place:
        for name, *volumes in (("stored",), ("declaring", "/data")):
            made = image(tmp_path_factory.mktemp("images"), name, *volumes)
            place("load", "--input", str(made))
        place("run", "--rm", "stored", "/bin/ls")  # a mount for networks stays of the first one
        yield place


@pytest.fixture(autouse=True)
def nothing_stays(podman: Podman) -> Iterator[None]:
    """The place holds after a test what it held before it."""
    with unchanged(podman.holds, 10):
        yield


def run(podman: Podman, *words: str, code: int = 0, **more: str) -> str:
    """`podman run` of a guest that ends with this code; what it says."""
    named = annotation_words("--annotation", **more)
    done = podman("run", "--rm", "--runtime", "urunc", *named, *words, check=False)
    assert done.returncode == code, done
    return done.stdout


def test_root(podman: Podman) -> None:
    """The guest has the image's files and writes to none of them; the second one's image is the
    first one's."""
    assert answers(run(podman, "stored", *script(LOOK, code=7), code=2 * 7 + 1)) == SEEN
    first = cached(podman)
    assert answers(run(podman, "stored", *script(LOOK))) == SEEN
    assert len(first) == 1
    assert cached(podman) == first


def test_too_little_memory(podman: Podman) -> None:
    """Podman would have 0 of a guest that never ran; the number that the refusal names is enough,
    and nothing less."""
    words = ("run", "--rm", "--runtime", "urunc", *annotation_words("--annotation"))
    asked = ("stored", *script(LOOK, code=7))
    refused = podman(*words, "--memory", "140m", *asked, check=False)
    assert refused.returncode not in (0, 15)
    number = re.search(r"(\d+) MiB \((\d+) bytes\) at least", refused.stderr)
    assert number, refused
    assert 140 < int(number[1]) < 256
    refused = podman(*words, "--memory", f"{int(number[1]) - 1}m", *asked, check=False)
    assert number[0] in refused.stderr
    done = podman(*words, "--memory", f"{number[2]}b", *asked, check=False)
    assert done.returncode == 15, done
    assert answers(done.stdout) == SEEN


def test_volumes(podman: Podman, tmp_path: pathlib.Path) -> None:
    """Directories, files, a secret, a new named volume with what the image has at its place,
    memory, a device, and the names that Podman writes into files; copies where an annotation allows
    it."""
    volumes = Volumes(tmp_path)
    asked, seen = LOOK_AT_VOLUMES | WRITE, VOLUMES_SEEN | WRITTEN
    asked["named"] = "cat /data/settings; echo guest >/data/settings"
    seen["named"] = SETTINGS + DENIED.format("/data/settings")
    asked["secret"] = "cat /run/secrets/word; stat -c %a /run/secrets/word"
    seen["secret"] = "a file\n444\n"
    asked["names"] = "cat /etc/hostname /etc/resolv.conf; grep -v localhost /etc/hosts"
    podman("secret", "create", "word", str(volumes.file))
    with volumes.device() as device:
        options = (
            "--volume", f"{volumes.directory}:/in/directory:ro",
            "--volume", f"{volumes.file}:/in/file:ro", "--volume", f"{volumes.out}:/out",
            "--volume", "named:/data:ro", "--secret", "word",
            "--mount", "type=tmpfs,destination=/scratch,tmpfs-size=1m",
            "--device", f"{device}:/dev/xvdc",
            "--hostname", "inside", "--add-host", "db:192.0.2.9", "--dns", "192.0.2.54",
        )  # fmt: skip
        command = script(asked, device="/dev/xvdc")
        said = answers(run(podman, *options, "stored", *command, volumes="copy"))
    podman("secret", "rm", "word")
    podman("volume", "rm", "named")
    names = said.pop("names").splitlines()
    assert said == seen
    assert names[:2] == ["inside", "nameserver 192.0.2.54"]
    assert {"inside", "db"} <= {line.split()[1] for line in names[2:]}
    volumes.are_left(written=podman.driver == "overlay")


def test_volumes_of_an_image(podman: Podman) -> None:
    """VOLUME: Podman's volume where it can be shared, else a copy of it."""
    assert answers(run(podman, "declaring", *script(KEEP))) == KEPT


def test_overlays(podman: Podman, tmp_path: pathlib.Path) -> None:
    """`:O` and `--mount type=image`: shared or copied; what the guest writes is gone with it."""
    volumes = Volumes(tmp_path)
    asked = {
        "over": "cat /over/text; echo guest >/over/text; cat /over/text",
        "image": "cat /image/etc/image; echo guest >/image/etc/image",
        "written": "cat /written/etc/image; echo guest >/written/etc/image; cat /written/etc/image",
    }
    options = (
        "--volume", f"{volumes.directory}:/over:O",
        "--mount", "type=image,source=stored,destination=/image",
        "--mount", "type=image,source=stored,destination=/written,rw=true",
    )  # fmt: skip
    assert answers(run(podman, *options, "stored", *script(asked))) == {
        "over": "in a directory\nguest\n",
        "image": CONTENT + DENIED.format("/image/etc/image"),
        "written": CONTENT + "guest\n",
    }
    assert (volumes.directory / "text").read_text() == "in a directory\n"


OWNED = {
    "owners": "stat -c '%n %u:%g' /etc/image /bin/busybox /tmp/directory /tmp/directory/secret"
}


def test_user_namespace(podman: Podman, tmp_path: pathlib.Path) -> None:
    """`--uidmap`: files belong in the guest to whom they belong in runc's container."""
    volumes = Volumes(tmp_path)
    os.chown(volumes.directory, 100_000, 100_000)
    os.chown(volumes.directory / "secret", 101_234, 100_007)
    named = annotation_words("--annotation")
    words = ("--uidmap", "0:100000:65536", "--volume", f"{volumes.directory}:/tmp/directory:ro")
    said = {
        runtime: podman(
            "run", "--rm", "--runtime", runtime, *named, *words, "stored", *script(OWNED),
            check=False,
        )
        for runtime in ("runc", "urunc")
    }  # fmt: skip
    seen = {runtime: answers(done.stdout) for runtime, done in said.items()}
    assert seen["urunc"] == seen["runc"], said
    lines = seen["urunc"]["owners"].splitlines()
    assert lines == ["/etc/image 0:0", "/bin/busybox 0:0", "/tmp/directory 0:0",
                     "/tmp/directory/secret 1234:7"]  # fmt: skip


def test_memory_as_with_runc(podman: Podman) -> None:
    """The sizes, modes and owners of --shm-size and --tmpfs, what a tmpfs copies up, and a node of
    --device."""
    words = (
        "--shm-size", "7m", "--tmpfs", "/sized:size=300k,mode=0751",
        "--tmpfs", "/data:size=1m", "--device", "/dev/fuse",
    )  # fmt: skip
    ours = answers(run(podman, *words, "stored", *script(LOOK_AT_MEMORY)))
    theirs = answers(podman("run", "--rm", *words, "stored", *script(LOOK_AT_MEMORY)).stdout)
    assert ours == theirs
    assert ours["shm"] == "tmpfs 1792 4096\n1777 0 0\n"
    assert ours["over"].endswith("settings\n")


READ = {
    "image": "cat /etc/image; readlink /etc/mtab; pwd",
    "denied": "echo guest >/etc/image; echo guest >/etc/new; touch /bin/new",
    "options": "mount | grep -c ' on / .*(ro,'",
}
"""What is asked of a root that is only read: Podman adds /etc/mtab in the container's own layer,
for this image has none."""


@pytest.mark.parametrize(
    "words",
    [(), ("--tmpfs", "/not/there"), ("--read-only-tmpfs=false",)],
    ids=" ".join,
)
def test_read_only(podman: Podman, words: tuple[str, ...]) -> None:
    """`--read-only`, with mounts at places that the image does not have."""
    same = ("--rm", "--read-only", *words, "stored", *script(READ))
    theirs = answers(podman("run", *same).stdout)
    assert theirs["image"].startswith(f"{CONTENT}/proc/mounts\n")
    assert answers(run(podman, *same[1:])) == theirs


def test_copied_into_a_read_only_container(podman: Podman, tmp_path: pathlib.Path) -> None:
    """`podman cp` before the start: the guest has the files and cannot change them."""
    (tmp_path / "copied").write_text("copied\n")
    asked = READ | {"copied": "cat /data/copied; echo guest >/data/copied; cat /data/settings"}
    words = ("--name", "reader", "--read-only", *annotation_words("--annotation"), "stored")
    said = {}
    for runtime in ("runc", "urunc"):
        podman("create", "--runtime", runtime, *words, *script(asked))
        podman("cp", str(tmp_path / "copied"), "reader:/data/copied")
        said[runtime] = answers(podman("start", "--attach", "reader").stdout)
        podman("rm", "reader")
    assert said["urunc"] == said["runc"]
    denied = DENIED.format("/data/copied")
    assert said["urunc"]["copied"] == f"copied\n{denied}{SETTINGS}"
