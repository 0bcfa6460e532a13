# SPDX-License-Identifier: Apache-2.0
"""`decide`: the guest's memory and vCPUs, from limits, annotations and the configuration."""

from __future__ import annotations

from typing import Any

import pytest

from lib.decided import planned, refused, resources
from lib.made import (
    MIB,
    binary,
    config,
    document,
    host,
    image_file,
    program,
    solo5,
)
from urunc.errors import HostError, ImageError, RoomError
from urunc.monitors import Program
from urunc.record import replace

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
    machine = plan.machine
    assert machine.memory_bytes == mebibytes * MIB
    if limit is not None and limit > 0:
        assert 0 <= limit - machine.memory_bytes - machine.overhead_bytes < MIB + MIB // 64


def test_what_a_monitor_needs_grows_with_the_machine() -> None:
    small = planned("unikraft", "qemu", overrides={"memory": "64"})
    large = planned("unikraft", "qemu", overrides={"memory": "4096", "vcpus": "4"})
    emulated = planned("unikraft", "qemu", overrides={"memory": "64", "accelerator": "tcg"})
    assert large.machine.overhead_bytes > small.machine.overhead_bytes + 20 * MIB
    assert emulated.machine.overhead_bytes > small.machine.overhead_bytes + 32 * MIB


@pytest.mark.parametrize(
    ("guest", "accelerator", "words"),
    [("linux", "tcg", ("no_timer_check",)), ("linux", "kvm", ()), ("unikraft", "tcg", ())],
)
def test_an_emulated_kernel_does_not_check_its_timer(
    guest: str, accelerator: str, words: tuple[str, ...]
) -> None:
    """A Linux kernel on a busy host would panic."""
    plan = planned(guest, "qemu", overrides={"accelerator": accelerator})
    assert plan.kernel.parameters == words


def test_parameters_of_the_administrator_s() -> None:
    """They come first, so that those of config.json can say otherwise; other guests have none."""
    words = ["a=1", "quiet"]
    members = document(vm={"kernel": {"parameters": ["a=2"]}})
    plan = planned(
        "linux", "qemu", configuration=members, given=config(guests__linux__parameters=words)
    )
    assert plan.kernel.parameters == ("a=1", "quiet", "a=2")
    given = config(guests__unikraft__parameters=words)
    error = refused(HostError, "unikraft", "qemu", given=given)
    assert (
        error.message == "guests.unikraft.parameters: unikraft has no words but the application's"
    )
    assert error.hint == "set in /etc/urunc/config.toml"


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
        ("linux", 0x4378000, 0, 89),
        ("linux", 0x4378000, 3 * MIB + 1, 95),
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
    plan = planned(guest, "qemu", overrides=enough, **changes)
    assert plan.machine.memory_bytes == least_mib * MIB
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
    assert plan.machine.memory_bytes == least_mib * MIB


def test_memory_without_a_limit_is_the_configuration_s() -> None:
    plan = planned("unikraft", "qemu", given=config(monitors__qemu__memory_mib=64))
    assert plan.machine.memory_bytes == 64 * MIB


@pytest.mark.parametrize("text", ["100", "100M", "100Mi", "100MiB"])
def test_the_memory_annotation(text: str) -> None:
    plan = planned("unikraft", "qemu", overrides={"memory": text})
    assert plan.machine.memory_bytes == 100 * MIB


@pytest.mark.parametrize("text", ["", "0", "-1", "1G", "1.5Mi", "²", "9" * 20, "9" * 5000, " 1"])
def test_a_memory_annotation_that_is_no_size(text: str) -> None:
    error = refused(ImageError, "unikraft", "qemu", overrides={"memory": text})
    assert error.message == f"annotation 'memory': '{text}' is no size"


def test_the_memory_annotation_within_the_limit() -> None:
    limit = resources(memory={"limit": 128 * MIB})
    plan = planned("unikraft", "qemu", overrides={"memory": "96"}, configuration=limit)
    assert plan.machine.memory_bytes == 96 * MIB
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
    assert plan.machine.memory_bytes == mebibytes * MIB
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
    assert plan.machine.memory_bytes == mebibytes * MIB
    assert plan.warnings[0].startswith(f"{key} of /etc/urunc/config.toml: 9000 MiB are more than")


def test_a_limit_that_is_none() -> None:
    """What cgroup v1's files say where there is none."""
    none = resources(memory={"limit": 9223372036854771712})
    plan = planned("unikraft", "qemu", configuration=none, facts=host(memory_bytes=8192 * MIB))
    assert (plan.machine.memory_bytes, plan.warnings) == (256 * MIB, ())


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
    assert (plan.machine.vcpus, plan.warnings) == (count, ())


def test_solo5_has_one_vcpu_and_only_an_annotation_earns_a_warning() -> None:
    quota = resources(cpu={"quota": 400_000, "period": 100_000})
    plan = planned("rumprun", "hvt", configuration=quota)
    assert (plan.machine.vcpus, plan.warnings) == (1, ())
    plan = planned("rumprun", "hvt", overrides={"vcpus": "4"})
    assert (plan.machine.vcpus, plan.warnings) == (1, ("4 vCPUs wanted, hvt has 1 at most",))


def test_more_vcpus_than_the_monitor_has() -> None:
    quota = resources(cpu={"quota": 4_000_000, "period": 100_000})
    plan = planned("unikraft", "firecracker", configuration=quota)
    assert plan.machine.vcpus == 32
    assert plan.warnings == ("40 vCPUs wanted, firecracker has 32 at most",)


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "", "²", "9" * 5000])
def test_a_vcpus_annotation_that_is_no_number(text: str) -> None:
    error = refused(ImageError, "unikraft", "qemu", overrides={"vcpus": text})
    assert error.message == f"annotation 'vcpus': '{text}' is no number above zero"
