# SPDX-License-Identifier: Apache-2.0
"""`decide` refuses: guests, monitors, kernels and versions that do not go together."""

from __future__ import annotations

from typing import Any

import pytest

from lib.decided import planned, refused
from lib.made import (
    binary,
    config,
    document,
    host,
    image_file,
    program,
    solo5,
)
from urunc.errors import HostError, ImageError

REFUSED = [
    (
        "unikraft",
        "hvt",
        {},
        "annotation 'hypervisor': unikraft does not run on hvt",
        "firecracker, qemu",
    ),
    (
        "unikraft",
        "qemu",
        {"binary": binary(machine="aarch64")},
        "unikernel '/unikernel': built for aarch64, this machine is x86_64",
        "",
    ),
    (
        "unikraft",
        "qemu",
        {"binary": binary(format="", machine="")},
        "unikernel '/unikernel': neither an ELF file nor a Linux kernel image",
        "",
    ),
    (
        "rumprun",
        "spt",
        {"binary": solo5("hvt")},
        "unikernel '/unikernel': built for Solo5's hvt, asked to run on spt",
        "set the annotation hypervisor to hvt",
    ),
    (
        "rumprun",
        "hvt",
        {"binary": solo5("muen")},
        "unikernel '/unikernel': built for Solo5's muen, asked to run on hvt",
        "build it for this target",
    ),
    (
        "rumprun",
        "hvt",
        {"binary": binary()},
        "unikernel '/unikernel': not built for Solo5, asked to run on hvt",
        "build it",
    ),
    (
        "linux",
        "qemu",
        {"binary": solo5("hvt")},
        "unikernel '/unikernel': built for Solo5's hvt, asked to run on qemu",
        "set the annotation hypervisor to hvt",
    ),
    (
        "linux",
        "firecracker",
        {"binary": binary(format="bzimage")},
        "unikernel '/unikernel': firecracker does not boot a kernel of format bzimage",
        "Firecracker wants the uncompressed ELF kernel (vmlinux)",
    ),
    (
        "mirage",
        "spt",
        {"initrd": image_file("/initrd")},
        "annotation 'initrd': spt has none",
        "use 'block'",
    ),
    (
        "unikraft",
        "qemu",
        {"blocks": (image_file("/disk"),)},
        "annotation 'block': unikraft cannot use it",
        "it takes: initrd",
    ),
    (
        "mewz",
        "qemu",
        {"initrd": image_file("/initrd")},
        "annotation 'initrd': mewz cannot use it",
        "it takes: none",
    ),
    (
        "rumprun",
        "hvt",
        {"binary": solo5("hvt", ("rootfs", "block"), ("tap", "net"))},
        "unikernel '/unikernel': declares the block devices 'rootfs', but 0 given",
        "name a block image by the annotation 'block'",
    ),
    (
        "rumprun",
        "hvt",
        {
            "binary": solo5("hvt", ("one", "block"), ("two", "block")),
            "blocks": (image_file("/disk"),),
        },
        "unikernel '/unikernel': declares the block devices 'one', 'two', but 1 given",
        "name a block image",
    ),
    (
        "rumprun",
        "hvt",
        {"blocks": (image_file("/disk"),)},
        "annotation 'block': the unikernel '/unikernel' declares no block device",
        "remove the annotation",
    ),
    (
        "unikraft",
        "qemu",
        {"overrides": {"network": "bridge"}},
        "annotation 'network': 'bridge' is unknown",
        "known: dynamic, pod, shared, none",
    ),
]


@pytest.mark.parametrize(
    ("guest", "monitor", "changes", "message", "hint"), REFUSED, ids=[row[3] for row in REFUSED]
)
def test_images_that_are_refused(
    guest: str, monitor: str, changes: dict[str, Any], message: str, hint: str
) -> None:
    error = refused(ImageError, guest, monitor, **changes)
    assert error.message == message
    assert hint in error.hint


def test_a_machine_that_no_monitor_runs_on() -> None:
    error = refused(HostError, "unikraft", "qemu", facts=host(architecture="riscv64"))
    assert error.message == "monitor 'qemu': does not run on riscv64"


@pytest.mark.parametrize(
    ("guest", "monitor", "version", "least"),
    [
        ("unikraft", "qemu", "4.2.1", "5.0"),
        ("unikraft", "firecracker", "0.25.2", "1.0"),
        ("rumprun", "hvt", "0.4.1", "0.6"),
    ],
)
def test_a_monitor_that_is_too_old(guest: str, monitor: str, version: str, least: str) -> None:
    error = refused(HostError, guest, monitor, facts=host(program=program(version)))
    assert error.message == (
        f"monitor '{monitor}': version {version} of '/usr/bin/monitor' is too old"
    )
    assert error.hint == f"{least} at least"
    assert planned(guest, monitor, facts=host(program=program(least)))
    assert planned(guest, monitor, facts=host(program=program("")))  # it printed none


@pytest.mark.parametrize(("version", "ok"), [("7.2", True), ("7.2.19", True), ("7.20", False)])
def test_a_version_that_the_administrator_asks_for(version: str, ok: bool) -> None:
    given = config(monitors__qemu__version="7.2")
    changes: dict[str, Any] = {"given": given, "facts": host(program=program(version))}
    if ok:
        assert planned("unikraft", "qemu", **changes)
        return
    error = refused(HostError, "unikraft", "qemu", **changes)
    assert error.message == f"monitor 'qemu': version {version} is not 7.2"
    assert error.hint == "set in /etc/urunc/config.toml"


STRANGER = "annotation 'com.urunc.unikernel.%s': unknown, and without effect: is it '%s'?"


@pytest.mark.parametrize(
    ("said", "key"),
    [("mountrootfs", "mountRootfs"), ("initd", "initrd"), ("blok", "block")],
)
def test_a_misspelled_root_filesystem_is_refused(said: str, key: str) -> None:
    """Else the kernel would panic ("unable to mount root fs on unknown-block(0,0)")."""
    remarks = (STRANGER % ("consol", "console"), STRANGER % (said, key))
    error = refused(ImageError, "linux", "qemu", remarks=remarks)
    assert error.message == f"linux: no root filesystem: {remarks[1]}"
    assert error.hint == (
        "give it one of 'initrd', 'block' and 'mountRootfs' (the container's own)"
    )
    plan = planned("linux", "qemu", remarks=remarks, initrd=image_file("/initrd"))
    assert plan.warnings == remarks


def test_a_kernel_may_have_its_root_filesystem_built_in() -> None:
    remarks = (STRANGER % ("consol", "console"),)
    plan = planned("linux", "qemu", remarks=remarks)
    assert plan.warnings == (
        *remarks,
        "linux: no root filesystem: its kernel must have one built in (CONFIG_INITRAMFS_SOURCE), "
        "or it panics; else give it one of 'initrd', 'block' and 'mountRootfs' (the container's "
        "own)",
    )
    assert planned("linux", "qemu", blocks=(image_file("/disk"),)).warnings == ()
    assert planned("unikraft", "qemu").warnings == ()
    machine = {"kernel": {"path": "/boot/vmlinuz", "parameters": ["root=/dev/nfs"]}}
    assert planned("linux", "qemu", configuration=document(vm=machine)).warnings == ()
