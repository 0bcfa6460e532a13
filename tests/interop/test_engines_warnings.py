# SPDX-License-Identifier: Apache-2.0
"""Where engines put urunc's warnings: in files of their own that nobody shows, or in a log of
theirs; and in the administrator's file (`log.file`) from each of them."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from lib.engines import load, taken_down
from lib.places.docker import Docker
from lib.places.engine import Engine
from lib.places.podman import Podman
from lib.support import URUNC, need, unchanged

FILE = "/run/urunc.log"
WARNING = "process.env: mirage is told no variables: COLOUR"
OWN_FILES = {
    "podman": "$(find /run {space} -name oci-log)",
    "docker": "/run/containerd/io.containerd.runtime.v2.task/moby/*/log.json",
}
"""Of the engine and its container, where `--log` leads."""


@pytest.fixture(scope="module", params=["docker", "shim", "podman"])
def engine(
    request: pytest.FixtureRequest, images: list[pathlib.Path], urunc_config: str
) -> Iterator[tuple[Engine, str]]:
    """An engine with the images, and which: Docker by runc's shim, by urunc's, Podman."""
    kind: str = request.param
    need("root", "tun", "installed", "runc", "solo5", "podman" if kind == "podman" else "docker")
    config = f'{urunc_config}\n[log]\nfile = "{FILE}"\n'
    place: Engine = (
        Podman(str(URUNC), config)
        if kind == "podman"
        else Docker(str(URUNC), config, shim=kind == "shim")
    )
    with taken_down(place):
        load(place, images, "box", "solo5")
        # Podman's mount for networks stays of the first one
        place("run", "--rm", "box", "/bin/busybox", "true")
        yield place, kind


def test_where_warnings_go(engine: tuple[Engine, str]) -> None:
    """Nobody who runs a container sees them, whichever the engine."""
    place, kind = engine
    place.run("sh", "-c", f": >{FILE}")
    options = ("--name", "warned", "--runtime", "urunc", "--env", "COLOUR=blue")
    with unchanged(place.holds, 10):
        try:
            shown = place("run", "-d", *options, "solo5", "probe.serve")
            assert "warning" not in shown.stdout + shown.stderr
            identifier = place("inspect", "--format", "{{.Id}}", "warned").stdout.strip()
            logged = place("logs", "warned")
            assert WARNING not in logged.stdout + logged.stderr
            (line,) = [
                line for line in place.run("cat", FILE).stdout.splitlines() if WARNING in line
            ]
            assert " level=warning " in line
            assert line.endswith(f' container="{identifier}"')
            if kind == "shim":
                assert f"urunc: warning: {WARNING}" in place.log()
            else:
                files = OWN_FILES[kind].format(space=place.space)
                assert WARNING in place.run("sh", "-c", f"cat {files}").stdout
        finally:
            place.remove("warned")
