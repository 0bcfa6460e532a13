# SPDX-License-Identifier: Apache-2.0
"""What a run of tests has seen, as JSON: which programs in which versions, and each test's outcome.
URUNC_TEST_SEEN names the file, to which each run adds. machines.py merges those of many machines,
of which engines.md has its table. By itself it prints what it says of the machine, and needs
nothing but Python: `PYTHONPATH=tests python3 -m lib.seen`."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

VARIABLE = "URUNC_TEST_SEEN"
PROGRAMS = {
    "containerd": ("containerd",),
    "Docker": ("dockerd", "/usr/sbin/dockerd"),
    "Podman": ("podman",),
    "runc": ("runc",),
    "crun": ("crun",),
    "QEMU": ("qemu-system-x86_64",),
    "virtiofsd": ("virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"),
    "Firecracker": ("firecracker",),
    "systemd": ("/usr/lib/systemd/systemd",),
}
_outcomes: dict[str, str] = {}


def cgroups() -> str:
    """Which control groups this machine has."""
    kinds = {line.split()[2] for line in pathlib.Path("/proc/mounts").read_text().splitlines()}
    if "cgroup" not in kinds:
        return "v2" if "cgroup2" in kinds else "none"
    return "hybrid" if "cgroup2" in kinds else "v1"


def version(*names: str) -> str:
    """A program's version, by its first name that there is; "" where there is none, or it says
    none."""
    path = next(filter(None, map(shutil.which, names)), None)
    if not path:
        return ""
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    # containerd 1 says its module's path before
    found = re.search(r"(?<![\w.])v?(\d+(\.\d+)+|\d{3})", said.stdout + said.stderr)
    return found[1] if found else ""


def facts() -> dict[str, Any]:
    """About this machine."""
    versions = {program: version(*names) for program, names in PROGRAMS.items()}
    versions["Python"] = platform.python_version()
    return {
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "kernel": platform.release().partition("-")[0],
        "cgroups": cgroups(),
        "versions": {program: found for program, found in versions.items() if found},
    }


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test's worst phase counts."""
    before = _outcomes.get(report.nodeid, "passed")
    if before == "passed":
        _outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Add this run's outcomes to the file; a worker's come to the one that has started it."""
    name = os.environ.get(VARIABLE)
    if not name or hasattr(session.config, "workeroutput"):
        return
    path = pathlib.Path(name)
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    tests = {**known.get("tests", {}), **_outcomes}
    path.write_text(json.dumps(facts() | {"tests": tests}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    json.dump(facts(), sys.stdout)
