# SPDX-License-Identifier: Apache-2.0
"""Which engines were seen with urunc, on which machines: the table of docs/engines.md. What was
seen is in tests/machines.json, which `make machines` writes: for each cell how many tests passed,
and of how many."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

SEEN = pathlib.Path(__file__).resolve().parent.parent / "machines.json"
INTEROP, ROOT = "tests/interop/", "tests/root/"


class Row(NamedTuple):
    """A line of the table, and the beginnings of the names of the tests that show it."""

    engine: str
    way: str
    what: str
    tests: tuple[str, ...]
    others: tuple[str, ...]
    """The beginnings of those among them that show another line."""
    program: str
    """Whose version counts."""


def _row(engine: str, way: str, what: str, *tests: str, program: str = "") -> Row:
    """A line; a test that begins with `!` is one of `others`."""
    paths = {test: test if "/" in test else f"{INTEROP}test_{test.lstrip('!')}" for test in tests}
    names = tuple(path for test, path in paths.items() if not test.startswith("!"))
    others = tuple(path for test, path in paths.items() if test.startswith("!"))
    return Row(engine, way, what, names, others, program or engine)


ROWS = (
    _row("Docker", "path", "ordinary", "docker_smoke.py::test_ordinary[path-"),
    _row("Docker", "path", "guests", "docker_smoke.py::test_guest[path-",
         "docker_smoke.py::test_arguments"),
    _row("Docker", "path", "networks", "docker_network.py"),
    _row("Docker", "path", "files", "storage_docker.py",
         "image_layers.py::test_docker_and_podman[d"),
    _row("Docker", "path", "`userns-remap`", "storage_docker_users.py"),
    _row("Docker", "shim", "ordinary", "docker_smoke.py::test_ordinary[shim-"),
    _row("Docker", "shim", "guests", "docker_smoke.py::test_guest[shim-"),
    _row("Podman", "path", "ordinary", "podman_smoke.py::test_ordinary"),
    _row("Podman", "path", "guests", "podman_smoke.py::test_guest"),
    _row("Podman", "path", "networks", "podman_network.py"),
    _row("Podman", "path", "files", "storage_podman.py",
         "image_layers.py::test_docker_and_podman[p"),
    _row("Podman", "path", "rootless", "podman_rootless.py"),
    _row("containerd", "shim, ctr", "ordinary", "containerd.py::test_ordinary",
         "containerd.py::test_input", "containerd.py::test_terminal"),
    _row("containerd", "shim, ctr", "guests", "containerd.py::test_guest",
         "containerd.py::test_pod", "containerd.py::test_many", "containerd.py::test_monitor"),
    _row("containerd", "shim, ctr", "restarts", "containerd.py::test_containerd_restarts",
         "containerd.py::test_shim_is_killed", "containerd.py::test_ends_without", "upgrade.py"),
    _row("containerd", "shim, ctr", "files", "storage_containerd.py",
         "image_layers.py::test_containerd"),
    _row("containerd", "shim, CRI", "pods", "cri.py", "!cri.py::test_runcs_shim", "solo5_cri.py"),
    _row("containerd", "path, CRI", "pods", "cri.py::test_runcs_shim"),
    _row("containerd", "shim, CRI", "files", "storage_cri.py"),
    _row("CRI-O", "path, CRI", "pods", "crio_pods.py"),
    _row("CRI-O", "path", "its calls", f"{ROOT}test_crio.py", program="runc"),
    _row("runc", "by hand", "beside it", "runc.py"),
    _row("control groups", "v1, hybrid", "limits", f"{ROOT}test_cgroups.py", program="systemd"),
    _row("control groups", "v2", "limits", f"{ROOT}test_cgroup_v2.py", program="systemd"),
    _row("control groups", "systemd", "scopes", f"{ROOT}test_systemd.py",
         f"{ROOT}test_cgroup_v2.py::test_by_systemd", program="systemd"),
)  # fmt: skip


def summed(outcomes: Mapping[str, str]) -> dict[str, list[int]]:
    """For each row, by `key`, how many tests passed and how many ran; those that none of ran are
    left out."""
    found = {}
    for row in ROWS:
        ran = [
            outcome
            for name, outcome in outcomes.items()
            if outcome != "skipped"
            and name.startswith(row.tests)
            and not name.startswith(row.others)
        ]
        if ran:
            found[key(row)] = [ran.count("passed"), len(ran)]
    return found


def key(row: Row) -> str:
    """A row's name in the file."""
    return f"{row.engine}, {row.way}: {row.what}"


def cell(machine: Mapping[str, Any], row: Row) -> str:
    """`VERSION: 30`, or `VERSION: 28 of 30`; empty where nothing ran."""
    counts = machine["engines"].get(key(row))
    if not counts:
        return ""
    passed, ran = counts
    version = machine["versions"].get(row.program, "")
    number = str(passed) if passed == ran else f"{passed} of {ran}"
    return f"{version}: {number}"


def table() -> Iterator[list[str]]:
    """The head, then the lines: machines with tests, and rows that ran on one."""
    machines = [seen for seen in json.loads(SEEN.read_text()).values() if seen["engines"]]
    yield ["engine", "way", "what", *(seen["system"] for seen in machines)]
    for row in ROWS:
        cells = [cell(seen, row) for seen in machines]
        if any(cells):
            yield [row.engine, row.way, row.what, *cells]


def about() -> Iterator[list[str]]:
    """The machines, and the programs that are no engines."""
    machines = json.loads(SEEN.read_text())
    names = ("QEMU", "virtiofsd", "crun", "systemd", "Python")
    yield ["machine", "kernel, control groups", *names, "`./demo`", "tests passed, skipped, failed"]
    for seen in machines.values():
        versions = [seen["versions"].get(name, "") for name in names]
        counts = [str(seen["counts"].get(kind, 0)) for kind in ("passed", "skipped", "failed")]
        where = f"{seen['kernel']}, {seen['cgroups']}"
        demo = "works" if seen["demo"] else "fails"
        yield [seen["system"], where, *versions, demo, ", ".join(counts) if seen["counts"] else ""]
