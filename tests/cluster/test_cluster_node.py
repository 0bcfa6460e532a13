# SPDX-License-Identifier: Apache-2.0
"""What happens to a node under its pods: drained, its kubelet or its containerd started again; what
RuntimeClass and installer make of it."""

from __future__ import annotations

from lib.in_cluster import Namespace, Way, eventually
from lib.places.cluster import Cluster
from lib.places.kubernetes import NODE

SYSTEM = "--namespace=urunc-system"


def test_installed(cluster: Cluster) -> None:
    """The node has the label that the RuntimeClass selects; the pods say what was done; a pod's
    overhead is counted."""

    def labelled() -> bool:  # the pod is ready before that is done
        labels = cluster.get("node", NODE)["metadata"]["labels"]
        return bool(labels.get("urunc.io/urunc-runtime") == "true")

    eventually(labelled, "the node has no label")
    said = cluster("logs", SYSTEM, "daemonset/urunc-installer", "--container=install").stdout
    assert "is installed\n" in said
    handlers = {it["name"]: it.get("features", {}) for it in
                cluster.get("node", NODE)["status"]["runtimeHandlers"]}  # fmt: skip
    assert {"runc", "urunc", "urunc-shim"} <= handlers.keys()


def test_overhead(namespace: Namespace, way: Way) -> None:
    """What a pod needs beside its containers is requested of the node, too."""
    namespace.make(way.pod("app", way.server()))
    namespace.ready("app")
    overhead = namespace.get("pod", "app")["spec"].get("overhead", {})
    assert overhead == ({"memory": "16Mi"} if way.guest else {})
    uid = namespace.get("pod", "app")["metadata"]["uid"]
    group = f"/sys/fs/cgroup/memory/{namespace.cluster.group}/kubepods"
    found = namespace.cluster.run(
        "sh", "-c", f"find {group} /sys/fs/cgroup/{namespace.cluster.group} -maxdepth 3 "
        f"-name 'pod{uid}' 2>/dev/null | head -1; true",
    ).stdout.strip()  # fmt: skip
    limit = namespace.cluster.run(
        "sh", "-c", f"cat {found}/memory.limit_in_bytes 2>/dev/null || cat {found}/memory.max"
    ).stdout
    assert int(limit) == (64 + (16 if way.guest else 0)) << 20


def restarted(namespace: Namespace, program: str) -> None:
    """End a program of the node's and wait until its keeper has started another."""
    pid = namespace.cluster.run("pgrep", "-o", "-x", program).stdout.strip()
    namespace.cluster.run("kill", "-KILL", pid)
    eventually(
        lambda: (
            namespace.cluster.run("pgrep", "-o", "-x", program, check=False).stdout.strip()
            not in ("", pid)
        ),
        f"{program} is not started again",
    )


def _goes_on(namespace: Namespace, address: str, program: str) -> None:
    before = namespace.container("app")
    restarted(namespace, program)
    assert namespace.page(address) == "one\n"
    beside = namespace.get("pod", "app")
    beside["metadata"] = {"name": "later", "annotations": beside["metadata"]["annotations"]}
    beside = {key: beside[key] for key in ("apiVersion", "kind", "metadata", "spec")}
    beside["spec"].pop("nodeName", None)
    namespace.make(beside)
    assert namespace.page(namespace.ready("later", 120)) == "one\n"
    after = namespace.container("app")
    assert after["containerID"] == before["containerID"]
    assert after["restartCount"] == 0
    assert namespace.page(address) == "one\n"
    namespace.kubectl("delete", "pod", "later")


def test_restarts(namespace: Namespace, way: Way) -> None:
    """A pod goes on without kubelet and containerd, is theirs again, and others are made."""
    namespace.make(way.pod("app", way.server()))
    address = namespace.ready("app")
    _goes_on(namespace, address, "kubelet")
    _goes_on(namespace, address, "containerd")
    namespace.kubectl("delete", "pod", "app", timeout_s=60)


def test_drain(namespace: Namespace, way: Way) -> None:
    """Its pods are evicted, stopped within their grace, and none comes until it is uncordoned."""
    namespace.make(way.pod("app", way.server()))
    namespace.ready("app")
    selector = "--pod-selector=drained=yes"
    namespace.kubectl("label", "pod", "app", "drained=yes")
    try:
        namespace.cluster("drain", NODE, "--ignore-daemonsets", "--force", selector,
                          "--delete-emptydir-data", timeout_s=90)  # fmt: skip
        assert namespace.get("pods")["items"] == []
        namespace.make(way.pod("later", way.server()))
        namespace.waiting("later", "node(s) were unschedulable")
    finally:
        namespace.cluster("uncordon", NODE)
    namespace.ready("later")
