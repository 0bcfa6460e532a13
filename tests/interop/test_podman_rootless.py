# SPDX-License-Identifier: Apache-2.0
"""Rootless Podman (slirp4netns, pasta) with guests: an ordinary user's, with the network that
Podman gives them, by each of its ways to publish ports, and what is left when they go."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from lib.engines import PAGE, SERVE, guest, reports, taken_down
from lib.images import PREFIX
from lib.places.podman import RootlessPodman, version
from lib.support import URUNC, need, unchanged

ADDRESS = "10.0.2.100"
"""What slirp4netns gives to every container."""
PROBE = tuple(
    f"--annotation={PREFIX}{key}={value}"
    for key, value in {
        "unikernelType": "unikraft", "hypervisor": "qemu", "binary": "/probe"
    }.items()
)  # fmt: skip
"""The image's probe, on QEMU in place of Firecracker: /dev/kvm may be closed to the user."""


@pytest.fixture(scope="module")
def podman(images: list[pathlib.Path], urunc_config: str) -> Iterator[RootlessPodman]:
    """Podman with the images, and the ordinary container `web`, whose port is the host's 8000."""
    need("root", "tun", "installed", "runc", "podman", "rootless", "slirp4netns", "qemu")
    with taken_down(RootlessPodman(str(URUNC), urunc_config)) as place:
        for image in images:
            if image.stem in ("box", "linux", "probe"):
                place.load(image)
        place("run", "-d", "--name", "web", "-p", "8000:80", "box")
        place.fetch("http://127.0.0.1:8000/")
        yield place


@pytest.fixture(autouse=True)
def nothing_stays(podman: RootlessPodman) -> Iterator[None]:
    """The place holds after a test what it held before it."""
    with unchanged(podman.holds, 10):
        yield
        podman("rm", "--force", "--time", "0", "guest", check=False)


def probe(podman: RootlessPodman, *words: str) -> str:
    """Run the probe, its UDP port 7 published; returns its address."""
    guest(podman, "run -d", *PROBE, *words, "-p", "7007:7/udp", image="probe")
    podman.wait_for("guest", '"serving"')
    return str(reports(podman)[0]["ip"])


def test_published_port(podman: RootlessPodman) -> None:
    """Podman's own forwarder connects from within the container's network namespace; the guest
    reaches the host by slirp4netns."""
    network = ("--network", "slirp4netns:allow_host_loopback=true")
    script = f"wget -qO- http://10.0.2.2:8000/; {SERVE}"
    guest(podman, "run -d", *network, "-p", "8080:80", script=script)
    assert podman.wait_for("guest", PAGE)
    assert podman.fetch("http://127.0.0.1:8080/") == "guest\n"


def test_published_udp_port(podman: RootlessPodman) -> None:
    """Once more after `stop` and `start`, in a network namespace that is another."""
    assert probe(podman) == ADDRESS
    assert podman.udp("127.0.0.1", 7007, "hello") == "hello"
    podman("stop", "guest")
    podman("start", "guest")
    podman.wait_for("guest", '"serving"', times=2)
    assert podman.udp("127.0.0.1", 7007, "again") == "again"


def test_published_port_of_slirp4netns(podman: RootlessPodman) -> None:
    """It comes in by the interface. slirp4netns answers nobody on loopback over UDP."""
    podman.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
    assert probe(podman, "--network", "slirp4netns:port_handler=slirp4netns") == ADDRESS
    assert podman.udp("192.0.2.1", 7007, "hello") == "hello"


def test_shared(podman: RootlessPodman) -> None:
    annotations = (f"--annotation={PREFIX}network=shared", f"--annotation={PREFIX}ports=7/udp")
    assert probe(podman, *annotations) != ADDRESS
    assert podman.udp("127.0.0.1", 7007, "hello") == "hello"


@pytest.fixture
def uplink(podman: RootlessPodman) -> Iterator[str]:
    """The host's address towards others, without which pasta has none to give."""
    podman.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
    podman.run("ip", "address", "add", "198.51.100.2/24", "dev", "up0")
    for name in ("up0", "up1"):
        podman.run("ip", "link", "set", name, "up")
    podman.run("ip", "route", "add", "default", "via", "198.51.100.1")
    yield "198.51.100.2"
    podman.run("ip", "link", "delete", "up0")


def test_pasta(podman: RootlessPodman, uplink: str) -> None:
    """Podman's default from 5.0 on: the guest has the host's own address, and its ports are on the
    host's addresses."""
    need("pasta")
    if version() < (5,):
        pytest.skip("needs Podman 5")
    assert probe(podman, "--network", "pasta") == uplink
    assert podman.udp(uplink, 7007, "hello") == "hello"


def test_pasta_shared(podman: RootlessPodman, uplink: str) -> None:
    """On loopback too, where pasta connects from within the container's network namespace."""
    need("pasta")
    if version() < (5,):
        pytest.skip("needs Podman 5")
    annotations = (f"--annotation={PREFIX}network=shared", f"--annotation={PREFIX}ports=7/udp")
    assert probe(podman, "--network", "pasta", *annotations) != uplink
    assert podman.udp(uplink, 7007, "hello") == "hello"
    assert podman.udp("127.0.0.1", 7007, "hello") == "hello"
