# SPDX-License-Identifier: Apache-2.0
"""What the shim reads in a bundle, and what it leaves there for its launcher."""

from __future__ import annotations

import json
import pathlib

import pytest

from urunc.shim import bundle
from urunc.shim.bundle import configuration, has_own_pids, is_systemds

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
