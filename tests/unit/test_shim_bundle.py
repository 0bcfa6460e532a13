# SPDX-License-Identifier: Apache-2.0
"""What the shim reads in a bundle."""

from __future__ import annotations

import json
import pathlib

import pytest

from urunc.shim.bundle import is_systemds


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("kubepods-burstable-pod1.slice:cri-containerd:0123", True),
        ("/kubepods/burstable/pod1/0123", False),
        ("/default/name", False),
        ("a:b:c/d", False),
        ("", False),
        (7, False),
        (None, False),
    ],
)
def test_whose_control_group(tmp_path: pathlib.Path, path: object, expected: bool) -> None:
    """Kubelet's two drivers: CRI tells a shim that is not runc's by the path alone."""
    document = {"linux": {"cgroupsPath": path} if path is not None else {}}
    (tmp_path / "config.json").write_text(json.dumps(document))
    assert is_systemds(str(tmp_path)) is expected


@pytest.mark.parametrize("text", ["", "[]", '{"linux": null}'])
def test_no_control_group(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert not is_systemds(str(tmp_path))
    assert not is_systemds(str(tmp_path / "none"))
