# SPDX-License-Identifier: Apache-2.0
"""A guest that touches all of its memory lives: its monitor's own need is outside of it, and the
container's limit holds both (docs/monitors.md, Memory overhead)."""

from __future__ import annotations

import os
import pathlib
import re

import pytest

from lib.rooted import configure, linux, run
from lib.support import PARTS, Bundle, Network, Urunc, need, nothing_left

MIB, GIB = 1 << 20, 1 << 30


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


@pytest.mark.parametrize("limit", [1 << 40, 9223372036854771712], ids=["1TiB", "none"])
@pytest.mark.parametrize("monitor", ["qemu", "firecracker", "hvt", "spt"])
def test_a_limit_far_above_the_machine_s_memory(
    urunc: Urunc, tmp_path: pathlib.Path, monitor: str, limit: int
) -> None:
    """runc starts such a container, and so does urunc; what says "none" has the default."""
    solo5 = monitor in ("hvt", "spt")
    need("probe", "solo5" if solo5 else monitor)
    need(*(("kvm",) if monitor in ("firecracker", "hvt") else ()))
    bundle = Bundle(tmp_path / "b", "rumprun" if solo5 else "unikraft", monitor)
    bundle.add("unikernel", PARTS / (f"probe-bare.{monitor}" if solo5 else "probe.pvh"))
    bundle.args("app", "probe.exit=5")
    bundle.config["linux"]["resources"] = {"memory": {"limit": limit}}
    container = urunc.create(bundle)
    warnings = container.plan()["warnings"]
    assert any("the guest has" in warning for warning in warnings) == (limit == 1 << 40)
    container.start()
    memory = container.report()["memory"]
    assert memory <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory > GIB if limit == 1 << 40 else memory <= 256 * MIB
    container.wait_stopped()


def _least(said: str) -> int:
    """The number of MiB that a refusal names as the container's limit, in bytes too."""
    found = re.search(r"(\d+) MiB \((\d+) bytes\)", said)
    assert found, said
    assert int(found[1]) * MIB == int(found[2])
    return int(found[1])


@pytest.mark.parametrize("kernel", ["vmlinuz", "vmlinux"])
@pytest.mark.parametrize("form", ["erofs", "cpio", "image"])
def test_the_least_memory(urunc: Urunc, tmp_path: pathlib.Path, form: str, kernel: str) -> None:
    """A limit that is refused names the one with which Linux comes to its application; with one
    between, it would end before it has a console, by a triple fault."""
    need("linux", "qemu", "images")
    file = PARTS / "linux" / kernel
    if form == "image":
        bundle = Bundle(tmp_path / "b", "linux", "qemu", accelerator="tcg", initrd="/initrd.cpio")
        bundle.add("unikernel", file)
        bundle.add("initrd.cpio", PARTS / "linux/initrd.cpio")
        bundle.args("/init", "/bin/sh", "-c", "echo it runs")
        bundle.config["vm"] = {"kernel": {"parameters": ["quiet"]}}
    else:
        configure(urunc, form, **{"guests.linux.kernel": str(file)})
        bundle = linux(tmp_path / "b", "echo it runs", rootfs=form)
    memory: dict[str, int] = {"limit": 20 * MIB}
    bundle.config["linux"]["resources"] = {"memory": memory}
    with nothing_left(urunc.root):
        refused = run(urunc, bundle)
        assert refused.returncode == 1
        least = _least(refused.stderr)
        assert ("more for the files that go into its initrd" in refused.stderr) == (form == "cpio")
        if form == "cpio":
            memory["limit"] = least * MIB
            refused = run(urunc, bundle)
            if refused.returncode:
                assert "are too much for a guest" in refused.stderr
                least = _least(refused.stderr)
        memory["limit"] = (least - 1) * MIB
        refused = run(urunc, bundle)
        assert refused.returncode == 1
        assert _least(refused.stderr) == least
        memory["limit"] = least * MIB
        result = run(urunc, bundle)
        assert "it runs" in result.stdout, (least, result)


def test_the_least_memory_with_a_large_initrd(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """It is known once it is made, and what is named then is enough."""
    need("linux", "qemu")
    configure(urunc)
    bundle = linux(tmp_path / "b", "echo it runs", rootfs="cpio")
    bundle.add("large", os.urandom(40 * MIB))
    memory: dict[str, int] = {"limit": 100 * MIB}
    bundle.config["linux"]["resources"] = {"memory": memory}
    with nothing_left(urunc.root):
        refused = run(urunc, bundle)  # what holds whatever is in the initrd
        memory["limit"] = _least(refused.stderr) * MIB
        refused = run(urunc, bundle)
        assert "initrd: 4" in refused.stderr
        memory["limit"] = _least(refused.stderr) * MIB
        result = run(urunc, bundle)
        assert "it runs" in result.stdout, (memory, result)


def test_an_annotation_below_the_least_memory(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    need("linux", "qemu")
    configure(urunc)
    bundle = linux(tmp_path / "b", "echo it runs", rootfs="cpio", memory="40")
    with nothing_left(urunc.root):
        refused = run(urunc, bundle)
    assert refused.returncode == 1
    assert "annotation 'memory': 40 is less than the guest needs to run (" in refused.stderr
