# SPDX-License-Identifier: Apache-2.0
"""What a pod may ask for in Kubernetes, and what becomes of it for a guest and for an ordinary
container: the rows of a table in docs/kubernetes.md, each with the test of tests/cluster that shows
it (tests/unit/test_tables sees that there is one)."""

from __future__ import annotations

from typing import NamedTuple


class Item(NamedTuple):
    """A row."""

    what: str
    runc: str
    guest: str
    test: str
    """MODULE::TEST, without `test_cluster_` and `test_`."""
    instead: str = ""
    """What a user does where the guest's cell is not `yes`."""


LINUX = "a Linux guest: yes"

ITEMS = (
    Item("installation by the DaemonSet, label of the node", "", "yes", "node::installed"),
    Item("a RuntimeClass's overhead", "none", "in the pod's limit", "node::overhead"),
    Item("a kubelet, a containerd that is killed and comes back", "yes", "yes", "node::restarts"),
    Item("`kubectl drain`, uncordon", "yes", "yes", "node::drain"),
    Item("Deployment; startup, readiness, liveness probes by HTTP and TCP; Service by kube-proxy; "
         "rolling update", "yes", "yes", "serving::a_deployment"),
    Item("1 → 20 → 1 replicas", "yes", "yes", "serving::scale"),
    Item("a probe that fails: not ready, started again, events", "yes", "yes",
         "serving::probes_that_fail"),
    Item("`kubectl logs --follow`", "yes", "yes, the console", "serving::logs_follow"),
    Item("`kubectl port-forward`", "yes", "yes", "serving::port_forward"),
    Item("a server at a pod's addresses of both families, a Service of IPv6", "yes", LINUX,
         "serving::ipv6", "the probe knows IPv4 alone"),
    Item("NetworkPolicy, enforced by kube-router", "yes", "yes", "policies::who_may_ask"),
    Item("a pod of Knative's shape: all requests through a proxy", "yes", "yes",
         "knative::requests"),
    Item("from zero: the time to the first answer", "yes", "yes", "knative::cold_start"),
    Item("init containers, native sidecars, a sidecar that fetches from its pod", "yes", "yes",
         "pods::sidecars"),
    Item("a guest as init container", "", "yes", "pods::a_guest_as_init_container"),
    Item("`hostAliases`, `dnsPolicy`, `dnsConfig`, the host's name", "yes", LINUX,
         "pods::names", "other guests: name servers alone"),
    Item("`kubectl debug`, an ephemeral container", "yes", "yes, beside the guest", "pods::debug"),
    Item("`kubectl exec`", "yes", "refused, with the reason", "pods::exec",
         "`kubectl debug`; the guest's own console"),
    Item("a resize in place", "yes", "of the control group", "pods::resize",
         "for a guest with more memory: a new pod"),
    Item("Pod Security `restricted`", "yes", "yes", "pods::restricted"),
    Item("`hostUsers: false`", "yes", "yes", "pods::user_namespaces"),
    Item("a guest that fills its memory", "", "stays within its limit", "endings::a_full_guest"),
    Item("a program that wants more memory than there is", "OOMKilled, 137",
         "a Linux guest with urunc's own shim: the same; with runc's shim: `Error`, 137",
         "endings::too_little_memory", "`--shim urunc` of the installer"),
    Item("`hostNetwork`", "yes", "no network in the guest", "pods::host_network", "a Service"),
    Item("Jobs: exit codes, backoff", "yes", "Solo5: yes; Unikraft: always 0",
         "endings::jobs", "[exit codes](monitors.md#why-a-container-ended)"),
    Item("a shell's exit code N", "yes", "a Linux guest with runc's shim: 2N+1",
         "endings::a_linux_guest_s_code"),
    Item("`terminationMessagePolicy: FallbackToLogsOnError`", "yes", "yes",
         "endings::the_end_of_the_log_is_the_message"),
    Item("a message in the file of `terminationMessagePath`", "yes", LINUX,
         "endings::the_message_in_a_file", "other guests: `FallbackToLogsOnError`"),
    Item("CrashLoopBackOff", "yes", "yes", "endings::a_crash_loop"),
    Item("the stop signal", "yes", "for guests that listen", "endings::stop",
         "[stop requests](monitors.md#stop-requests)"),
    Item("killed when the grace is over", "yes", "at once, where it does not listen",
         "endings::grace"),
    Item("ConfigMap, Secret, projected token, downward API, emptyDir on disk and in memory, "
         "subPath, hostPath, an image as volume", "yes", LINUX, "volumes::all_kinds"),
    Item("a ConfigMap that changes under a running container", "yes", f"{LINUX}, by virtiofs",
         "volumes::an_update", "without virtiofs: a new pod"),
    Item("a block volume (`volumeDevices`)", "yes", LINUX, "volumes::a_block_volume"),
    Item("a misspelt annotation", "", "a line in `kubectl logs`", "errors::a_misspelt_annotation",
         "`annotations.unknown = \"refuse\"`: an event"),
)  # fmt: skip


def cells() -> list[tuple[str, ...]]:
    """The table's."""
    return [(item.what, item.runc, item.guest, item.instead) for item in ITEMS]
