# SPDX-License-Identifier: Apache-2.0
"""nerdctl with containerd 2 and urunc's own shim: a guest's life, and two services of a compose
file. What nerdctl needs of a runtime beside containerd's calls is a hook that makes the network,
and that its logging binary gets the output."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

import pytest

from lib import busybox
from lib.engines import bare_probe, reports, taken_down
from lib.images import archive
from lib.patience import until
from lib.places.nerdctl import Nerdctl
from lib.support import PARTS, TOOLS, URUNC, need, unchanged

COMPOSE = """
name: app
services:
  guest:
    image: probe
    runtime: io.containerd.urunc.v2
    ports: ["7007:7/udp"]
  beside:
    image: box
    runtime: io.containerd.urunc.v2
    command: ["/bin/sh", "-c", "trap exit TERM; sleep 1000 & wait"]
    security_opt: ["seccomp=unconfined"]
"""
UDP = ("-p", "7007:7/udp")


@pytest.fixture(scope="module")
def nerdctl(urunc_config: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nerdctl]:
    """With the images `probe` (on Firecracker), `spt`, and an ordinary one, `box`."""
    need("root", "tun", "kvm", "installed", "runc", "containerd2", "nerdctl", "cni", "probe")
    need("firecracker", "solo5", "nft")
    directory = tmp_path_factory.mktemp("images")
    box = busybox.files("sh", "sleep", "ping", "cat")
    images = [
        archive(directory / "box.tar", "box", box, ["/bin/sh"]),
        bare_probe(directory),
        archive(directory / "probe.tar", "probe", {"probe": PARTS / "probe.pvh"},
                ["app", "probe.serve"], unikernelType="unikraft", hypervisor="firecracker",
                binary="/probe"),
    ]  # fmt: skip
    with taken_down(Nerdctl(str(URUNC), urunc_config, str(TOOLS))) as place:
        for image in images:
            place("load", "--quiet", "--input", str(image))
        # its bridge comes with the first container, and stays
        place.run_guest("--rm", "spt", "probe.exit=0")
        yield place


@pytest.fixture(autouse=True)
def nothing_stays(nerdctl: Nerdctl) -> Iterator[None]:
    """The place holds after a test what it held before it."""
    with unchanged(nerdctl.holds, 10):
        yield
        for name in nerdctl("ps", "--all", "--quiet").stdout.split():
            nerdctl.remove(name)


def test_run(nerdctl: Nerdctl) -> None:
    """The guest's output and its exit code; by urunc's path, too, which is runc's shim's."""
    for runtime, code in (("io.containerd.urunc.v2", 7), (str(URUNC), 5)):
        words = ("--runtime", runtime, "--cgroup-parent", f"/{nerdctl.group}")
        done = nerdctl("run", "--rm", *words, "spt", f"probe.exit={code}", check=False)
        assert done.returncode == code, done.stderr
        assert '"cmdline"' in done.stdout


def test_life(nerdctl: Nerdctl, tmp_path: pathlib.Path) -> None:
    """From `run -d -p` to `rm`."""
    nerdctl.run_guest("-d", "--name", "guest", "--memory", "96m", *UDP, "probe")
    assert nerdctl.udp("127.0.0.1", 7007, "hello") == "hello"
    (report,) = reports(nerdctl)
    (network,) = json.loads(nerdctl("inspect", "guest").stdout)
    assert network["NetworkSettings"]["IPAddress"] == report["ip"]
    assert report["memory"] < 96 << 20
    listed = nerdctl("ps").stdout
    assert "0.0.0.0:7007->7/udp" in listed and "Up" in listed
    refused = nerdctl("exec", "guest", "/bin/sh", check=False)
    assert refused.returncode != 0
    assert "a unikernel has no processes" in refused.stderr
    assert "firecracker" in nerdctl("top", "guest").stdout
    stats = json.loads(nerdctl("stats", "--no-stream", "--format", "json", "guest").stdout)
    assert stats["MemUsage"].endswith("/ 96MiB")
    nerdctl("restart", "guest")
    assert nerdctl.udp("127.0.0.1", 7007, "again") == "again"
    nerdctl("stop", "guest")
    assert "Exited (143)" in nerdctl("ps", "--all").stdout
    nerdctl("cp", "guest:/urunc.json", str(tmp_path))
    assert "firecracker" in (tmp_path / "urunc.json").read_text()
    nerdctl("start", "guest")
    assert nerdctl.udp("127.0.0.1", 7007, "third") == "third"
    until(lambda: len(reports(nerdctl)) == 3, "the log has all starts")


def test_compose(nerdctl: Nerdctl) -> None:
    """A guest and an ordinary container in a network of their own, by their names."""
    file = pathlib.Path(nerdctl.space) / "compose.yaml"
    nerdctl.run("sh", "-c", 'cat >"$0"', str(file), stdin=COMPOSE)
    compose = ("compose", "--file", str(file))
    nerdctl(*compose, "up", "--detach")
    assert nerdctl.udp("127.0.0.1", 7007, "hello") == "hello"
    assert nerdctl(*compose, "ps").stdout.count("running") == 2
    assert '"serving"' in nerdctl(*compose, "logs", "guest").stdout
    pinged = nerdctl("exec", "app-beside-1", "/bin/ping", "-c1", "guest").stdout
    assert "1 packets received" in pinged
    nerdctl(*compose, "down")
    assert nerdctl("ps", "--all", "--quiet").stdout == ""
    nerdctl.remove_group("tests")
