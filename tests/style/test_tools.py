# SPDX-License-Identifier: Apache-2.0
"""The linter, the formatter and the type checker find nothing."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
CHECKED = ("src", "tests/unit", "tests/style", "tests/places", "deploy/installer")
TOOLS = [
    ("ruff", "check"),
    ("ruff", "format", "--check", "--diff"),
    ("mypy", "--strict"),
]


@pytest.mark.parametrize("tool", TOOLS, ids=" ".join)
def test_tool(tool: tuple[str, ...]) -> None:
    environment = {**os.environ, "MYPYPATH": "src"}
    answer = subprocess.run(
        [sys.executable, "-m", *tool, *CHECKED],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
