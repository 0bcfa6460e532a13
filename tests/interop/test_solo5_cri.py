# SPDX-License-Identifier: Apache-2.0
"""Pods with guests on Solo5: what a kubelet and containerd mount into every container, and the
variables of its namespace's services."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from test_storage_cri import ACCOUNT, Kubelet

from lib.engines import NEEDS_OF_PODS, containerd_for_pods
from lib.images import solo5_images
from lib.patience import until
from lib.places.containerd import Containerd
from lib.places.cri import Cri
from lib.pods import EXITED, Pod
from lib.services import links
from lib.support import PARTS, need

CONFIG = """
        [storage]
        private = "/run/private"
"""


@pytest.fixture(scope="module")
def containerd(urunc_config: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """containerd with a registry that has the images and `pause`."""
    need(*NEEDS_OF_PODS, "solo5", "probe", "images")
    directory = tmp_path_factory.mktemp("images")
    images = solo5_images(directory, PARTS)
    with containerd_for_pods(urunc_config + CONFIG, directory, *images) as place:
        yield place


def ended(pod: Pod, name: str, image: str, given: dict[str, Any]) -> dict[str, Any]:
    """Start a guest, and wait for its end; what it says of its machine."""
    container = pod.start(name, image, given=given)
    until(lambda: pod.status(container).state == EXITED, "the guest ends")
    assert pod.status(container).exit_code == 5
    return pod.report(container)


@pytest.mark.parametrize("monitor", ["hvt", "spt"])
@pytest.mark.parametrize("guest", ["rumprun", "mirage"])
def test_what_every_container_has(
    containerd: Containerd, cri: Cri, guest: str, monitor: str
) -> None:
    """It keeps no guest from starting, with one warning of each kind; it is never a disk, and an
    emptyDir is."""
    need(*(("kvm",) if monitor == "hvt" else ()))
    before = len(containerd.log())
    pod = Pod(containerd, cri, network="none")
    home = Kubelet(containerd, pod.config["metadata"]["uid"])
    home.published("projected/kube-api-access", ACCOUNT, 0o644, token="a token\n")
    home.file("containers/guest/1", "")
    home.mount("containers/guest/1", "/dev/termination-log", read_only=False)
    home.file("etc-hosts", "127.0.0.1\tlocalhost\n")
    home.mount("etc-hosts", "/etc/hosts", read_only=False)
    variables = [dict(zip(("key", "value"), it.split("=", 1), strict=True)) for it in links(40)]
    given = {"mounts": home.mounts, "envs": variables}
    with pod.made():
        report = ended(pod, "guest", f"{guest}-{monitor}", given)
        assert report["disks"] == []
        takes_env = guest == "rumprun"
        assert ("BACKEND_7_SERVICE_HOST=10.96.7.7" in report["cmdline"]) == takes_env
        assert "BACKEND_7_PORT_8080_TCP" not in report["cmdline"]
        warnings = containerd.log()[before:]
        assert warnings.count("mounts that the guest does not see") == 1
        assert all(path in warnings for path in ("/dev/shm", ACCOUNT, "/dev/termination-log"))
        assert warnings.count("the service links of 40 services") == takes_env
        declaring = pod.create("declaring", f"{guest}-{monitor}-disk", given=given)
        with pytest.raises(grpc.RpcError) as error:
            cri("StartContainer", container_id=declaring)
        assert "declares the block devices" in error.value.details()
        if guest == "rumprun":
            home.file("volumes/kubernetes.io~empty-dir/data/file", "text")
            home.mount("volumes/kubernetes.io~empty-dir/data", "/data", read_only=False)
            report = ended(pod, "data", f"{guest}-{monitor}-disk", given)
            assert [disk["name"] for disk in report["disks"]] == ["rootfs"]
            assert '"path":"/dev/ld0a","fstype":"blk","mountpoint":"/data"' in report["cmdline"]
