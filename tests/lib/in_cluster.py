# SPDX-License-Identifier: Apache-2.0
"""What the cluster's tests make: pods whose containers do the same under runc and as guests, and a
namespace of the cluster to make them in.

Two ways of a guest are enough: the probe on Firecracker with KVM, which serves pages, and busybox's
image as a Linux guest on QEMU, emulated, where a test needs files or a shell.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lib.patience import patient
from lib.places.cluster import Cluster, Object
from lib.places.kubernetes import REGISTRY
from lib.stored import AS_LINUX
from lib.support import PREFIX

PORT = 8080
T = TypeVar("T")


def image(name: str) -> str:
    """An image of the registry's."""
    return f"{REGISTRY}/{name}:latest"


def eventually(condition: Callable[[], T], what: str | Callable[[], str], limit_s: float = 60) -> T:
    """`until`, at the pace of a kubectl."""
    begin = time.monotonic()
    while not (found := condition()):
        if time.monotonic() - begin > patient(limit_s):
            raise AssertionError(what() if callable(what) else what)
        time.sleep(0.2)
    return found


@dataclass(frozen=True)
class Way:
    """How a test's containers are run: by `runc`, or as guests of a RuntimeClass."""

    name: str
    runtime_class: str = ""
    shell_annotations: dict[str, str] = field(default_factory=dict)
    """By container's name `{}`: those that make an ordinary image a guest."""

    @property
    def guest(self) -> bool:
        return bool(self.runtime_class)

    def server(self, name: str = "app", page: str = "one", **more: Any) -> Object:
        """A container that serves a page on PORT, and ends at SIGTERM."""
        if self.guest:
            run: Object = {
                "image": image("probe"),
                "args": ["app", "probe.serve", f"probe.http={PORT}", f"probe.page={page}",
                         "probe.ctrl-alt-del=0"],
            }  # fmt: skip
        else:
            run = {
                "image": image("box"),
                "command": ["/bin/sh", "-c", f"echo {page} >/www/index.html; trap 'exit 0' TERM; "
                            f"httpd -p {PORT} -h /www; while :; do sleep 1; done"],
            }  # fmt: skip
        return {
            "name": name,
            **run,
            "ports": [{"containerPort": PORT}],
            "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "1m"}},
            **more,
        }

    def shell(self, script: str, name: str = "app", memory: str = "224Mi", **more: Any) -> Object:
        """A container that runs a script of busybox's."""
        return {
            "name": name,
            "image": image("box"),
            "command": ["/bin/sh", "-c", script],
            "resources": {"limits": {"memory": memory}, "requests": {"cpu": "1m"}},
            **more,
        }

    def pod(self, name: str, *containers: Object, **spec: Any) -> Object:
        """A pod of these; `annotations` and `labels` are its own."""
        annotations = dict(spec.pop("annotations", {}))
        labels = spec.pop("labels", {})
        for container in containers:
            if (
                self.guest
                and container["image"] == image("box")
                and "sidecar" not in container["name"]
            ):
                for key, value in AS_LINUX.items():
                    annotations[f"{PREFIX}{key}.{container['name']}"] = value
        template: Object = {
            "metadata": {"name": name, "annotations": annotations, "labels": labels},
            "spec": {
                **({"runtimeClassName": self.runtime_class} if self.runtime_class else {}),
                "terminationGracePeriodSeconds": 10,
                "enableServiceLinks": False,
                "automountServiceAccountToken": False,
                "containers": list(containers),
                **spec,
            },
        }
        return {"apiVersion": "v1", "kind": "Pod", **template}


RUNC = Way("runc")
URUNC = Way("urunc", "urunc")
OWN_SHIM = Way("urunc's shim", "urunc-shim")
WAYS = (RUNC, URUNC, OWN_SHIM)


class Namespace:
    """A namespace of the cluster, for one test."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name

    def kubectl(self, *words: str, **more: Any) -> str:
        """A command's output, in this namespace."""
        return self.cluster("--namespace", self.name, *words, **more).stdout

    def get(self, *words: str) -> Any:
        """Objects."""
        return json.loads(self.kubectl("get", *words, "--output=json"))

    def make(self, *made: Object) -> None:
        """Create or change objects here."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(made)}
        self.kubectl("apply", "--filename=-", stdin=json.dumps(items))

    def refused(self, made: Object) -> str:
        """Why the cluster does not take an object."""
        result = self.cluster("--namespace", self.name, "apply", "--filename=-",
                              stdin=json.dumps(made), check=False)  # fmt: skip
        assert result.returncode, result.stdout
        return result.stderr

    def status(self, pod: str) -> Any:
        """A pod's status."""
        return self.get("pod", pod)["status"]

    def container(self, pod: str, name: str = "app") -> Any:
        """A container's status; {} where there is none yet."""
        status = self.status(pod)
        kinds = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
        found = [item for kind in kinds for item in status.get(kind, ())]
        return next((item for item in found if item["name"] == name), {})

    def ready(self, pod: str, limit_s: float = 60) -> str:
        """Wait until a pod is ready; its address."""
        eventually(lambda: self._is_ready(pod), lambda: self.told(pod), limit_s)
        return str(self.status(pod)["podIP"])

    def _is_ready(self, pod: str) -> bool:
        conditions = self.status(pod).get("conditions", ())
        return any(it["type"] == "Ready" and it["status"] == "True" for it in conditions)

    def ended(self, pod: str, name: str = "app", limit_s: float = 90) -> Any:
        """Wait until a container has ended for good; how."""

        def look() -> Any:
            return self.container(pod, name).get("state", {}).get("terminated")

        return eventually(look, lambda: self.told(pod), limit_s)

    def told(self, pod: str) -> str:
        """What a user reads of a pod that is not well."""
        described = self.kubectl("describe", "pod", pod, check=False)
        return described + self.kubectl("logs", pod, "--all-containers", check=False)

    def waiting(self, pod: str, text: str, limit_s: float = 60) -> str:
        """Wait until `kubectl describe` of a pod says something; all that it says."""
        said = ""

        def look() -> bool:
            nonlocal said
            said = self.kubectl("describe", "pod", pod)
            return text in said

        eventually(look, lambda: said, limit_s)
        return said

    def logged(self, pod: str, text: str, name: str = "app", limit_s: float = 90) -> str:
        """Wait until a container has said something; all that it has said."""
        said = ""

        def look() -> bool:
            nonlocal said
            said = self.kubectl("logs", pod, "--container", name, check=False)
            return text in said

        eventually(look, lambda: said + self.told(pod), limit_s)
        return said

    def page(self, address: str, path: str = "/", port: int = PORT) -> str:
        """What a pod or a service serves to the node."""
        host = f"[{address}]" if ":" in address else address
        return self.cluster.fetch(f"http://{host}:{port}{path}")


@contextlib.contextmanager
def namespace_in(cluster: Cluster, name: str, **labels: str) -> Iterator[Namespace]:
    """A namespace with an account, removed without waiting."""
    metadata = {"name": name, "labels": {key.replace("__", "/"): labels[key] for key in labels}}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    made = Namespace(cluster, name)
    eventually(
        lambda: "default" in made.kubectl("get", "serviceaccounts"), "there is no service account"
    )
    yield made
    made.kubectl("delete", "pods,deployments,jobs", "--all", "--grace-period=1", "--wait=false")
    cluster("delete", "namespace", name, "--wait=false")


def get(**more: Any) -> Object:
    """A probe that asks for a page each second."""
    return {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1, **more}


def deployment(way: Way, *containers: Object, replicas: int = 1, **spec: Any) -> Object:
    """A Deployment `app`."""
    labels = {"app": "app"}
    template = way.pod("app", *containers, labels=labels, **spec)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "app"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {key: template["metadata"][key] for key in ("labels", "annotations")},
                "spec": template["spec"],
            },
        },
    }


def rolled_out(namespace: Namespace, limit_s: float = 120) -> None:
    """Wait until all of `app` is up to date and available."""
    words = ("rollout", "status", "deployment/app", f"--timeout={patient(limit_s):.0f}s")
    namespace.kubectl(*words, timeout_s=limit_s + 10)
