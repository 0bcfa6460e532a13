# SPDX-License-Identifier: Apache-2.0
"""nerdctl's configuration, of which it needs none: containerd finds urunc's shim on its PATH."""

from __future__ import annotations

from typing import Any

from urunc.installer import engine_view
from urunc.installer.containerd_node import find_containerd
from urunc.installer.host import DIRECTORIES, Failure, Host, started_with
from urunc.installer.node import HANDLER, SHIM_TYPE, Changes, Node, Runtime


class NerdctlNode(Node):
    """A nerdctl, with the containerd that it asks."""

    @property
    def use(self) -> str:
        return f"nerdctl run --rm --runtime {SHIM_TYPE} IMAGE"

    def view(self, changed: Changes) -> engine_view.Parsed:
        return {}

    def runtimes(self, parsed: engine_view.Parsed) -> dict[str, Any]:
        return {}

    def clean(self) -> Changes:
        return {}

    def wanted(
        self, runtime: Runtime, before: engine_view.Parsed, clean: Changes
    ) -> tuple[Changes, Changes | None]:
        return {}, None

    def changes(self, runtime: Runtime) -> Changes:
        """None; raises Failure where containerd would not find the shim."""
        directory = f"{runtime.prefix}/bin"
        searched = self._searched()
        if directory not in searched:
            raise Failure(
                f"containerd looks for shims in {':'.join(searched)}, where {directory} is not: "
                "please choose another --prefix, or add it to the PATH of its service"
            )
        return {}

    def _searched(self) -> list[str]:
        """The PATH of the containerd that runs, or else what systemd gives its services."""
        pid = self.host.listener(self.socket)
        if pid > 0:
            try:
                for item in started_with(pid, "environ"):
                    if item.startswith("PATH="):
                        return item.removeprefix("PATH=").split(":")
            except OSError:
                pass
        return list(DIRECTORIES)

    def has_runtime(self) -> bool:
        """Whether there is a shim where containerd looks."""
        return bool(
            self.host.program(f"containerd-shim-{HANDLER}-v2", directories=tuple(self._searched()))
        )


def find_nerdctl(host: Host, config: str = "", socket: str = "") -> Node | None:
    """The machine's nerdctl; None where it has none, or no containerd."""
    program = host.program("nerdctl")
    engine = find_containerd(host, config, socket)
    if not program or not engine:
        return None
    return NerdctlNode(host, "nerdctl", program, engine.config, engine.socket, engine.units)
