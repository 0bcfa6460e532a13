# SPDX-License-Identifier: Apache-2.0
"""A cluster with urunc, which its own DaemonSet has installed, and what its pods are made of."""

from __future__ import annotations

import pathlib
import shutil
import uuid
from collections.abc import Iterator

import pytest

from lib import busybox
from lib.engines import taken_down
from lib.images import archive
from lib.in_cluster import OWN_SHIM, RUNC, URUNC, Namespace, Way, image, namespace_in
from lib.installer_image import NAME, installer_image
from lib.places.cluster import Cluster
from lib.places.registry import registry
from lib.stored import CONFIG
from lib.support import PARTS, PROJECT, TOOLS, need

NEEDS = ("root", "tun", "installed", "runc", "cni", "nft", "busybox", "containerd2", "kubernetes")
PUBLISHED = f"registry.example.org/{NAME}:0.1.0"


def images(directory: pathlib.Path) -> list[pathlib.Path]:
    """Archives of `pause`, the installer, `box`, and guests: `probe`, and `ending`, the same
    on Solo5's spt, whose exit codes are heard of."""
    box = busybox.files(*busybox.applets()) | {
        "www/index.html": b"none\n",
        "etc/passwd": b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n",
    }
    probe = {"probe": PARTS / "probe.pvh"}
    return [
        busybox.pause(directory),
        installer_image(directory),
        archive(directory / "box.tar", "box", box, ["/bin/sh"]),
        archive(directory / "probe.tar", "probe", probe, ["app", "probe.serve"],
                unikernelType="unikraft", hypervisor="firecracker", binary="/probe"),
        archive(directory / "ending.tar", "ending", {"probe": PARTS / "probe-bare.spt"},
                ["probe.exit=0"], unikernelType="rumprun", hypervisor="spt", binary="/probe"),
    ]  # fmt: skip


def install(cluster: Cluster, directory: pathlib.Path) -> None:
    """The manifests of deploy/, as a user applies them: with the image's name in them. Then a
    RuntimeClass for urunc's own shim, which they do not have."""
    manifests = directory / "kubernetes"
    shutil.copytree(PROJECT / "deploy/kubernetes", manifests)
    for file in manifests.glob("*.yaml"):
        file.write_text(file.read_text().replace(PUBLISHED, image(NAME)))
    cluster("apply", "--kustomize", str(manifests))
    own_shim = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
                "metadata": {"name": OWN_SHIM.runtime_class}, "handler": OWN_SHIM.runtime_class,
                "overhead": {"podFixed": {"memory": "16Mi"}}}  # fmt: skip
    cluster.apply(own_shim)
    cluster("rollout", "status", "--namespace=urunc-system", "daemonset/urunc-installer",
            "--timeout=300s", timeout_s=310)  # fmt: skip


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster."""
    need(*NEEDS, "probe", "firecracker", "kvm", "qemu", "linux", "solo5")
    directory = tmp_path_factory.mktemp("cluster")
    programs = {"firecracker": "firecracker", "spt": "solo5-spt"}
    paths = (f'[monitors.{name}]\npath = "{shutil.which(it)}"\n' for name, it in programs.items())
    config = CONFIG + "".join(paths)
    with (
        taken_down(Cluster(str(TOOLS), str(TOOLS / "kubernetes"), config)) as made,
        registry(made.network, images(directory)),
    ):
        install(made, directory)
        yield made


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[Namespace]:
    """A namespace of the test's own."""
    with namespace_in(cluster, f"test-{uuid.uuid4().hex[:8]}") as made:
        yield made


@pytest.fixture(params=[RUNC, URUNC, OWN_SHIM], ids=lambda way: way.name)
def way(request: pytest.FixtureRequest) -> Way:
    """Each way to run a test's containers."""
    found: Way = request.param
    return found
