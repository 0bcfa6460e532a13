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
from urunc.jsontext import dumps, loads
from urunc.linux.files import exists, make_directories, read_bytes, read_text, write_whole
from urunc.monitors import Monitor, Program
from urunc.record import plain, rebuild, record
from urunc.state import runtime_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from urunc.config import Config

COMMON = "urunc.d"
"""The runtime folder's part for what containers share, whatever their --root: reserved user ids,
facts about programs."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@record
class DeviceNode:
    """A device of the host: `problem` says why it cannot be used, "" where it can."""

    path: str
    major: int
    minor: int
    mode: int
    gid: int
    problem: str


@record
class HostFacts:
    """This machine, as far as one container's plan needs it."""

    architecture: str
    kvm: DeviceNode
    tun: DeviceNode
    nested: bool
    program: Program
    memory_bytes: int = 0
    """All of the machine's memory; 0 where nobody knows."""


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


def find_program(name: str) -> str:
    """A program's path by PATH, links resolved; "" where it is not there."""
    path = posix.environ.get(b"PATH", b"").decode("utf-8", "surrogateescape") or DEFAULT_PATH
    for folder in path.split(":"):
        candidate = f"{folder}/{name}"
        if folder.startswith("/") and posix.access(candidate, posix.X_OK):
            return candidate
    return ""


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


def remembered(
    name: str, path: str, find_out: Callable[[], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Facts about a program, first those in the cache, where there are any for it as it is now,
    then (where those are not understood) new ones, which are written down."""
    facts = posix.stat(path)
    identity = f"{path} {facts.st_dev} {facts.st_ino} {facts.st_size} {facts.st_mtime_ns}"
    folder = f"{runtime_folder()}/{COMMON}/programs"
    cache = f"{folder}/{name}.json"
    try:
        known = loads(read_text(cache))
        if known["identity"] == identity:
            yield known
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or no such text
    found = find_out()
    try:
        make_directories(folder, 0o700)
        write_whole(cache, dumps({"identity": identity, **found}).encode())
    except OSError:
        pass  # a plan made without root has no cache to write to
    yield found


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
        version=_version(path),
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


def _version(path: str) -> str:
    """The first dotted number that `--version` prints; "" where it prints none."""
    for word in capture([path, "--version"])[1].split():
        number = word.removeprefix("v").rstrip(",").partition("-")[0]
        if "." in number and number.replace(".", "").isdigit():
            return number
    return ""


def capture(argv: list[str]) -> tuple[int, str]:
    """(exit code, what it prints on standard output and standard error) of a program."""
    out, into = posix.pipe()
    actions = [(posix.POSIX_SPAWN_DUP2, into, 1), (posix.POSIX_SPAWN_DUP2, into, 2)]
    try:
        pid = posix.posix_spawn(
            argv[0],
            argv,
            {b"PATH": DEFAULT_PATH.encode(), b"LC_ALL": b"C"},
            file_actions=actions,
            setsigdef=(13, 25),  # SIGPIPE and SIGXFSZ, which CPython ignores
        )
    except OSError as error:
        posix.close(out)
        raise HostError(f"run '{argv[0]}': {reason(error)}") from None
    finally:
        posix.close(into)
    parts = []
    while part := posix.read(out, 65536):
        parts.append(part)
    posix.close(out)
    code = posix.waitstatus_to_exitcode(posix.waitpid(pid, 0)[1])
    return code, b"".join(parts).decode("utf-8", "replace")
