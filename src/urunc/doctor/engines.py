# SPDX-License-Identifier: Apache-2.0
"""Which container engines there are, and whether they know urunc: by their configuration files, the
ways of docs/engines.md. No engine is asked: it may not run."""

from __future__ import annotations

import glob
import json
import os
import tomllib

from urunc.doctor.finding import Finding, fine, note, problem
from urunc.errors import reason
from urunc.programs import DEFAULT_PATH, find_program, version_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

SHIM = "containerd-shim-urunc-v2"
RUNTIME_TYPE = "io.containerd.urunc.v2"
NAME = "urunc"
CONTAINERD = ("/etc/containerd/config.toml", "/etc/containerd/conf.d/*.toml")
K3S = "/var/lib/rancher/{}/agent/etc/containerd/config.toml"
CRIO = ("/etc/crio/crio.conf", "/etc/crio/crio.conf.d/*")
PODMAN = (
    "/usr/share/containers/containers.conf",
    "/etc/containers/containers.conf",
    "/etc/containers/containers.conf.d/*.conf",
    "~/.config/containers/containers.conf",
)
DOCKER = "/etc/docker/daemon.json"
HOW = "docs/engines.md says how"


def findings() -> list[Finding]:
    """Of each engine that is installed."""
    found = [*_docker(), *_podman(), *_containerd(), *_crio(), *_rancher()]
    return found or [note("engines", "none is installed: containers by `urunc run` alone")]


def _docker() -> Iterator[Finding]:
    if program := _program("dockerd"):
        subject = f"Docker {version_of(program)}".strip()
        try:
            runtimes = _read_json(DOCKER).get("runtimes", {})
        except ValueError as error:
            yield problem(subject, f"{DOCKER}: {error}", "dockerd --validate")
            return
        path = runtimes.get(NAME, {}).get("path", "") if isinstance(runtimes, dict) else ""
        yield _known(subject, DOCKER, path, f'"runtimes": {{"urunc": {{"path": …}}}} in {DOCKER}')


def _podman() -> Iterator[Finding]:
    if program := _program("podman"):
        subject = f"Podman {version_of(program)}".strip()
        paths: Any = []
        for path, document in _documents(PODMAN):
            if isinstance(document, str):
                yield problem(subject, f"{path}: {document}")
                return
            runtimes = document.get("engine", {}).get("runtimes", {})
            paths = runtimes.get(NAME, paths)
        usable = next(filter(os.path.exists, paths), paths[0] if paths else "")
        yield _known(subject, "containers.conf", usable, 'urunc = ["…"] in [engine.runtimes]')


def _containerd() -> Iterator[Finding]:
    if program := _program("containerd"):
        yield _of_containerd(f"containerd {version_of(program)}".strip(), CONTAINERD)


def _rancher() -> Iterator[Finding]:
    for name in ("k3s", "rke2"):
        if os.path.exists(K3S.format(name)):
            yield _of_containerd(name, (K3S.format(name),))


def _of_containerd(subject: str, patterns: tuple[str, ...]) -> Finding:
    """By its own shim, which needs no configuration but for CRI, or by BinaryName."""
    shim = _program(SHIM)
    for path, document in _documents(patterns):
        if isinstance(document, str):
            return problem(subject, f"{path}: {document}", "containerd config dump")
        for table in _tables(document, "runtimes"):
            for name, runtime in table.items():
                kind = runtime.get("runtime_type", "") if isinstance(runtime, dict) else ""
                if kind == RUNTIME_TYPE and not shim:
                    return problem(
                        subject, f"{path}: the runtime {name} needs {SHIM}, which is not on PATH",
                        "make install PREFIX=/usr/local",
                    )  # fmt: skip
                if kind == RUNTIME_TYPE or name == NAME:
                    return fine(subject, f"pods of the runtime {name} ({path})")
    if shim:
        return note(
            subject, f"ctr and nerdctl by {RUNTIME_TYPE} ({shim}); CRI has no such runtime", HOW
        )
    return note(subject, f"does not know urunc: no {SHIM} on PATH, no runtime for pods", HOW)


def _crio() -> Iterator[Finding]:
    if program := _program("crio"):
        subject = f"CRI-O {version_of(program)}".strip()
        path = ""
        for name, document in _documents(CRIO):
            if isinstance(document, str):
                yield problem(subject, f"{name}: {document}")
                return
            for table in _tables(document, "runtimes"):
                path = table.get(NAME, {}).get("runtime_path", path)
        yield _known(subject, "crio.conf", path, "[crio.runtime.runtimes.urunc] with runtime_path")


def _known(subject: str, file: str, path: str, how: str) -> Finding:
    """The finding for an engine whose configuration leads to urunc at `path`, "" for nowhere."""
    if not path:
        return note(subject, f"does not know urunc ({file})", f"{how}; {HOW}")
    if not os.access(path, os.X_OK):
        return problem(subject, f"{file}: '{path}' is no program", how)
    return fine(subject, f"runs {path}")


def _program(name: str) -> str:
    return find_program(name) or find_program(name, DEFAULT_PATH)


def _read_json(path: str) -> dict[str, Any]:
    """The object in a file, {} if there is no file; raises ValueError."""
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(reason(error)) from None
    return document if isinstance(document, dict) else {}


def _documents(patterns: Iterable[str]) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """(path, content) of each TOML file that is there, in the order in which they are read; the
    content of one that cannot be read is why."""
    for pattern in patterns:
        for path in sorted(glob.glob(os.path.expanduser(pattern))):
            try:
                with open(path, "rb") as file:
                    yield path, tomllib.load(file)
            except OSError as error:
                yield path, reason(error)
            except ValueError as error:
                yield path, str(error)


def _tables(document: Any, name: str) -> Iterator[dict[str, Any]]:
    """Every table of this name, at any depth."""
    if isinstance(document, dict):
        for key, value in document.items():
            if key == name and isinstance(value, dict):
                yield value
            yield from _tables(value, name)
