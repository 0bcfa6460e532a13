# SPDX-License-Identifier: Apache-2.0
"""CRI-O's configuration: it merges its drop-ins."""

from __future__ import annotations

import posixpath
from typing import Any

from urunc.installer import config_text, engine_view
from urunc.installer.host import Host
from urunc.installer.node import HANDLER, Changes, DropInNode, Node, Runtime

DROP_IN = "/etc/crio/crio.conf.d/99-urunc.conf"


class CrioNode(DropInNode):
    """A CRI-O."""

    drop_in = DROP_IN

    def view(self, changed: Changes) -> engine_view.Parsed:
        return engine_view.crio(self.host, self.program, posixpath.dirname(DROP_IN), changed)

    def runtimes(self, parsed: engine_view.Parsed) -> dict[str, Any]:
        return engine_view.table(parsed, "crio", "runtime", "runtimes")

    def wanted(
        self, runtime: Runtime, before: engine_view.Parsed, clean: Changes
    ) -> tuple[Changes, Changes | None]:
        monitors = [value.get("monitor_path", "") for value in self.runtimes(before).values()]
        values = runtime.crio(next(filter(None, monitors), ""))
        lines = config_text.table(("crio", "runtime", "runtimes", HANDLER), values)
        return {DROP_IN: config_text.made(lines)}, None


def find_crio(host: Host) -> Node | None:
    """The node's CRI-O."""
    program = host.program("crio")
    if not program or not host.exists("/etc/crio"):
        return None
    socket = engine_view.listen(host, program, posixpath.dirname(DROP_IN))
    return CrioNode(
        host,
        "crio",
        program,
        "/etc/crio/crio.conf",
        socket or "/run/crio/crio.sock",
        ("crio.service",),
    )
