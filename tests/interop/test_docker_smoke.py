# SPDX-License-Identifier: Apache-2.0
"""What users of Docker do every day, with urunc as the runtime: 30 checks for ordinary containers,
each with just what runc gives on the same daemon, and those that make sense for a guest."""

from __future__ import annotations

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lib.engines import taken_down
from lib.places.docker import Docker
from lib.smoke import guests, ordinary
from lib.smoke.guests import Guests
from lib.smoke.ordinary import Ordinary
from lib.support import URUNC, need, unchanged


@pytest.fixture(scope="module")
def docker(images: list[pathlib.Path], urunc_config: str) -> Iterator[Docker]:
    """Docker with the images."""
    need("root", "tun", "installed", "runc", "docker")
    with taken_down(Docker(str(URUNC), urunc_config)) as place:
        for image in images:
            place("load", "--input", str(image))
        yield place


@pytest.fixture(scope="module", params=["path", "shim"])
def engine(
    request: pytest.FixtureRequest,
    docker: Docker,
    images: list[pathlib.Path],
    urunc_config: str,
) -> Iterator[Docker]:
    """Docker with urunc: as the runtime of containerd's shim for runc, and with its own shim."""
    if request.param == "path":
        yield docker
        return
    with taken_down(Docker(str(URUNC), urunc_config, shim=True)) as place:
        for image in images:
            place("load", "--input", str(image))
        yield place


@pytest.fixture(scope="module")
def by_runc(docker: Docker) -> Iterator[Callable[[str], Any]]:
    """What is seen in a check with runc, which is asked once for all that are compared with it."""
    with Ordinary(docker, "runc").in_use() as side:
        yield functools.cache(lambda name: ordinary.CHECKS[name](side))


@pytest.fixture(scope="module")
def ours(engine: Docker) -> Iterator[Ordinary]:
    """The runtime to compare: urunc."""
    with Ordinary(engine, "urunc").in_use() as side:
        yield side


@pytest.fixture(scope="module")
def side(engine: Docker) -> Iterator[Guests]:
    """The runtime for guests."""
    with Guests(engine, "urunc").in_use() as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_stays(request: pytest.FixtureRequest, docker: Docker) -> Iterator[None]:
    """The places hold after a test what they held before it."""
    used = {docker}
    if "engine" in request.fixturenames:
        used.add(request.getfixturevalue("engine"))
    with contextlib.ExitStack() as places:
        for place in used:
            places.enter_context(unchanged(place.holds, 10))
        yield


@pytest.mark.parametrize("name", ordinary.CHECKS)
def test_ordinary(by_runc: Callable[[str], Any], ours: Ordinary, name: str) -> None:
    assert ordinary.CHECKS[name](ours) == by_runc(name)


def top(side: Guests) -> None:
    """The monitor, as the host sees it."""
    head, *lines = side.see("top", side.kept).out.splitlines()
    assert head.split()[0] == "UID"
    assert len(lines) == 1
    assert "/solo5-spt --mem=" in lines[0]


GUEST = guests.CHECKS | {"top": top}


@pytest.mark.parametrize("name", GUEST)
def test_guest(side: Guests, name: str) -> None:
    GUEST[name](side)


def test_arguments_of_the_runtime(docker: Docker) -> None:
    """`runtimeArgs` of daemon.json: there is a script between containerd's shim and urunc."""
    need("solo5")
    other = Guests(docker, "urunc-configured")
    other.see("run", "--rm", "--runtime", other.runtime, "box", "/bin/sh", "-c", "exit 4", code=4)
    with other.in_use():
        guests.exec_(other)
        other.see("stop", other.kept)
        assert other.state(other.kept, "ExitCode") == "137"
