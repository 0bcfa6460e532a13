# SPDX-License-Identifier: Apache-2.0
"""The parts of config.json that few containers have: parsed, refused with a reason, or ignored with
a remark.

bundle/spec.py imports this only if one of them is present, to spare the others the time. Touches
nothing.
"""

from __future__ import annotations

from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from urunc.bundle.document import Object
    from urunc.errors import SpecError

FOREIGN = ("windows", "solaris", "zos", "freebsd")
MEMORY_MODES = (
    "MPOL_DEFAULT", "MPOL_PREFERRED", "MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_LOCAL",
    "MPOL_PREFERRED_MANY", "MPOL_WEIGHTED_INTERLEAVE",
)  # fmt: skip
"""set_mempolicy(2)'s modes by the kernel's number (linux/mempolicy.h)."""
MEMORY_FLAGS = {
    "MPOL_F_STATIC_NODES": 1 << 15,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_NUMA_BALANCING": 1 << 13,
}
NODE_LIMIT = 1024
"""The most NUMA nodes that a kernel can be built for (MAX_NUMNODES)."""
DOMAINS = ("LINUX", "LINUX32")
CLOCKS = ("monotonic", "boottime")
NAME_BYTES = 15
"""IFNAMSIZ without the final NUL."""
PASSED_THROUGH = ("deviceTree", "dtdevs", "iomems", "irqs")
"""Keys of vm.hwConfig by which Xen passes the machine's hardware to a guest."""


@record
class TimeOffset:
    """The offset of a clock (`monotonic`, `boottime`) in a time namespace (time_namespaces(7))."""

    clock: str
    seconds: int
    nanoseconds: int


@record
class MemoryPolicy:
    """linux.memoryPolicy: from which NUMA nodes memory comes (set_mempolicy(2))."""

    mode: str
    flags: tuple[str, ...]
    nodes: tuple[int, ...]


@record
class VirtualMachine:
    """The parts of `vm` that urunc uses; 0, "" and () for absent ones. Paths are the host's."""

    vcpus: int
    memory_bytes: int
    kernel: str
    parameters: tuple[str, ...]
    initrd: str


def parse(top: Object, namespaces: Mapping[str, str]) -> dict[str, Any]:
    """The fields of Spec for the parts that are present; raises SpecError."""
    linux, process = top.object("linux"), top.object("process")
    found: dict[str, Any] = {"remarks": _remarks(top)}
    if process.value.keys() & {"ioPriority", "scheduler"}:
        from urunc.bundle.scheduling import parse_io_priority, parse_scheduler

        found["io_priority"] = parse_io_priority(process.object("ioPriority"))
        found["scheduler"] = parse_scheduler(process.object("scheduler"))
    if linux.get("intelRdt", dict) is not None:
        raise _unsupported(linux, "intelRdt", "cache and bandwidth allocation is not supported")
    if linux.get("memoryPolicy", dict) is not None:
        found["memory_policy"] = _memory_policy(linux.object("memoryPolicy"))
    if linux.get("netDevices", dict):
        found["net_devices"] = _net_devices(linux, namespaces)
    if linux.get("personality", dict) is not None:
        found["personality"] = _personality(linux.object("personality"))
    if linux.get("timeOffsets", dict) is not None:
        found["time_offsets"] = _time_offsets(linux, namespaces)
    if top.get("vm", dict) is not None:
        found["machine"] = _machine(top.object("vm"))
    return found


def _remarks(top: Object) -> tuple[str, ...]:
    """Remarks for the user on what is ignored."""
    process = top.object("process")
    texts = [
        f"{key}: for another platform, and without effect on Linux"
        for key in FOREIGN
        if top.get(key, dict) is not None
    ]
    for holder, key in ((process, "commandLine"), (process.object("user"), "username")):
        if holder.text(key):
            texts.append(f"{holder.at(key)}: for Windows, and without effect on Linux")
    affinity = process.object("execCPUAffinity")
    for key in ("initial", "final"):
        if affinity.text(key):
            texts.append(f"{affinity.at(key)}: for `exec`, which guests do not have")
    memory = top.object("linux").object("resources").object("memory")
    if (memory.number("kernel", minimum=-1, maximum=(1 << 63) - 1) or -1) > 0:
        texts.append(f"{memory.at('kernel')}: kernels have no separate limit for it any more")
    if memory.get("useHierarchy", bool) is not None:
        texts.append(f"{memory.at('useHierarchy')}: kernels always do it")
    return tuple(texts)


def _unsupported(holder: Object, key: str, why: str, hint: str = "leave it out") -> SpecError:
    return holder.wrong(key, why, hint)


def _memory_policy(item: Object) -> MemoryPolicy:
    mode = item.text("mode", required=True)
    if mode not in MEMORY_MODES:
        raise item.wrong("mode", f"unknown '{mode}'", f"known: {', '.join(MEMORY_MODES)}")
    flags = item.texts_of("flags", MEMORY_FLAGS)
    nodes = _nodes(item)
    if nodes and mode in ("MPOL_DEFAULT", "MPOL_LOCAL"):
        raise item.wrong("nodes", f"{mode} takes none")
    if not nodes and mode not in ("MPOL_DEFAULT", "MPOL_LOCAL", "MPOL_PREFERRED"):
        raise item.wrong("nodes", f"{mode} takes one at least", "for example 0-1,3")
    return MemoryPolicy(mode=mode, flags=flags, nodes=nodes)


def _nodes(item: Object) -> tuple[int, ...]:
    """A list such as 0-1,3 (the kernel's list format)."""
    text = item.text("nodes")
    found: set[int] = set()
    for part in filter(None, map(str.strip, text.split(","))):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(part) > 9:
            raise item.wrong("nodes", f"'{text}' is not a list of nodes", "for example 0-1,3")
        low, high = int(first), int(last or first)
        if not low <= high < NODE_LIMIT:
            raise item.wrong("nodes", f"'{part}' is no range of nodes below {NODE_LIMIT}")
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def memory_mode(policy: MemoryPolicy) -> int:
    """The mode of set_mempolicy(2) with its flags."""
    return MEMORY_MODES.index(policy.mode) | sum(MEMORY_FLAGS[flag] for flag in policy.flags)


def memory_words(policy: MemoryPolicy) -> str:
    """A policy in one line for people."""
    nodes = f" on nodes {','.join(map(str, policy.nodes))}" if policy.nodes else ""
    return "|".join((policy.mode, *policy.flags)) + nodes


def _net_devices(linux: Object, namespaces: Mapping[str, str]) -> dict[str, str]:
    """Host's name → name inside."""
    devices = linux.object("netDevices")
    if "network" not in namespaces:
        raise linux.wrong("netDevices", "there is no network namespace to move them to")
    found: dict[str, str] = {}
    for name in linux.names("netDevices"):
        inside = devices.object(name).text("name") or name
        _check_name(devices, name, name)
        _check_name(devices, f"{name}.name", inside, template="%d")
        if inside in found.values() and "%d" not in inside:
            raise devices.wrong(f"{name}.name", f"a second '{inside}'")
        found[name] = inside
    return found


def _check_name(devices: Object, key: str, name: str, template: str = "") -> None:
    """dev_valid_name() of the kernel (net/core/dev.c); one %d at most stands for a number
    (__dev_alloc_name())."""
    wrong = not name or name in (".", "..") or len(name.encode()) > NAME_BYTES
    wrong = wrong or "%" in name.replace(template, "", 1)
    if wrong or any(letter in "/:\0" or letter.isspace() for letter in name):
        raise devices.wrong(key, f"'{name}' is not a name for a network device")


def _personality(item: Object) -> str:
    if item.texts("flags"):
        raise item.wrong("flags", "the specification has none so far", "leave it out")
    domain = item.one_of("domain", DOMAINS)
    if not domain:
        raise item.wrong("domain", "missing", f"known: {', '.join(DOMAINS)}")
    return domain


def _time_offsets(linux: Object, namespaces: Mapping[str, str]) -> tuple[TimeOffset, ...]:
    offsets = linux.object("timeOffsets")
    for clock in offsets.value:
        if clock not in CLOCKS:
            raise offsets.wrong(clock, "no such clock", f"known: {', '.join(CLOCKS)}")
    if offsets.value and namespaces.get("time") != "":
        raise linux.wrong("timeOffsets", "there is no new time namespace to set them in")
    return tuple(
        TimeOffset(
            clock=clock,
            seconds=offsets.object(clock).number("secs", -(1 << 63)) or 0,
            nanoseconds=offsets.object(clock).number("nanosecs", maximum=999_999_999) or 0,
        )
        for clock in offsets.value
    )


def _machine(vm: Object) -> VirtualMachine:
    """`vm` (config-vm.md): the machine's size and kernel are used. What the administrator decides,
    or what would pass the host's hardware to a guest, is refused."""
    if vm.get("hypervisor", dict) is not None:
        program = vm.object("hypervisor")
        for key, where in (("path", "path"), ("parameters", "arguments")):
            if program.value.get(key):
                raise _unsupported(
                    program, key, "the monitor is the administrator's choice",
                    f"set monitors.NAME.{where} in /etc/urunc/config.toml",
                )  # fmt: skip
    if vm.get("image", dict) is not None:
        image = vm.object("image")
        for key in ("path", "format"):
            if image.value.get(key):
                raise _unsupported(
                    image, key, "a guest's disks are files of its image, in the raw format",
                    "name it by the annotation 'block'",
                )  # fmt: skip
    hardware, kernel = vm.object("hwConfig"), vm.object("kernel")
    for key in PASSED_THROUGH:
        if hardware.value.get(key):
            raise _unsupported(hardware, key, "no part of the host's hardware is handed to guests")
    memory_bytes = hardware.number("memory", maximum=(1 << 63) - 1) or 0
    if 0 < memory_bytes < 1 << 20:
        raise hardware.wrong("memory", f"{memory_bytes} bytes are less than 1 MiB")
    return VirtualMachine(
        vcpus=hardware.number("vcpus", maximum=0xFFFFFFFF) or 0,
        memory_bytes=memory_bytes,
        kernel=_host_path(kernel, "path"),
        parameters=kernel.texts("parameters"),
        initrd=_host_path(kernel, "initrd"),
    )


def _host_path(holder: Object, key: str) -> str:
    path = holder.text(key)
    if path and not path.startswith("/"):
        raise holder.wrong(key, f"'{path}' is not an absolute path")
    return path
