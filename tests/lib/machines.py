# SPDX-License-Identifier: Apache-2.0
"""README's two commands on other machines: `machines.py [--quick | --v2] [NAME…]`.

Each machine (debian.py has their names; without any, all) is made anew. --quick runs of its tests
the unit ones, those with real mounts and control groups, and one with each engine; --v2 runs the
whole of tests/root in a virtual machine with the distribution's own kernel and cgroup v2 alone.
What was seen goes into tests/machines.json, of which `make tables` makes tables. A machine that
cannot be made here is skipped, with a word. Needs root; standard library only.
"""

from __future__ import annotations

import collections
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from lib import debian
from lib.engine_table import SEEN, summed

ONE_EACH = (
    "tests/interop/test_docker_smoke.py::test_guest[path-run]",
    "tests/interop/test_podman_smoke.py::test_guest[run]",
    "tests/interop/test_containerd.py::test_guest_run",
    "tests/interop/test_cri.py::test_probe",
)
QUICK = ("tests/unit", "tests/root", *ONE_EACH, "-n3")
"""Beside each other, though single tests are named: the last word counts for ./test."""
IN_V2 = (
    "export PATH=$PWD/build/prefix/bin:$PWD/build/parts/bin:$PATH;"
    " ls tests/root/test_*.py | grep -v test_cgroup_v2 | xargs -n 6"
    " .venv/bin/python -m pytest -q -n 2 -p no:cacheprovider"
)
"""That one makes such a machine itself. Some files at a time, so that what fails is told, and kept
in the file of what was seen, long before the end."""


def commands(kind: str) -> list[list[str]]:
    """What is run on a machine."""
    demo = ["./demo"]
    if kind == "quick":
        return [demo, ["./test", *QUICK]]
    if kind == "v2":
        prepare = ["./test", "tests/unit/test_record.py"]
        inside = ["sh", "-c", IN_V2]
        place = [".venv/bin/python", "-m", "lib.places.machine", f"{debian.INSIDE}/build/seen"]
        return [prepare, ["env", "PYTHONPATH=tests", *place, "--", *inside]]
    return [demo, ["./test"]]


def visit(name: str, kind: str) -> bool:
    """Make a machine and run the commands on it, as far as they succeed; whether all did."""
    begin = time.monotonic()
    print(f"== {name}: making the machine", flush=True)
    tree = debian.fresh(name)
    seen = tree / debian.INSIDE.lstrip("/") / "build/seen/seen.json"
    seen.parent.mkdir(parents=True)
    well = demo = True
    for words in commands(kind):
        print(f"== {name}: {' '.join(words)} ({time.monotonic() - begin:.0f} s)", flush=True)
        variable = f"URUNC_TEST_SEEN={debian.INSIDE}/build/seen/seen.json"
        ended = subprocess.run(debian.command(name, "env", variable, *words)).returncode == 0
        well = well and ended
        if words == ["./demo"] and not ended:
            demo = False
            break
    if kind == "all" and (about := facts(name)):
        remember(name, about, tests(seen), demo=demo)
    said = "well" if well else "not well"
    print(f"== {name}: {said} after {time.monotonic() - begin:.0f} s", flush=True)
    return well


def facts(name: str) -> dict[str, Any]:
    """What a machine says of itself; nothing if it has no Python yet."""
    command = debian.command(name, "env", "PYTHONPATH=tests", "python3", "-m", "lib.seen")
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(said.stdout) if said.returncode == 0 else {}
    return found


def tests(seen: pathlib.Path) -> dict[str, str]:
    """The outcomes in the file of a run; none if there is no file."""
    if not seen.exists():
        return {}
    found: dict[str, str] = json.loads(seen.read_text())["tests"]
    return found


def remember(name: str, about: dict[str, Any], outcomes: dict[str, str], *, demo: bool) -> None:
    """Put what was seen on a machine into the file."""
    known: dict[str, Any] = json.loads(SEEN.read_text()) if SEEN.exists() else {}
    known[name] = about | {
        "demo": demo,
        "counts": dict(sorted(collections.Counter(outcomes.values()).items())),
        "engines": summed(outcomes),
        "failed": sorted(test for test, outcome in outcomes.items() if outcome == "failed"),
    }
    ordered = {each: known[each] for each in debian.SUITES if each in known}
    SEEN.write_text(json.dumps(ordered, indent=1) + "\n")


def main(words: list[str]) -> int:
    """Visit the machines: 1 where one was not well."""
    kind = next((word[2:] for word in words if word in ("--quick", "--v2")), "all")
    names = [word for word in words if not word.startswith("-")] or list(debian.SUITES)
    if unknown := [name for name in names if name not in debian.SUITES]:
        print(f"no such machine: {' '.join(unknown)}; there are {' '.join(debian.SUITES)}")
        return 2
    ends = {}
    for name in names:
        try:
            ends[name] = "well" if visit(name, kind) else "not well"
        except debian.Unavailable as error:
            ends[name] = f"skipped: {error}"
    for name, end in ends.items():
        print(f"{name}: {end}")
    return int("not well" in ends.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
