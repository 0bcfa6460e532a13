# SPDX-License-Identifier: Apache-2.0
"""NetworkPolicy, with kube-router as the controller that Kubernetes itself does not have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lib.in_cluster import PORT, RUNC, Namespace, Way, eventually
from lib.places import kubernetes
from lib.places.cluster import Cluster
from lib.support import TOOLS, need

CLEAN = "for it in iptables ip6tables; do $it -F && $it -X; done; ipset destroy"
"""Leaves no rule in the tables `filter`, where kube-router has its own; a kubelet puts its back."""
POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "friends"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "app"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}]}],
    },
}


@contextlib.contextmanager
def controller(cluster: Cluster) -> Iterator[None]:
    """Policies are enforced."""
    process = cluster.beside(*kubernetes.policies(str(TOOLS / "kubernetes")))
    try:
        yield
    finally:
        process.terminate()
        process.wait()
        cluster.run("sh", "-c", CLEAN)


def test_who_may_ask(namespace: Namespace, way: Way) -> None:
    """A policy lets one pod ask a server and refuses another, and when it is gone all may."""
    need("kube-router")
    idle = RUNC.shell("sleep 6000", memory="32Mi")
    namespace.make(
        way.pod("app", way.server(), labels={"app": "app"}),
        RUNC.pod("friend", idle, labels={"role": "friend"}),
        RUNC.pod("other", idle),
    )
    address = namespace.ready("app")

    def asks(pod: str) -> bool:
        words = (f"--namespace={namespace.name}", "exec", pod, "--")
        fetch = ("timeout", "5", "wget", "-qO-", f"http://{address}:{PORT}/")
        return namespace.cluster(*words, *fetch, check=False).stdout == "one\n"

    for pod in ("friend", "other"):
        namespace.ready(pod)
        assert asks(pod)
    with controller(namespace.cluster):
        namespace.make(POLICY)
        eventually(lambda: not asks("other"), "the policy has no effect")
        assert asks("friend")
        namespace.kubectl("delete", "networkpolicy", "friends")
        eventually(lambda: asks("other"), "the policy stays")
