# SPDX-License-Identifier: Apache-2.0
"""The table of engines and machines: its tests are there, and its cells say what ran."""

from __future__ import annotations

import pathlib
import re

import pytest

from lib import debian, engine_table, machines
from lib.engine_table import ROWS, Row

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
NAMED = sorted({name for row in ROWS for name in row.tests} | set(machines.ONE_EACH))


@pytest.mark.parametrize("name", NAMED)
def test_the_tests_are_there(name: str) -> None:
    """A test of another name would never be seen again."""
    file, _, function = name.partition("::")
    source = (PROJECT / file).read_text()
    begin = function.partition("[")[0]
    assert re.search(rf"^def {begin or 'test_'}", source, re.MULTILINE)


def test_a_name_is_one_row_s() -> None:
    keys = [engine_table.key(row) for row in ROWS]
    assert len(keys) == len(set(keys))


def row(name: str) -> Row:
    return next(row for row in ROWS if engine_table.key(row) == name)


def test_what_was_seen() -> None:
    """Skipped tests do not count, nor rows of which none ran; what failed is to be seen."""
    path = "tests/interop/test_docker_smoke.py::test_ordinary"
    outcomes = {f"{path}[path-run]": "passed", f"{path}[path-user]": "failed",
                f"{path}[path-tty]": "skipped", f"{path}[shim-run]": "skipped",
                "tests/interop/test_runc.py::test_run": "passed"}  # fmt: skip
    found = engine_table.summed(outcomes)
    assert found == {"Docker, path: ordinary": [1, 2], "runc, by hand: beside it": [1, 1]}
    machine = {"engines": found, "versions": {"Docker": "28.5.2", "runc": "1.3.6"}}
    assert engine_table.cell(machine, row("Docker, path: ordinary")) == "28.5.2: 1 of 2"
    assert engine_table.cell(machine, row("runc, by hand: beside it")) == "1.3.6: 1"
    assert engine_table.cell(machine, row("Docker, shim: ordinary")) == ""


def test_machines() -> None:
    """Each has a family with an archive, and its name is a distribution's and a version."""
    for name, (family, _) in debian.SUITES.items():
        assert family in debian.FAMILIES
        assert re.fullmatch(rf"{family}-(\d+(\.\d+)?|sid)", name)
