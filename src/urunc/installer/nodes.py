# SPDX-License-Identifier: Apache-2.0
"""Which engine a node has.

What the engine's files shall hold is in the module of its kind.
"""

from __future__ import annotations

from collections.abc import Callable

from urunc.installer import containerd
from urunc.installer.containerd_node import find_containerd, find_rancher
from urunc.installer.crio_node import find_crio
from urunc.installer.docker_node import find_docker
from urunc.installer.host import Failure, Host
from urunc.installer.nerdctl_node import find_nerdctl
from urunc.installer.node import Node
from urunc.installer.podman_node import find_podman

AUTO = ("k3s", "rke2", "crio", "containerd")
"""Kinds that a kubelet can use, in the order in which they are looked for."""
KINDS = (*AUTO, "docker", "podman", "nerdctl")


def find(host: Host, kind: str = "auto", config: str = "", socket: str = "") -> Node:
    """The node's engine, of a kind or (`auto`) the one that a kubelet uses. Of several, k3s's and
    RKE2's own go first, since other engines are then somebody else's; of CRI-O and containerd, the
    one that runs."""
    makers: dict[str, Callable[[], Node | None]] = {
        "k3s": lambda: find_rancher(host, "k3s"),
        "rke2": lambda: find_rancher(host, "rke2"),
        "crio": lambda: find_crio(host),
        "containerd": lambda: find_containerd(host, config, socket),
        "docker": lambda: find_docker(host, config, socket),
        "podman": lambda: find_podman(host),
        "nerdctl": lambda: find_nerdctl(host, config, socket),
    }
    if kind != "auto":
        node = makers[kind]()
        if not node:
            looked = f": {containerd.places(host, socket)}" if kind == "containerd" else ""
            raise Failure(f"no {kind} on this node{looked}")
    else:
        found = [node for name in AUTO if (node := makers[name]())]
        if not found:
            raise Failure(
                f"no containerd, CRI-O, k3s or RKE2 on this node: {containerd.places(host, socket)}"
            )
        node = found[0]
        if node.kind == "crio" and len(found) > 1:
            active = [other for other in found if host.exists(other.socket)]
            if len(active) != 1:
                raise Failure("this node has CRI-O and containerd: please name one (--engine)")
            node = active[0]
    node.config = config or node.config
    node.socket = socket or node.socket
    return node
