# SPDX-License-Identifier: Apache-2.0
"""The runtime's table that `deploy/install` writes for a version of containerd."""

from __future__ import annotations

import pytest

from urunc.installer.node import Runtime

PATH = "/usr/local/bin/containerd-shim-urunc-v2"
RUNC, URUNC = "io.containerd.runc.v2", "io.containerd.urunc.v2"


@pytest.mark.parametrize(
    ("version", "kind", "path"),
    [
        ((1, 6, 20), URUNC, None),
        ((1, 7, 24), URUNC, None),
        ((2, 0, 13), RUNC, PATH),
        ((2, 2, 3), RUNC, PATH),
        ((2, 2, 8), URUNC, None),
        ((2, 4, 2), URUNC, None),
    ],
)
def test_a_shim_that_is_asked_for_its_features(
    version: tuple[int, ...], kind: str, path: str | None
) -> None:
    """Where containerd asks only shims of runc's type, ours has that type, and a path."""
    table = Runtime("/usr/local", shim=True).containerd(version, systemd=True)
    assert (table["runtime_type"], table.get("runtime_path")) == (kind, path)
    assert "options" not in table
    assert table["pod_annotations"] == ["com.urunc.unikernel.*"]


def test_runc_s_shim() -> None:
    table = Runtime("/opt/urunc", shim=False).containerd((2, 1, 9), systemd=True)
    assert table["runtime_type"] == RUNC
    assert table["options"] == {"BinaryName": "/opt/urunc/bin/urunc", "SystemdCgroup": True}
