# SPDX-License-Identifier: Apache-2.0
"""nerdctl in a place of containerd's: its networks are made by a createRuntime hook of its own and
CNI's plugins, its logs by a logging binary, which is itself."""

from __future__ import annotations

import pathlib
import subprocess

from lib.places import cni
from lib.places.containerd import Containerd


class Nerdctl(Containerd):
    """The place: `with Nerdctl(urunc, config, tools) as nerdctl: nerdctl("ps")`; containerd, its
    ctr and nerdctl are in the directory `tools`."""

    removal = ("rm", "--force")

    def command(self, *words: str) -> list[str]:
        options = {
            "address": f"{self.space}/containerd.sock",
            "namespace": "tests",
            "cgroup-manager": "cgroupfs",
            "cni-path": cni.directory(),
            "cni-netconfpath": f"{self.space}/cni",
            "data-root": f"{self.space}/nerdctl",
        }
        given = [f"--{name}={value}" for name, value in options.items()]
        return [str(pathlib.Path(self.program).parent / "nerdctl"), *given, *words]

    def is_up(self) -> bool:
        return self("info", check=False).returncode == 0

    def run_guest(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`nerdctl run`, with urunc's shim and a control group below the place's."""
        named = ("--runtime", "io.containerd.urunc.v2", "--cgroup-parent", f"/{self.group}")
        return self("run", *named, *words, check=check)
