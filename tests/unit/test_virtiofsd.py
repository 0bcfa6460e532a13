# SPDX-License-Identifier: Apache-2.0
"""Directories that a guest shares with the host: the words of monitor and daemon, and init's
steps."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from lib.made import config, document, found, host, image, source
from lib.made import net as network
from urunc import guests, monitors
from urunc.bundle import spec
from urunc.errors import HostError
from urunc.init.setup import Ready, build
from urunc.monitors import Launch
from urunc.plan.decide import VIRTIOFSD_MIB, decide
from urunc.plan.model import MonitorUser, Plan
from urunc.plan.realize import realize
from urunc.storage import virtiofsd
from urunc.storage.disks import expected
from urunc.storage.facts import ARCHIVE, FILE, VolumeSource

C, RUST = "/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"


def planned(
    form: str, *volumes: VolumeSource, readonly: bool = False, **changes: Any
) -> tuple[Plan, Launch, list[str]]:
    """(plan, launch, steps in words) of a Linux guest on QEMU."""
    parsed = spec.parse(document(root={"path": "rootfs", "readonly": readonly}), "/bundle")
    guest, monitor = guests.load("linux", config()), monitors.load("qemu", config())
    unikernel = image("linux", "qemu", mount_rootfs=True, rootfs=form)
    there = found(*volumes, **changes)
    plan = decide("box", parsed, unikernel, guest, monitor, host(), config(), there)
    user = MonitorUser(uid=1234, gid=1235, groups=())
    storage = expected(plan)
    launch = realize(plan, network(), guest, monitor, storage)
    steps = build(plan, user, launch, parsed, "/state/box/root", Ready(), storage)
    return plan, launch, [step.describe() for step in steps]


def told(launch: Launch) -> list[str]:
    """The records on the disk that urunc's init reads."""
    (text,) = launch.files.values()
    return text.split("\0")


def test_virtiofs() -> None:
    volumes = source("/data"), source("/etc/app.conf", FILE, read_only=True, recursive=False)
    plan, launch, steps = planned("virtiofs", *volumes)
    line = " ".join(launch.argv)
    size = f"{plan.machine.memory_bytes >> 20}M"
    assert f"-m {size} -object memory-backend-memfd,id=memory,size={size},share=on" in line
    assert "-machine memory-backend=memory" in line
    assert "-chardev socket,id=share0,path=/run/virtiofs.sock" in line
    assert "-device vhost-user-fs-pci,chardev=share0,tag=share" in line
    shared = [step for step in steps if "/share" in step]
    assert shared == [
        "tmpfs /state/box/root/share size=1m mode=755 owner=0:0",
        "bind /bundle/rootfs on /state/box/root/share/root writable",
        "rbind /host/data on /state/box/root/share/volumes/0 writable",
        "bind /host/etc/app.conf on /state/box/root/share/volumes/1 read-only",
        f"start {C} -f --fd=3 --rlimit-nofile=0 -o source=/state/box/root/share,"
        "sandbox=namespace,xattr,modcaps=-mknod,log_level=err "
        "for /state/box/root/run/virtiofs.sock owner=1234:1235",
        "detach /state/box/root/share",
    ]
    # the daemon has no label of the monitor's, and the monitor none of the directories
    assert steps.index(shared[-1]) < steps.index("make /state/box/root read-only")
    records = told(launch)
    assert "share=virtiofs\tshare" in records and "root=share\troot\trw" in records
    assert "mount=share\tvolumes/1\t/etc/app.conf\tro" in records
    assert not any(record.startswith("overlay") for record in records)


def test_virtiofs_costs_memory() -> None:
    plans = [planned(form)[0] for form in ("ext4", "virtiofs")]
    assert plans[1].machine.overhead_bytes - plans[0].machine.overhead_bytes == VIRTIOFSD_MIB << 20


def test_a_volume_alone_is_shared() -> None:
    """The root filesystem is an image."""
    _, launch, steps = planned("ext4", source("/data"))
    assert "-device vhost-user-fs-pci,chardev=share0,tag=share" in " ".join(launch.argv)
    assert not any("/bundle/rootfs" in step for step in steps)
    assert "mount=share\tvolumes/0\t/data\trw" in told(launch)


@pytest.mark.parametrize("readonly", [False, True])
def test_nine_p(readonly: bool) -> None:
    """What can be copied is, for the monitor's user is the one who would read it; what the guest
    writes to its root stays in its memory, unless it may not write at all."""
    volumes = source("/data"), source("/secret", read_only=True)
    plan, launch, steps = planned("9p", *volumes, readonly=readonly)
    line = " ".join(launch.argv)
    assert "-fsdev local,id=share0,path=/share,security_model=none,multidevs=remap" in line
    assert "-device virtio-9p-pci,fsdev=share0,mount_tag=share" in line
    assert "memory-backend" not in line
    assert [volume.way for volume in plan.storage.volumes] == ["9p", ARCHIVE]
    assert [step for step in steps if "/share" in step] == [
        "tmpfs /state/box/root/share size=1m mode=755 owner=0:0",
        "bind /bundle/rootfs on /state/box/root/share/root read-only",
        "rbind /host/data on /state/box/root/share/volumes/0 writable",
        "make /state/box/root/share read-only",
    ]
    assert "bind /proc/self/fd on /state/box/root/proc/self/fd writable" in steps
    records = told(launch)
    assert "share=9p\tshare" in records and "root=share\troot\tro" in records
    assert ("overlay=tmpfs\t" in records) != readonly
    assert "overlay" in plan.storage.filesystems


def test_nothing_shared() -> None:
    _, launch, steps = planned(
        "ext4", source("/x", read_only=True), virtiofsd="", filesystems=("ext4",)
    )
    assert not any("/share" in step or "start " in step for step in steps)
    assert "vhost-user" not in " ".join(launch.argv)


def test_what_each_daemon_is_told() -> None:
    assert virtiofsd.command(RUST, "/a,b", 3, rust=True) == (
        RUST,
        *("--fd=3", "--rlimit-nofile=0", "--shared-dir=/a,b", "--sandbox=namespace", "--xattr"),
        *("--announce-submounts", "--inode-file-handles=never", "--modcaps=-mknod"),
        "--log-level=error",
    )
    # in an option of several words a comma ends one, and a backslash takes that from it
    options = virtiofsd.command(C, "/a,b\\c", 3, rust=False)[-1].partition("sandbox")[0]
    assert options == r"source=/a\,b\\c,"


@pytest.mark.parametrize("rust", [False, True])
def test_which_daemon_it_is(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, rust: bool
) -> None:
    """By its help, which is asked for once."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    program = tmp_path / "virtiofsd"
    text = "--shared-dir <SHARED_DIR> --modcaps <MODCAPS>" if rust else "-o modcaps=CAPLIST"
    program.write_text(f"#!/bin/sh\necho asked >>{tmp_path}/asked\necho '{text}'\n")
    program.chmod(0o755)
    given = config(storage__virtiofsd=str(program))
    monkeypatch.setattr("urunc.programs.runtime_directory", lambda: str(tmp_path / "run"))
    for _ in range(2):
        assert virtiofsd.find(given) == (str(program), rust)
    assert (tmp_path / "asked").read_text() == "asked\n"
    (tmp_path / "run/urunc.d/programs/virtiofsd.json").write_text("{}")
    assert virtiofsd.find(given) == (str(program), rust)


def test_a_daemon_that_is_too_old(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that would let a guest make device nodes is none; where it was asked for, the reason."""
    program = tmp_path / "virtiofsd"
    program.write_text("#!/bin/sh\necho '--shared-dir <SHARED_DIR>'\n")
    program.chmod(0o755)
    monkeypatch.setattr("urunc.programs.runtime_directory", lambda: str(tmp_path / "run"))
    monkeypatch.setattr(virtiofsd, "find_program", lambda name: str(program))
    assert virtiofsd.find(config()) == ("", False)
    with pytest.raises(HostError, match="has no --modcaps"):
        virtiofsd.find(config(storage__virtiofsd=str(program)))


def test_no_daemon(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtiofsd, "find_program", lambda name: "")
    monkeypatch.setattr(virtiofsd, "ELSEWHERE", ())
    assert virtiofsd.find(config()) == ("", False)
    with pytest.raises(HostError, match=r"storage\.virtiofsd: there is no '/nowhere'"):
        virtiofsd.find(config(storage__virtiofsd="/nowhere"))
