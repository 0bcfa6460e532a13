# SPDX-License-Identifier: Apache-2.0
"""What the parts of a one-node Kubernetes cluster are told: command lines and files, no process.

Each part is an administrator by a token; what is told from each other here is the runtime's work,
not Kubernetes' own rights. Addresses are of both families.
"""

from __future__ import annotations

import json
import pathlib
import uuid
from typing import Any

from lib.places import cni, registry

PROGRAMS = (
    *("kube-apiserver", "kube-controller-manager", "kube-scheduler"),
    *("kubelet", "kube-proxy", "kubectl"),
)
POLICIES = "kube-router"
"""Not of Kubernetes: enforces network policies."""
NODE = "node"
ADDRESSES = ("10.90.0.1", "fd00:90::1")
"""The node's own."""
PODS = ("10.91.0.0/16", "fd00:91::/64")
SERVICES = ("10.96.0.0/24", "fd00:96::/112")
API = f"https://{ADDRESSES[0]}:6443"
NAME_SERVER = "10.96.0.10"
SETTINGS = "/etc/kubernetes"
CERTIFICATES = "/run/kubernetes"
KUBECONFIG = f"{SETTINGS}/admin.conf"
REGISTRY = ":".join(map(str, registry.ADDRESS))
SOCKET = "/run/containerd/containerd.sock"
OWN_SHIM = "urunc-shim"
"""The handler by which pods have urunc's own shim, beside the one that the installer makes."""

NEVER_EVICTED = (
    *("memory.available", "nodefs.available", "nodefs.inodesFree"),
    *("imagefs.available", "imagefs.inodesFree"),
)
"""What pods are not evicted for: this machine is others' too."""
TUNABLES = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
"""What a kubelet sets of the kernel, which is the machine's: here it finds it set."""


def kubectl(programs: str, *words: str) -> list[str]:
    """kubectl's command line."""
    return [f"{programs}/kubectl", "--kubeconfig", KUBECONFIG, *words]


def daemons(programs: str) -> str:
    """Shell commands that start all but containerd; `$here` is the place's directory."""
    client = f"--kubeconfig={KUBECONFIG}"
    parts = {
        "etcd": (
            "etcd --data-dir=/var/lib/etcd --listen-client-urls=http://127.0.0.1:2379 "
            "--advertise-client-urls=http://127.0.0.1:2379 --listen-peer-urls=http://127.0.0.1:2380"
        ),
        "kube-apiserver": (
            f"{programs}/kube-apiserver --etcd-servers=http://127.0.0.1:2379 "
            f"--advertise-address={ADDRESSES[0]} --service-cluster-ip-range={','.join(SERVICES)} "
            f"--cert-dir={CERTIFICATES} --service-account-issuer=https://kubernetes.default.svc "
            f"--service-account-key-file={CERTIFICATES}/accounts.pub "
            f"--service-account-signing-key-file={CERTIFICATES}/accounts.key "
            f"--token-auth-file={SETTINGS}/tokens.csv --authorization-mode=RBAC "
            "--allow-privileged=true --kubelet-preferred-address-types=InternalIP"
        ),
        "kube-controller-manager": (
            f"{programs}/kube-controller-manager {client} --leader-elect=false "
            f"--service-account-private-key-file={CERTIFICATES}/accounts.key "
            f"--root-ca-file={CERTIFICATES}/apiserver.crt"
        ),
        "kube-scheduler": f"{programs}/kube-scheduler {client} --leader-elect=false",
        "kube-proxy": f"{programs}/kube-proxy --config={SETTINGS}/kube-proxy.json",
        "kubelet": (
            f"{programs}/kubelet --config={SETTINGS}/kubelet.json {client} "
            f"--hostname-override={NODE} --node-ip={','.join(ADDRESSES)}"
        ),
    }
    lines = [
        f"mkdir -p {CERTIFICATES}",
        f"openssl genrsa -out {CERTIFICATES}/accounts.key 2048 2>/dev/null",
        f"openssl rsa -in {CERTIFICATES}/accounts.key -pubout -out {CERTIFICATES}/accounts.pub "
        "2>/dev/null",
        "ip link add node0 type veth peer name uplink",
        "ip link set uplink up",
        "ip link set node0 up",
        f"ip addr add {ADDRESSES[0]}/24 dev node0",
        f"ip addr add {ADDRESSES[1]}/64 dev node0 nodad",
        "ip route add default dev node0",
        "ip -6 route add default dev node0",
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        "sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1",
        'mkdir -p "$here/tunables/kernel/keys" "$here/tunables/vm"',
    ]
    for name, value in TUNABLES.items():
        lines.append(f'echo {value} >"$here/tunables/{name}"')
        lines.append(f'mount --bind "$here/tunables/{name}" /proc/sys/{name}')
    # one that nothing is mounted over: else the kernel lets no user namespace mount its own
    lines += ["mkdir /run/whole-proc", "mount -t proc proc /run/whole-proc"]
    for name, command in parts.items():
        # kept, as under systemd: one that ends, or is ended, comes back
        lines.append(f'(while :; do {command} >>"$here/{name}.log" 2>&1 || :; sleep 0.5; done) &')
    return "\n".join(lines)


def policies(programs: str) -> list[str]:
    """The command line of a controller of network policies."""
    return [
        f"{programs}/{POLICIES}", "--kubeconfig", KUBECONFIG, "--hostname-override", NODE,
        "--run-firewall=true", "--run-router=false", "--run-service-proxy=false",
        "--run-loadbalancer=false", "--enable-ipv4", "--enable-ipv6", "--health-port=0",
        "--service-cluster-ip-range", ",".join(SERVICES),
    ]  # fmt: skip


def files(group: str) -> dict[str, str]:
    """Files of /etc; `group` is the control group of all pods."""
    token = uuid.uuid4().hex
    return {
        "kubernetes/tokens.csv": f"{token},admin,admin,system:masters\n",
        "kubernetes/admin.conf": json.dumps(_kubeconfig(token)),
        "kubernetes/kubelet.json": json.dumps(_kubelet(group)),
        "kubernetes/kube-proxy.json": json.dumps(_proxy()),
        "cni/tests.d/pods.conflist": json.dumps(_network()),
        "containerd/config.toml": _containerd(),
        f"containerd/certs.d/{REGISTRY}/hosts.toml": f'server = "http://{REGISTRY}"\n',
    }


def _kubeconfig(token: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "tests", "cluster": {"server": API, "insecure-skip-tls-verify": True}}
        ],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "admin"}}],
        "current-context": "tests",
    }


def _kubelet(group: str) -> dict[str, Any]:
    """As kubeadm has it, but for what this machine lacks (systemd, a disk of its own), and for
    times that nobody wants to wait."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{group}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "clusterDNS": [NAME_SERVER],
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/resolv.conf",
        "evictionHard": dict.fromkeys(NEVER_EVICTED, "0%"),
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "syncFrequency": "5s",
        "nodeStatusUpdateFrequency": "2s",
        "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
    }


def _proxy() -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": KUBECONFIG},
        "hostnameOverride": NODE,
        "mode": "nftables",
        "clusterCIDR": ",".join(PODS),
        # the machine's own table of connections stays as it is
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }


def _network() -> dict[str, Any]:
    """Pods on a bridge of both families; what they say to each other passes the node's rules, too
    (br_netfilter), as services want it."""
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return cni.bridge("pods", *PODS, chained=[portmap], ipMasq=False)


def _containerd() -> str:
    runtime = 'plugins."io.containerd.cri.v1.runtime"'
    images = 'plugins."io.containerd.cri.v1.images"'
    return f"""
        version = 3
        root = "/var/lib/containerd"
        state = "/run/containerd"
        [grpc]
        address = "{SOCKET}"
        [plugins."io.containerd.internal.v1.opt"]
        path = "/var/lib/containerd/opt"
        [{images}.pinned_images]
        sandbox = "{REGISTRY}/pause:latest"
        [{images}.registry]
        config_path = "/etc/containerd/certs.d"
        [{runtime}]
        restrict_oom_score_adj = true
        [{runtime}.cni]
        bin_dirs = ["{cni.directory()}"]
        conf_dir = "/etc/cni/tests.d"
        [{runtime}.containerd]
        default_runtime_name = "runc"
        [{runtime}.containerd.runtimes.runc]
        runtime_type = "io.containerd.runc.v2"
        [{runtime}.containerd.runtimes.{OWN_SHIM}]
        runtime_type = "io.containerd.urunc.v2"
        pod_annotations = ["com.urunc.unikernel.*"]
        container_annotations = ["com.urunc.unikernel.*"]
    """


def complete(directory: pathlib.Path) -> bool:
    """Whether all of Kubernetes' programs are there."""
    return all((directory / name).exists() for name in PROGRAMS)
