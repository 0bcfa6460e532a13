# SPDX-License-Identifier: Apache-2.0
"""What users of Podman do every day, with urunc as the runtime: 33 checks for ordinary containers,
each with just what runc gives, and those that make sense for a guest."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from lib.engines import taken_down
from lib.places.podman import Podman, version
from lib.smoke import Seen, guests, ordinary
from lib.smoke.guests import Guests
from lib.smoke.ordinary import Ordinary
from lib.support import URUNC, need, unchanged


@pytest.fixture(scope="module")
def podman(images: list[pathlib.Path], urunc_config: str) -> Iterator[Podman]:
    """Podman with the images."""
    need("root", "tun", "installed", "runc", "podman")
    with taken_down(Podman(str(URUNC), urunc_config)) as place:
        for image in images:
            place("load", "--input", str(image))
        yield place


@pytest.fixture(scope="module")
def runtime() -> str:
    """What `--runtime` says: a name of containers.conf."""
    return "urunc"


@pytest.fixture(scope="module")
def sides(podman: Podman, runtime: str) -> Iterator[tuple[Ordinary, Ordinary]]:
    """The runtimes to compare: runc, and urunc."""
    with Ordinary(podman, "runc").in_use() as theirs, Ordinary(podman, runtime).in_use() as ours:
        yield theirs, ours


@pytest.fixture(scope="module")
def side(podman: Podman, runtime: str) -> Iterator[Guests]:
    """The runtime for guests."""
    with Guests(podman, runtime).in_use() as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_stays(podman: Podman) -> Iterator[None]:
    """Podman's place holds after a test what it held before it."""
    with unchanged(podman.holds, 10):
        yield


def userns(side: Ordinary) -> Seen:
    seen = side.run("--uidmap 0:100000:65536", "cat /proc/self/uid_map /proc/self/gid_map; id -u")
    assert seen.out.split() == [*("0", "100000", "65536") * 2, "0"]
    return seen


def namespaces(side: Ordinary) -> Seen:
    """Another container's."""
    options = " ".join(f"--{kind} container:{side.kept}" for kind in ("pid", "network", "ipc"))
    seen = side.run(options, "ps | grep -c ' slee[p] 1000$'; ls /sys/class/net")
    assert seen.out.split() == ["1", "eth0", "lo"]
    return seen


def sysctl(side: Ordinary) -> Seen:
    seen = side.run("--sysctl net.ipv4.ip_default_ttl=99", "cat /proc/sys/net/ipv4/ip_default_ttl")
    assert seen.out == "99\n"
    return seen


ORDINARY = ordinary.CHECKS | {"userns": userns, "namespaces": namespaces, "sysctl": sysctl}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary(sides: tuple[Ordinary, Ordinary], name: str) -> None:
    theirs, ours = map(ORDINARY[name], sides)
    assert ours == theirs


def top(side: Guests) -> None:
    """Podman looks into the container: at its /proc, which the monitor's root has not. With words
    of ps(1) it asks by `exec`, from 5.0 on by the host's own ps, which finds the monitor."""
    assert "/proc" in side.see("top", side.kept, code=None).err
    if version() < (5,):
        assert "no processes" in side.see("top", side.kept, "-ef", code=None).err
        return
    head, *lines = side.see("top", side.kept, "-ef").out.splitlines()
    assert head.split()[0] == "UID"
    assert len(lines) == 1
    assert "/solo5-spt --mem=" in lines[0]


def secret(side: Guests) -> None:
    """A guest without a way to it starts, and it is no disk."""
    need("solo5")
    name = f"{side.name}-secret"
    side.engine("secret", "create", name, "-", stdin="word")
    try:
        run = ("run", "--rm", "--runtime", side.runtime, "--secret", name)
        side.see(*run, "rumprun-spt", code=5)
        assert "but 0 given" in side.see(*run, "rumprun-spt-disk", code=None).err
    finally:
        side.engine("secret", "rm", name)


GUEST = guests.CHECKS | {"top": top, "secret": secret}


@pytest.mark.parametrize("name", GUEST)
def test_guest(side: Guests, name: str) -> None:
    GUEST[name](side)
