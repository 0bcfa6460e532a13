# SPDX-License-Identifier: Apache-2.0
"""The device control group of a monitor, which allows only the devices that it needs.

Rules, their lines for v1, and the BPF program for v2 (linux/device_program.py loads it). The list
of the specification (linux.resources.devices) is not used: it is for an application on the host,
and a monitor needs fewer devices than any of these.
"""

from __future__ import annotations

import posix

from urunc.linux.files import S_IFBLK, S_IFMT
from urunc.plan.device_nodes import device_nodes
from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.plan.model import MonitorUser, Plan


@record
class DeviceRule:
    """Allows reading, writing and mknod(2) of one device, or with minor None of a whole major
    number."""

    type: str
    major: int
    minor: int | None


# What programs of hooks in the image's root expect to open: null, zero, full, random, urandom, tty;
# and a terminal's two ends.
HARMLESS = (
    *(DeviceRule(type="c", major=1, minor=minor) for minor in (3, 5, 7, 8, 9)),
    DeviceRule(type="c", major=5, minor=0),
    DeviceRule(type="c", major=5, minor=2),
    DeviceRule(type="c", major=136, minor=None),
)


def of(plan: Plan, user: MonitorUser) -> tuple[DeviceRule, ...]:
    """The devices that a container's monitor and hooks may open; raises OSError for one that has
    gone."""
    rules = []
    names = ("/dev/kvm",) if plan.machine.accelerator == "kvm" else ()
    for node in device_nodes(plan, user, names):
        facts = posix.stat(node.source)
        kind = "b" if facts.st_mode & S_IFMT == S_IFBLK else "c"
        major, minor = posix.major(facts.st_rdev), posix.minor(facts.st_rdev)
        rules.append(DeviceRule(type=kind, major=major, minor=minor))
    given = [volume.device for volume in plan.storage.volumes]
    given += [plan.storage.root_way.numbers] if plan.storage.root_way else []
    rules += [
        DeviceRule(type="b", major=numbers[0], minor=numbers[1]) for numbers in given if numbers
    ]
    return HARMLESS + tuple(rules)


def line(rule: DeviceRule) -> str:
    """A rule as devices.allow takes it (cgroup-v1/devices.rst)."""
    return f"{rule.type} {rule.major}:{'*' if rule.minor is None else rule.minor} rwm"


# include/uapi/linux/bpf.h: struct bpf_cgroup_dev_ctx { u32 access_type, major, minor }, where the
# low half of access_type is the type
_LOAD_WORD, _MOVE, _AND, _JUMP_UNLESS_EQUAL, _EXIT = 0x61, 0xB7, 0x57, 0x55, 0x95
_TYPES = {"b": 1, "c": 2}


def program(rules: tuple[DeviceRule, ...]) -> bytes:
    """The cgroup v2 program that allows these devices: compares type, major and minor of each rule
    in turn (BPF_PROG_TYPE_CGROUP_DEVICE)."""
    code = _instruction(_LOAD_WORD, 2, 1) + _instruction(_AND, 2, value=0xFFFF)
    code += _instruction(_LOAD_WORD, 3, 1, offset=4) + _instruction(_LOAD_WORD, 4, 1, offset=8)
    for rule in rules:
        tests = [(2, _TYPES[rule.type]), (3, rule.major)]
        if rule.minor is not None:
            tests.append((4, rule.minor))
        for number, (register, value) in enumerate(tests):
            # over the remaining tests and the two instructions that allow
            skip = len(tests) - number - 1 + 2
            code += _instruction(_JUMP_UNLESS_EQUAL, register, offset=skip, value=value)
        code += _instruction(_MOVE, 0, value=1) + _instruction(_EXIT)
    return code + _instruction(_MOVE, 0) + _instruction(_EXIT)


def _instruction(
    code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0
) -> bytes:
    registers = source << 4 | target
    return bytes((code, registers)) + offset.to_bytes(2, "little") + value.to_bytes(4, "little")
