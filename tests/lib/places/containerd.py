# SPDX-License-Identifier: Apache-2.0
"""containerd to run guests with, by its own client, ctr, and by CRI: Debian's containerd, with
urunc's shim on its PATH.

Everything that it keeps is in the place's tmpfs; the socket too. Images come by `ctr images import`
and, for pods, from a registry that somebody has to run in the place's network; pods are on a
bridge. Needs root, and the package containerd (with runc); for pods, CNI's plugins.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import re
import subprocess

from lib.places import cni, registry
from lib.places.engine import ENVIRONMENT, Engine

CONTAINERD = "/usr/bin/containerd"
CTR = "/usr/bin/ctr"
PROGRAMS = (CONTAINERD, CTR, "/usr/bin/containerd-shim-runc-v2")
SHIM = "io.containerd.urunc.v2"
PROGRAM = "containerd-shim-urunc-v2"
RUNC = "io.containerd.runc.v2"
REGISTRY = ":".join(map(str, registry.ADDRESS))
"""Where pods' images come from."""
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}
QUIET = "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1"
"""From 2.2 on ctr warns on standard error, of cgroup v1 too, whatever it is asked."""


def available() -> bool:
    """Whether this machine has the programs and this process the rights."""
    return os.geteuid() == 0 and all(map(os.path.exists, PROGRAMS))


def version_of(program: str) -> tuple[int, ...]:
    """A containerd's."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"\sv?(\d+)\.(\d+)\.(\d+)", said)
    assert found, said
    return tuple(map(int, found.groups()))


class Containerd(Engine):
    """The place: `with Containerd(urunc) as containerd: containerd("tasks", "ls")`.

    `runtime` is urunc's program; its shim stands beside it. `programs` is the directory of another
    containerd and its ctr.
    """

    def __init__(
        self, runtime: str, config: str = "", programs: str = "/usr/bin", **configs: str
    ) -> None:
        super().__init__(runtime, config, **configs)
        self.program = f"{programs}/containerd"
        self.client = f"{programs}/ctr"

    states = ("run/containerd/urunc/*/*", "run/containerd/runc/*/*", "run/containerd/s/*",
              "run/containerd/io.containerd.runtime.v2.task/*/*")  # fmt: skip

    @property
    def daemons(self) -> str:
        """Kept by a loop: a containerd that is killed comes back, as under systemd."""
        programs = (os.path.dirname(self.runtime), os.path.dirname(self.program))
        path = ":".join((*programs, ENVIRONMENT["PATH"]))
        return f"""
        mount -t tmpfs -o mode=755 tmpfs /var/lib  # where libcni keeps its results
        (while :; do
            PATH={path} {self.program} --config /etc/containerd/tests.toml \\
                >>"$here/containerd.log" 2>&1 || sleep 0.1
        done) &
        """

    @functools.cached_property
    def version(self) -> tuple[int, ...]:
        """containerd's."""
        return version_of(self.program)

    def import_for(self, snapshotter: str, image: pathlib.Path) -> None:
        """`ctr images import`, unpacked for a snapshotter: containerd 2 does that for the one
        of its configuration alone."""
        local = ("--local",) if self.version >= (2,) else ()
        self("images", "import", *local, "--snapshotter", snapshotter, str(image))

    @property
    def socket(self) -> str:
        """Where it is asked, by CRI too."""
        return f"{self.space}/containerd.sock"

    def command(self, *words: str) -> list[str]:
        client = ["env", QUIET, self.client, "--address", self.socket]
        return [*client, "--namespace", "tests", *words]

    def is_up(self) -> bool:
        return self("version", check=False).returncode == 0

    def launch(
        self, identifier: str, image: str, *command: str, runtime: str = SHIM,
        options: tuple[str, ...] = (), check: bool = True, timeout_s: float = 60,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """`ctr run`: a container of an image of the tests' own."""
        words = ["run", "--runtime", runtime, "--cgroup", f"/{self.group}/{identifier}", *options]
        name = f"docker.io/library/{image}:latest"
        return self(*words, name, identifier, *command, check=check, timeout_s=timeout_s)

    def remove_group(self, name: str) -> None:
        """Remove the empty control group of a containerd namespace, which clients that take no
        other parent leave."""
        script = 'rmdir /sys/fs/cgroup/"$0" /sys/fs/cgroup/*/"$0"'
        self.run("sh", "-c", script, name, check=False)

    def holds(self) -> dict[str, set[str]]:
        """The same, but for containerd itself, which may be another after a restart."""
        held = super().holds()
        held["processes"] = {line for line in held["processes"] if self.program not in line}
        return held

    def files(self) -> dict[str, str]:
        space = self.space
        return {
            "containerd/tests.toml": f"""
                version = 2
                root = "{space}/containerd"
                state = "/run/containerd"
                [grpc]
                address = "{self.socket}"
                [plugins."io.containerd.internal.v1.opt"]
                path = "{space}/containerd/opt"
                [plugins."io.containerd.grpc.v1.cri"]
                restrict_oom_score_adj = true
                sandbox_image = "{REGISTRY}/pause:latest"
                [plugins."io.containerd.grpc.v1.cri".registry]
                config_path = "/etc/containerd/certs.d"
                [plugins."io.containerd.grpc.v1.cri".cni]
                bin_dir = "{cni.directory()}"
                conf_dir = "/etc/cni/tests.d"
                [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
                runtime_type = "io.containerd.runc.v2"
                [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.urunc]
                runtime_type = "{SHIM}"
                pod_annotations = ["com.urunc.unikernel.*"]
                container_annotations = ["com.urunc.unikernel.*"]
                [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.by-path]
                runtime_type = "{RUNC}"
                runtime_path = "{self.runtime.rpartition("/")[0]}/{PROGRAM}"
                pod_annotations = ["com.urunc.unikernel.*"]
                container_annotations = ["com.urunc.unikernel.*"]
                [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runcs-shim]
                runtime_type = "{RUNC}"
                pod_annotations = ["com.urunc.unikernel.*"]
                container_annotations = ["com.urunc.unikernel.*"]
                [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runcs-shim.options]
                BinaryName = "{self.runtime}"
            """,
            # whatever an image's name begins with; by HTTP, which containerd 2 has to be told
            "containerd/certs.d/_default/hosts.toml": f'[host."http://{REGISTRY}"]\n',
            "cni/tests.d/pods.conflist": json.dumps(
                cni.bridge("pods", "10.89.0.0/24", chained=[PORTMAP], version="0.4.0", ipMasq=False)
            ),
        }
