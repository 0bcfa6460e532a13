# SPDX-License-Identifier: Apache-2.0
"""What this machine has: KVM, the monitor's program and its libraries. Probes only; decides
nothing.

What a program is (its version, the libraries it loads) takes tens of milliseconds to find out, so
it is kept in a cache whose key is the program's device, inode, size and time of change.
"""

from __future__ import annotations

import posix

from urunc.bundle.elf import inspect
from urunc.errors import HostError, ImageError, reason
from urunc.linux.files import exists, read_bytes
from urunc.monitors import Monitor, Program
from urunc.plan.model import DeviceNode, HostFacts
from urunc.programs import capture, find_program, remembered, version_of
from urunc.record import plain, rebuild

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urunc.config import Config


def probe(monitor: Monitor, config: Config) -> HostFacts:
    """Look at this machine for a monitor; raises HostError where its program is not to be had."""
    architecture = posix.uname().machine
    program, nested = _program(monitor, architecture, config)
    return HostFacts(
        architecture=architecture,
        kvm=device("/dev/kvm", opened=True),
        tun=device("/dev/net/tun", opened=False),
        nested=nested,
        program=program,
        memory_bytes=posix.sysconf("SC_PHYS_PAGES") * posix.sysconf("SC_PAGE_SIZE"),
    )


def device(path: str, *, opened: bool) -> DeviceNode:
    """A device node's facts; `opened`: also whether it opens."""
    problem = ""
    major = minor = mode = gid = 0
    try:
        facts = posix.stat(path)
        major, minor = posix.major(facts.st_rdev), posix.minor(facts.st_rdev)
        mode, gid = facts.st_mode & 0o777, facts.st_gid
        if opened:
            posix.close(posix.open(path, posix.O_RDWR | posix.O_CLOEXEC))
    except OSError as error:
        problem = reason(error)
    return DeviceNode(path=path, major=major, minor=minor, mode=mode, gid=gid, problem=problem)


def _program(monitor: Monitor, architecture: str, config: Config) -> tuple[Program, bool]:
    key = f"monitors.{monitor.name}.path"
    path = config.get(key)
    if path:
        if not posix.access(path, posix.X_OK):
            raise HostError(
                f"monitor '{monitor.name}': '{path}' is no program", f"set in {config.source(key)}"
            )
    else:
        name = monitor.program_name(architecture)
        path = find_program(name)
        if not path:
            raise HostError(
                f"monitor '{monitor.name}': '{name}' is not installed",
                f"install it on PATH, or set {key} in /etc/urunc/config.toml",
            )

    def find_out() -> dict[str, Any]:
        # every x86 hypervisor sets this flag for its guests; reading it can take milliseconds on
        # large machines
        nested = b" hypervisor " in read_bytes("/proc/cpuinfo", 8192)
        return {"program": plain(_inspect_program(monitor, path)), "nested": nested}

    for known in remembered(monitor.name, path, find_out):
        try:
            if "position_independent" in known["program"]:
                return rebuild(Program, known["program"]), known["nested"]
        except (KeyError, TypeError):
            pass  # written by another version
    raise AssertionError


def _inspect_program(monitor: Monitor, path: str) -> Program:
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        binary = inspect(fd, path)
    except ImageError as error:
        raise HostError(f"monitor '{monitor.name}': {error.message}") from None
    finally:
        posix.close(fd)
    if binary.format != "elf":
        raise HostError(
            f"monitor '{monitor.name}': '{path}' is not an ELF program",
            "a script cannot run in the monitor's own root; "
            f"set monitors.{monitor.name}.path to the program",
        )
    libraries: list[str] = []
    data = [candidate for candidate in monitor.data(path) if exists(candidate)]
    if binary.interpreter:
        libraries = [binary.interpreter]
        for needed in [path, *(item for item in data if item.endswith(".so"))]:
            libraries += [
                name for name in _libraries(binary.interpreter, needed) if name not in libraries
            ]
        if exists("/etc/ld.so.cache"):
            libraries.append("/etc/ld.so.cache")
    return Program(
        path=path,
        version=version_of(path),
        libraries=tuple(libraries),
        data=tuple(data),
        position_independent=binary.position_independent,
    )


def _libraries(interpreter: str, path: str) -> list[str]:
    """The shared libraries that the dynamic loader would load for a file (ld.so(8), --list)."""
    found = []
    for line in capture([interpreter, "--list", path])[1].splitlines():
        name, _, rest = line.strip().partition(" => ")
        location = (rest or name).rpartition(" (0x")[0]
        if location.startswith("/"):
            found.append(location)
    return found
