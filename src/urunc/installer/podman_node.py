# SPDX-License-Identifier: Apache-2.0
"""Podman's configuration: containers.conf, read by each podman. Of its drop-ins a later one's
tables are added to those before, and its lists replace them (containers.conf(5))."""

from __future__ import annotations

from typing import Any

from urunc.installer import config_text, engine_view
from urunc.installer.host import Failure, Host
from urunc.installer.node import HANDLER, Changes, DropInNode, Node, Runtime

DROP_IN = "/etc/containers/containers.conf.d/urunc.conf"
FILES = ("/usr/share/containers/containers.conf", "/etc/containers/containers.conf")
KNOWN = ["crun", "runc", "kata", "runsc", "youki", "krun"]
"""Podman's own list of runtimes whose log is JSON, if no file has one (containers-common 0.60)."""


class PodmanNode(DropInNode):
    """A podman."""

    drop_in = DROP_IN

    @property
    def is_service(self) -> bool:
        return False

    @property
    def use(self) -> str:
        return f"podman run --rm --runtime {HANDLER} IMAGE"

    def view(self, changed: Changes) -> engine_view.Parsed:
        """Without the list that urunc's lines repeat."""
        engine = self._engine(changed)
        engine.pop("runtime_supports_json", None)
        return {"engine": engine}

    def _engine(self, changed: Changes) -> dict[str, Any]:
        """The table `engine` of all files together."""
        directory = DROP_IN.rpartition("/")[0]
        drop_ins = {*self.host.matching(f"{directory}/*.conf"), *(changed.keys() - {*FILES})}
        engine: dict[str, Any] = {}
        for path in (*FILES, *sorted(drop_ins)):
            text = changed[path] if path in changed else self.host.read(path)
            if text is None:
                continue
            table = engine_view.table(config_text.parse(text, path), "engine")
            runtimes = [engine_view.table(each, "runtimes") for each in (engine, table)]
            engine |= {**table, "runtimes": {**runtimes[0], **runtimes[1]}}
        return engine

    def runtimes(self, parsed: engine_view.Parsed) -> dict[str, Any]:
        return engine_view.table(parsed, "engine", "runtimes")

    def wanted(
        self, runtime: Runtime, before: engine_view.Parsed, clean: Changes
    ) -> tuple[Changes, Changes | None]:
        if runtime.shim:
            raise Failure("podman has no shims: please leave --shim out")
        known = self._engine(clean).get("runtime_supports_json", KNOWN)
        table = config_text.table(("engine",), {"runtime_supports_json": [*known, HANDLER]})
        table += config_text.table(("engine", "runtimes"), {HANDLER: [runtime.program]})
        return {DROP_IN: config_text.made(table)}, None

    def has_runtime(self) -> bool:
        """Podman's own word, where it works at all."""
        words = ("--runtime", HANDLER, "info", "--format", "{{.Host.OCIRuntime.Path}}")
        result = self.host.run(self.program, *words, check=False)
        if result.returncode and "not found" not in result.stderr:
            return super().has_runtime()
        return not result.returncode


def find_podman(host: Host) -> Node | None:
    """The machine's podman."""
    program = host.program("podman")
    return PodmanNode(host, "podman", program, DROP_IN, "", ()) if program else None
