# SPDX-License-Identifier: Apache-2.0
"""Docker with `userns-remap`: whose files are in a Linux guest, of the image, of what `docker cp`
has written, of volumes, shared and copied; all as runc's container has them."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator

import pytest

from lib.engines import taken_down
from lib.places.docker import Docker
from lib.stored import CONFIG, COPYING, Volumes, answers, image, script
from lib.support import URUNC, need

FIRST = 100_000
ALL_GUESTS = '[ordinary]\nguest = "linux"\n'
ASKED = {
    "owners": "stat -c '%n %u:%g %a' /etc /etc/image /bin/busybox /etc/copied /in /in/secret /data",
    "new": "echo new >/data/new; stat -c '%n %u:%g' /data/new",
}
SHARED = CONFIG.replace("[storage]", '[storage]\nrootfs = ["virtiofs"]')
"""The root filesystem is shared, too."""


class Remapped(Docker):
    """A daemon whose containers have a user namespace."""

    @property
    def daemons(self) -> str:
        """The namespace's root has to reach the daemon's files."""
        return f'chmod 711 "$here" {self.space}\n{super().daemons}'

    def files(self) -> dict[str, str]:
        found = super().files()
        name = "docker/daemon.json"
        daemon = json.loads(found[name]) | {"userns-remap": "nobody:nogroup"}
        ids = f"nobody:{FIRST}:65536\n"
        return found | {name: json.dumps(daemon), "subuid": ids, "subgid": ids}


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """Docker with the image."""
    need("root", "installed", "docker", "linux", "qemu", "virtiofsd", "images")
    place = Remapped(
        str(URUNC), shared=SHARED + ALL_GUESTS, volumes=CONFIG + ALL_GUESTS,
        copies=COPYING + ALL_GUESTS,
    )  # fmt: skip
    with taken_down(place):
        made = image(tmp_path_factory.mktemp("images"), "declaring", "/data")
        place("load", "--input", str(made))
        yield place


@pytest.mark.parametrize("runtime", ["urunc-shared", "urunc-volumes", "urunc-copies"])
def test_owners(docker: Docker, tmp_path: pathlib.Path, runtime: str) -> None:
    """A user of the image, of a file that was copied into the container, and of a volume."""
    volumes = Volumes(tmp_path)
    os.chown(volumes.directory, FIRST, FIRST)
    os.chown(volumes.directory / "secret", FIRST + 1234, FIRST + 7)
    (tmp_path / "copied").write_text("by cp\n")
    seen = {}
    for name in ("runc", runtime):
        words = ("--runtime", name, "--volume", f"{volumes.directory}:/in:ro", "declaring")
        docker("create", "--name", "one", *words, *script(ASKED))
        docker("cp", str(tmp_path / "copied"), "one:/etc/copied")
        seen[name] = answers(docker("start", "--attach", "one").stdout)
        docker("rm", "--volumes", "one")
    assert seen[runtime] == seen["runc"]
    lines = seen["runc"]["owners"].splitlines()
    assert [line.split()[1] for line in lines] == ["0:0"] * 5 + ["1234:7", "0:0"]
