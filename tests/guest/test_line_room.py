# SPDX-License-Identifier: Apache-2.0
"""The longest command line that a monitor has room for starts, and arrives whole; one more byte is
refused at create, rather than by a monitor that ends."""

from __future__ import annotations

import pathlib
import re

import pytest

from lib.support import PARTS, Bundle, Urunc, need

ROOM = {"firecracker": 2047 - len(" virtio_mmio.device=4K@0xd0000000:5") - len(" pci=off"),
        "hvt": 8191, "spt": 8191}  # fmt: skip


@pytest.mark.parametrize("monitor", ROOM)
def test_the_longest_line(urunc: Urunc, tmp_path: pathlib.Path, monitor: str) -> None:
    """With a disk, for which Firecracker adds a word."""
    solo5 = monitor != "firecracker"
    need("probe", "solo5" if solo5 else monitor, *(() if monitor == "spt" else ("kvm",)))
    bundle = Bundle(tmp_path / "b", "mirage" if solo5 else "linux", monitor, block="/disk")
    bundle.add("unikernel", PARTS / (f"probe-mirage.{monitor}" if solo5 else "probe.pvh"))
    bundle.add("disk", bytes(1 << 20))

    def refused(length: int) -> tuple[int, int]:
        """(the line's bytes, what there is room for)."""
        bundle.args("app", "probe.exit=5", "x" * length)
        done = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
        assert done.returncode == 1
        found = re.search(rf"(\d+) bytes are more than {monitor} takes \((\d+)\)", done.stderr)
        assert found, done.stderr
        return int(found[1]), int(found[2])

    length = ROOM[monitor] - (10 if solo5 else 40)
    size, room = refused(length)
    assert room == ROOM[monitor]
    length -= size - room
    assert refused(length + 1) == (room + 1, room)
    bundle.args("app", "probe.exit=5", "x" * length)
    container = urunc.create(bundle)
    container.start()
    assert "x" * length in container.report()["cmdline"]
    container.wait_stopped()
