# SPDX-License-Identifier: Apache-2.0
"""Each guest on QEMU with a firmware that will do for it: the probe that takes PCI devices'
addresses from its firmware, and the one that assigns them itself."""

from __future__ import annotations

import pathlib

import pytest

from lib.newc import cpio
from lib.support import PARTS, Bundle, Network, Urunc, need, nothing_left

UNASSIGNED = 124 * 2 + 1  # the trusting probe's code, by isa-debug-exit
SHARED = {"mountRootfs": "true", "rootfs": "9p"}
TEMPLATE = '[guests.mine]\ncmdline = "{args}"\nstorage = ["block", "initrd"]\n'


def _bundle(path: pathlib.Path, guest: str, kernel: str, **annotations: str) -> Bundle:
    annotations = {"accelerator": "tcg", **annotations}
    bundle = Bundle(path, guest, "qemu", **annotations)
    bundle.add("unikernel", PARTS / kernel)
    bundle.args("app", "probe.exit=1")
    return bundle


def _configure(urunc: Urunc, text: str) -> None:
    with urunc.config.open("a") as file:
        file.write(text)


@pytest.mark.parametrize(
    ("guest", "accelerator"),
    [("unikraft", "tcg"), ("unikraft", "kvm"), ("mewz", "tcg"), ("mine", "tcg")],
)
def test_a_card(
    urunc: Urunc, network: Network, tmp_path: pathlib.Path, guest: str, accelerator: str
) -> None:
    """A kernel that trusts its firmware has its network."""
    need("probe", "qemu", *(("kvm",) if accelerator == "kvm" else ()))
    _configure(urunc, TEMPLATE)
    network.connect()
    bundle = _bundle(tmp_path / "b", guest, "probe-trusting.pvh", accelerator=accelerator)
    bundle.args("app", "probe.serve=60000")
    bundle.network(network.path)
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        assert container.report()["nics"][0]["bus"] == "pci"
        if guest != "mewz":  # which is told no arguments
            container.wait_for('"serving"')
        if guest == "unikraft":
            network.ping()
            assert network.udp(b"quit 5") == b"quit 5"
            container.wait_stopped()
        container.delete("--force")


def test_a_share(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """The same with a root filesystem by 9p and a volume."""
    need("root", "probe", "qemu")
    bundle = _bundle(tmp_path / "b", "unikraft", "probe-trusting.pvh", **SHARED)
    (tmp_path / "data").mkdir()
    bundle.config["mounts"] = [
        {"destination": "/srv/data", "type": "bind", "source": str(tmp_path / "data"),
         "options": ["rbind"]}
    ]  # fmt: skip
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        others = container.report()["others"]
        assert [other.get("tag") for other in others] == ["root", "volume0"]
        container.wait_stopped()
        container.delete()
    # Unikraft has its root read-only, and no place for the mount else: runc makes it, too
    assert (bundle.root / "srv/data").is_dir()


def test_a_disk(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """A guest without code takes what QEMU has by itself, too."""
    need("probe", "qemu")
    _configure(urunc, TEMPLATE)
    bundle = _bundle(tmp_path / "b", "mine", "probe-trusting.pvh", block="/disk", initrd="/initrd")
    bundle.add("disk", b"sixteen bytes of" + bytes(1 << 20))
    bundle.add("initrd", cpio({"hello": b"hello"}))
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        report = container.report()
        assert bytes.fromhex(report["disks"][0]["first"]) == b"sixteen bytes of"
        assert report["initrd"]["entries"] == [{"name": "hello", "size": 5}]
        container.wait_stopped()
        container.delete()


@pytest.mark.parametrize("kernel", ["probe.pvh", "probe-trusting.pvh"])
@pytest.mark.parametrize("firmware", ["auto", "qboot", "seabios"])
def test_linux_has_qboot(urunc: Urunc, tmp_path: pathlib.Path, kernel: str, firmware: str) -> None:
    """A guest that assigns resources gets the quick firmware, unless the administrator says
    otherwise; and that firmware leaves them unassigned."""
    need("probe", "qemu")
    _configure(urunc, f'[monitors.qemu]\nfirmware = "{firmware}"\n')
    bundle = _bundle(tmp_path / "b", "linux", kernel, block="/disk")
    bundle.add("disk", bytes(1 << 20))
    bundle.args("app", "probe.exit=1", "--")
    with nothing_left(urunc.root):
        result = urunc("run", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    lost = kernel == "probe-trusting.pvh" and firmware != "seabios"
    assert ('"event":"unassigned"' in result.stdout) == lost, result.stdout + result.stderr
    assert result.returncode == (UNASSIGNED if lost else 3)


@pytest.mark.parametrize("setting", ["monitors.qemu.firmware", "guests.mine.assigns_resources"])
def test_the_administrator_may_choose_qboot(
    urunc: Urunc, tmp_path: pathlib.Path, setting: str
) -> None:
    need("probe", "qemu")
    section, _, key = setting.rpartition(".")
    value = '"qboot"' if key == "firmware" else "true"
    guest = "unikraft" if key == "firmware" else "mine"
    if guest == "mine":
        _configure(urunc, TEMPLATE + f"{key} = {value}\n")
    else:
        _configure(urunc, f"[{section}]\n{key} = {value}\n")
    bundle = _bundle(tmp_path / "b", guest, "probe-trusting.pvh", **SHARED)
    if guest == "mine":
        bundle = _bundle(tmp_path / "c", guest, "probe-trusting.pvh", block="/disk")
        bundle.add("disk", bytes(1 << 20))
    with nothing_left(urunc.root):
        result = urunc("run", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    assert '"event":"unassigned"' in result.stdout, result.stdout + result.stderr
