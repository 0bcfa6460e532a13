# SPDX-License-Identifier: Apache-2.0
"""What is undone when a guest cannot be saved or put back, where a part of that fails, too."""

from __future__ import annotations

import os
import pathlib
import signal
from errno import EINVAL
from types import SimpleNamespace
from typing import Any

import pytest

from urunc.errors import HostError, MonitorError, SnapshotError
from urunc.lifecycle import checkpoint, restore
from urunc.linux import _linux
from urunc.snapshot import lend
from urunc.snapshot.guard import Guard
from urunc.state import RUNNING


def standing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A guest that stands still, whose monitor does not give back what it was lent."""

    def stuck(pid: int, names: tuple[str, ...]) -> None:
        raise HostError("take files back from the monitor: directory not empty")

    monkeypatch.setattr(lend, "take_back", stuck)
    saving = checkpoint._Saving.__new__(checkpoint._Saving)
    saving.state = SimpleNamespace(id="one", pid=1, status=lambda: RUNNING)  # type: ignore[assignment] # no container
    saving.was_paused, saving.stands, saving.lent = False, True, ("state",)
    return saving


def test_it_goes_on_though_files_are_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    saving = standing(monkeypatch)
    orders: list[str] = []
    saving._order = orders.append
    with pytest.raises(HostError, match="not empty"):
        saving._go_on()
    assert orders == ["resume"]
    assert not saving.stands


def test_a_monitor_writes_too_much(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a memory of another size: it could not be restored."""
    saving = standing(monkeypatch)
    saving.snapshots = SimpleNamespace(memory="memory")
    saving.plan = SimpleNamespace(machine=SimpleNamespace(memory_bytes=10))
    with (tmp_path / "file").open("wb") as file:
        for name, size, right in (
            ("memory", 10, True), ("memory", 11, False), ("memory", 9, False),
            ("state", 9, True), ("state", 100, True), ("state", 101, False),
        ):  # fmt: skip
            file.truncate(size)
            if right:
                saving._check_sizes({name: file.fileno()}, 100)
                continue
            with pytest.raises(MonitorError, match=f"made {size} bytes"):
                saving._check_sizes({name: file.fileno()}, 100)


def test_the_guard_asks_until_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A monitor whose saving breaks off refuses to go on until that is over."""
    saving = standing(monkeypatch)
    orders: list[str] = []

    def order(what: str) -> None:
        orders.append(what)
        if len(orders) < 3:
            raise HostError("migration is not finalized yet")

    saving._order = order
    saving.snapshots = SimpleNamespace(files=("state",), lent=True)
    saving.writing = SimpleNamespace(remove=lambda: orders.append("remove"))
    saving._undo_for_parent()
    assert orders == ["resume", "resume", "resume", "remove"]


def test_the_guard_was_killed() -> None:
    """There is nothing to undo: no error."""
    guard = Guard(lambda: None)
    os.kill(guard._pid, signal.SIGKILL)
    os.waitid(os.P_PID, guard._pid, os.WEXITED | os.WNOWAIT)
    guard.release()


def test_a_disk_that_cannot_be_exchanged(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that cannot: the copy is not left beside it."""

    def cannot(old: str, new: str) -> None:
        raise OSError(EINVAL, os.strerror(EINVAL))

    monkeypatch.setattr(_linux, "exchange", cannot)
    (tmp_path / "disk").write_bytes(b"mine")
    plan: Any = SimpleNamespace(storage=SimpleNamespace(root=str(tmp_path)))
    source = SimpleNamespace(path="/disk", uid=os.getuid(), gid=os.getgid(), mode=0o600)
    file: Any = SimpleNamespace(source=source)
    replaced = restore._Replaced(plan, file)
    with (tmp_path / "disk").open("rb") as saved, pytest.raises(SnapshotError, match="/disk") as e:
        replaced.put(saved.fileno(), 4)
    assert "RENAME_EXCHANGE" in e.value.hint
    assert os.listdir(tmp_path) == ["disk"]
    assert (tmp_path / "disk").read_bytes() == b"mine"
