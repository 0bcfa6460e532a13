# SPDX-License-Identifier: Apache-2.0
"""What the shim reads in a bundle, and what it leaves there for its launcher."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess

import pytest

from urunc.shim import ENDED_FILE, bundle
from urunc.shim.bundle import configuration, has_own_pids, is_systemds, leave_answer
from urunc.shim.messages import decode

LAUNCHER = pathlib.Path(__file__).parents[2] / "launcher/shim.in"
NO_INTERPRETER = 127
"""Of a shell that is to execute `@PYTHON@`."""
END = {"pid": 37, "exit_status": 5, "exited_at": {"seconds": 1700000000, "nanos": 37}}
SLICE = "kubepods-burstable-pod1.slice:cri-containerd:0123"


def write(directory: pathlib.Path, path: object) -> None:
    document = {"linux": {"cgroupsPath": path} if path is not None else {}}
    (directory / "config.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (SLICE, True),
        ("/kubepods/burstable/pod1/0123", False),
        ("/default/name", False),
        ("a:b:c/d", False),
        ("", False),
        (7, False),
        (None, False),
    ],
)
def test_whose_control_group(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, path: object, expected: bool
) -> None:
    """Kubelet's two drivers: CRI tells a shim that is not runc's by the path alone."""
    monkeypatch.setattr(bundle, "BOOTED", str(tmp_path))
    write(tmp_path, path)
    assert is_systemds(configuration(str(tmp_path))) is expected


def test_slice_without_systemd(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "BOOTED", str(tmp_path / "none"))
    write(tmp_path, SLICE)
    assert not is_systemds(configuration(str(tmp_path)))


@pytest.mark.parametrize("text", ["", "[]", '{"linux": null}'])
def test_no_control_group(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(bundle, "BOOTED", str(tmp_path))
    (tmp_path / "config.json").write_text(text)
    assert not is_systemds(configuration(str(tmp_path)))
    assert configuration(str(tmp_path / "none")) is None
    assert not is_systemds(None)


@pytest.mark.parametrize(
    ("namespaces", "expected"),
    [
        ([{"type": "pid"}, {"type": "mount"}], True),
        ([{"type": "mount"}], False),
        ([{"type": "pid", "path": "/proc/1/ns/pid"}], False),
        (None, True),
        ([{}], True),
    ],
)
def test_whose_pids(namespaces: object, expected: bool) -> None:
    assert has_own_pids({"linux": {"namespaces": namespaces}}) is expected
    assert has_own_pids(None)


@pytest.fixture(params=[("dash",), ("bash",), ("busybox", "sh")], ids=lambda words: words[0])
def shell(request: pytest.FixtureRequest) -> list[str]:
    """What may be a machine's sh."""
    if not shutil.which(request.param[0]):
        pytest.skip(f"needs {request.param[0]}")
    return list(request.param)


def launch(shell: list[str], directory: pathlib.Path, action: str) -> tuple[int, bytes]:
    """(exit code, output) of the launcher in a bundle, where there is no Python."""
    launcher = directory / "launcher"
    launcher.write_text(LAUNCHER.read_text().replace("/usr/bin/python3", "/nonexistent"))
    words = ["-namespace", "a", "-id", "b", "-bundle", str(directory), action]
    done = subprocess.run([*shell, str(launcher), *words], cwd=directory, capture_output=True)
    return done.returncode, done.stdout


def test_the_launcher_knows_the_answer(shell: list[str], tmp_path: pathlib.Path) -> None:
    """Without an interpreter; 37 is a `%`, which printf(1) must not heed."""
    (tmp_path / "address").write_text(f"unix://{tmp_path}/socket")
    leave_answer(str(tmp_path), END)
    code, answer = launch(shell, tmp_path, "delete")
    assert code == 0
    assert decode("containerd.task.v2.DeleteResponse", answer) == END


@pytest.mark.parametrize("case", ["start", "no answer", "half an answer", "no address", "socket"])
def test_the_launcher_leaves_it_to_python(
    shell: list[str], tmp_path: pathlib.Path, case: str
) -> None:
    (tmp_path / "address").write_text(f"unix://{tmp_path}/socket")
    leave_answer(str(tmp_path), END)
    ended = tmp_path / ENDED_FILE
    if case == "no answer":
        ended.unlink()
    if case == "half an answer":
        ended.write_text(ended.read_text()[:-3])
    if case == "no address":
        (tmp_path / "address").unlink()
    if case == "socket":
        (tmp_path / "socket").touch()
    action = "start" if case == "start" else "delete"
    assert launch(shell, tmp_path, action) == (NO_INTERPRETER, b"")
