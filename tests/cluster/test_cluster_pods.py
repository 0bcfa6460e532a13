# SPDX-License-Identifier: Apache-2.0
"""What a pod's specification may ask for beside its containers."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import pytest

from lib.in_cluster import PORT, RUNC, Namespace, Way, eventually, image, namespace_in
from lib.places.cluster import Cluster
from lib.places.kubernetes import NAME_SERVER, NODE

IDLE = "trap 'exit 0' TERM; while :; do sleep 1; done"


def test_sidecars(namespace: Namespace, way: Way) -> None:
    """An init container runs before, a native sidecar from before to after; it fetches what the
    main container serves, at the pod's address and on localhost."""
    script = (
        f"until wget -qO- http://$IP:{PORT}/ && wget -qO- http://127.0.0.1:{PORT}/; do sleep 1; "
        f"done; {IDLE}"
    )
    address = [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    before = [
        RUNC.shell("echo first", name="first-sidecar", memory="32Mi"),
        RUNC.shell(script, name="sidecar", memory="32Mi", env=address, restartPolicy="Always"),
    ]
    namespace.make(way.pod("app", way.server(), initContainers=before))
    namespace.ready("app")
    assert namespace.kubectl("logs", "app", "--container=first-sidecar") == "first\n"
    assert namespace.logged("app", "one\none\n", "sidecar")
    said = namespace.kubectl("exec", "app", "--container=sidecar", "--", "echo", "here")
    assert said == "here\n"


def test_a_guest_as_init_container(namespace: Namespace, way: Way) -> None:
    """It has to end well before the others are started."""
    ends = RUNC.shell("exit 0", name="first")
    if way.guest:
        ends = {"name": "first", "image": image("ending"), "args": ["probe.exit=0"],
                "resources": {"limits": {"memory": "128Mi"}}}  # fmt: skip
    namespace.make(way.pod("app", way.server(), initContainers=[ends]))
    assert namespace.page(namespace.ready("app")) == "one\n"
    assert namespace.container("app", "first")["state"]["terminated"]["exitCode"] == 0


def test_names(namespace: Namespace, way: Way) -> None:
    """hostAliases, the DNS policy and its options, the host's name."""
    script = "cat /etc/hosts /etc/resolv.conf; hostname"
    namespace.make(
        way.pod(
            "app", way.shell(script), hostAliases=[{"ip": "192.0.2.9", "hostnames": ["other"]}],
            dnsConfig={"options": [{"name": "ndots", "value": "3"}]}, restartPolicy="Never",
        ),
        way.pod(
            "none", way.shell(script), dnsPolicy="None",
            dnsConfig={"nameservers": ["192.0.2.1"], "searches": ["example.org"]},
            restartPolicy="Never",
        ),
    )  # fmt: skip
    namespace.ended("app")
    said = namespace.kubectl("logs", "app")
    assert re.search(r"^192\.0\.2\.9\s+other$", said, re.MULTILINE)
    assert f"nameserver {NAME_SERVER}\n" in said
    assert f"search {namespace.name}.svc.cluster.local" in said
    assert re.search(r"^options .*ndots:3", said, re.MULTILINE)
    assert said.endswith("app\n")
    namespace.ended("none")
    said = namespace.kubectl("logs", "none")
    assert "nameserver 192.0.2.1\n" in said
    assert "search example.org\n" in said


def test_debug(namespace: Namespace, way: Way) -> None:
    """`kubectl debug`: a shell beside what has none."""
    namespace.make(way.pod("app", way.server()))
    namespace.ready("app")
    namespace.kubectl("debug", "app", f"--image={image('box')}", "--container=debug-sidecar",
                      "--", "sh", "-c", "echo beside; ip -o link")  # fmt: skip
    said = namespace.logged("app", "lo:", "debug-sidecar")
    assert said.startswith("beside\n")


def test_exec(namespace: Namespace, way: Way) -> None:
    """In a guest there is nothing to run a command; it says so."""
    namespace.make(way.pod("app", way.server()))
    namespace.ready("app")
    result = namespace.cluster(f"--namespace={namespace.name}", "exec", "app", "--", "true",
                               check=False)  # fmt: skip
    assert bool(result.returncode) == way.guest
    if way.guest:
        assert "a unikernel has no processes" in result.stderr


def test_resize(namespace: Namespace, way: Way) -> None:
    """In place: the limit of a running container's control group."""
    container = way.server()
    container["resizePolicy"] = [{"resourceName": "memory", "restartPolicy": "NotRequired"}]
    namespace.make(way.pod("app", container))
    namespace.ready("app")
    resources = {"limits": {"memory": "96Mi"}, "requests": {"memory": "96Mi"}}
    patch = {"spec": {"containers": [{"name": "app", "resources": resources}]}}
    namespace.kubectl("patch", "pod", "app", "--subresource=resize", "--patch", json.dumps(patch))

    def resized() -> bool:
        found: Any = namespace.container("app").get("resources", {}).get("limits", {})
        return bool(found.get("memory") == "96Mi")

    eventually(resized, lambda: namespace.told("app"))
    assert namespace.container("app")["restartCount"] == 0
    assert namespace.page(namespace.status("app")["podIP"]) == "one\n"


def test_user_namespaces(namespace: Namespace, way: Way) -> None:
    """hostUsers: false, where containerd says of the handler that it can."""
    handlers = namespace.cluster.get("node", NODE)["status"]["runtimeHandlers"]
    features = {it["name"]: it.get("features", {}) for it in handlers}
    if not features[way.runtime_class or "runc"].get("userNamespaces"):
        pytest.skip(f"the node's runtime for {way.name} has none")
    namespace.make(way.pod("app", way.server(), hostUsers=False))
    assert namespace.page(namespace.ready("app")) == "one\n"


def test_restricted(cluster: Cluster, way: Way) -> None:
    """A namespace that enforces the Pod Security Standard `restricted` takes a guest."""
    labels = {"pod-security.kubernetes.io__enforce": "restricted"}
    context = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    with namespace_in(cluster, f"test-{uuid.uuid4().hex[:8]}", **labels) as namespace:
        assert "violates PodSecurity" in namespace.refused(way.pod("app", way.server()))
        container = way.server(securityContext=context)
        if not way.guest:
            container["command"][2] = container["command"][2].replace("/www", "/tmp")
            container["volumeMounts"] = [{"name": "tmp", "mountPath": "/tmp"}]
        volumes = [{"name": "tmp", "emptyDir": {}}]
        namespace.make(way.pod("app", container, volumes=volumes))
        ready = namespace.ready("app")
        assert namespace.page(ready, "/" if way.guest else "/index.html") == "one\n"


def test_host_network(namespace: Namespace, way: Way) -> None:
    """hostNetwork: an ordinary container has the node's; a guest has none, and says so."""
    container = way.shell("ip -o addr show; echo end") if not way.guest else way.server()
    namespace.make(way.pod("app", container, hostNetwork=True, restartPolicy="Never"))
    if way.guest:
        said = namespace.logged("app", '"nics"')
        assert '"nics":[]' in said
    else:
        assert "node0" in namespace.logged("app", "end")
