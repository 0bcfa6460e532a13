# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, what no module may import before it is needed, and how each module opens."""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator

import pytest

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent / "src"
FILES = sorted((SOURCE / "urunc").rglob("*.py"))
SLOW = {
    *("argparse", "ctypes", "dataclasses", "json", "logging", "os", "pathlib", "re"),
    *("subprocess", "typing"),
}
PROGRAMS = ("urunc.__main__", "urunc.shim.command")
HELPERS = {"errors", "jsontext", "record", "net.facts", "net.ipv4", "storage.facts"}


def name_of(file: pathlib.Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(file): ast.parse(file.read_text()) for file in FILES}


def is_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def statements(nodes: list[ast.stmt], *, functions: bool) -> Iterator[ast.stmt]:
    """Statements that run: on import alone, or with those in functions; a fallback for an
    ImportError and what only type checkers see do not count."""
    for node in nodes:
        if is_guard(node) or (isinstance(node, ast.FunctionDef) and not functions):
            continue
        yield node
        for part in ("body", "orelse", "finalbody"):
            yield from statements(getattr(node, part, []), functions=functions)


def imports(name: str, *, functions: bool) -> set[str]:
    found: set[str] = set()
    for node in statements(MODULES[name].body, functions=functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: a relative import"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {item if item in MODULES else str(node.module) for item in whole}
    return found


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def ours(name: str) -> set[str]:
    return {item for item in imports(name, functions=True) if below(item, "urunc")}


@pytest.mark.parametrize("name", MODULES)
def test_layers(name: str) -> None:
    for other in ours(name):
        if below(name, "urunc.linux"):
            assert below(other, "urunc.linux")
        if below(other, "urunc.cli"):
            assert below(name, "urunc.cli") or name in PROGRAMS
    for package in ("urunc.guests", "urunc.monitors"):
        if below(name, package) and name != package:
            allowed = {package, *(f"urunc.{helper}" for helper in HELPERS)}
            whole = name.partition("_")[0]  # linux and linux_config are one guest
            others = {item for item in ours(name) if item.partition("_")[0] != whole}
            assert others - allowed == set()


def test_guests_and_monitors_know_of_each_other_only_words() -> None:
    assert "urunc.monitors" not in ours("urunc.guests")
    assert {item for item in ours("urunc.monitors") if "guests" in item} == {"urunc.guests"}


# loaded only where systemd makes the control groups
RARE = {"urunc.cgroup.systemd": {"ctypes"}}


@pytest.mark.parametrize("name", MODULES)
def test_nothing_slow_is_imported_early(name: str) -> None:
    early = {item.partition(".")[0] for item in imports(name, functions=False)}
    assert early & SLOW <= RARE.get(name, set())


@pytest.mark.parametrize("file", FILES, ids=map(name_of, FILES))
def test_openings(file: pathlib.Path) -> None:
    assert file.read_text().startswith("# SPDX-License-Identifier: Apache-2.0\n")
    assert ast.get_docstring(MODULES[name_of(file)])
