# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes cluster of one node: the real programs of a control plane, a kubelet, kube-proxy and
etcd beside containerd 2, in a place as the engines have them.

The node has a /var/lib, /var/log, /opt and /usr/local of its own, so what an installer does to it
is the place's; a device that leads nowhere carries its addresses, pods are on a bridge, services
are nftables' rules. Images come from a registry that somebody has to run in the place's network.
Needs root, etcd (etcd-server), CNI's plugins, and what `make tools` and `make kubernetes` build.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import time
from typing import Any

from lib.patience import patient
from lib.places import kubernetes
from lib.places.containerd import Containerd
from lib.places.engine import CGROUPS, ENVIRONMENT

Object = dict[str, Any]


def available(programs: pathlib.Path) -> bool:
    """Whether the programs are there."""
    return (
        os.geteuid() == 0
        and kubernetes.complete(programs)
        and all(map(shutil.which, ("etcd", "openssl", "nft")))
    )


class Cluster(Containerd):
    """The place: `with Cluster(URUNC, containerd, kubernetes) as cluster: cluster.apply(…)`.

    `engine` is the directory of containerd 2, `programs` that of Kubernetes. Called, it is kubectl:
    `cluster("get", "pods")`. No urunc is installed: that is an installer's work.
    """

    up_s = 240

    def __init__(self, engine: str, programs: str, config: str = "") -> None:
        super().__init__("/usr/local/bin/urunc", config, engine)
        self.kubernetes = programs

    @property
    def daemons(self) -> str:
        path = f"/usr/local/bin:{ENVIRONMENT['PATH']}"
        beside = os.path.dirname(self.program)
        containerd = f"{self.program} --config /etc/containerd/config.toml"
        return f"""
        for directory in /var/lib /var/log /opt /usr/local; do
            mount -t tmpfs -o mode=755 tmpfs "$directory"
        done
        mkdir -p /usr/local/bin /var/log/pods
        # with its own shim and its own runc: a distribution's may have no user namespaces for pods
        ln -s {beside}/containerd-shim-runc-v2 {beside}/runc /usr/local/bin
        mount --make-rshared /
        export PATH={path}
        (while :; do {containerd} >>"$here/containerd.log" 2>&1 || sleep 0.1; done) &
        {kubernetes.daemons(self.kubernetes)}
        """

    def files(self) -> dict[str, str]:
        return kubernetes.files(self.group)

    def command(self, *words: str) -> list[str]:
        return kubernetes.kubectl(self.kubernetes, *words)

    def boot(self, undo: Any) -> None:
        """As any engine, in a control group that is there: a kubelet wants its pods' parent."""
        undo.callback(self._remove_groups)
        for root in (CGROUPS, *CGROUPS.glob("*")):
            if (root / "cgroup.procs").exists() and not root.is_symlink():
                group = root / self.group
                group.mkdir()
                for name in ("cpuset.cpus", "cpuset.mems"):  # v1: nothing joins a group without
                    if (root / name).exists() and (root / "tasks").exists():
                        (group / name).write_text((root / name).read_text())
        super().boot(undo)

    def beside(self, *words: str) -> subprocess.Popen[bytes]:
        """A program of the node's that runs until it is ended."""
        with (self._here / f"{os.path.basename(words[0])}.log").open("ab") as log:
            return subprocess.Popen([*self.prefix, *words], stdout=log, stderr=log)

    def is_up(self) -> bool:
        """Whether the node is ready for pods."""
        time.sleep(0.5)
        result = self("get", "node", kubernetes.NODE, "--output=json", check=False)
        if result.returncode:
            return False
        conditions = json.loads(result.stdout)["status"].get("conditions", [])
        return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)

    def apply(self, *objects: Object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Create or change objects."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        return self("apply", "--filename=-", stdin=json.dumps(items), check=check)

    def get(self, *words: str) -> Any:
        """Objects."""
        return json.loads(self("get", *words, "--output=json").stdout)

    def until(self, *words: str, timeout_s: float = 60) -> None:
        """`kubectl wait`."""
        limit = patient(timeout_s)
        self("wait", *words, f"--timeout={limit:.0f}s", timeout_s=limit + 30)
