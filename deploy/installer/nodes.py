# SPDX-License-Identifier: Apache-2.0
"""The kinds of node, and for each which files make urunc one of its runtimes.

`changes` says what files shall hold; it reads the node and asks the engine (engine_view.py), and
changes nothing. Which file gets urunc's lines depends on what the engine does with its files:

- containerd 2 merges what it imports: a drop-in of our own.
- containerd 1 replaces a plugin's whole table by an imported one, and its default runtimes by any
  that are configured: marked lines in the file whose table counts, with the runtimes that were
  there by default among them.
- k3s and RKE2 write containerd's configuration at each start: a drop-in where they import such,
  else marked lines in the template, on top of their own (`base`).
- CRI-O merges its drop-ins.
"""

from __future__ import annotations

import functools
import posixpath
import re
from dataclasses import dataclass
from typing import Any

from installer import config_text, containerd, engine_view
from installer.host import DIRECTORIES, Failure, Host

HANDLER = "urunc"
ANNOTATIONS = ["com.urunc.unikernel.*"]
KINDS = ("k3s", "rke2", "crio", "containerd")
RANCHER = "/var/lib/rancher"
DROP_IN = "/etc/containerd/conf.d/urunc.toml"
CRIO_DROP_IN = "/etc/crio/crio.conf.d/99-urunc.conf"

Changes = dict[str, str | None]
Version = tuple[int, ...]
ASKS, ASKS_ALL = (2, 0, 0), (2, 2, 8)
"""From which version on containerd's CRI plugin asks shims for the features that it tells a
kubelet: those of runc's type, and all."""
BESIDE = (((1, 6, 30), (1, 7)), ((1, 7, 16), (2**16,)))
"""Versions of containerd (from, before) in which relative patterns start beside the file."""


@dataclass
class Runtime:
    """What the engine is told: the programs of urunc's below the prefix."""

    prefix: str
    shim: bool
    """Whether pods have urunc's own containerd shim; it tells the cgroup driver by the path."""

    @property
    def program(self) -> str:
        return f"{self.prefix}/bin/urunc"

    def containerd(self, version: Version, *, systemd: bool) -> dict[str, Any]:
        """The runtime's table for a version of containerd."""
        common = {"pod_annotations": ANNOTATIONS, "container_annotations": ANNOTATIONS}
        if self.shim:
            path = f"{self.prefix}/bin/containerd-shim-urunc-v2"
            if ASKS <= version < ASKS_ALL:
                return {"runtime_type": "io.containerd.runc.v2", "runtime_path": path, **common}
            named = {} if self.prefix == "/usr/local" else {"runtime_path": path}
            return {"runtime_type": "io.containerd.urunc.v2", **named, **common}
        options = {"BinaryName": self.program, "SystemdCgroup": systemd}
        return {"runtime_type": "io.containerd.runc.v2", **common, "options": options}

    def crio(self, monitor: str) -> dict[str, Any]:
        """The same for CRI-O, which gives a pod's annotations to its containers unasked (and does
        not start if `allowed_annotations` has one that it does not know)."""
        values = {
            "runtime_path": self.program,
            "runtime_type": "oci",
            "runtime_root": "/run/urunc",
        }
        return values | ({"monitor_path": monitor} if monitor else {})


@dataclass
class Node:
    """What of engines a node has."""

    host: Host
    kind: str
    program: str
    config: str
    socket: str
    units: tuple[str, ...]
    ctr: tuple[str, ...] = ()
    start_s: float = 90
    why: str = ""
    """How the program was found."""

    @property
    def name(self) -> str:
        """The engine and its program, for messages."""
        return f"{self.kind}: {self.program}{f' ({self.why})' if self.why else ''}"

    def view(self, changed: Changes) -> engine_view.Parsed:
        """The engine's view of its configuration with these files changed."""
        if self.kind == "crio":
            return engine_view.crio(
                self.host, self.program, posixpath.dirname(CRIO_DROP_IN), changed
            )
        return engine_view.containerd(
            self.host, self.program, self.config, changed, beside=self.has_patterns_beside
        )

    def runtimes(self, parsed: engine_view.Parsed) -> dict[str, Any]:
        """The runtimes in such a view."""
        if self.kind == "crio":
            found = parsed.get("crio", {}).get("runtime", {}).get("runtimes", {})
            return found if isinstance(found, dict) else {}
        return engine_view.runtimes(parsed)

    def clean(self) -> Changes:
        """The files as they would be without urunc, where that is not how they are."""
        if self.kind == "crio":
            return {CRIO_DROP_IN: None} if self.host.exists(CRIO_DROP_IN) else {}
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
        """Whether the engine's configuration is written anew at each start."""
        return self.kind in ("k3s", "rke2")

    def changes(self, runtime: Runtime) -> Changes:
        """What each file shall hold: all that differs from now, and nothing that does not."""
        clean = self.clean()
        before = self.view(clean)
        if HANDLER in self.runtimes(before):
            raise Failure(
                f"the node has a runtime '{HANDLER}' that this installer did not make: "
                "please remove it from the configuration first"
            )
        if self.kind == "crio":
            wanted, seen = self._crio(runtime, before), None
        else:
            wanted, seen = self._containerd(runtime, before, clean)
        self._check(before, self.view({**clean, **(seen or wanted)}))
        return self._to_write({**clean, **wanted})

    def removal(self) -> Changes:
        """The same to take urunc out."""
        clean = self.clean()
        if clean and not self.is_rendered:
            after = self.view(clean)
            if HANDLER in self.runtimes(after):
                raise Failure(f"the configuration would still have a runtime '{HANDLER}'")
        return self._to_write(clean)

    def has_runtime(self) -> bool:
        """Whether the engine's configuration, as it is now, has urunc."""
        return HANDLER in self.runtimes(self.view({}))

    def _to_write(self, changes: Changes) -> Changes:
        """What is not so already, in an order in which nothing is imported that is not there; what
        the engine writes itself is left to it."""
        found = {
            path: new
            for path, new in changes.items()
            if new != self.host.read(path) and not (self.is_rendered and path == self.config)
        }
        rank = {path: 2 if new is None else int(path == self.config) for path, new in found.items()}
        return dict(sorted(found.items(), key=lambda item: rank[item[0]]))

    def _check(self, before: engine_view.Parsed, after: engine_view.Parsed) -> None:
        """Nothing but urunc may be different."""
        runtimes = self.runtimes(after)
        if HANDLER not in runtimes:
            others = [path for path in self._imported(self.host.read(self.config) or "", {})
                      if path not in self._drop_ins()] if self.kind != "crio" else []  # fmt: skip
            if others:
                raise Failure(
                    f"{self.config}: the lines have no effect: of {', '.join(others)}, which it "
                    "imports, one replaces them; please add the runtime there (docs/kubernetes.md)"
                )
            raise Failure(
                f"{self.config}: {self.program} sees no runtime '{HANDLER}' in it with urunc's "
                "lines: is that the program that reads this file? (--engine, --config)"
            )
        del runtimes[HANDLER]
        ignored = ("imports",)
        found = engine_view.differences(
            {name: value for name, value in before.items() if name not in ignored},
            {name: value for name, value in after.items() if name not in ignored},
        )
        if found:
            raise Failure(f"{self.config}: more would change than urunc: {'; '.join(found[:5])}")

    def _crio(self, runtime: Runtime, before: engine_view.Parsed) -> Changes:
        monitors = [value.get("monitor_path", "") for value in self.runtimes(before).values()]
        values = runtime.crio(next(filter(None, monitors), ""))
        lines = config_text.table(("crio", "runtime", "runtimes", HANDLER), values)
        return {CRIO_DROP_IN: config_text.made(lines)}

    def _containerd(
        self, runtime: Runtime, before: engine_view.Parsed, clean: Changes
    ) -> tuple[Changes, Changes | None]:
        """The files, and which of them the engine is asked about, where those are others."""
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

    @functools.cached_property
    def version(self) -> Version:
        """containerd's."""
        said = self.host.run(self.program, "--version").stdout
        found = re.search(r"\sv?(\d+)\.(\d+)\.(\d+)", said)
        if not found:
            raise Failure(f"{self.program} --version: no version in {said.strip()!r}")
        return tuple(map(int, found.groups()))

    @property
    def has_patterns_beside(self) -> bool:
        """Whether a relative pattern of `imports` starts at the importing file's directory."""
        return any(first <= self.version < end for first, end in BESIDE)

    @property
    def is_newest(self) -> bool:
        """Whether this is containerd 2, which merges what it imports."""
        return self.version >= (2,)


def _rancher(host: Host, kind: str) -> Node | None:
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
    return Node(
        host,
        kind,
        program,
        f"{agent}/config.toml",
        "/run/k3s/containerd/containerd.sock",
        units,
        (ctr,) if ctr else (),
        start_s=240,
    )


def _crio(host: Host) -> Node | None:
    program = host.program("crio")
    if not program or not host.exists("/etc/crio"):
        return None
    socket = engine_view.listen(host, program, posixpath.dirname(CRIO_DROP_IN))
    return Node(
        host,
        "crio",
        program,
        "/etc/crio/crio.conf",
        socket or "/run/crio/crio.sock",
        ("crio.service",),
    )


def _containerd(host: Host, config: str, socket: str) -> Node | None:
    engine = containerd.find(host, config, socket)
    if not engine:
        return None
    beside = posixpath.dirname(engine.program)
    ctr = host.program("ctr", directories=(beside, *DIRECTORIES))
    return Node(
        host,
        "containerd",
        engine.program,
        engine.config or containerd.CONFIG,
        engine.socket or containerd.SOCKET,
        ("containerd.service",),
        (ctr,) if ctr else (),
        why=engine.why,
    )


def find(host: Host, kind: str = "auto", config: str = "", socket: str = "") -> Node:
    """The node's engine. Of several, k3s's and RKE2's own go first, since other engines are then
    somebody else's; of CRI-O and containerd, the one that runs."""
    makers = {
        "k3s": lambda: _rancher(host, "k3s"),
        "rke2": lambda: _rancher(host, "rke2"),
        "crio": lambda: _crio(host),
        "containerd": lambda: _containerd(host, config, socket),
    }
    if kind != "auto":
        node = makers[kind]()
        if not node:
            looked = f": {containerd.places(host, socket)}" if kind == "containerd" else ""
            raise Failure(f"no {kind} on this node{looked}")
    else:
        found = [node for name in KINDS if (node := makers[name]())]
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
