# SPDX-License-Identifier: Apache-2.0
"""A node's engine: which files make urunc one of its runtimes, and what the engine makes of them.

Each kind is a class of its own. `changes` says what files shall hold; it reads the node and asks
the engine (engine_view.py), and changes nothing.
"""

from __future__ import annotations

import functools
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from urunc.installer import engine_view
from urunc.installer.host import Failure, Host

HANDLER = "urunc"
ANNOTATIONS = ["com.urunc.unikernel.*"]
BACKUP = ".before-urunc"
"""What the name of a file's copy from before ends with, beside it."""
SHIM_TYPE = "io.containerd.urunc.v2"
Changes = dict[str, str | None]
"""Path of the node's → what the file shall hold; None: no file."""
Version = tuple[int, ...]
ASKS, ASKS_ALL = (2, 0, 0), (2, 2, 8)
"""From which version on containerd's CRI plugin asks shims for the features that it tells a
kubelet: those of runc's type, and all."""


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
            return {"runtime_type": SHIM_TYPE, **named, **common}
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
class Node(ABC):
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

    @functools.cached_property
    def version(self) -> Version:
        """The program's; raises Failure."""
        said = self.host.run(self.program, "--version").stdout
        found = re.search(r"\sv?(\d+)\.(\d+)\.(\d+)", said)
        if not found:
            raise Failure(f"{self.program} --version: no version in {said.strip()!r}")
        return tuple(map(int, found.groups()))

    @property
    def is_rendered(self) -> bool:
        """Whether the engine's configuration is written anew at each start."""
        return False

    @property
    def is_service(self) -> bool:
        """Whether a daemon reads the configuration; else each of the engine's programs does."""
        return True

    @property
    def reloads(self) -> bool:
        """Whether the daemon reads it again on SIGHUP, so that nobody has to restart it."""
        return False

    @property
    def use(self) -> str:
        """What a user types, once urunc is known."""
        return f"in Kubernetes, by a RuntimeClass with the handler '{HANDLER}'"

    @property
    def name(self) -> str:
        """The engine and its program, for messages."""
        return f"{self.kind}: {self.program}{f' ({self.why})' if self.why else ''}"

    @abstractmethod
    def view(self, changed: Changes) -> engine_view.Parsed:
        """The engine's view of its configuration with these files changed."""

    @abstractmethod
    def runtimes(self, parsed: engine_view.Parsed) -> dict[str, Any]:
        """The runtimes in such a view."""

    @abstractmethod
    def clean(self) -> Changes:
        """The files as they would be without urunc, where that is not how they are."""

    @abstractmethod
    def wanted(
        self, runtime: Runtime, before: engine_view.Parsed, clean: Changes
    ) -> tuple[Changes, Changes | None]:
        """The files with urunc, and which of them the engine is asked about, where those are
        others; `before` is its view of the clean ones."""

    def missing(self) -> str:
        """Why the engine sees no urunc in files that have it."""
        return (
            f"{self.config}: {self.program} sees no runtime '{HANDLER}' in it with urunc's "
            "lines: is that the program that reads this file? (--engine, --config)"
        )

    def changes(self, runtime: Runtime) -> Changes:
        """What each file shall hold: all that differs from now, and nothing that does not."""
        clean = self.clean()
        before = self.view(clean)
        if HANDLER in self.runtimes(before):
            raise Failure(
                f"the node has a runtime '{HANDLER}' that this installer did not make: "
                "please remove it from the configuration first"
            )
        wanted, seen = self.wanted(runtime, before, clean)
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
        """Whether the engine, or where it cannot be asked its configuration as it is now, has
        urunc."""
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
            raise Failure(self.missing())
        del runtimes[HANDLER]
        ignored = ("imports",)
        found = engine_view.differences(
            {name: value for name, value in before.items() if name not in ignored},
            {name: value for name, value in after.items() if name not in ignored},
        )
        if found:
            raise Failure(f"{self.config}: more would change than urunc: {'; '.join(found[:5])}")


class DropInNode(Node):
    """An engine that merges a file of urunc's own, with nothing else in it."""

    drop_in = ""
    """Its path."""

    def clean(self) -> Changes:
        return {self.drop_in: None} if self.host.exists(self.drop_in) else {}
