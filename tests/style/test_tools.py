# SPDX-License-Identifier: Apache-2.0
"""The linters, the formatter and the type checker find nothing, in Python and in shell."""

from __future__ import annotations

import itertools
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import yaml

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
FIRST_BYTES = 64


def sources() -> dict[str, str]:
    """Path in the project -> first line, of each file that is not built or hidden."""
    found = {}
    for top, directories, files in os.walk(PROJECT):
        inside = pathlib.Path(top).relative_to(PROJECT)
        directories[:] = [
            name
            for name in directories
            if (not name.startswith(".") or name == ".ci")
            and name not in ("__pycache__", "golden")
            and str(inside / name) != "build"
        ]
        for name in files:
            with open(pathlib.Path(top, name), "rb") as file:
                first = file.read(FIRST_BYTES).partition(b"\n")[0]
            found[str(inside / name)] = first.decode(errors="replace")
    return found


FILES = sources()
SCRIPTS = sorted(
    name for name, first in FILES.items() if first.startswith("#!") and "python" in first.lower()
)
SHELL = sorted(
    name
    for name, first in FILES.items()
    if name.endswith(".sh") or (first.startswith("#!") and first.endswith("sh"))
)
PROGRAMS = [name for name in SCRIPTS if not name.endswith((".py", ".in"))]
LINTED = ("src", "tests", "bench", "deploy", "launcher", "guests-src", "setup.py", *PROGRAMS)
TYPED = ("src", "tests/unit", "tests/style", "tests/lib")
BENCHES = [name for name in PROGRAMS if name.startswith("bench/")]
WRITERS = ("launcher/bundle.py", "launcher/manual.py")
MAKER = "guests-src/linux/imagetool.py"
TOOLS = [
    ("ruff", "check", *LINTED),
    ("ruff", "check", "--extension", "in:python", "launcher/urunc.in"),
    ("ruff", "format", "--check", "--diff", *LINTED),
    ("mypy", "--strict", *TYPED),
    *(("mypy", "--strict", f"tests/{kind}") for kind in ("cluster", "guest", "interop", "root")),
    ("mypy", "--strict", "--scripts-are-modules", *BENCHES, *WRITERS, MAKER),
]


def test_names() -> None:
    """pytest tells its modules apart by their names alone."""
    names = sorted(path.name for path in (PROJECT / "tests").glob("*/test_*.py"))
    assert [name for name, after in itertools.pairwise(names) if name == after] == []


def test_hooks_and_ci_call_what_there_is() -> None:
    """No list of checks beside `make check`, no second way to run the tests."""
    hooks = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for repo in hooks for hook in repo["hooks"]] == [
        "make --no-print-directory check"
    ]
    jobs = yaml.safe_load((PROJECT / ".github/workflows/ci.yml").read_text())["jobs"]
    for job in jobs.values():
        assert job["steps"][-1] == {"run": ".ci/run"}


def test_nothing_is_left_out() -> None:
    assert {"bench/lifecycle", "deploy/install", "launcher/urunc.in"} <= set(SCRIPTS)
    assert {".ci/run", "demo", "test", "guests-src/linux/init", "tools/prepare.sh"} <= set(SHELL)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: " ".join([*tool[:2], tool[-1]]))
def test_tool(tool: tuple[str, ...]) -> None:
    environment = {**os.environ, "MYPYPATH": "src:tests:bench"}
    answer = subprocess.run(
        [sys.executable, "-m", *tool],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def shellcheck(*words: str, text: str | None = None) -> None:
    beside = pathlib.Path(sys.executable).with_name("shellcheck")
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert program, "there is no shellcheck: pip install -r requirements-test.txt"
    answer = subprocess.run(
        [program, "--external-sources", *words],
        cwd=PROJECT,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_shell() -> None:
    shellcheck(*(name for name in SHELL if not name.endswith(".in")))
