# SPDX-License-Identifier: Apache-2.0
"""Pods with guests, as a kubelet makes them: containerd's CRI plugin with urunc's own shim."""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from engines import SERVE, taken_down
from images import archive
from places.containerd import REGISTRY, Containerd
from places.cri import Cri, forwarded
from places.registry import registry
from support import PARTS, PREFIX, URUNC, need, unchanged

BUSYBOX = pathlib.Path("/bin/busybox")
MIB = 1 << 20
STOP_S = 2
CREATED, RUNNING, EXITED = range(3)
IDLE = ("/bin/sh", "-c", "trap exit TERM; echo beside; sleep 1000 & wait")


@pytest.fixture(scope="module")
def containerd(urunc_config: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """containerd with a registry that has `pause`, an ordinary image `box`, and guests: the probe
    on Firecracker, Linux on QEMU."""
    need("root", "tun", "installed", "runc", "containerd", "cni", "nft", "probe")
    folder = tmp_path_factory.mktemp("images")
    box = {f"bin/{name}": BUSYBOX for name in ("sh", "echo", "sleep", "wget")}
    linux = {"vmlinuz": PARTS / "linux/vmlinuz", "initrd": PARTS / "linux/initrd.cpio"}
    images = [
        archive(folder / "pause.tar", "pause", box, ["/bin/sleep", "100000"]),
        archive(folder / "box.tar", "box", box, ["/bin/sh"]),
        archive(folder / "probe.tar", "probe", {"probe": PARTS / "probe.pvh"},
                ["app", "probe.serve"], unikernelType="unikraft", hypervisor="firecracker",
                binary="/probe"),
    ]  # fmt: skip
    if (PARTS / "linux/vmlinuz").exists():
        images.append(
            archive(folder / "linux.tar", "linux", linux, ["/init", "/bin/sh", "-c", SERVE],
                    unikernelType="linux", hypervisor="qemu", binary="/vmlinuz", initrd="/initrd")
        )  # fmt: skip
    with (
        taken_down(Containerd(str(URUNC), urunc_config)) as place,
        registry(place.network, images),
    ):
        yield place


@pytest.fixture
def cri(containerd: Containerd) -> Iterator[Cri]:
    """The node's CRI. A test leaves it as it was: no process, mount, control group, namespace,
    device, rule."""
    with Cri(containerd.seen(f"{containerd.space}/containerd.sock")) as made:
        first(containerd, made)
        with unchanged(lambda: held(containerd), 10):
            yield made
            for pod in made("ListPodSandbox").items:
                made("StopPodSandbox", pod_sandbox_id=pod.id)
                made("RemovePodSandbox", pod_sandbox_id=pod.id)


def held(containerd: Containerd) -> dict[str, set[str]]:
    """What the place holds, and what its network does."""
    shown = containerd.run("sh", "-c", "tc qdisc; nft list ruleset; ls /run/netns").stdout
    return containerd.holds() | {"network": set(shown.splitlines())}


def first(containerd: Containerd, cri: Cri) -> None:
    """Have one pod come and go, if none was: what stays of the first one, a bridge and a pulled
    image, is the node's."""
    if "cni" not in containerd.run("ls", "/sys/class/net").stdout:
        with Pod(containerd, cri).made():
            pass


class Pod:
    """A pod and its containers."""

    def __init__(self, node: Containerd, cri: Cri, **annotations: str) -> None:
        self.node, self.cri = node, cri
        self.attempts: dict[str, int] = {}
        self.id = ""
        uid = uuid.uuid4().hex
        self.config: dict[str, Any] = {
            "metadata": {"name": "pod", "uid": uid, "namespace": "default"},
            "hostname": "pod",
            "log_directory": f"/run/pods/{uid}",
            "annotations": {
                PREFIX + key.replace("_", "."): annotations[key] for key in annotations
            },
            "linux": {"cgroup_parent": f"/{node.group}"},
        }

    @contextlib.contextmanager
    def made(self, **resources: int) -> Iterator[Pod]:
        """Run it; its resources are all its containers' together."""
        if resources:
            self.config["linux"]["resources"] = resources
        answer = self.cri("RunPodSandbox", config=self.config, runtime_handler="urunc")
        self.id = answer.pod_sandbox_id
        yield self
        begin = time.monotonic()
        self.cri("StopPodSandbox", pod_sandbox_id=self.id)
        assert time.monotonic() - begin < 2 * STOP_S
        self.cri("RemovePodSandbox", pod_sandbox_id=self.id)

    @property
    def address(self) -> str:
        return str(self.cri("PodSandboxStatus", pod_sandbox_id=self.id).status.network.ip)

    def create(self, name: str, image: str, *command: str, **resources: int) -> str:
        """Pull the image and create a container; its id."""
        attempt = self.attempts[name] = self.attempts.get(name, -1) + 1
        spec = {"image": f"{REGISTRY}/{image}:latest"}
        self.cri("PullImage", image=spec)
        config = {
            "metadata": {"name": name, "attempt": attempt},
            "image": spec,
            "command": command,
            "log_path": f"{name}_{attempt}.log",
            "linux": {"resources": resources},
        }
        answer = self.cri(
            "CreateContainer", pod_sandbox_id=self.id, config=config, sandbox_config=self.config
        )
        return str(answer.container_id)

    def start(self, name: str, image: str, *command: str, **resources: int) -> str:
        """Pull, create, start; the container's id."""
        container = self.create(name, image, *command, **resources)
        assert self.status(container).state == CREATED
        self.cri("StartContainer", container_id=container)
        assert self.status(container).state == RUNNING
        return container

    def stop(self, container: str) -> None:
        """Stop it with ten seconds' grace, of which it needs little."""
        begin = time.monotonic()
        self.cri("StopContainer", container_id=container, timeout=10)
        assert time.monotonic() - begin < STOP_S
        status = self.status(container)
        assert status.state == EXITED
        assert status.finished_at > status.started_at > 0

    def remove(self, container: str) -> None:
        self.cri("RemoveContainer", container_id=container)

    def status(self, container: str) -> Any:
        return self.cri("ContainerStatus", container_id=container).status

    def log(self, container: str) -> list[tuple[str, str]]:
        """The kubelet's file of its log, which has a line `TIME STREAM F TEXT` for each."""
        lines = pathlib.Path(self.node.seen(self.status(container).log_path)).read_text()
        found = []
        for line in lines.splitlines():
            stamp, stream, tag, text = line.split(" ", 3)
            assert stamp.startswith("20") and tag in ("F", "P"), line
            found.append((stream, text))
        return found

    def logged(self, container: str, text: str) -> None:
        """Wait for a text in its log."""
        eventually(lambda: any(text in line for _, line in self.log(container)), text)

    def run(self, container: str, *command: str) -> str:
        """Execute a command in it; its output."""
        answer = self.cri("ExecSync", container_id=container, cmd=command, timeout=10)
        assert answer.exit_code == 0, answer
        return str(answer.stdout.decode())

    def refuses_exec(self, container: str) -> None:
        """A guest runs no commands, and says so within a second."""
        begin = time.monotonic()
        with pytest.raises(grpc.RpcError) as error:
            self.cri("ExecSync", container_id=container, cmd=["/bin/true"], timeout=10)
        assert time.monotonic() - begin < 1
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert "a unikernel has no processes" in error.value.details()

    def forward(self, port: int, data: bytes) -> bytes:
        """What `kubectl port-forward` to a port brings back."""
        url = self.cri("PortForward", pod_sandbox_id=self.id, port=[port]).url
        return forwarded(self.node.network, url, port, data)

    def pid(self, container: str) -> int:
        info = self.cri("ContainerStatus", container_id=container, verbose=True).info["info"]
        return int(json.loads(info)["pid"])

    def groups(self, container: str) -> dict[str, str]:
        """Its process's control groups by controller ("" for v2's)."""
        lines = self.node.run("cat", f"/proc/{self.pid(container)}/cgroup").stdout.splitlines()
        fields = [line.split(":", 2) for line in lines]
        return {name: path for _, names, path in fields for name in names.split(",")}

    def limit(self, container: str, controller: str, v1: str, v2: str) -> str:
        """What a file of its group says."""
        groups = self.groups(container)
        path = f"{controller}{groups[controller]}/{v1}" if controller in groups else ""
        path = path or f"{groups['']}/{v2}"
        return self.node.run("cat", f"/sys/fs/cgroup/{path}").stdout.strip()

    def measured(self, container: str) -> Any:
        """Its ContainerStats, once they are there."""
        stats = self.cri("ContainerStats", container_id=container).stats
        assert stats.attributes.id == container
        return stats

    def report(self, container: str) -> dict[str, Any]:
        """What the probe says of its machine."""
        self.logged(container, '"cmdline"')
        lines = [json.loads(text) for _, text in self.log(container) if text.startswith("{")]
        return next(line for line in lines if "cmdline" in line)


def eventually(holds: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def is_up(cri: Cri) -> bool:
    """Whether the plugin answers: containerd does so earlier."""
    try:
        return bool(cri("ListPodSandbox").items)
    except grpc.RpcError:
        return False


def is_in_its_own_group(pod: Pod, container: str) -> None:
    """A control group for memory with the container's id, and only its monitor in it."""
    group = pod.groups(container)
    path = group.get("memory", group[""])
    assert path.endswith(f"/{pod.node.group}/{container}")
    folder = f"memory{path}" if "memory" in group else path
    processes = pod.node.run("cat", f"/sys/fs/cgroup/{folder}/cgroup.procs").stdout.split()
    assert str(pod.pid(container)) in processes


def test_probe(containerd: Containerd, cri: Cri) -> None:
    """A guest that has the pod's address, beside an ordinary container: from its image to the
    pod's end."""
    need("firecracker", "kvm")
    with Pod(containerd, cri).made() as pod:
        sidecar = pod.start("sidecar", "box", *IDLE)
        guest = pod.start("guest", "probe", memory_limit_in_bytes=64 * MIB)
        pod.logged(guest, '"serving"')
        assert containerd.udp(pod.address, 7, "hello") == "hello"
        report = pod.report(guest)
        assert report["ip"] == pod.address
        assert 48 * MIB < report["memory"] < 64 * MIB
        assert ("stdout", "beside") in pod.log(sidecar)
        is_in_its_own_group(pod, guest)
        stats = pod.measured(guest)
        assert 0 < stats.memory.working_set_bytes.value < 64 * MIB
        assert stats.cpu.usage_core_nano_seconds.value > 0
        assert pod.run(sidecar, "/bin/echo", "in the sidecar") == "in the sidecar\n"
        pod.refuses_exec(guest)
        pod.stop(guest)
        again = pod.start("guest", "probe")
        pod.logged(again, '"serving"')
        assert containerd.udp(pod.address, 7, "again") == "again"
        pod.remove(guest)
        pod.stop(again)
        pod.remove(again)
        pod.stop(sidecar)
        pod.remove(sidecar)


def test_linux(containerd: Containerd, cri: Cri) -> None:
    """A guest that shares the pod: it is found at the pod's address and on the pod's localhost, by
    its sidecar, a kubelet's probes and port-forward."""
    need("linux", "qemu")
    with Pod(containerd, cri, network_guest="shared", ports_guest="80/tcp").made() as pod:
        sidecar = pod.start("sidecar", "box", *IDLE)
        guest = pod.start("guest", "linux", memory_limit_in_bytes=320 * MIB)
        address = pod.address
        assert containerd.fetch(f"http://{address}/") == "guest\n"
        for host in (address, "127.0.0.1"):
            assert pod.run(sidecar, "/bin/wget", "-qO-", f"http://{host}/") == "guest\n"
        page = pod.forward(80, b"GET / HTTP/1.0\r\n\r\n")
        assert b" 200 " in page.splitlines()[0] and page.endswith(b"\r\n\r\nguest\n")
        is_in_its_own_group(pod, guest)
        assert pod.measured(guest).memory.working_set_bytes.value > 32 * MIB
        pod.refuses_exec(guest)
        pod.stop(guest)
        again = pod.start("guest", "linux", memory_limit_in_bytes=320 * MIB)
        pod.remove(guest)
        pod.stop(again)  # it boots still


def test_an_end_and_a_refusal(containerd: Containerd, cri: Cri) -> None:
    """A guest that ends by itself has its exit code; one that cannot be says why, and may be tried
    again in the same pod."""
    need("linux", "qemu", "firecracker", "kvm")
    with Pod(containerd, cri).made() as pod:
        ends = pod.start("ends", "linux", "/init", "/bin/sh", "-c", "echo bye; exit 3")
        small = pod.create("guest", "probe", memory_limit_in_bytes=2 * MIB)
        with pytest.raises(grpc.RpcError) as error:
            cri("StartContainer", container_id=small)
        assert "2097152 bytes are too few" in error.value.details()
        assert pod.status(small).state == EXITED
        eventually(lambda: pod.status(ends).state == EXITED, "the guest ends")
        assert pod.status(ends).exit_code == 2 * 3 + 1
        assert pod.status(ends).reason == "Error"
        pod.logged(ends, "bye")
        guest = pod.start("guest", "probe", memory_limit_in_bytes=64 * MIB)
        pod.logged(guest, '"serving"')
        assert containerd.udp(pod.address, 7, "hello") == "hello"


def test_containerd_restarts(containerd: Containerd, cri: Cri) -> None:
    """A pod goes on without it, and is its own again when it is back: also its log, and what its
    containers are."""
    need("firecracker", "kvm")
    with Pod(containerd, cri).made() as pod:
        sidecar = pod.start("sidecar", "box", *IDLE)
        guest = pod.start("guest", "probe", "app", "probe.serve", "probe.beat=100")
        pod.logged(guest, '"beat"')
        address = pod.address
        containerd.run("pkill", "-KILL", "-x", "containerd")
        assert containerd.udp(address, 7, "alone") == "alone"
        eventually(lambda: is_up(cri), "containerd is back")
        assert pod.status(guest).state == RUNNING
        before = len(pod.log(guest))
        eventually(lambda: len(pod.log(guest)) > before, "its log goes on")
        pod.refuses_exec(guest)
        assert pod.run(sidecar, "/bin/echo", "still here") == "still here\n"
        pod.stop(guest)


def test_totals_of_a_pod(containerd: Containerd, cri: Cri) -> None:
    """A guest without limits of its own has what is left of its pod's; one that comes when nothing
    is left has none, and an ordinary container never gets any."""
    need("firecracker", "kvm")

    def limits(container: str) -> tuple[int, ...]:
        return (
            int(pod.limit(container, "memory", "memory.limit_in_bytes", "memory.max")) // MIB,
            int(pod.limit(container, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0]),
        )

    totals = {"memory_limit_in_bytes": 256 * MIB, "cpu_quota": 250_000, "cpu_period": 100_000}
    with Pod(containerd, cri, network="none").made(**totals) as pod:
        pod.start("limited", "box", *IDLE, memory_limit_in_bytes=64 * MIB, cpu_quota=50_000)
        free = pod.start("free", "box", *IDLE)
        guest = pod.start("guest", "probe")
        assert limits(guest) == (192, 200_000)
        report = pod.report(guest)
        assert 160 * MIB < report["memory"] < 192 * MIB
        assert report["vcpus"] == 2
        late = pod.start("late", "probe")
        assert pod.report(late)["memory"] == 256 * MIB
        assert limits(late)[0] > 1 << 40
        assert limits(free)[0] > 1 << 40
        pod.stop(late)
        cri("UpdateContainerResources", container_id=guest,
            linux={"memory_limit_in_bytes": 224 * MIB})  # fmt: skip
        assert limits(guest) == (224, 200_000)
        pod.stop(guest)
        again = pod.start("guest", "probe")
        assert limits(again) == (192, 200_000)
        pod.stop(again)
