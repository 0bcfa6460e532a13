# SPDX-License-Identifier: Apache-2.0
"""Resources in the words of control groups, of devices' programs and of systemd's units."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from urunc.bundle.document import Object
from urunc.bundle.resources import Resources, merge, most_processes, parse, with_tasks
from urunc.cgroup import devices, limits, systemd
from urunc.cgroup.devices import DeviceRule
from urunc.errors import HostError, SpecError

EVERY = ("memory", "cpu", "cpuset", "pids", "blkio", "hugetlb", "rdma", "net_cls", "net_prio")


def said(v1: tuple[str, ...], **document: Any) -> list[tuple[str, str, str]]:
    """(controller, file, value) of each setting's first choice."""
    found = limits.lines(parse(Object(document, "resources")), v1)
    return [(controller, *choices[0]) for controller, choices in found]


def test_nothing_said_is_nothing_written() -> None:
    assert said(EVERY) == said(()) == []


MEMORY = {"limit": 1 << 30, "reservation": 1 << 29, "swap": 3 << 29}


def test_memory() -> None:
    assert said(EVERY, memory=MEMORY) == [
        ("memory", "memory.limit_in_bytes", "1073741824"),
        ("memory", "memory.memsw.limit_in_bytes", "1610612736"),
        ("memory", "memory.soft_limit_in_bytes", "536870912"),
    ]
    assert said((), memory=MEMORY) == [
        ("memory", "memory.swap.max", "536870912"),
        ("memory", "memory.max", "1073741824"),
        ("memory", "memory.low", "536870912"),
    ]


@pytest.mark.parametrize(
    ("memory", "v1", "v2"),
    [
        ({"limit": -1}, ["-1", "-1"], ["max", "max"]),  # no limit: for the sum, too
        ({"limit": 5, "swap": -1}, ["5", "-1"], ["max", "5"]),
        ({"limit": 5, "swap": 5}, ["5", "5"], ["0", "5"]),
        ({"limit": 0}, [], []),
    ],
)
def test_no_limit_of_memory(memory: dict[str, int], v1: list[str], v2: list[str]) -> None:
    assert [value for _, _, value in said(EVERY, memory=memory)] == v1
    assert [value for _, _, value in said((), memory=memory)] == v2


@pytest.mark.parametrize("v1", [EVERY, ()])
def test_swap_is_memory_and_swap_together(v1: tuple[str, ...]) -> None:
    with pytest.raises(SpecError, match="below the memory limit"):
        said(v1, memory={"limit": 10, "swap": 9})


def test_swap_alone_says_nothing_to_v2() -> None:
    with pytest.raises(SpecError, match="without a limit for memory"):
        said((), memory={"swap": 9})


def test_cpu() -> None:
    cpu = {"shares": 2, "quota": 5, "period": 7, "burst": 1, "idle": 1, "cpus": "0-1", "mems": "0"}
    assert [item[1:] for item in said(EVERY, cpu=cpu)] == [
        ("cpuset.cpus", "0-1"), ("cpuset.mems", "0"), ("cpu.shares", "2"),
        ("cpu.cfs_period_us", "7"), ("cpu.cfs_quota_us", "5"), ("cpu.cfs_burst_us", "1"),
        ("cpu.idle", "1"),
    ]  # fmt: skip
    assert [item[1:] for item in said((), cpu=cpu)] == [
        ("cpuset.cpus", "0-1"), ("cpuset.mems", "0"), ("cpu.idle", "1"), ("cpu.weight", "1"),
        ("cpu.max", "5 7"), ("cpu.max.burst", "1"),
    ]  # fmt: skip
    assert said((), cpu={"quota": -1}) == [("cpu", "cpu.max", "max 100000")]
    realtime = {"realtimeRuntime": 5, "realtimePeriod": 9}
    assert [item[1:] for item in said(EVERY, cpu=realtime)] == [
        ("cpu.rt_period_us", "9"), ("cpu.rt_runtime_us", "5"),
    ]  # fmt: skip
    for key in realtime:
        with pytest.raises(SpecError, match="realtime"):
            said((), cpu={key: 5})


@pytest.mark.parametrize(("shares", "weight"), [(1, 1), (2, 1), (1024, 39), (262_144, 10_000)])
def test_weights_of_cpu(shares: int, weight: int) -> None:
    assert limits.cpu_weight(shares) == weight


@pytest.mark.parametrize(("weight", "expected"), [(10, 1), (500, 4950), (1000, 10_000)])
def test_weights_of_io(weight: int, expected: int) -> None:
    assert limits.io_weight(weight) == expected


def test_io() -> None:
    rate = [{"major": 8, "minor": 1, "rate": 99}]
    io = {"weight": 100, "throttleReadBpsDevice": rate, "throttleWriteIOPSDevice": rate}
    assert [item[1:] for item in said(EVERY, blockIO=io)] == [
        ("blkio.weight", "100"),
        ("blkio.throttle.read_bps_device", "8:1 99"),
        ("blkio.throttle.write_iops_device", "8:1 99"),
    ]
    assert [item[1:] for item in said((), blockIO=io)] == [
        ("io.bfq.weight", "100"), ("io.max", "8:1 rbps=99"), ("io.max", "8:1 wiops=99"),
    ]  # fmt: skip


def test_the_rest() -> None:
    rest: dict[str, Any] = {
        "pids": {"limit": -1},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4}],
        "network": {"classID": 5, "priorities": [{"name": "eth0", "priority": 3}]},
        "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 4}},
    }
    assert [item[1:] for item in said(EVERY, **rest)] == [
        ("pids.max", "max"),
        ("hugetlb.2MB.limit_in_bytes", "4"),
        ("hugetlb.2MB.rsvd.limit_in_bytes", "4"),
        ("rdma.max", "mlx5_1 hca_handle=3 hca_object=4"),
        ("net_cls.classid", "5"),
        ("net_prio.ifpriomap", "eth0 3"),
    ]
    assert [item[1:] for item in said((), **rest)][1:3] == [
        ("hugetlb.2MB.max", "4"), ("hugetlb.2MB.rsvd.max", "4"),
    ]  # fmt: skip


def test_what_v2_has_no_file_for() -> None:
    document: dict[str, Any] = {
        "memory": {"swappiness": 5, "kernelTCP": 1 << 20, "disableOOMKiller": True},
        "blockIO": {
            "leafWeight": 10, "weightDevice": [{"major": 8, "minor": 0, "leafWeight": 20}],
        },
        "network": {"classID": 0, "priorities": [{"name": "eth0", "priority": 3}]},
    }  # fmt: skip
    resources = parse(Object(document, "resources"))
    names = [text.partition(":")[0] for text in limits.passed_over(resources, ())]
    assert names == [
        "linux.resources.memory.swappiness",
        "linux.resources.memory.kernelTCP",
        "linux.resources.memory.disableOOMKiller",
        "linux.resources.blockIO.leafWeight",
        "linux.resources.blockIO.weightDevice.leafWeight",
        "linux.resources.network.classID",
        "linux.resources.network.priorities",
    ]
    assert limits.passed_over(resources, EVERY) == []
    assert said((), **document) == []
    nothing = parse(Object({"memory": {"disableOOMKiller": False}}, "resources"))
    assert limits.passed_over(nothing, ()) == []


def test_unified() -> None:
    unified = {"memory.high": "5"}
    assert said((), unified=unified) == [("memory", "memory.high", "5")]
    assert said(("cpu",), unified=unified) == [("memory", "memory.high", "5")]
    with pytest.raises(SpecError, match=r"memory\.high"):
        said(("memory",), unified=unified)


def test_merge() -> None:
    old = Resources(pids_limit=5, cpu_shares=7, cpuset_cpus="0")
    new = Resources(pids_limit=-1, cpu_quota_us=9)
    assert merge(old, new) == Resources(
        pids_limit=-1, cpu_shares=7, cpuset_cpus="0", cpu_quota_us=9
    )


def run(program: bytes, kind: str, major: int, minor: int) -> int:
    """The program's answer: an interpreter of the five instructions that it is made of."""
    code = [struct.unpack("<BBhi", program[at : at + 8]) for at in range(0, len(program), 8)]
    context = {0: 1 << 16 | {"b": 1, "c": 2}[kind], 4: major, 8: minor}
    registers = [0] * 11
    at = 0
    while True:
        operation, names, offset, value = code[at]
        target = names & 15
        at += 1
        if operation == 0x61:
            registers[target] = context[offset]
        elif operation == 0x57:
            registers[target] &= value
        elif operation == 0xB7:
            registers[target] = value
        elif operation == 0x55:
            at += offset if registers[target] != value else 0
        else:
            assert operation == 0x95
            return registers[0]


def test_device_program() -> None:
    rules = (
        DeviceRule(type="c", major=10, minor=232),
        DeviceRule(type="c", major=136, minor=None),
        DeviceRule(type="b", major=8, minor=0),
    )
    program = devices.program(rules)
    allowed = [("c", 10, 232), ("c", 136, 0), ("c", 136, 7), ("b", 8, 0)]
    refused = [("b", 10, 232), ("c", 10, 200), ("c", 1, 232), ("c", 8, 0), ("b", 8, 1)]
    assert [run(program, *device) for device in allowed] == [1] * 4
    assert [run(program, *device) for device in refused] == [0] * 5
    assert run(devices.program(()), "c", 1, 3) == 0
    assert [devices.line(rule) for rule in rules] == ["c 10:232 rwm", "c 136:* rwm", "b 8:0 rwm"]


def test_units() -> None:
    resources = parse(
        Object(
            {"memory": {"limit": 9, "swap": 12}, "pids": {"limit": -1}, "blockIO": {"weight": 10},
             "cpu": {"shares": 1024, "quota": 33_333, "period": 100_000, "cpus": "0,9"}},
            "",
        )
    )  # fmt: skip
    assert systemd.properties(resources, ()) == [
        ("MemoryMax", "t", 9),
        ("MemorySwapMax", "t", 3),
        ("CPUWeight", "t", 39),
        ("CPUQuotaPerSecUSec", "t", 340_000),
        ("CPUQuotaPeriodUSec", "t", 100_000),
        ("IOWeight", "t", 1),
        ("TasksMax", "t", (1 << 64) - 1),
        ("AllowedCPUs", "ay", b"\x01\x02"),
    ]
    assert systemd.properties(resources, EVERY) == [
        ("MemoryLimit", "t", 9),
        ("CPUShares", "t", 1024),
        ("CPUQuotaPerSecUSec", "t", 340_000),
        ("BlockIOWeight", "t", 10),
        ("TasksMax", "t", (1 << 64) - 1),
    ]
    assert systemd.mask("0-2,7") == b"\x87"
    with pytest.raises(HostError, match="is not a list"):
        systemd.mask("all")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("CollectMode", "'inactive'", ("CollectMode", "s", "inactive")),
        ("TimeoutStopUSec", "uint64 5", ("TimeoutStopUSec", "t", 5)),
        ("TimeoutStopSec", "5", ("TimeoutStopUSec", "t", 5_000_000)),
        ("SendSIGHUP", "true", ("SendSIGHUP", "b", True)),
        ("OOMScoreAdjust", "int32 -5", ("OOMScoreAdjust", "i", -5)),
        ("After", "['a.target', \"b.target\"]", ("After", "as", ["a.target", "b.target"])),
    ],
)
def test_properties_by_annotation(name: str, text: str, expected: Any) -> None:
    given = {f"org.systemd.property.{name}": text, "another": "x"}
    assert systemd.annotated(given) == [expected]


@pytest.mark.parametrize(("name", "text"), [("A", "true"), ("Name", "word"), ("Na me", "5")])
def test_no_properties(name: str, text: str) -> None:
    with pytest.raises(SpecError, match=r"org\.systemd\.property"):
        systemd.annotated({f"org.systemd.property.{name}": text})


@pytest.mark.parametrize(
    ("asked", "most", "written"),
    [
        ({}, -1, []),
        ({"pids": {"limit": 10}}, 10, [("pids", (("pids.max", "30"),))]),
        ({"pids": {"limit": -1}}, -1, [("pids", (("pids.max", "max"),))]),
        ({"unified": {"pids.max": "10"}}, 10, [("pids", (("pids.max", "30"),))]),
        ({"unified": {"pids.max": "max"}}, -1, [("pids", (("pids.max", "max"),))]),
    ],
)
def test_a_monitor_s_tasks(asked: Any, most: int, written: Any) -> None:
    """They are beside what the limit is for."""
    resources = parse(Object(asked, "config.json", "linux.resources"))
    assert most_processes(resources) == most
    assert limits.lines(with_tasks(resources, 20), ()) == written
