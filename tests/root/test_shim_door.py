# SPDX-License-Identifier: Apache-2.0
"""The shim's verbs by the door: the same calls and events as by its own Python, less work, and the
same words where something goes wrong."""

from __future__ import annotations

import contextlib
import pathlib
import signal
from typing import Any

import pytest

from lib.patience import until
from lib.shims import Shim, box, runc_options
from lib.support import RUN, Bundle, need, nothing_left
from urunc.shim.ttrpc import StatusError

pytestmark = pytest.mark.usefixtures("with_door")

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


def standing_by(shim: Shim) -> list[str]:
    """The shim's own children that are Python: who stands by, and nobody else once it is quiet."""
    children = pathlib.Path(f"/proc/{shim.pid}/task/{shim.pid}/children").read_text().split()
    names = {pid: pathlib.Path(f"/proc/{pid}/comm").read_text().strip() for pid in children}
    return [pid for pid, name in names.items() if name == "urunc"]


def test_who_stands_by(tmp_path: pathlib.Path, bundle: Bundle) -> None:
    """Somebody does from the start on, and once more for the second container of a pod; who is used
    is gone, and so is who is not, with its shim."""
    need("runc")
    pod = box(tmp_path / f"t{RUN}pod", "/bin/sleep", "100")
    pod.config["annotations"] = {
        "io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "pod",
    }  # fmt: skip
    bundle.args("probe.hang")
    guest: dict[str, Any] = {"id": f"t{RUN}guest", "bundle": str(bundle.write())}
    with nothing_left(), contextlib.closing(Shim(tmp_path, pod)) as shim:
        shim.start()
        until(lambda: len(standing_by(shim)) == 1)
        first = standing_by(shim)
        shim.create()
        until(lambda: len(standing_by(shim)) == 1)  # once the answer is out
        assert standing_by(shim) != first
        shim("Create", options=runc_options(root=shim.root), **guest)
        assert standing_by(shim) == []
        shim("Delete", id=guest["id"])
        shim.end()
    unused = tmp_path / "unused"
    unused.mkdir()
    with nothing_left(), contextlib.closing(Shim(unused, box(tmp_path / "b", "x"))) as shim:
        shim.start()
        until(lambda: len(standing_by(shim)) == 1)
        (pid,) = standing_by(shim)
        shim.leave()
        until(lambda: not pathlib.Path(f"/proc/{pid}").exists())
