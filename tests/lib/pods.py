# SPDX-License-Identifier: Apache-2.0
"""Pods on a node, made by CRI (of containerd or CRI-O) as a kubelet makes them."""

from __future__ import annotations

import contextlib
import json
import pathlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import pytest

from lib.patience import patient, until
from lib.places.containerd import REGISTRY, Containerd
from lib.places.cri import Cri, forwarded
from lib.places.crio import Crio
from lib.support import PREFIX, unchanged

CREATED, RUNNING, EXITED = range(3)
Node = Containerd | Crio
MIB = 1 << 20
IDLE = ("/bin/sh", "-c", "trap exit TERM; echo beside; sleep 1000 & wait")
"""A sidecar's command."""
OF_ITS_OWN = {"namespace_options": {"pid": 1}}
"""CONTAINER of NamespaceMode: each has its PIDs, unless the pod says otherwise (kubelet)."""


@contextlib.contextmanager
def kubelet(node: Node) -> Iterator[Cri]:
    """The node's CRI; its pods are removed in the end. What is done leaves the node as it was: no
    process, mount, control group, namespace, device, rule."""
    with Cri(node.seen(node.socket)) as made:
        first(node, made)
        with unchanged(lambda: held(node), 10):
            yield made
            for pod in made("ListPodSandbox").items:
                made("StopPodSandbox", pod_sandbox_id=pod.id)
                made("RemovePodSandbox", pod_sandbox_id=pod.id)


def held(node: Node) -> dict[str, set[str]]:
    """What the place holds, and what its network does."""
    shown = node.run("sh", "-c", "tc qdisc; nft list ruleset; ls /run/netns 2>&1 || :").stdout
    return node.holds() | {"network": set(shown.splitlines())}


def first(node: Node, cri: Cri) -> None:
    """Have one pod come and go, if none was: what stays of the first one, a bridge and a pulled
    image, is the node's."""
    if "br-pods" not in node.run("ip", "-brief", "link").stdout:
        with Pod(node, cri).made():
            pass


class Pod:
    """A pod and its containers."""

    def __init__(self, node: Node, cri: Cri, handler: str = "urunc", **annotations: str) -> None:
        self.node, self.cri, self.handler = node, cri, handler
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
            "linux": {"cgroup_parent": f"/{node.group}", "security_context": OF_ITS_OWN},
        }

    @contextlib.contextmanager
    def made(self, **resources: int) -> Iterator[Pod]:
        """Run it; its resources are all its containers' together."""
        if resources:
            self.config["linux"]["resources"] = resources
        answer = self.cri("RunPodSandbox", config=self.config, runtime_handler=self.handler)
        self.id = answer.pod_sandbox_id
        yield self
        self.cri("StopPodSandbox", pod_sandbox_id=self.id)
        self.cri("RemovePodSandbox", pod_sandbox_id=self.id)

    @property
    def address(self) -> str:
        return str(self.cri("PodSandboxStatus", pod_sandbox_id=self.id).status.network.ip)

    def create(
        self, name: str, image: str, *command: str,
        given: Mapping[str, Any] | None = None, **resources: int,
    ) -> str:  # fmt: skip
        """Pull the image and create a container; its id. `given` is more of its ContainerConfig."""
        attempt = self.attempts[name] = self.attempts.get(name, -1) + 1
        name_of_image = f"{REGISTRY}/{image}:latest"
        spec = {"image": name_of_image, "user_specified_image": name_of_image}
        self.cri("PullImage", image=spec)
        config = {
            "metadata": {"name": name, "attempt": attempt},
            "image": spec,
            "command": command,
            "log_path": f"{name}_{attempt}.log",
            "linux": {"resources": resources, "security_context": OF_ITS_OWN},
            **(given or {}),
        }
        answer = self.cri(
            "CreateContainer", pod_sandbox_id=self.id, config=config, sandbox_config=self.config
        )
        return str(answer.container_id)

    def start(
        self, name: str, image: str, *command: str,
        given: Mapping[str, Any] | None = None, **resources: int,
    ) -> str:  # fmt: skip
        """Pull, create, start; the container's id."""
        container = self.create(name, image, *command, given=given, **resources)
        assert self.status(container).state == CREATED
        self.cri("StartContainer", container_id=container)
        assert self.status(container).state in (RUNNING, EXITED)  # a short one has ended
        return container

    def stop(self, container: str) -> None:
        """Stop it with an hour's grace: it is not killed by its engine."""
        self.cri("StopContainer", container_id=container, timeout=3600)
        status = self.status(container)
        assert status.state == EXITED
        assert status.finished_at > status.started_at > 0

    def remove(self, container: str) -> None:
        self.cri("RemoveContainer", container_id=container)

    def status(self, container: str) -> Any:
        return self.cri("ContainerStatus", container_id=container).status

    def log(self, container: str) -> list[tuple[str, str]]:
        """The kubelet's file of its log, which has a line `TIME STREAM F TEXT` for each, or several
        with `P`, for parts, before that one."""
        lines = pathlib.Path(self.node.seen(self.status(container).log_path)).read_text()
        found = []
        parts = {"stdout": "", "stderr": ""}
        for line in lines.splitlines():
            stamp, stream, tag, text = line.split(" ", 3)
            assert stamp.startswith("20") and tag in ("F", "P"), line
            parts[stream] += text
            if tag == "F":
                found.append((stream, parts[stream]))
                parts[stream] = ""
        return found

    def logged(self, container: str, text: str) -> None:
        """Wait for a text in its log."""
        until(lambda: any(text in line for _, line in self.log(container)), text)

    def run(self, container: str, *command: str) -> str:
        """Execute a command in it; its output."""
        answer = self.cri(
            "ExecSync", container_id=container, cmd=command, timeout=round(patient(10))
        )
        assert answer.exit_code == 0, answer
        return str(answer.stdout.decode())

    def refuses_exec(self, container: str) -> None:
        """A guest runs no commands, and says so."""
        with pytest.raises(grpc.RpcError) as error:
            self.cri("ExecSync", container_id=container, cmd=["/bin/true"], timeout=10)
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


def guest_and_sidecar(pod: Pod) -> tuple[str, str]:
    """A guest that has the pod's address, beside an ordinary container, and measured: the ids."""
    sidecar = pod.start("sidecar", "box", *IDLE)
    guest = pod.start("guest", "probe", memory_limit_in_bytes=64 * MIB)
    pod.logged(guest, '"serving"')
    assert pod.node.udp(pod.address, 7, "hello") == "hello"
    report = pod.report(guest)
    assert report["ip"] == pod.address
    assert 48 * MIB < report["memory"] < 64 * MIB
    assert ("stdout", "beside") in pod.log(sidecar)
    stats = pod.measured(guest)
    assert 0 < stats.memory.working_set_bytes.value < 64 * MIB
    assert stats.cpu.usage_core_nano_seconds.value > 0
    assert pod.run(sidecar, "/bin/echo", "in the sidecar") == "in the sidecar\n"
    return guest, sidecar


def made_again(pod: Pod, guest: str) -> None:
    """Another one comes in a guest's place, as when it has failed, and goes."""
    pod.stop(guest)
    again = pod.start("guest", "probe")
    pod.logged(again, '"serving"')
    assert pod.node.udp(pod.address, 7, "again") == "again"
    pod.remove(guest)
    pod.stop(again)
    pod.remove(again)
