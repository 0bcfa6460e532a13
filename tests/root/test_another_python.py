# SPDX-License-Identifier: Apache-2.0
"""The machine's Python has become another, as after an upgrade of the distribution, while
containers are there: every verb works, says so once, and is quick again when bundled anew."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lib.another_python import another, moved, pythons, spoil
from lib.shims import Shim
from lib.support import PROJECT, URUNC, Bundle, Urunc, need, nothing_left

DOOR = PROJECT / "launcher/door.py"
WARNING = "installed for another Python"


def test_life(urunc: Urunc, bundle: Bundle, tmp_path: pathlib.Path) -> None:
    launch = moved(tmp_path)
    known = sorted(file for file in launch.parent.rglob("*") if file.is_file())
    new = Urunc.__new__(Urunc)
    new.__dict__.update(urunc.__dict__, prefix=[another(), "-ISXutf8"], program=str(launch))
    with nothing_left(urunc.root):
        container = urunc.create(bundle)  # by the Python before
        for verb in ("start", "state"):
            done = new(verb, container.id)
            assert done.stderr.count(WARNING) == 1
        assert json.loads(done.stdout)["status"] == "running"
        log = tmp_path / "log"
        done = new("--log", str(log), "kill", container.id, "KILL")
        assert (done.stdout, done.stderr) == ("", "")
        assert log.read_text().count(WARNING) == 1
        container.wait_stopped()
        new("delete", container.id)
        later = new.create(bundle)
        assert later.shown().count(WARNING) == 1
        later.start()
        new("delete", "--force", later.id)
    assert sorted(file for file in launch.parent.rglob("*") if file.is_file()) == known


def test_the_doctor_says_it(tmp_path: pathlib.Path) -> None:
    """Before anybody wonders why it is slow, with the command that mends it."""
    need("installed")
    launch = moved(tmp_path)
    command = [another(), "-ISXutf8", str(launch), "doctor", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    (found,) = [item for item in json.loads(done.stdout) if item["subject"] == "Python"]
    assert found["level"] == "problem"
    assert WARNING in found["advice"] and f"{launch.parent}/launcher/bundle.py" in found["advice"]


@pytest.fixture
def shim(tmp_path: pathlib.Path, bundle: Bundle) -> Iterator[Shim]:
    """A shim of the copied library, whose Python is the right one at first."""
    need("root", "installed")
    launch = moved(tmp_path, other=False)
    target = tmp_path / "containerd-shim-urunc-v2"
    built = URUNC.with_name(target.name)
    door = [sys.executable, *map(str, (DOOR, built, target, launch.with_name(target.name)))]
    subprocess.run(door, check=True)
    target.chmod(0o755)
    with nothing_left(), contextlib.closing(Shim(tmp_path, bundle, str(target))) as made:
        yield made


def test_a_shim_that_runs_meanwhile(shim: Shim, tmp_path: pathlib.Path) -> None:
    """It answers on, with the code that it has; the next one starts with the other Python."""
    assert shim.start() == ""
    shim.create()
    shim("Start")
    spoil(tmp_path / "library")
    assert shim("State")["status"] == 2  # running
    shim("Kill", signal=9)
    assert shim("Wait")["exit_status"] == 137
    shim("Delete")
    shim.leave()
    assert shim.start() == ""
    shim.create()
    shim("Start")
    shim.end(137)
    assert WARNING in shim.said()


def test_bundled_anew(tmp_path: pathlib.Path) -> None:
    """By each Python of this machine; what processes of the one before still read stays."""
    need("installed")
    launch = moved(tmp_path)
    written: dict[pathlib.Path, bytes] = {}
    for python in pythons().values():
        command = [python, "-ISXutf8", str(launch), "--root", str(tmp_path / "root"), "list"]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
        assert WARNING in said.stderr and said.stdout.startswith("ID ")
        words = said.stderr.partition("run: ")[2].split()
        subprocess.run(words, check=True, env={}, cwd="/")
        said = subprocess.run(command, capture_output=True, text=True, check=True)
        assert said.stderr == "" and said.stdout.startswith("ID ")
        assert all(file.read_bytes() == content for file, content in written.items())
        written = {file: file.read_bytes() for file in launch.parent.glob("code.*")}


@pytest.mark.parametrize("program", ["urunc", "containerd-shim-urunc-v2"])
def test_python_that_has_gone(tmp_path: pathlib.Path, program: str) -> None:
    """The distribution's is taken."""
    need("installed", "root")
    launch = moved(tmp_path)
    words = ["--root", str(tmp_path / "root"), "list"]
    if program != "urunc":
        launch, words = launch.with_name(program), ["-v"]
    gone = "/usr/bin/python3.99"
    launch.write_text(f"#!{gone} -ISXutf8\n" + launch.read_text().partition("\n")[2])
    target = tmp_path / program
    door = [sys.executable, *map(str, (DOOR, URUNC.with_name(program), target, launch))]
    subprocess.run(door, check=True)
    target.chmod(0o755)
    said = subprocess.run([target, *words], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith(("ID ", "io.containerd.urunc.v2"))
    assert os.path.exists("/usr/bin/python3") and not shutil.which(gone)


def test_nothing_is_there(tmp_path: pathlib.Path) -> None:
    """What, where, and what to do."""
    need("installed")
    target = tmp_path / "urunc"
    command = [sys.executable, *map(str, (DOOR, URUNC, target, tmp_path / "launch"))]
    subprocess.run(command, check=True)
    target.chmod(0o755)
    said = subprocess.run([target, "list"], capture_output=True, text=True)
    assert said.returncode == 1
    assert str(tmp_path / "launch") in said.stderr and "install urunc again" in said.stderr
