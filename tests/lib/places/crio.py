# SPDX-License-Identifier: Apache-2.0
"""CRI-O to run pods with, by CRI: a crio and its pinns on PATH (`make tools` builds them, since
Debian 12 has none); conmon is the distribution's.

Everything that it keeps is in the place's tmpfs; the socket too. Images come from a registry that
somebody has to run in the place's network; pods are on a bridge. urunc is called by its path, as
`runtime_type = "oci"` has it. Needs root, runc, CNI's plugins.
"""

from __future__ import annotations

import json
import os
import shutil

from lib.places import cni
from lib.places.containerd import REGISTRY
from lib.places.engine import ENVIRONMENT, Engine

PROGRAMS = ("crio", "pinns", "conmon", "runc")


def available() -> bool:
    """Whether this machine has the programs and this process the rights."""
    return os.geteuid() == 0 and all(map(shutil.which, PROGRAMS))


def found(name: str) -> str:
    """Where a program is."""
    return shutil.which(name) or ""


class Crio(Engine):
    """The place: `with Crio(urunc) as crio: Cri(crio.seen(crio.socket))`. Pods choose the handler
    `urunc` or `runc`."""

    states = ("run/urunc/*", "run/runc/*", "run/crio/exits/*", "run/crio/ns/*")

    @property
    def socket(self) -> str:
        """Where CRI is answered."""
        return f"{self.space}/crio.sock"

    @property
    def daemons(self) -> str:
        """Kept by a loop: one that is killed comes back, as under systemd."""
        return f"""
        mount -t tmpfs -o mode=755 tmpfs /var/lib  # where libcni keeps its results
        (while :; do
            PATH={ENVIRONMENT["PATH"]} {found("crio")} --config /etc/crio/tests.conf \\
                --config-dir '' >>"$here/crio.log" 2>&1 || sleep 0.1
        done) &
        """

    def command(self, *words: str) -> list[str]:
        return [found("crio"), "status", "--socket", self.socket, *words]

    def is_up(self) -> bool:
        return self("info", check=False).returncode == 0

    def holds(self) -> dict[str, set[str]]:
        """The same, but for CRI-O itself, which may be another after a restart."""
        held = super().holds()
        held["processes"] = {line for line in held["processes"] if f" {found('crio')}" not in line}
        return held

    def files(self) -> dict[str, str]:
        space = self.space
        return {
            "crio/tests.conf": f"""
                [crio]
                root = "{space}/storage"
                runroot = "/run/containers/storage"
                storage_driver = "overlay"
                log_dir = "/run/crio/logs"
                version_file = "/run/crio/version"
                version_file_persist = ""
                clean_shutdown_file = ""
                [crio.api]
                listen = "{self.socket}"
                stream_address = "127.0.0.1"
                stream_port = "0"
                [crio.image]
                pause_image = "{REGISTRY}/pause:latest"
                signature_policy = "/etc/crio/policy.json"
                [crio.network]
                network_dir = "/etc/cni/tests.d"
                plugin_dirs = ["{cni.directory()}"]
                [crio.nri]
                enable_nri = false
                [crio.runtime]
                default_runtime = "runc"
                cgroup_manager = "cgroupfs"
                conmon_cgroup = "pod"
                pinns_path = "{found("pinns")}"
                namespaces_dir = "/run/crio/ns"
                hooks_dir = []
                log_level = "info"
                [crio.runtime.runtimes.runc]
                runtime_path = "{found("runc")}"
                runtime_type = "oci"
                runtime_root = "/run/runc"
                monitor_path = "{found("conmon")}"
                monitor_cgroup = "pod"
                [crio.runtime.runtimes.urunc]
                runtime_path = "{self.runtime}"
                runtime_type = "oci"
                runtime_root = "/run/urunc"
                monitor_path = "{found("conmon")}"
                monitor_cgroup = "pod"
            """,
            "containers/registries.conf.d/tests.conf": f"""
                [[registry]]
                location = "{REGISTRY}"
                insecure = true
            """,
            "crio/policy.json": json.dumps({"default": [{"type": "insecureAcceptAnything"}]}),
            "cni/tests.d/pods.conflist": json.dumps(
                cni.bridge("pods", "10.89.0.0/24", version="0.4.0", ipMasq=False)
            ),
        }
