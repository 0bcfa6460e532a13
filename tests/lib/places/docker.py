# SPDX-License-Identifier: Apache-2.0
"""Docker to run guests with: Debian's containerd and dockerd, with runc and urunc as runtimes.

Everything that they keep is in the place's tmpfs; the socket too. dockerd has urunc by its path
alone (`urunc`), and with each configuration of the place as its argument (`urunc-configured`, and
`urunc-NAME` for the others): for these it writes a shell script that it gives to containerd's shim
as the runtime.
Images come by `docker load`: it has no network but its own bridges. Needs root, and the package
docker.io (with containerd, runc and iptables).
"""

from __future__ import annotations

import json
import os

from lib.places.engine import ENVIRONMENT, Engine

DOCKER = "/usr/bin/docker"
CONTAINERD = "/usr/bin/containerd"
DOCKERD = "/usr/sbin/dockerd"
PROGRAMS = (DOCKER, DOCKERD, CONTAINERD, "/usr/bin/containerd-shim-runc-v2", "/usr/sbin/iptables")


def available() -> bool:
    """Whether this machine has the programs and this process the rights."""
    return os.geteuid() == 0 and all(map(os.path.exists, PROGRAMS))


class Docker(Engine):
    """The place: `with Docker(urunc) as docker: docker("run", "--runtime", "urunc", IMAGE)`.

    With `shim` the daemon's containerd has urunc's shim by the name of runc's: this Docker takes no
    runtime by a shim's name, and asks for that one always.
    """

    def __init__(
        self, runtime: str, config: str = "", *, shim: bool = False, **configs: str
    ) -> None:
        super().__init__(runtime, config, **configs)
        self.shim = f"{os.path.dirname(runtime)}/containerd-shim-urunc-v2" if shim else ""

    @property
    def daemons(self) -> str:
        """containerd finds shims on its PATH."""
        programs = f"{self.space}/programs"
        return f"""
        mkdir {programs}
        [ -z "{self.shim}" ] || ln -s "{self.shim}" {programs}/containerd-shim-runc-v2
        PATH={programs}:{ENVIRONMENT["PATH"]} {CONTAINERD} \\
            --config /etc/containerd/tests.toml >"$here/containerd.log" 2>&1 &
        {DOCKERD} >"$here/dockerd.log" 2>&1 &
        """

    gateway_form = "{{(index .IPAM.Config 0).Gateway}}"
    states = ("{space}/exec/runtime-*/moby/*",)

    def command(self, *words: str) -> list[str]:
        client = [DOCKER, "--config", f"{self.space}/client"]
        return [*client, "--host", f"unix://{self.space}/docker.sock", *words]

    def is_up(self) -> bool:
        return self("version", check=False).returncode == 0

    def files(self) -> dict[str, str]:
        space = self.space
        configured = {
            "urunc-configured" if name == "config" else f"urunc-{name}": {
                "path": self.runtime,
                "runtimeArgs": ["--config", f"/etc/urunc/{name}.toml"],
            }
            for name in self.configs
        }
        daemon = {
            "runtimes": {"urunc": {"path": self.runtime}, **configured},
            "data-root": f"{space}/docker",
            "exec-root": f"{space}/exec",
            "pidfile": f"{space}/docker.pid",
            "hosts": [f"unix://{space}/docker.sock"],
            "containerd": f"{space}/containerd.sock",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "cgroup-parent": f"/{self.group}",
            "storage-driver": "overlay2",
        }
        # the CRI plugin is for kubelets; without it nothing here sets an OOM score, which takes a
        # capability
        containerd = f"""
            version = 2
            root = "{space}/containerd"
            state = "/run/containerd"
            disabled_plugins = ["io.containerd.grpc.v1.cri"]
            [grpc]
            address = "{space}/containerd.sock"
            [plugins."io.containerd.internal.v1.opt"]
            path = "{space}/containerd/opt"
        """
        return {
            "docker/daemon.json": json.dumps(daemon, indent=2),
            "containerd/tests.toml": containerd,
        }
