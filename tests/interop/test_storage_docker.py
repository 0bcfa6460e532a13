# SPDX-License-Identifier: Apache-2.0
"""Docker: ordinary images as Linux guests, by a second runtime name with a configuration of its own
(20.10 has no annotations). Their root filesystems from overlay2, and each kind of volume."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from lib.engines import taken_down
from lib.places.docker import Docker
from lib.stored import (
    CONFIG,
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
    answers,
    cached,
    image,
    script,
)
from lib.support import URUNC, need, unchanged

ALL_GUESTS = '[ordinary]\nguest = "linux"\n'
EXACT = "[monitors.qemu]\nsupervisor = true\n"
"""The container's exit code is the application's."""


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """Docker with the image, and with runtimes that run every image as a Linux guest."""
    need("root", "installed", "docker", "linux", "qemu", "images")
    copying = COPYING.replace("[monitors.qemu]\n", EXACT)
    with taken_down(
        Docker(str(URUNC), linux=CONFIG + ALL_GUESTS, copies=copying + ALL_GUESTS)
    ) as place:
        for name, *volumes in (("stored",), ("declaring", "/data")):
            made = image(tmp_path_factory.mktemp("images"), name, *volumes)
            place("load", "--input", str(made))
        yield place


@pytest.fixture(autouse=True)
def nothing_stays(docker: Docker) -> Iterator[None]:
    """The place holds after a test what it held before it."""
    with unchanged(docker.holds, 10):
        yield


def test_root(docker: Docker, tmp_path: pathlib.Path) -> None:
    """The guest has the image's files and writes to none of them; the second one's image is the
    first one's, and what `docker cp` wrote is in its root alone."""
    run = ("--runtime", "urunc-linux", "stored")
    done = docker("run", "--rm", *run, *script(LOOK, code=7), check=False)
    assert done.returncode == 2 * 7 + 1, done
    assert answers(done.stdout) == SEEN
    first = cached(docker, "linux")
    (tmp_path / "copied").write_text("by cp\n")
    docker("create", "--name", "second", *run, *script(LOOK | {"copied": "cat /etc/copied"}))
    docker("cp", str(tmp_path / "copied"), "second:/etc/copied")
    assert answers(docker("start", "--attach", "second").stdout) == SEEN | {"copied": "by cp\n"}
    docker("rm", "second")
    assert len(first) == 1
    assert cached(docker, "linux") == first


@pytest.mark.parametrize("runtime", ["urunc-linux", "urunc-copies"])
def test_volumes(docker: Docker, tmp_path: pathlib.Path, runtime: str) -> None:
    """Directories, files, a new named volume with what the image has at its place, memory, a
    device, and the names that Docker writes into files."""
    copies = runtime == "urunc-copies"
    volumes = Volumes(tmp_path)
    asked = LOOK_AT_VOLUMES | ({} if copies else WRITE)
    seen = VOLUMES_SEEN | ({} if copies else WRITTEN)
    asked["named"] = "cat /data/settings; echo guest >/data/settings"
    seen["named"] = SETTINGS + DENIED.format("/data/settings")
    asked["names"] = "cat /etc/hostname /etc/resolv.conf; grep -v localhost /etc/hosts"
    with volumes.device() as device:
        done = docker(
            "run", "--rm", "--runtime", runtime,
            "--volume", f"{volumes.directory}:/in/directory:ro",
            "--volume", f"{volumes.file}:/in/file:ro",
            *(() if copies else ("--volume", f"{volumes.out}:/out")),
            "--volume", "named:/data:ro", "--tmpfs", "/scratch:size=1m",
            "--device", f"{device}:/dev/xvdc",
            "--hostname", "inside", "--add-host", "db:192.0.2.9", "--dns", "192.0.2.54",
            "stored", *script(asked, code=9, device="/dev/xvdc"), check=False,
        )  # fmt: skip
    docker("volume", "rm", "named")
    assert done.returncode == (9 if copies else 2 * 9 + 1), done
    said = answers(done.stdout)
    names = said.pop("names").splitlines()
    assert said == seen
    hostname, *more = [line for line in names if line and line[0] != "#"]  # Docker 26 says who
    assert (hostname, more[0]) == ("inside", "nameserver 192.0.2.54")
    assert {"inside", "db"} <= {line.split()[1] for line in more[1:]}
    volumes.are_left(written=not copies)


@pytest.mark.parametrize("runtime", ["urunc-linux", "urunc-copies"])
def test_volumes_of_an_image(docker: Docker, runtime: str) -> None:
    """VOLUME: Docker's volume where it can be shared, else a copy of it."""
    words = ("--volume-driver", "local", "--runtime", runtime, "declaring")
    done = docker("run", "--name", "one", *words, *script(KEEP))
    assert answers(done.stdout) == KEPT
    ask = docker("inspect", "--format", "{{(index .Mounts 0).Name}}", "one").stdout.strip()
    text = docker("run", "--rm", "--volume", f"{ask}:/x", "stored", "cat", "/x/settings").stdout
    assert text == ("guest\n" if runtime == "urunc-linux" else SETTINGS)
    docker("rm", "--volumes", "one")


def test_what_a_copy_could_not_give_back(docker: Docker, tmp_path: pathlib.Path) -> None:
    """A directory, a file, a named volume that may be written to are refused."""
    volumes = Volumes(tmp_path)
    for source in (volumes.directory, volumes.file, "named"):
        words = ("--runtime", "urunc-copies", "--volume", f"{source}:/in", "stored", "true")
        done = docker("run", "--rm", *words, check=False)
        assert done.returncode == 125
        assert "mount '/in' of " in done.stderr
        assert "can be copied only" in done.stderr
    docker("volume", "rm", "named")


@pytest.mark.parametrize("runtime", ["urunc-linux", "urunc-copies"])
def test_memory_as_with_runc(docker: Docker, runtime: str) -> None:
    """The sizes, modes and owners of --shm-size and --tmpfs, and a node of --device."""
    words = (
        "--shm-size", "7m", "--tmpfs", "/sized:size=300k,mode=0751,uid=5,gid=6",
        "--tmpfs", "/data:size=1m", "--device", "/dev/fuse:/dev/fuse:rw",
    )  # fmt: skip
    said = [
        answers(docker("run", "--rm", *words, *kind, "stored", *script(LOOK_AT_MEMORY)).stdout)
        for kind in (("--runtime", runtime), ("--runtime", "runc"))
    ]
    assert said[0] == said[1]
    assert said[0]["shm"] == "tmpfs 1792 4096\n1777 0 0\n"
