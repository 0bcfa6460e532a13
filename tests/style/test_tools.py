# SPDX-License-Identifier: Apache-2.0
"""The linter, the formatter and the type checker find nothing."""

from __future__ import annotations

import itertools
import os
import pathlib
import subprocess
import sys

import pytest

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
LINTED = ("src", "tests", "deploy")
TYPED = ("src", "tests/unit", "tests/style", "tests/lib", "deploy/installer")
TOOLS = [
    ("ruff", "check", *LINTED),
    ("ruff", "format", "--check", "--diff", *LINTED),
    ("mypy", "--strict", *TYPED),
]


def test_names() -> None:
    """pytest tells its modules apart by their names alone."""
    names = sorted(path.name for path in (PROJECT / "tests").glob("*/test_*.py"))
    assert [name for name, after in itertools.pairwise(names) if name == after] == []


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: " ".join(tool[:2]))
def test_tool(tool: tuple[str, ...]) -> None:
    environment = {**os.environ, "MYPYPATH": "src:tests"}
    answer = subprocess.run(
        [sys.executable, "-m", *tool],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
