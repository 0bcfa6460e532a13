# SPDX-License-Identifier: Apache-2.0
"""`decide` on machines that do not exist: what it chooses, what it refuses and with which hint; and
`realize` where the network differs from what the guest declares."""

from __future__ import annotations

from typing import Any

import pytest

from lib.decided import NO_KVM, planned, process, refused
from lib.made import (
    config,
    document,
    host,
    image_file,
    interface,
    net,
    node,
    program,
    solo5,
)
from urunc import guests, monitors
from urunc.config import Config
from urunc.errors import HostError, ImageError
from urunc.plan.device_nodes import device_nodes
from urunc.plan.model import MonitorUser, Plan, flatten, unflatten
from urunc.plan.realize import realize

# accelerator


def test_kvm_is_taken_where_it_opens() -> None:
    plan = planned("unikraft", "qemu")
    assert (plan.machine.accelerator, plan.machine.accelerator_reason) == ("kvm", "/dev/kvm opens")
    assert plan.warnings == ()


def test_qemu_emulates_without_kvm_and_says_so_once() -> None:
    plan = planned("unikraft", "qemu", facts=host(**NO_KVM))
    assert plan.machine.accelerator == "tcg"
    assert plan.machine.accelerator_reason == "/dev/kvm: no such file or directory"
    assert len(plan.warnings) == 1
    assert "qemu emulates (TCG)" in plan.warnings[0]


@pytest.mark.parametrize(("guest", "monitor"), [("rumprun", "hvt"), ("unikraft", "firecracker")])
def test_others_need_kvm(guest: str, monitor: str) -> None:
    error = refused(HostError, guest, monitor, facts=host(**NO_KVM))
    assert error.message == (
        f"monitor '{monitor}': needs KVM, but /dev/kvm: no such file or directory"
    )
    assert "without KVM use qemu or spt" in error.hint


def test_spt_needs_none() -> None:
    plan = planned("mirage", "spt", facts=host(**NO_KVM))
    assert (plan.machine.accelerator, plan.warnings, plan.user.groups) == ("none", (), ())


@pytest.mark.parametrize("asked", ["kvm", "tcg"])
def test_the_accelerator_annotation(asked: str) -> None:
    plan = planned("unikraft", "qemu", overrides={"accelerator": asked})
    assert (plan.machine.accelerator, plan.warnings) == (asked, ())


def test_the_annotation_comes_before_the_configuration() -> None:
    given = config(monitors__qemu__accelerator="tcg")
    machine = planned("unikraft", "qemu", given=given).machine
    assert machine.accelerator == "tcg"
    assert machine.accelerator_reason == "asked for by configuration"
    plan = planned("unikraft", "qemu", given=given, overrides={"accelerator": "kvm"})
    assert plan.machine.accelerator == "kvm"
    plan = planned("unikraft", "qemu", overrides={"accelerator": "tcg"})
    assert plan.machine.accelerator_reason == "asked for by annotation"


def test_asked_for_kvm_falls_back_to_nothing() -> None:
    asked: dict[str, Any] = {"overrides": {"accelerator": "kvm"}, "facts": host(**NO_KVM)}
    assert "needs KVM" in refused(HostError, "unikraft", "qemu", **asked).message


def test_accelerators_that_cannot_be() -> None:
    error = refused(ImageError, "rumprun", "hvt", overrides={"accelerator": "tcg"})
    assert error.message == "accelerator 'tcg': hvt cannot emulate, it needs KVM"
    error = refused(ImageError, "unikraft", "qemu", overrides={"accelerator": "xen"})
    assert (error.message, error.hint) == (
        "annotation 'accelerator': 'xen' is unknown",
        "known: auto, kvm, tcg",
    )


# firmware


@pytest.mark.parametrize(
    ("guest", "values", "qboot"),
    [
        ("linux", {}, True),
        ("unikraft", {}, False),
        ("mewz", {}, False),
        ("mine", {"guests__mine__cmdline": "{args}"}, False),
        (
            "mine",
            {"guests__mine__cmdline": "{args}", "guests__mine__assigns_resources": True},
            True,
        ),
        ("unikraft", {"monitors__qemu__firmware": "qboot"}, True),
        ("linux", {"monitors__qemu__firmware": "seabios"}, False),
    ],
)
def test_the_firmware_is_what_the_guest_needs(
    guest: str, values: dict[str, Any], qboot: bool
) -> None:
    given = config(**values)
    plan = planned(guest, "qemu", given=given)
    launch = realize(plan, net(), guests.load(guest, given), monitors.load("qemu", given))
    assert ("qboot.rom" in launch.argv) == qboot


def test_a_plan_of_an_older_urunc_has_no_firmware() -> None:
    stored = flatten(planned("linux", "qemu"))
    del stored["firmware"]
    assert unflatten(stored)[0] == planned("linux", "qemu")


# memory


# vCPUs


# the pair of guest and monitor, and the kernel


# a Linux kernel's root filesystem


# user, groups, network, mounts, arguments


@pytest.mark.parametrize(
    ("given", "user", "expected"),
    [
        (config(), {}, (None, None)),
        (config(), {"uid": 0, "gid": 5}, (None, None)),
        (config(), {"uid": 1000, "gid": 100}, (1000, 100)),
        (config(monitors__qemu__run_as_root=True), {"uid": 1000, "gid": 100}, (0, 0)),
        (config(monitors__hvt__run_as_root=True), {}, (None, None)),
    ],
)
def test_the_monitor_s_user(
    given: Config, user: dict[str, int], expected: tuple[int | None, int | None]
) -> None:
    plan = planned("unikraft", "qemu", given=given, configuration=process(user=user))
    assert (plan.user.uid, plan.user.gid) == expected


@pytest.mark.parametrize(
    ("kvm", "groups"),
    [
        ({"mode": 0o660, "gid": 107}, (107,)),
        ({"mode": 0o660, "gid": 0}, ()),
        ({"mode": 0o600, "gid": 107}, ()),
        ({"mode": 0o640, "gid": 107}, ()),
    ],
)
def test_the_group_of_kvm(kvm: dict[str, int], groups: tuple[int, ...]) -> None:
    plan = planned("unikraft", "qemu", facts=host(kvm=node("/dev/kvm", **kvm)))
    assert plan.user.groups == groups


@pytest.mark.parametrize(
    ("tun", "groups", "expected"),
    [
        ({"mode": 0o666, "gid": 0}, (), (0, 0, 0o666)),
        ({"mode": 0o660, "gid": 20}, (20,), (0, 20, 0o660)),
        ({"mode": 0o660, "gid": 20}, (30,), (1000, 100, 0o600)),
        ({"mode": 0o600, "gid": 0}, (0,), (1000, 100, 0o600)),
        ({"mode": 0o640, "gid": 0}, (0,), (1000, 100, 0o600)),
    ],
)
def test_whose_device_nodes_are(
    tun: dict[str, int], groups: tuple[int, ...], expected: tuple[int, int, int]
) -> None:
    """Engines give a user of uid 1000 the group 0, too, where none was named."""
    plan = planned("unikraft", "qemu", facts=host(tun=node("/dev/net/tun", **tun)))
    (found,) = device_nodes(plan, MonitorUser(uid=1000, gid=100, groups=groups), ())
    assert (found.uid, found.gid, found.mode) == expected


def test_the_host_s_network_is_none() -> None:
    plan = planned("unikraft", "qemu", configuration=document(linux={}))
    assert plan.network.mode == "none"
    assert plan.warnings == ("host network namespace: the guest has no network",)
    plan = planned(
        "unikraft", "qemu", configuration=document(linux={}), overrides={"network": "none"}
    )
    assert (plan.network.mode, plan.warnings) == ("none", ())


@pytest.mark.parametrize(
    ("changes", "mode", "others"),
    [
        ({}, "pod", True),
        ({"overrides": {"ports": "80"}}, "pod", False),
        ({"overrides": {"network": "dynamic"}}, "dynamic", False),
        ({"container_name": "user-container"}, "shared", False),
        ({"in_pod": False}, "dynamic", False),
    ],
)
def test_a_guest_of_a_pod_shares_its_network(
    changes: dict[str, Any], mode: str, others: bool
) -> None:
    joined = document(linux={"namespaces": [{"type": "network", "path": "/run/netns/pod"}]})
    given = {"in_pod": True, **changes}
    plan = planned("unikraft", "qemu", configuration=joined, **given)
    assert (plan.network.mode, plan.network.other_ports) == (mode, others)
    assert plan.network.nic_count == (16 if mode == "dynamic" else 1)


def test_a_network_of_its_own_is_no_pod_s() -> None:
    new = document(linux={"namespaces": [{"type": "network"}]})
    plan = planned("unikraft", "qemu", configuration=new, in_pod=True)
    assert (plan.network.mode, plan.network.reason) == ("dynamic", "the default")


def test_arguments_of_the_process_come_before_the_image_s() -> None:
    assert planned("unikraft", "qemu", cmdline="from image").application.args == ("app",)
    plan = planned("unikraft", "qemu", cmdline="from image", configuration=process(args=[]))
    assert plan.application.args == ("from", "image")
    plan = planned("unikraft", "qemu", cmdline="app -- word", configuration=process(args=[]))
    assert plan.application.args == ("app", "--", "word")


def test_files_and_their_places() -> None:
    plan = planned(
        "linux",
        "qemu",
        kernel=image_file("/boot/vmlinux"),
        initrd=image_file("/boot/initrd"),
        blocks=(image_file("/disk.img"),),
    )
    assert (plan.kernel.file.target, plan.kernel.file.read_only) == ("/guest/vmlinux", True)
    assert plan.kernel.initrd
    assert (plan.kernel.initrd.target, plan.kernel.initrd.read_only) == ("/initrd", True)
    assert [(disk.target, disk.read_only) for disk in plan.storage.disks] == [("/disk0", False)]
    device = planned("linux", "qemu", blocks=(image_file("/dev/vg/a", inside=False),))
    assert device.storage.disks[0].target == "/dev/disk0"


def test_the_mount_point_of_the_disk() -> None:
    declared: dict[str, Any] = {
        "binary": solo5("hvt", ("rootfs", "block")),
        "blocks": (image_file("/disk"),),
    }
    assert planned("rumprun", "hvt", **declared).storage.disk_mount_points == ("/data",)
    plan = planned("rumprun", "hvt", block_mount_points=("/srv",), **declared)
    assert plan.storage.disk_mount_points == ("/srv",)
    assert plan.storage.disk_names == ("rootfs",)


def test_monitors_arguments_of_the_administrator() -> None:
    given = config(monitors__qemu__arguments=["-d", "int"], monitors__qemu__seccomp=False)
    plan = planned("unikraft", "qemu", given=given)
    assert (plan.machine.arguments, plan.machine.seccomp) == (("-d", "int"), False)
    argv = realize(plan, net(), guests.load("unikraft", given), monitors.load("qemu", given)).argv
    assert argv[-2:] == ("-d", "int")
    assert "-sandbox" not in argv


# realize


def argv_of(plan: Plan, *interfaces: Any, spare: tuple[str, ...] = ()) -> tuple[str, ...]:
    guest = guests.load(plan.guest, config())
    monitor = monitors.load(plan.monitor, config())
    return realize(plan, net(*interfaces, spare=spare), guest, monitor).argv


def test_a_declared_device_without_an_interface_gets_a_spare_one() -> None:
    plan = planned("rumprun", "hvt")
    argv = argv_of(plan, spare=("urunc0",))
    assert "--net:tap=urunc0" in argv
    (mac,) = [word.partition("=")[2] for word in argv if word.startswith("--net-mac:tap=")]
    assert mac.startswith("02:")
    assert len(mac) == 17
    assert argv[-1] == '{"cmdline":"app"}'


def test_names_follow_the_manifest() -> None:
    plan = planned("mirage", "spt", binary=solo5("spt", ("front", "net"), ("back", "net")))
    argv = argv_of(plan, interface(), spare=("urunc1",))
    assert argv[2:5] == (
        "--net:front=urunc0",
        "--net-mac:front=02:42:ac:11:00:02",
        "--net:back=urunc1",
    )
    assert plan.network.nic_count == 2


@pytest.mark.parametrize(
    ("guest", "monitor", "changes", "count"),
    [
        ("unikraft", "qemu", {}, 16),
        ("linux", "firecracker", {}, 8),
        ("rumprun", "hvt", {"binary": solo5("hvt")}, 0),
        ("rumprun", "hvt", {}, 1),
    ],
)
def test_how_many_interfaces(guest: str, monitor: str, changes: dict[str, Any], count: int) -> None:
    assert planned(guest, monitor, **changes).network.nic_count == count


def test_kernel_arguments_stay_single_words_for_solo5() -> None:
    plan = planned("mirage", "spt", configuration=process(args=["a b", "--x=y z"]))
    assert argv_of(plan, spare=("urunc0",))[-4:] == ("--", "/guest/unikernel", "a b", "--x=y z")


@pytest.mark.parametrize(
    ("guest", "version", "changes", "told"),
    [
        ("linux", "7.0.0", {}, True),
        ("linux", "10.1.2", {}, True),
        ("linux", "6.2.0", {}, False),
        ("linux", "7.2.22", {"stops_on": frozenset(("ctrl-alt-del",))}, False),
        ("linux", "7.2.22", {"stops_on": frozenset(("acpi-power-button",))}, True),
        ("unikraft", "7.2.22", {}, False),
    ],
)
def test_who_tells_resets(guest: str, version: str, changes: dict[str, Any], told: bool) -> None:
    """Linux on a board without a keyboard controller, which not every QEMU has."""
    plan = planned(guest, "qemu", facts=host(program=program(version)), **changes)
    assert plan.ending.tells_resets is told
