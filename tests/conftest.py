# SPDX-License-Identifier: Apache-2.0
"""Fixtures that the tests share; what they are made of is in support.py."""

from __future__ import annotations

import functools
import pathlib
import sys
from collections.abc import Iterator
from fnmatch import fnmatch

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from lib.patience import patient
from lib.support import Network, Urunc, need
from urunc import logs

# To rewrite the assertions of all files takes seconds, in each worker: what a run compiles is kept
# for the next, whatever the environment says, which still counts for what tests start.
sys.dont_write_bytecode = False
pytest_plugins = ["lib.examples", "lib.workers", "lib.seen"]

KINDS = {
    "mounts": "mounts* mount_options mount_types detached_mounts storage* declared_disks virtiofsd "
    "sharing layer_on_disk snapshot_device archive cpio owners",
    "endings": "endings engines_endings exit_reasons guest_init_ends signals supervisor",
    "streams": "streams* shim_stdio shim_terminal",
    "limits": "memory processes limits cgroups cgroup_v2 systemd shim_pod",
    "keys": "keys key_table rare* features spec asked process namespaces host_namespaces hooks",
}
"""Kinds of tests, whatever they need of the machine, by their files' names without `test_`: each
name is a marker (`./test -m endings`)."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its kind."""
    for item in items:
        for kind in kinds_of(item.path.stem.removeprefix("test_")):
            item.add_marker(kind)


@functools.cache
def kinds_of(name: str) -> list[str]:
    """The kinds of the tests in a file, by its name."""
    return [
        kind
        for kind, patterns in KINDS.items()
        if any(fnmatch(name, pattern) for pattern in patterns.split())
    ]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """pytest-timeout's limit for a test, stretched as all limits are."""
    asked = item.get_closest_marker("timeout")
    limit_s = asked.args[0] if asked else item.config.getini("timeout")
    if item.config.getoption("timeout") is None and limit_s:
        item.add_marker(pytest.mark.timeout(patient(float(limit_s))), append=False)
    return (yield)


@pytest.fixture(autouse=True)
def fresh_logs() -> Iterator[None]:
    """Where messages go, which a test of a whole verb sets in this very process, is as it was."""
    before = {name: value for name, value in vars(logs).items() if not name.startswith("__")}
    yield
    vars(logs).update(before)
    logs._seen.clear()


@pytest.fixture
def urunc(tmp_path: pathlib.Path) -> Iterator[Urunc]:
    """The installed urunc with state of its own."""
    need("installed", "root")
    runtime = Urunc(tmp_path)
    yield runtime
    runtime.clean()


@pytest.fixture
def network() -> Iterator[Network]:
    """A container's network namespace, and a peer's, not yet connected."""
    need("root", "tun")
    made = Network()
    yield made
    made.remove()
