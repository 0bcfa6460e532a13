# SPDX-License-Identifier: Apache-2.0
"""No file and no function is too long to be read at once (HACKING.md, House rules)."""

from __future__ import annotations

import ast
import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DIRECTORIES = (
    *("src", "tests", "deploy", "bench", "launcher", "findings", "guest-init", "guests-src"),
)
FILE_LINES, FUNCTION_LINES = 500, 60
SUFFIXES = (".py", ".in", ".c", ".h", ".S", ".sh", "")
GENERATED = ("__pycache__", "golden", "build")


def is_python(text: str) -> bool:
    first = text.partition("\n")[0]
    return first.startswith("#!") and "python" in first


def sources() -> dict[str, str]:
    """Path below ROOT → text, of all source files."""
    found = {}
    for directory in DIRECTORIES:
        for top, inner, names in os.walk(ROOT / directory):
            inner[:] = [name for name in inner if name not in GENERATED]
            for name in sorted(names):
                path = pathlib.Path(top, name)
                if path.suffix not in SUFFIXES or path.is_symlink():
                    continue
                try:
                    text = path.read_text()
                except UnicodeDecodeError:
                    continue
                if path.suffix or text.startswith("#!"):
                    found[str(path.relative_to(ROOT))] = text
    return found


FILES = sources()
PYTHON = [name for name, text in FILES.items() if name.endswith(".py") or is_python(text)]


def test_files_are_found() -> None:
    assert {"src/urunc/__main__.py", "guest-init/main.c", "deploy/install"} <= FILES.keys()
    assert "deploy/install" in PYTHON


@pytest.mark.parametrize("name", FILES)
def test_files(name: str) -> None:
    lines = FILES[name].count("\n")
    assert lines <= FILE_LINES, f"{name}: {lines} lines"


@pytest.mark.parametrize("name", PYTHON)
def test_functions(name: str) -> None:
    long = [
        node.name
        for node in ast.walk(ast.parse(FILES[name]))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES
    ]
    assert not long, f"{name}: longer than {FUNCTION_LINES} lines"
