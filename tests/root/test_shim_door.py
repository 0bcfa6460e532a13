# SPDX-License-Identifier: Apache-2.0
"""The shim's verbs by the door: the same calls and events as by its own Python, less work, and the
same words where something goes wrong."""

from __future__ import annotations

import contextlib
import pathlib
import signal
from typing import Any

import pytest

from lib.shims import Shim, runc_options
from lib.support import Bundle, need, nothing_left
from urunc.shim.ttrpc import StatusError

CHILDRENS_FAULTS = 8
"""The field of proc_pid_stat(5), counted from the state on."""


@pytest.fixture(autouse=True)
def root() -> None:
    need("root", "installed")


def page_faults(shim: Shim) -> int:
    """Of the children that the shim has waited for."""
    text = pathlib.Path(f"/proc/{shim.pid}/stat").read_text()
    return int(text.rpartition(")")[2].split()[CHILDRENS_FAULTS])


def life(directory: pathlib.Path, bundle: Bundle) -> tuple[list[Any], int]:
    """What a client and the subscribers to events see of one container, and how many page faults
    its verbs took after `Create`."""
    directory.mkdir()
    with nothing_left(), contextlib.closing(Shim(directory, bundle)) as shim:
        shim.start()
        shim.create()
        before = page_faults(shim)
        shim("Start")
        shim("Kill", signal=signal.SIGKILL)
        seen: list[Any] = [shim("Wait")["exit_status"], shim("Delete")["exit_status"]]
        took = page_faults(shim) - before
        shim.leave()
        return [*seen, shim.events.topics()], took


def test_a_life(tmp_path: pathlib.Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker copies hundreds of pages, of which the door has none."""
    bundle.args("probe.hang")
    seen, took = life(tmp_path / "door", bundle)
    (bundle.path / "log").unlink()
    monkeypatch.setenv("URUNC_DOOR", "off")
    seen_without, took_without = life(tmp_path / "python", bundle)
    assert seen == seen_without
    assert seen[:2] == [137, 137]
    assert took < took_without / 3


@pytest.mark.parametrize("way", ["on", "off"])
def test_what_goes_wrong(
    tmp_path: pathlib.Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """What init says in place of starting, and what a recipe does not foresee."""
    monkeypatch.setenv("URUNC_DOOR", way)
    bundle.args("probe.hang")
    bundle.config["hooks"] = {"startContainer": [{"path": "/nowhere"}]}
    with nothing_left(), contextlib.closing(Shim(tmp_path, bundle)) as shim:
        shim.start()
        shim.create()
        with pytest.raises(StatusError, match=r"OCI runtime start failed: .*/nowhere") as refused:
            shim("Start")
        assert str(refused.value).count("/nowhere") == 1
        shim.end()


def test_a_recipe_that_holds_no_more(tmp_path: pathlib.Path, bundle: Bundle) -> None:
    """The shim's own Python does it."""
    bundle.args("probe.hang")
    with nothing_left(), contextlib.closing(Shim(tmp_path, bundle)) as shim:
        shim.start()
        shim.create(runc_options(root=shim.root))
        (recipe,) = pathlib.Path(shim.root).rglob("recipe")
        recipe.unlink()
        shim("Start")
        recipe.write_bytes(b"no recipe\0")
        shim.end(137)
