# SPDX-License-Identifier: Apache-2.0
"""Docker's networks with guests in them: addresses, names, published ports, and what is left when
a container stops, starts again, moves to another network and goes."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from lib.engines import PAGE, SERVE, guest, load, reports, resolved, taken_down
from lib.places.docker import Docker
from lib.support import URUNC, need, unchanged


@pytest.fixture(scope="module")
def docker(images: list[pathlib.Path], urunc_config: str) -> Iterator[Docker]:
    """Docker with the images, the networks `app` and `other`, and in `app` the ordinary container
    `web`."""
    need("root", "tun", "installed", "runc", "docker")
    with taken_down(Docker(str(URUNC), urunc_config)) as place:
        load(place, images, "box", "linux", "probe", "solo5")
        for network in ("app", "other"):
            place("network", "create", network)
        place("run", "-d", "--name", "web", "--network", "app", "box")
        place.fetch(f"http://{place.address('web', 'app')}/")
        yield place


@pytest.fixture(autouse=True)
def nothing_stays(docker: Docker) -> Iterator[None]:
    """Docker's place holds after a test what it held before it."""
    with unchanged(docker.holds, 10):
        yield
        docker("rm", "--force", "guest", check=False)


def seen_by_web(docker: Docker, url: str) -> str:
    """A page as the container `web` sees it."""
    return docker("exec", "web", "/bin/busybox", "wget", "-qO-", url).stdout


def test_addresses_names_and_a_published_port(docker: Docker) -> None:
    """A guest and an ordinary container reach each other by addresses and names, the host reaches
    the guest's port; once more after `stop` and `start`, in a network namespace that is another.

    Docker's resolver is at 127.0.0.11 in the container's namespace, where no frame of the guest's
    gets; at other ports in the namespace of the next start.
    """
    need("qemu")
    web = docker.address("web", "app")
    script = f"nslookup web; wget -qO- http://{web}/; wget -qO- http://web/; {SERVE}"
    guest(docker, "run -d", "--network", "app", "-p", "8080:80", script=script)
    for times in range(1, 3):
        assert docker.fetch("http://127.0.0.1:8080/") == "guest\n", "by docker-proxy"
        address = f"{docker.gateway('app')}:8080"
        assert docker.fetch(f"http://{address}/") == "guest\n", "by the packet filter"
        assert seen_by_web(docker, f"http://{docker.address('guest', 'app')}/") == "guest\n"
        assert seen_by_web(docker, "http://guest/") == "guest\n"
        docker("stop", "guest")
        log = docker("logs", "guest").stdout
        assert log.count(PAGE) == 2 * times
        assert log.count(f"Address: {web}") == times
        if times < 2:
            docker("start", "guest")
    docker("rm", "guest")


def test_other_networks(docker: Docker) -> None:
    """A Linux guest has an interface in each network that its container was in when it started. A
    running one loses its networks by `network disconnect`, and has another from its next start
    on."""
    need("qemu")
    guest(docker, "create", "--network", "app", "-p", "8080:80", script=SERVE)
    docker("network", "connect", "other", "guest")
    docker("start", "guest")
    docker.fetch("http://127.0.0.1:8080/")
    for network in ("app", "other"):
        address = docker.address("guest", network)
        assert docker.fetch(f"http://{address}/") == "guest\n"
    for network in ("app", "other"):
        docker("network", "disconnect", network, "guest")
    pid = docker("inspect", "--format", "{{.State.Pid}}", "guest").stdout.strip()
    links = docker.run("nsenter", "-t", pid, "-n", "ip", "-o", "link").stdout
    names = ["lo", "tap0_urunc", "tap1_urunc"]
    assert [line.split(": ")[1] for line in links.splitlines()] == names
    docker("network", "connect", "other", "guest")
    docker("restart", "guest")
    assert docker.fetch(f"http://{docker.address('guest', 'other')}/") == "guest\n"
    assert docker.fetch("http://127.0.0.1:8080/") == "guest\n"
    docker("network", "disconnect", "other", "guest")


def test_probe_on_firecracker(docker: Docker) -> None:
    """A Unikraft dialect's guest, by a published UDP port, and a name by Docker's resolver; again
    after `restart`."""
    need("kvm", "firecracker")
    guest(docker, "run -d", "--network", "app", "-p", "7007:7/udp", image="probe")
    docker.wait_for("guest", '"serving"')
    for times in range(1, 3):
        assert docker.udp("127.0.0.1", 7007, "by docker-proxy") == "by docker-proxy"
        assert docker.udp(docker.gateway("app"), 7007, "by address") == "by address"
        address = docker.address("guest", "app")
        assert [report["ip"] for report in reports(docker)] == [address] * times
        assert resolved(docker) == [docker.address("web", "app")] * times
        if times < 2:
            docker("restart", "guest")
    docker("stop", "guest")
    docker("rm", "guest")


def test_probe_on_solo5(docker: Docker) -> None:
    """A MirageOS dialect's guest, by a published UDP port."""
    need("solo5")
    guest(docker, "run -d", "--network", "app", "-p", "7007:7/udp", image="solo5")
    docker.wait_for("guest", '"serving"')
    assert docker.udp("127.0.0.1", 7007, "by lo") == "by lo"
    address, gateway = docker.address("guest", "app"), docker.gateway("app")
    assert f"--ipv4-gateway={gateway}" in docker("logs", "guest").stdout
    assert docker.udp(address, 7, "by address") == "by address"
    docker("stop", "-t", "3", "guest")
    docker("rm", "guest")
