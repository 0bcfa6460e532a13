# SPDX-License-Identifier: Apache-2.0
"""Pods with guests on a real CRI-O with conmon, as a kubelet makes them. root/test_crio has the
calls alone, for machines without a CRI-O."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from lib import busybox
from lib.engines import taken_down
from lib.images import archive, solo5_images
from lib.patience import until
from lib.places.cri import Cri
from lib.places.crio import Crio
from lib.places.registry import registry
from lib.pods import EXITED, MIB, RUNNING, Pod, guest_and_sidecar, kubelet, made_again
from lib.services import links
from lib.support import PARTS, URUNC, need


@pytest.fixture(scope="module")
def crio(urunc_config: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crio]:
    """CRI-O with a registry that has `pause`, an ordinary image `box`, and guests: the probe on
    Firecracker and on Solo5, Linux on QEMU."""
    need("root", "tun", "installed", "crio", "cni", "nft", "probe", "solo5", "linux", "qemu")
    directory = tmp_path_factory.mktemp("images")
    box = busybox.files("sh", "echo", "sleep", "wget")
    linux = {"vmlinuz": PARTS / "linux/vmlinuz", "initrd": PARTS / "linux/initrd.cpio"}
    images = [
        busybox.pause(directory),
        archive(directory / "box.tar", "box", box, ["/bin/sh"]),
        archive(directory / "probe.tar", "probe", {"probe": PARTS / "probe.pvh"},
                ["app", "probe.serve"], unikernelType="unikraft", hypervisor="firecracker",
                binary="/probe"),
        archive(directory / "linux.tar", "linux", linux, ["/init"], unikernelType="linux",
                hypervisor="qemu", binary="/vmlinuz", initrd="/initrd"),
        *solo5_images(directory, PARTS),
    ]  # fmt: skip
    config = urunc_config + '\n        [storage]\n        private = "/run/private"\n'
    with (
        taken_down(Crio(str(URUNC), config)) as place,
        registry(place.network, images),
    ):
        yield place


@pytest.fixture
def cri(crio: Crio) -> Iterator[Cri]:
    """Its CRI. A test leaves the node as it was."""
    with kubelet(crio) as made:
        yield made


def test_a_guest_and_a_sidecar(crio: Crio, cri: Cri) -> None:
    """A guest that has the pod's address, beside an ordinary container: its measure, new limits, a
    command that it refuses, another try; from its image to the pod's end."""
    need("firecracker", "kvm")
    with Pod(crio, cri).made() as pod:
        guest, _ = guest_and_sidecar(pod)
        cri("UpdateContainerResources", container_id=guest, linux={"cpu_quota": 150_000,
            "cpu_period": 100_000})  # fmt: skip
        assert "150000" in pod.limit(guest, "cpu", "cpu.cfs_quota_us", "cpu.max")
        assert "a unikernel has no processes" in refused_exec(pod, guest)
        made_again(pod, guest)


def refused_exec(pod: Pod, guest: str) -> str:
    """What ExecSync says of a command in a guest, by its error or as the command's own output."""
    try:
        answer = pod.cri("ExecSync", container_id=guest, cmd=["/bin/true"], timeout=10)
    except grpc.RpcError as error:
        return str(error.details())
    assert answer.exit_code
    return str(answer.stderr.decode())


@pytest.mark.parametrize("image", ["rumprun-spt", "mirage-hvt"])
def test_solo5(crio: Crio, cri: Cri, image: str) -> None:
    """What CRI-O mounts into every container, and a namespace's services, keep none from starting;
    it ends with its own exit code."""
    need(*(("kvm",) if image.endswith("hvt") else ()))
    variables = [dict(zip(("key", "value"), it.split("=", 1), strict=True)) for it in links(40)]
    with Pod(crio, cri, network="none").made() as pod:
        guest = pod.create("guest", image, given={"envs": variables})
        cri("StartContainer", container_id=guest)  # it can end before anybody looks
        until(lambda: pod.status(guest).state == EXITED, "the guest ends")
        assert pod.status(guest).exit_code == 5
        assert pod.report(guest)["disks"] == []
        warnings = [text for stream, text in pod.log(guest) if stream == "stderr"]
        for start in ("mounts that the guest does not see: /dev/shm", "hostname: "):
            assert sum(f"urunc: warning: {start}" in text for text in warnings) == 1


def test_an_end_and_a_refusal(crio: Crio, cri: Cri) -> None:
    """A guest that ends by itself has its exit code; one that cannot be says why."""
    need("firecracker", "kvm")
    with Pod(crio, cri, network="none").made() as pod:
        ends = pod.start("ends", "linux", "/init", "/bin/sh", "-c", "echo bye; exit 3")
        with pytest.raises(grpc.RpcError) as error:
            pod.start("guest", "linux", memory_limit_in_bytes=24 * MIB)
        assert f"{24 * MIB} bytes are too few" in str(error.value.details())
        until(lambda: pod.status(ends).state == EXITED, "the guest ends")
        assert pod.status(ends).exit_code == 2 * 3 + 1
        pod.logged(ends, "bye")
        alone = pod.start("guest", "probe", memory_limit_in_bytes=64 * MIB)
        assert not pod.report(alone)["ip"]  # the pod's annotation is the guest's


def test_a_restart(crio: Crio, cri: Cri) -> None:
    """A pod goes on without CRI-O, and is its own again when it is back: also its log."""
    need("firecracker", "kvm")
    with Pod(crio, cri).made() as pod:
        guest = pod.start("guest", "probe", "app", "probe.serve", "probe.beat=100")
        pod.logged(guest, '"beat"')
        address = pod.address
        crio.run("pkill", "-KILL", "-x", "crio")
        assert crio.udp(address, 7, "alone") == "alone"
        until(crio.is_up, "CRI-O is back")
        assert pod.status(guest).state == RUNNING
        before = len(pod.log(guest))
        until(lambda: len(pod.log(guest)) > before, "its log goes on")
        pod.stop(guest)
