# SPDX-License-Identifier: Apache-2.0
"""Tests beside each other (pytest-xdist's `-n`): each worker in a world of its own, what is shared
made once, the longest first. What is told when all have run: the CPU time that tests took, which
other work on the machine lengthens less than it does durations, and what they have measured."""

from __future__ import annotations

import contextlib
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
ORDER = ("cluster", "interop", "root", "style", "unit", "guest")
"""Directories of tests, those first whose units of work are longest: short ones fill the end."""
WHOLE = ("interop", "style", "unit", "root/test_cgroup_v2", "root/test_keys")
"""What a worker has by the file: fixtures of the module's, or tests too short to be told singly."""


def unit_of(nodeid: str) -> str:
    """What is run by one worker: a test, the file that it is in, or all that need the cluster."""
    file = nodeid.partition("::")[0]
    if file.startswith("tests/cluster/"):
        return "tests/cluster"
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


CGROUPS = pathlib.Path("/sys/fs/cgroup")
LISTED = 30
"""So many tests that took most CPU time are listed."""
_begun: dict[str, float] = {}
_took: dict[str, float] = {}


def cpu_s() -> float:
    """The CPU time of this world's processes so far, in seconds; 0 where that is not known."""
    if "URUNC_TEST_WORLD" not in os.environ:
        return 0
    usage = CGROUPS / "cpuacct/cpuacct.usage"
    if usage.exists():
        return int(usage.read_text()) / 1e9
    with contextlib.suppress(OSError):  # neither v1's nor v2's controller is here
        lines = (CGROUPS / "cpu.stat").read_text().splitlines()
        return int(dict(line.split() for line in lines)["usage_usec"]) / 1e6
    return 0


def pytest_runtest_logstart(nodeid: str) -> None:
    """A test begins."""
    _begun[nodeid] = cpu_s()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Put the CPU time of a test, with its fixtures', into its last report."""
    report = yield
    if call.when == "teardown":
        report.cpu_s = cpu_s() - _begun.pop(item.nodeid, 0)
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Take the CPU time, here or from a worker."""
    if report.when == "teardown":
        _took[report.nodeid] = getattr(report, "cpu_s", 0.0)


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
    """What was measured; with --durations the CPU time by directory, and the most of it."""
    config = terminalreporter.config
    lines = config.stash.get(MEASURED, [])
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)
    if config.getoption("durations") is not None and any(_took.values()):
        terminalreporter.section("CPU time")
        directories: dict[str, float] = {}
        for nodeid, took in _took.items():
            directory = os.path.dirname(nodeid.partition("::")[0])
            directories[directory] = directories.get(directory, 0) + took
        for name, took in [
            *sorted(directories.items()),
            *sorted(_took.items(), key=lambda item: -item[1])[:LISTED],
        ]:
            terminalreporter.write_line(f"{took:8.2f} s {name}")
