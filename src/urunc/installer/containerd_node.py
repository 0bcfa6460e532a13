# SPDX-License-Identifier: Apache-2.0
"""containerd's configuration, and that of k3s and RKE2, which bring a containerd.

Which file gets urunc's lines depends on what the engine does with its files:

- containerd 2 merges what it imports: a drop-in of our own.
- containerd 1 replaces a plugin's whole table by an imported one, and its default runtimes by any
  that are configured: marked lines in the file whose table counts, with the runtimes that were
  there by default among them.
- k3s and RKE2 write containerd's configuration at each start: a drop-in where they import such,
  else marked lines in the template, on top of their own (`base`).
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

from urunc.installer import config_text, containerd, engine_view
from urunc.installer.host import DIRECTORIES, Failure, Host
from urunc.installer.node import HANDLER, Changes, Node, Runtime

RANCHER = "/var/lib/rancher"
DROP_IN = "/etc/containerd/conf.d/urunc.toml"
BESIDE = (((1, 6, 30), (1, 7)), ((1, 7, 16), (2**16,)))
"""Versions of containerd (from, before) in which relative patterns start beside the file."""


class ContainerdNode(Node):
    """A containerd, or one of k3s's or RKE2's."""

    def view(self, changed: Changes) -> engine_view.Parsed:
        return engine_view.containerd(
            self.host, self.program, self.config, changed, beside=self.has_patterns_beside
        )

    def runtimes(self, parsed: engine_view.Parsed) -> dict[str, Any]:
        return engine_view.runtimes(parsed)

    def clean(self) -> Changes:
        found: Changes = {}
        main = self.host.read(self.config)
        known = [self.config, *self._templates()]
        if main is not None:
            known += self._imported(main, {})
        for path in dict.fromkeys([*known, *self._drop_ins()]):
            old = self.host.read(path)
            if old is None:
                continue
            new = config_text.without_block(old)
            for added in self._drop_ins():
                new = config_text.without_import(new, added)
            if new != old:
                found[path] = None if config_text.is_made(old, new) else new
        return found

    def _imported(self, main: str, changed: Changes) -> list[str]:
        return engine_view.imported(
            self.host, self.config, main, changed, beside=self.has_patterns_beside
        )

    def _templates(self) -> list[str]:
        directory = posixpath.dirname(self.config)
        names = ("config.toml.tmpl", "config-v3.toml.tmpl") if self.is_rendered else ()
        return [f"{directory}/{name}" for name in names]

    def _drop_ins(self) -> list[str]:
        directory = posixpath.dirname(self.config)
        if self.is_rendered:
            return [
                f"{directory}/{name}/urunc.toml" for name in ("config.toml.d", "config-v3.toml.d")
            ]
        return [DROP_IN]

    @property
    def is_rendered(self) -> bool:
        return self.kind in ("k3s", "rke2")

    def missing(self) -> str:
        others = [
            path
            for path in self._imported(self.host.read(self.config) or "", {})
            if path not in self._drop_ins()
        ]
        if not others:
            return super().missing()
        return (
            f"{self.config}: the lines have no effect: of {', '.join(others)}, which it imports, "
            "one replaces them; please add the runtime there (docs/kubernetes.md)"
        )

    def wanted(
        self, runtime: Runtime, before: engine_view.Parsed, clean: Changes
    ) -> tuple[Changes, Changes | None]:
        disabled = {"cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"}
        if disabled & set(before.get("disabled_plugins", [])):
            raise Failure(
                f"{self.config} disables containerd's CRI plugin (disabled_plugins), so no kubelet "
                "can use it: please enable it first"
            )
        old = clean.get(self.config, self.host.read(self.config))
        if self.is_rendered and old is None:
            raise Failure(f"{self.config}: not there yet: please start {self.kind} first")
        newest = self.is_newest
        version = 3 if newest else 2
        if old is not None:
            declared = config_text.parse(old, self.config).get("version", 1)
            version = declared if isinstance(declared, int) else 1
        known = self.runtimes(before)
        options = known.get(engine_view.default_runtime(before), {}).get("options") or {}
        values = runtime.containerd(self.version, systemd=options.get("SystemdCgroup") is True)
        path = ("plugins", engine_view.plugin(version), "containerd", "runtimes")
        lines = config_text.table((*path, HANDLER), values)
        if self.is_rendered:
            return self._rendered(old or "", version, lines)
        if newest and version > 1:
            return self._drop_in(old, version, lines), None
        found = self._marked(old, version, lines, clean)
        lost = known.keys() - self.runtimes(self.view({**clean, **found})).keys()
        for name in sorted(lost):  # by default there, and not where any runtime is configured
            lines += config_text.table((*path, name), known[name])
        return self._marked(old, version, lines, clean), None

    def _drop_in(self, old: str | None, version: int, lines: str) -> Changes:
        main = config_text.made(f"version = {version}") if old is None else old
        changes: Changes = {DROP_IN: config_text.made(f"version = {version}\n{lines}")}
        if DROP_IN not in self._imported(main, changes):
            changes[self.config] = config_text.with_import(main, self.config, DROP_IN)
        return changes

    def _marked(self, old: str | None, version: int, lines: str, clean: Changes) -> Changes:
        if old is None:
            return {self.config: config_text.made(f"version = {version}\n{lines}")}
        name = engine_view.plugin(version)
        place, content = self.config, old
        for path in self._imported(old, clean):
            other = clean.get(path, self.host.read(path))
            if other is not None and name in config_text.parse(other, path).get("plugins", {}):
                place, content = path, other
        new = config_text.with_block(content, lines)
        config_text.parse(new, place)
        return {place: new}

    def _rendered(self, old: str, version: int, lines: str) -> tuple[Changes, Changes]:
        directory = posixpath.dirname(self.config)
        drop_in = f"{directory}/config{'-v3' if version >= 3 else ''}.toml.d/urunc.toml"
        mine: Changes = {drop_in: config_text.made(f"version = {version}\n{lines}")}
        if self.is_newest and drop_in in self._imported(old, mine):
            return mine, {self.config: old, **mine}
        template = f"{directory}/config{'-v3' if version >= 3 else ''}.toml.tmpl"
        now = self.host.read(template) or ""
        rest = config_text.without_block(now)
        if not rest.strip() or config_text.is_made(now, rest):
            self._has_base()
            content = config_text.BASE + config_text.made(lines)
        else:
            content = config_text.with_block(rest, lines)
        return {template: content}, {self.config: config_text.with_block(old, lines)}

    def _has_base(self) -> None:
        """Whether templates may be based on k3s's own: from September 2023 on."""
        name = self.host.program(
            self.kind, directories=("/usr/local/bin", "/opt/rke2/bin", "/usr/bin")
        )
        said = self.host.run(name, "--version", check=False).stdout if name else ""
        found = re.search(r"v1\.(\d+)\.(\d+)", said)
        if not found:
            return
        minor, patch = int(found[1]), int(found[2])
        least = {24: 17, 25: 13, 26: 8, 27: 5}
        if minor < 24 or patch < least.get(minor, 0):
            raise Failure(
                f"{self.kind} 1.{minor}.{patch} has no base template to add to: "
                "please update it to 1.28 or newer"
            )

    @property
    def has_patterns_beside(self) -> bool:
        """Whether a relative pattern of `imports` starts at the importing file's directory."""
        return any(first <= self.version < end for first, end in BESIDE)

    @property
    def is_newest(self) -> bool:
        """Whether this is containerd 2, which merges what it imports."""
        return self.version >= (2,)


def find_rancher(host: Host, kind: str) -> Node | None:
    """k3s's or RKE2's containerd."""
    agent = f"{RANCHER}/{kind}/agent/etc/containerd"
    if not host.exists(agent):
        return None
    directories = (f"{RANCHER}/{kind}/data/current/bin", f"{RANCHER}/{kind}/bin")
    program = host.program("containerd", directories=directories)
    if not program:
        raise Failure(f"{agent} is there, and no containerd in {' or '.join(directories)}")
    units = {
        "k3s": ("k3s.service", "k3s-agent.service"),
        "rke2": ("rke2-server.service", "rke2-agent.service"),
    }[kind]
    ctr = host.program("ctr", directories=directories)
    return ContainerdNode(
        host,
        kind,
        program,
        f"{agent}/config.toml",
        "/run/k3s/containerd/containerd.sock",
        units,
        (ctr,) if ctr else (),
        start_s=240,
    )


def find_containerd(host: Host, config: str, socket: str) -> Node | None:
    """The node's own containerd."""
    engine = containerd.find(host, config, socket)
    if not engine:
        return None
    beside = posixpath.dirname(engine.program)
    ctr = host.program("ctr", directories=(beside, *DIRECTORIES))
    return ContainerdNode(
        host,
        "containerd",
        engine.program,
        engine.config or containerd.CONFIG,
        engine.socket or containerd.SOCKET,
        ("containerd.service",),
        (ctr,) if ctr else (),
        why=engine.why,
    )
