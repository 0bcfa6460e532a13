# SPDX-License-Identifier: Apache-2.0
"""A guest that touches all of its memory lives: its monitor's own need is outside of it, and the
container's limit holds both (docs/monitors.md, Memory overhead)."""

from __future__ import annotations

import pathlib

import pytest

from support import PARTS, Bundle, Network, Urunc, need

MIB = 1 << 20


@pytest.mark.parametrize("limit_mib", [96, 256, 1024])
@pytest.mark.parametrize("monitor", ["qemu-tcg", "qemu-kvm", "firecracker", "hvt", "spt"])
def test_all_of_it(
    urunc: Urunc, tmp_path: pathlib.Path, network: Network, monitor: str, limit_mib: int
) -> None:
    """With a network and a disk where the guest has them, and traffic afterwards."""
    name, _, accelerator = monitor.partition("-")
    solo5 = name in ("hvt", "spt")
    need("probe", "solo5" if solo5 else name, *(() if monitor in ("spt", "qemu-tcg") else ("kvm",)))
    extra = {"accelerator": accelerator} if accelerator else {}
    bundle = Bundle(tmp_path / "b", "rumprun" if solo5 else "linux", name, block="/disk", **extra)
    bundle.add("unikernel", PARTS / (f"probe.{name}" if solo5 else "probe.pvh"))
    bundle.add("disk", bytes(1 << 20))
    bundle.args("app", "probe.fill=all", "probe.serve=30000")
    bundle.config["linux"]["resources"] = {"memory": {"limit": limit_mib * MIB}}
    network.connect()
    bundle.network(network.path)
    container = urunc.create(bundle)
    container.start()
    plan = container.plan()
    assert plan["memory_bytes"] + plan["overhead_bytes"] <= limit_mib * MIB
    assert plan["memory_bytes"] + plan["overhead_bytes"] > (limit_mib - 2) * MIB
    report = container.report()
    if "double" not in report:  # the tenders' double has no memory to fill
        container.wait_for('"filled"', timeout_s=120)
    container.wait_for('"serving"')
    network.ping()
    assert network.udp(b"x" * 1000) == b"x" * 1000
    assert container.status() == "running"
    removed = urunc("delete", "--force", container.id)
    assert "OOM" not in removed.stderr
