# SPDX-License-Identifier: Apache-2.0
"""Deployments of a server: probes, services, rolling updates, scale, port-forward, logs."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable

from lib.in_cluster import PORT, Namespace, Way, deployment, eventually, get, rolled_out
from lib.patience import patient
from lib.places.cluster import Object

SERVICE: Object = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "app"},
    "spec": {"selector": {"app": "app"}, "ports": [{"port": 80, "targetPort": PORT}]},
}


def test_a_deployment(namespace: Namespace, way: Way) -> None:
    """It is started, ready and alive by probes of all kinds; its service leads to it; a rolling
    update never leaves the service without an answer; one that is not well is started again."""
    probes: Object = {
        "startupProbe": get(failureThreshold=60),
        "readinessProbe": get(),
        "livenessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
    }
    namespace.make(deployment(way, way.server(**probes), replicas=2), SERVICE)
    rolled_out(namespace)
    address = namespace.get("service", "app")["spec"]["clusterIP"]
    assert namespace.page(address, port=80) == "one\n"
    slices = namespace.get("endpointslices", "--selector=kubernetes.io/service-name=app")
    ready = [end for part in slices["items"] for end in part["endpoints"]
             if end["conditions"]["ready"]]  # fmt: skip
    assert len(ready) == 2
    namespace.make(deployment(way, way.server(page="two", **probes), replicas=2))
    seen: set[str] = set()
    end = time.monotonic() + patient(120)
    while seen != {"two\n"} or not _is_updated(namespace):
        assert time.monotonic() < end, namespace.kubectl("get", "pods", "--output=wide")
        seen = {namespace.page(address, port=80) for _ in range(4)}
        assert seen <= {"one\n", "two\n"}


def _is_updated(namespace: Namespace) -> bool:
    status = namespace.get("deployment", "app")["status"]
    return bool(status.get("updatedReplicas") == status.get("replicas") == 2)


def test_scale(namespace: Namespace, way: Way, measured: Callable[[str], None]) -> None:
    """From 1 to 20 and back: how long until all are ready, and until all are gone."""
    namespace.make(deployment(way, way.server(readinessProbe=get())))
    rolled_out(namespace)
    begin = time.monotonic()
    namespace.kubectl("scale", "deployment/app", "--replicas=20")
    rolled_out(namespace, 300)
    up_s = time.monotonic() - begin
    addresses = [pod["status"]["podIP"] for pod in namespace.get("pods")["items"]]
    assert len(set(addresses)) == 20
    assert {namespace.page(address) for address in addresses} == {"one\n"}
    begin = time.monotonic()
    namespace.kubectl("scale", "deployment/app", "--replicas=1")
    eventually(lambda: len(namespace.get("pods")["items"]) == 1, "pods stay", 300)
    down_s = time.monotonic() - begin
    measured(f"scale 1 → 20 → 1, {way.name}: {up_s:.1f} s up, {down_s:.1f} s down")


def test_probes_that_fail(namespace: Namespace, way: Way) -> None:
    """One that is not ready has no traffic; one that is not alive is started again, and both are
    said in its events."""
    container = way.server(
        livenessProbe=get(failureThreshold=2), readinessProbe=get(failureThreshold=1)
    )
    namespace.make(way.pod("app", container))
    address = namespace.ready("app")
    if way.guest:
        with contextlib.suppress(AssertionError):
            namespace.cluster.run("busybox", "wget", "-qO-", f"http://{address}:{PORT}/fail")
    else:
        namespace.kubectl("exec", "app", "--", "rm", "/www/index.html")
    said = namespace.waiting("app", "failed liveness probe, will be restarted")
    assert "Readiness probe failed: HTTP probe failed with statuscode: " in said
    assert "Liveness probe failed: HTTP probe failed with statuscode: " in said
    eventually(
        lambda: namespace.container("app")["restartCount"] == 1, lambda: namespace.told("app")
    )
    assert namespace.page(namespace.ready("app")) == "one\n"


def test_logs_follow(namespace: Namespace, way: Way) -> None:
    """`kubectl logs --follow` ends with the container, and has all of it."""
    container = way.server()
    if way.guest:
        container["args"] = ["app", "probe.serve=6000", "probe.beat=1000"]
    else:
        container["command"] = ["/bin/sh", "-c", "for n in 1 2 3 4 5; do echo beat; sleep 1; done"]
    namespace.make(way.pod("app", container, restartPolicy="Never"))
    eventually(lambda: namespace.container("app").get("started"), lambda: namespace.told("app"))
    said = namespace.kubectl("logs", "app", "--follow", timeout_s=60)
    assert said.count("beat") >= 4


def test_port_forward(namespace: Namespace, way: Way) -> None:
    """A port of the pod's on the user's machine."""
    namespace.make(way.pod("app", way.server()))
    namespace.ready("app")
    cluster = namespace.cluster
    words = cluster.command("--namespace", namespace.name, "port-forward", "pod/app", f"9:{PORT}")
    forward = subprocess.Popen([*cluster.prefix, *words], stdout=subprocess.PIPE, text=True)
    try:
        assert forward.stdout
        assert forward.stdout.readline().startswith("Forwarding from 127.0.0.1:9")
        assert namespace.page("127.0.0.1", port=9) == "one\n"
    finally:
        forward.terminate()
        forward.communicate()


def test_ipv6(namespace: Namespace, way: Way) -> None:
    """A pod has an address of each family, and answers at both; a service of IPv6 leads to it. (The
    probe knows IPv4 alone.)"""
    container = way.shell(
        f"exec httpd -f -p {PORT} -h /www",
        ports=[{"containerPort": PORT}],
        readinessProbe={"tcpSocket": {"port": PORT}, "periodSeconds": 1},
    )
    service = SERVICE | {"spec": SERVICE["spec"] | {"ipFamilies": ["IPv6"]}}
    namespace.make(way.pod("app", container, labels={"app": "app"}), service)
    namespace.ready("app", 120)
    addresses = [item["ip"] for item in namespace.status("app")["podIPs"]]
    assert [":" in address for address in addresses] == [False, True]
    assert {namespace.page(address) for address in addresses} == {"none\n"}
    address = namespace.get("service", "app")["spec"]["clusterIP"]
    assert ":" in address
    assert namespace.page(address, port=80) == "none\n"
