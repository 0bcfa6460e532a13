# SPDX-License-Identifier: Apache-2.0
"""Tests beside each other (pytest-xdist's `-n`): each worker in a world of its own, what is shared
made once, the longest first; and the lines with numbers that tests have measured."""

from __future__ import annotations

import os
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import execnet

WORLD = pathlib.Path(__file__).resolve().parent / "world.py"
ORDER = ("interop", "guest", "root", "style", "unit")
"""Directories of tests, those first whose units of work are longest."""
WHOLE = ("interop", "style", "unit", "root/test_cgroup_v2", "root/test_keys")
"""What a worker has by the file: fixtures of the module's, or tests too short to be told singly."""


def unit_of(nodeid: str) -> str:
    """What is run by one worker: a test, or the file that it is in."""
    file = nodeid.partition("::")[0]
    return file if file.removeprefix("tests/").startswith(WHOLE) else nodeid


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where workers take turns, those first that take long."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    places = {name: place for place, name in enumerate(ORDER)}
    items.sort(key=lambda item: places.get(item.path.parent.name, len(ORDER)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[execnet.XSpec]) -> None:
    """Start the workers in worlds."""
    import execnet

    kept = config.option.basetemp
    words = [sys.executable, str(WORLD), "--with-parent"]
    words += ["--keep", os.path.realpath(kept)] if kept else []
    command = shlex.join([*words, "--", sys.executable])
    for place, spec in enumerate(specs):
        if spec.popen and not spec.python:
            specs[place] = execnet.XSpec(f"{spec}//python={command}//id={spec.id}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give workers units of work, in the order of the tests."""
    from xdist.scheduler.loadscope import LoadScopeScheduling

    config.option.loadscopereorder = False
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = unit_of
    return scheduler


MEASURED = pytest.StashKey[list[str]]()


@pytest.fixture
def measured(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Takes a line with a number that a test has measured, which is shown when all have run."""
    return pytestconfig.stash.setdefault(MEASURED, []).append


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands in what was measured."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["measured"] = session.config.stash.get(MEASURED, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a worker has handed in."""
    output = getattr(node, "workeroutput", None) or {}
    node.config.stash.setdefault(MEASURED, []).extend(output.get("measured", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was measured."""
    lines = terminalreporter.config.stash.get(MEASURED, [])
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)
