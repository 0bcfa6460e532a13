# SPDX-License-Identifier: Apache-2.0
"""`decide` on machines that do not exist: what it chooses, what it refuses and with which hint; and
`realize` where the network differs from what the guest declares."""

from __future__ import annotations

from typing import Any

import pytest

from lib.made import (
    MIB,
    binary,
    config,
    document,
    host,
    image,
    image_file,
    interface,
    net,
    node,
    program,
    solo5,
)
from urunc import guests, monitors
from urunc.bundle import spec
from urunc.bundle.image import UnikernelImage
from urunc.config import Config
from urunc.errors import Error, HostError, ImageError, RoomError
from urunc.monitors import Program
from urunc.plan.decide import decide
from urunc.plan.device_nodes import device_nodes
from urunc.plan.host import HostFacts
from urunc.plan.model import Plan, nic_count
from urunc.plan.realize import realize
from urunc.record import plain, rebuild, replace

NO_KVM = {"kvm": node("/dev/kvm", problem="no such file or directory", mode=0, gid=0)}
IMAGES = {
    "rumprun": {"binary": solo5("hvt", ("tap", "net"))},
    "mirage": {"binary": solo5("spt", ("service", "net"))},
}


def planned(
    guest: str,
    monitor: str,
    *,
    facts: HostFacts | None = None,
    given: Config | None = None,
    configuration: dict[str, Any] | None = None,
    **changes: Any,
) -> Plan:
    found: UnikernelImage = image(guest, monitor, **{**IMAGES.get(guest, {}), **changes})
    given = given or config()
    return decide(
        "box",
        spec.parse(configuration or document(), "/bundle"),
        found,
        guests.load(guest, given),
        monitors.load(monitor, given),
        facts or host(),
        given,
    )


def refused(kind: type[Error], guest: str, monitor: str, **changes: Any) -> Error:
    with pytest.raises(kind) as caught:
        planned(guest, monitor, **changes)
    assert type(caught.value) is kind
    return caught.value


def resources(**members: Any) -> dict[str, Any]:
    return document(
        linux={"resources": members, "namespaces": [{"type": "network"}, {"type": "pid"}]}
    )


def process(**members: Any) -> dict[str, Any]:
    return document(process={"args": ["app"], "cwd": "/", **members})


# accelerator


def test_kvm_is_taken_where_it_opens() -> None:
    plan = planned("unikraft", "qemu")
    assert (plan.accelerator, plan.accelerator_reason) == ("kvm", "/dev/kvm opens")
    assert plan.warnings == ()


def test_qemu_emulates_without_kvm_and_says_so_once() -> None:
    plan = planned("unikraft", "qemu", facts=host(**NO_KVM))
    assert plan.accelerator == "tcg"
    assert plan.accelerator_reason == "/dev/kvm: no such file or directory"
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
    assert (plan.accelerator, plan.warnings, plan.groups) == ("none", (), ())


@pytest.mark.parametrize("asked", ["kvm", "tcg"])
def test_the_accelerator_annotation(asked: str) -> None:
    plan = planned("unikraft", "qemu", overrides={"accelerator": asked})
    assert (plan.accelerator, plan.warnings) == (asked, ())


def test_the_annotation_comes_before_the_configuration() -> None:
    given = config(monitors__qemu__accelerator="tcg")
    plan = planned("unikraft", "qemu", given=given)
    assert (plan.accelerator, plan.accelerator_reason) == ("tcg", "asked for by configuration")
    plan = planned("unikraft", "qemu", given=given, overrides={"accelerator": "kvm"})
    assert plan.accelerator == "kvm"
    plan = planned("unikraft", "qemu", overrides={"accelerator": "tcg"})
    assert plan.accelerator_reason == "asked for by annotation"


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
    stored = plain(planned("linux", "qemu"))
    del stored["firmware"]
    assert rebuild(Plan, stored) == planned("linux", "qemu")


# memory

SMALLEST = (28 + 3 + 1) * MIB + 8 * MIB // 1024
"""The limit for a guest of 1 MiB on QEMU: what that needs itself, a vCPU's, a GiB's share."""


@pytest.mark.parametrize(
    ("monitor", "limit", "mebibytes"),
    [
        ("qemu", None, 256),
        ("qemu", -1, 256),
        ("qemu", 256 * MIB, 223),
        ("qemu", SMALLEST, 1),
        ("firecracker", 128 * MIB, 122),
        ("firecracker", 2048 * MIB, 2027),
    ],
)
def test_memory_is_the_limit_less_the_monitor_s_own(
    monitor: str, limit: int | None, mebibytes: int
) -> None:
    plan = planned("unikraft", monitor, configuration=resources(memory={"limit": limit}))
    assert plan.memory_bytes == mebibytes * MIB
    if limit is not None and limit > 0:
        assert 0 <= limit - plan.memory_bytes - plan.overhead_bytes < MIB + MIB // 64


def test_what_a_monitor_needs_grows_with_the_machine() -> None:
    small = planned("unikraft", "qemu", overrides={"memory": "64"})
    large = planned("unikraft", "qemu", overrides={"memory": "4096", "vcpus": "4"})
    emulated = planned("unikraft", "qemu", overrides={"memory": "64", "accelerator": "tcg"})
    assert large.overhead_bytes > small.overhead_bytes + 20 * MIB
    assert emulated.overhead_bytes > small.overhead_bytes + 32 * MIB


def test_a_limit_that_is_too_small() -> None:
    error = refused(
        RoomError, "unikraft", "qemu", configuration=resources(memory={"limit": SMALLEST - 1})
    )
    assert f"{SMALLEST - 1} bytes are too few" in error.message
    assert error.hint == f"33 MiB ({33 * MIB} bytes) at least"


def test_a_limit_that_the_guest_s_files_do_not_fit_into() -> None:
    big = image_file("/unikernel", size_bytes=40 * MIB)
    error = refused(
        RoomError, "unikraft", "qemu", kernel=big,
        configuration=resources(memory={"limit": 50 * MIB}),
    )  # fmt: skip
    assert "the guest needs 40 MiB to run" in error.message


@pytest.mark.parametrize(
    ("guest", "kernel_bytes", "initrd_bytes", "least_mib"),
    [
        ("linux", 0x4378000, 0, 72),
        ("linux", 0x4378000, 3 * MIB + 1, 78),
        ("unikraft", 0x304000, 0, 4),
        ("unikraft", 0x304000, MIB, 6),
    ],
)
def test_the_least_memory(guest: str, kernel_bytes: int, initrd_bytes: int, least_mib: int) -> None:
    """An annotation, a limit and the configuration below it are refused, with one number."""
    changes: dict[str, Any] = {"binary": binary(memory_bytes=kernel_bytes)}
    if initrd_bytes:
        changes["initrd"] = image_file("/initrd", size_bytes=initrd_bytes)
    enough = {"memory": str(least_mib)}
    assert planned(guest, "qemu", overrides=enough, **changes).memory_bytes == least_mib * MIB
    asked = {"memory": str(least_mib - 1)}
    error = refused(ImageError, guest, "qemu", overrides=asked, **changes)
    assert (
        error.message == f"annotation 'memory': {least_mib - 1} is less than the guest needs to run"
    )
    assert error.hint == f"{least_mib} MiB at least"
    given = config(monitors__qemu__memory_mib=least_mib - 1)
    error = refused(ImageError, guest, "qemu", given=given, **changes)
    assert error.message.startswith("monitors.qemu.memory_mib of /etc/urunc/config.toml: ")
    limit_mib = least_mib + 28 + 3 + 1
    number = f"{limit_mib} MiB ({limit_mib * MIB} bytes)"
    below, at = (
        resources(memory={"limit": mebibytes * MIB}) for mebibytes in (limit_mib - 1, limit_mib)
    )
    error = refused(RoomError, guest, "qemu", configuration=below, **changes)
    assert error.hint == f"{number} at least"
    error = refused(ImageError, guest, "qemu", configuration=at, overrides=asked, **changes)
    assert error.hint == f"{least_mib} MiB at least, and a memory limit of {number}"
    plan = planned(guest, "qemu", configuration=at, given=given, **changes)
    assert plan.memory_bytes == least_mib * MIB


def test_memory_without_a_limit_is_the_configuration_s() -> None:
    plan = planned("unikraft", "qemu", given=config(monitors__qemu__memory_mib=64))
    assert plan.memory_bytes == 64 * MIB


@pytest.mark.parametrize("text", ["100", "100M", "100Mi", "100MiB"])
def test_the_memory_annotation(text: str) -> None:
    plan = planned("unikraft", "qemu", overrides={"memory": text})
    assert plan.memory_bytes == 100 * MIB


@pytest.mark.parametrize("text", ["", "0", "-1", "1G", "1.5Mi", "²", "9" * 20, "9" * 5000, " 1"])
def test_a_memory_annotation_that_is_no_size(text: str) -> None:
    error = refused(ImageError, "unikraft", "qemu", overrides={"memory": text})
    assert error.message == f"annotation 'memory': '{text}' is no size"


def test_the_memory_annotation_within_the_limit() -> None:
    limit = resources(memory={"limit": 128 * MIB})
    plan = planned("unikraft", "qemu", overrides={"memory": "96"}, configuration=limit)
    assert plan.memory_bytes == 96 * MIB
    words = {"memory": "97"}
    error = refused(RoomError, "unikraft", "qemu", overrides=words, configuration=limit)
    assert "97 does not fit into the memory limit" in error.message
    assert f"raise the limit to 129 MiB ({129 * MIB} bytes)" in error.hint


OLD_HVT = program("0.8.1")
FIXED_SPT = replace(program("0.12.1"), position_independent=False)


@pytest.mark.parametrize(
    ("guest", "monitor", "there", "mebibytes", "whose"),
    [
        ("mirage", "hvt", program("0.9.0"), 4096, "hvt 0.9.0 can give to a guest"),
        ("mirage", "hvt", OLD_HVT, 1024, "hvt 0.8.1 can give to a guest"),
        ("mirage", "spt", FIXED_SPT, 1024, "spt 0.12.1 can give to a guest"),
        ("mirage", "spt", program("0.12.1"), 8192, "this machine has"),
        ("linux", "qemu", program("7.2"), 8192, "this machine has"),
        ("linux", "firecracker", program("1.12.1"), 8192, "this machine has"),
    ],
)
def test_the_most_memory(
    guest: str, monitor: str, there: Program, mebibytes: int, whose: str
) -> None:
    """A limit above it is cut down with a warning, an annotation refused."""
    changes: dict[str, Any] = {"facts": host(program=there, memory_bytes=8192 * MIB)}
    if guest == "mirage":
        changes["binary"] = solo5(monitor)
    else:
        changes["initrd"] = image_file("/initrd")
    limit = 1 << 40
    plan = planned(guest, monitor, configuration=resources(memory={"limit": limit}), **changes)
    assert plan.memory_bytes == mebibytes * MIB
    assert plan.warnings == (
        f"linux.resources.memory.limit: {limit} bytes are more than {whose}: the guest has "
        f"{mebibytes} MiB",
    )
    asked = {"memory": str(mebibytes)}
    assert planned(guest, monitor, overrides=asked, **changes).warnings == ()
    asked = {"memory": str(mebibytes + 1)}
    error = refused(ImageError, guest, monitor, overrides=asked, **changes)
    assert error.message == f"annotation 'memory': {mebibytes + 1} is more than {whose}"
    assert error.hint == f"{mebibytes} MiB at most"
    key = f"monitors.{monitor}.memory_mib"
    plan = planned(guest, monitor, given=config(**{key: 9000}), **changes)
    assert plan.memory_bytes == mebibytes * MIB
    assert plan.warnings[0].startswith(f"{key} of /etc/urunc/config.toml: 9000 MiB are more than")


def test_a_limit_that_is_none() -> None:
    """What cgroup v1's files say where there is none."""
    none = resources(memory={"limit": 9223372036854771712})
    plan = planned("unikraft", "qemu", configuration=none, facts=host(memory_bytes=8192 * MIB))
    assert (plan.memory_bytes, plan.warnings) == (256 * MIB, ())


# vCPUs


@pytest.mark.parametrize(
    ("cpu", "count"),
    [
        ({}, 1),
        ({"quota": 100_000}, 1),
        ({"quota": 100_001}, 2),
        ({"quota": 150_000, "period": 50_000}, 3),
        ({"quota": 1, "period": 100_000}, 1),
        ({"quota": -1}, 1),
    ],
)
def test_vcpus_from_the_quota(cpu: dict[str, int], count: int) -> None:
    plan = planned("unikraft", "qemu", configuration=resources(cpu=cpu))
    assert (plan.vcpus, plan.warnings) == (count, ())


def test_solo5_has_one_vcpu_and_only_an_annotation_earns_a_warning() -> None:
    quota = resources(cpu={"quota": 400_000, "period": 100_000})
    plan = planned("rumprun", "hvt", configuration=quota)
    assert (plan.vcpus, plan.warnings) == (1, ())
    plan = planned("rumprun", "hvt", overrides={"vcpus": "4"})
    assert (plan.vcpus, plan.warnings) == (1, ("4 vCPUs wanted, hvt has 1 at most",))


def test_more_vcpus_than_the_monitor_has() -> None:
    quota = resources(cpu={"quota": 4_000_000, "period": 100_000})
    plan = planned("unikraft", "firecracker", configuration=quota)
    assert (plan.vcpus, plan.warnings) == (32, ("40 vCPUs wanted, firecracker has 32 at most",))


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "", "²", "9" * 5000])
def test_a_vcpus_annotation_that_is_no_number(text: str) -> None:
    error = refused(ImageError, "unikraft", "qemu", overrides={"vcpus": text})
    assert error.message == f"annotation 'vcpus': '{text}' is no number above zero"


# the pair of guest and monitor, and the kernel


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
        "known: dynamic, shared, none",
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


# a Linux kernel's root filesystem

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
    assert (plan.uid, plan.gid) == expected


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
    assert plan.groups == groups


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
    user = {"uid": 1000, "gid": 100}
    facts = host(tun=node("/dev/net/tun", **tun))
    plan = planned("unikraft", "qemu", facts=facts, configuration=process(user=user))
    (found,) = device_nodes(replace(plan, groups=groups), ())
    assert (found.uid, found.gid, found.mode) == expected


def test_the_host_s_network_is_none() -> None:
    plan = planned("unikraft", "qemu", configuration=document(linux={}))
    assert plan.network == "none"
    assert plan.warnings == ("host network namespace: the guest has no network",)
    plan = planned(
        "unikraft", "qemu", configuration=document(linux={}), overrides={"network": "none"}
    )
    assert (plan.network, plan.warnings) == ("none", ())


def test_arguments_of_the_process_come_before_the_image_s() -> None:
    assert planned("unikraft", "qemu", cmdline="from image").args == ("app",)
    plan = planned("unikraft", "qemu", cmdline="from image", configuration=process(args=[]))
    assert plan.args == ("from", "image")


def test_files_and_their_places() -> None:
    plan = planned(
        "linux",
        "qemu",
        kernel=image_file("/boot/vmlinux"),
        initrd=image_file("/boot/initrd"),
        blocks=(image_file("/disk.img"),),
    )
    assert (plan.kernel.target, plan.kernel.read_only) == ("/guest/vmlinux", True)
    assert plan.initrd
    assert (plan.initrd.target, plan.initrd.read_only) == ("/initrd", True)
    assert [(disk.target, disk.read_only) for disk in plan.disks] == [("/disk0", False)]
    device = planned("linux", "qemu", blocks=(image_file("/dev/vg/a", inside=False),))
    assert device.disks[0].target == "/dev/disk0"


def test_the_mount_point_of_the_disk() -> None:
    declared: dict[str, Any] = {
        "binary": solo5("hvt", ("rootfs", "block")),
        "blocks": (image_file("/disk"),),
    }
    assert planned("rumprun", "hvt", **declared).disk_mount_points == ("/data",)
    plan = planned("rumprun", "hvt", block_mount_points=("/srv",), **declared)
    assert plan.disk_mount_points == ("/srv",)
    assert plan.disk_names == ("rootfs",)


def test_monitors_arguments_of_the_administrator() -> None:
    given = config(monitors__qemu__arguments=["-d", "int"], monitors__qemu__seccomp=False)
    plan = planned("unikraft", "qemu", given=given)
    assert (plan.arguments, plan.seccomp) == (("-d", "int"), False)
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
    assert nic_count(plan) == 2


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
    assert nic_count(planned(guest, monitor, **changes)) == count


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
    assert plan.tells_resets is told
