# SPDX-License-Identifier: Apache-2.0
"""Podman's networks (netavark, aardvark-dns) with guests in them: addresses, names, published
ports, namespaces that come late or stay, and what is left when a container stops and goes."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from lib.engines import PAGE, SERVE, guest, load, reports, resolved, taken_down
from lib.images import PREFIX
from lib.places.podman import Podman
from lib.support import URUNC, need, unchanged


@pytest.fixture(scope="module")
def podman(images: list[pathlib.Path], urunc_config: str) -> Iterator[Podman]:
    """Podman with the images, the network `app`, and in it and the default one the ordinary
    container `web`."""
    need("root", "tun", "installed", "runc", "podman")
    with taken_down(Podman(str(URUNC), urunc_config)) as place:
        load(place, images, "box", "bare", "linux", "probe", "solo5")
        place("network", "create", "app")
        place("run", "-d", "--name", "web", "--network", "app", "--network", "podman", "box")
        place.fetch(f"http://{place.address('web', 'app')}/")
        yield place


@pytest.fixture(autouse=True)
def nothing_stays(podman: Podman) -> Iterator[None]:
    """Podman's place holds after a test what it held before it."""
    with unchanged(podman.holds, 10):
        yield
        podman("rm", "--force", "--time", "0", "guest", check=False)


def seen_by_web(podman: Podman, url: str) -> str:
    """A page as the container `web` sees it."""
    return podman("exec", "web", "/bin/busybox", "wget", "-qO-", url).stdout


def test_default_network(podman: Podman) -> None:
    """With an image that says nothing of urunc, and annotations that do."""
    need("qemu")
    annotations = {"unikernelType": "linux", "hypervisor": "qemu", "binary": "/vmlinuz"}
    annotations["initrd"] = "/initrd"
    words = [f"--annotation={PREFIX}{key}={value}" for key, value in annotations.items()]
    script = f"wget -qO- http://{podman.address('web', 'podman')}/; {SERVE}"
    guest(podman, "run -d", *words, "-p", "8080:80", image="bare", script=script)
    assert podman.fetch("http://127.0.0.1:8080/") == "guest\n"
    assert podman.fetch(f"http://{podman.address('guest', 'podman')}/") == "guest\n"
    assert PAGE in podman("logs", "guest").stdout


def test_addresses_names_and_a_published_port(podman: Podman) -> None:
    """A guest and an ordinary container reach each other by addresses and names, the host reaches
    the guest's port; once more after `stop` and `start`, in a network namespace that is another.

    aardvark-dns is at the network's gateway; so it is for a guest that knows it by itself.
    """
    need("qemu")
    web = podman.address("web", "app")
    asked = f"echo told; nslookup web; echo known; nslookup web {podman.gateway('app')}"
    script = f"wget -qO- http://{web}/; wget -qO- http://web/; {asked}; {SERVE}"
    guest(podman, "run -d", "--network", "app", "-p", "8080:80", script=script)
    for times in range(1, 3):
        assert podman.fetch("http://127.0.0.1:8080/") == "guest\n"
        assert podman.fetch(f"http://{podman.gateway('app')}:8080/") == "guest\n"
        assert seen_by_web(podman, f"http://{podman.address('guest', 'app')}/") == "guest\n"
        assert seen_by_web(podman, "http://guest/") == "guest\n"
        podman("stop", "guest")
        log = podman("logs", "guest").stdout
        assert log.count(PAGE) == 2 * times
        told, known = log.rsplit("\ntold\n", 1)[1].split("\nknown\n")
        assert f"Address: {web}" in told
        assert f"Address: {web}" in known
        if times < 2:
            podman("start", "guest")
    podman("rm", "guest")


def test_probe_on_firecracker(podman: Podman) -> None:
    """A Unikraft dialect's guest, by a published UDP port, and a name by aardvark-dns; again after
    `restart`."""
    need("kvm", "firecracker")
    guest(podman, "run -d", "--network", "app", "-p", "7007:7/udp", image="probe")
    podman.wait_for("guest", '"serving"')
    for times in range(1, 3):
        assert podman.udp("127.0.0.1", 7007, "by lo") == "by lo"
        assert podman.udp(podman.gateway("app"), 7007, "by address") == "by address"
        report = reports(podman)[-1]
        assert len(reports(podman)) == times
        assert resolved(podman) == [podman.address("web", "app")] * times
        assert report["ip"] == podman.address("guest", "app")
        name_server = gateway = podman.gateway("app")
        assert f"netdev.ip={report['ip']}/24:{gateway}:{name_server}" in report["cmdline"]
        if times < 2:
            podman("restart", "guest")
    podman("stop", "guest")
    podman("rm", "guest")


def test_probe_on_solo5(podman: Podman) -> None:
    """A MirageOS dialect's guest, by a published UDP port."""
    need("solo5")
    guest(podman, "run -d", "--network", "app", "-p", "7007:7/udp", image="solo5")
    podman.wait_for("guest", '"serving"')
    assert podman.udp("127.0.0.1", 7007, "by lo") == "by lo"
    address, gateway = podman.address("guest", "app"), podman.gateway("app")
    assert f"--ipv4-gateway={gateway}" in podman("logs", "guest").stdout
    assert podman.udp(address, 7, "by address") == "by address"
    podman("stop", "-t", "3", "guest")
    podman("rm", "guest")


def test_user_namespace(podman: Podman) -> None:
    """With one Podman brings the interface between the runtime's `create` and `start`."""
    need("kvm", "firecracker")
    options = ("--uidmap", "0:100000:65536", "--network", "app", "-p", "7007:7/udp")
    guest(podman, "run -d", *options, image="probe")
    podman.wait_for("guest", '"serving"')
    assert podman.udp("127.0.0.1", 7007, "late") == "late"
    assert reports(podman)[0]["ip"] == podman.address("guest", "app")
    podman("stop", "guest")
    # Podman's own cleanup leaves /dev/shm mounted here, with runc as well; `rm` unmounts it, and
    # sometimes says that it is busy. The container is gone all the same.
    podman("rm", "guest", check=False)
    assert podman("container", "exists", "guest", check=False).returncode == 1


def test_namespace_that_stays(podman: Podman) -> None:
    """A network namespace of the user's outlives its containers: each guest finds the interface as
    the first one did."""
    need("kvm", "firecracker")
    podman.run("sh", "-ec", """
        ip netns add kept
        ip link add outside type veth peer name eth0 netns kept
        ip address add 10.99.0.1/24 dev outside
        ip link set outside up
        ip -n kept address add 10.99.0.2/24 dev eth0
        ip -n kept link set eth0 up
    """)  # fmt: skip
    try:
        look = "ip -n kept -o link | cut -d: -f2; tc -n kept qdisc; tc -n kept filter show ingress"
        before = podman.run("sh", "-c", look).stdout
        guest(podman, "run -d", "--network", "ns:/run/netns/kept", image="probe")
        for _ in range(2):
            assert podman.udp("10.99.0.2", 7, "hello") == "hello"
            assert "tap0_urunc" in podman.run("sh", "-c", look).stdout
            podman("stop", "guest")
            assert podman.run("sh", "-c", look).stdout == before
            podman("start", "guest")
        podman("rm", "-f", "-t", "0", "guest")
        assert podman.run("sh", "-c", look).stdout == before
    finally:
        podman.run("ip", "netns", "delete", "kept")


@pytest.mark.parametrize("image", ["solo5", "probe"])
def test_pod(podman: Podman, image: str) -> None:
    """A guest, on spt or Firecracker, and an ordinary container of a pod of Podman's, which says
    that it is one in other words from 5.0 on, have one address and a network."""
    need(*(("solo5",) if image == "solo5" else ("firecracker", "kvm")))
    groups = ("--cgroup-parent", f"/{podman.group}")
    made = podman("pod", "create", *groups, "--name", "pod", "--network", "app", "-p", "7007:7/udp",
                  "--infra-image", "box", "--infra-command", "/bin/busybox sleep 600")  # fmt: skip
    try:
        guest(podman, "run -d", "--pod", "pod", image=image)
        podman.wait_for("guest", '"serving"')
        podman("run", "-d", "--pod", "pod", "--name", "beside", "box")
        assert podman.udp("127.0.0.1", 7007, "published") == "published"
        assert f"{podman.address('guest', 'app')}/" in podman("logs", "guest").stdout
        web = f"http://{podman.address('web', 'app')}/"
        seen = podman("exec", "beside", "/bin/busybox", "wget", "-qO-", web)
        assert seen.stdout == PAGE
    finally:
        podman("pod", "rm", "--force", "--time", "0", "pod", check=False)
        # on a hybrid machine Podman leaves the pod's group in two of the hierarchies
        left = f"/sys/fs/cgroup/*/{podman.group}/{made.stdout.strip()}"
        podman.run("sh", "-c", f"rmdir {left} 2>/dev/null || :")
