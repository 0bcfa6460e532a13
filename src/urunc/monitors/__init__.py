# SPDX-License-Identifier: Apache-2.0
"""How a monitor is told: the contract, and the table of those that are known.

A monitor turns a Machine into a Launch; no guest's dialect appears here or in any monitor, and no
monitor imports another. A monitor's module is pure. A new one is a module with a class that
`MONITORS` names, an entry in BUILT_IN and a golden file; a package from outside registers its class
under the entry-point group `urunc.monitors`.
"""

from __future__ import annotations

from urunc.errors import ImageError
from urunc.guests import CHANNEL_PORT as CHANNEL_PORT
from urunc.guests import STREAM_PORTS as STREAM_PORTS
from urunc.guests import VSOCK_PORT as VSOCK_PORT
from urunc.guests import Words
from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from urunc.config import Config
    from urunc.monitor_client import Control

# monitor's name → its module
BUILT_IN = {
    "hvt": "urunc.monitors.solo5",
    "spt": "urunc.monitors.solo5",
    "qemu": "urunc.monitors.qemu",
    "firecracker": "urunc.monitors.firecracker",
}

MIB = 1 << 20
GIB = 1 << 30
RUN = "/run"
"""The one directory of the monitor's root that the monitor may write to."""
SHARE = "/share"
"""Where shared directories are in the monitor's root: `root` and `volumes/N` in it."""
SHARE_SOCKET = f"{RUN}/virtiofs.sock"
CHANNEL = f"{RUN}/channel"
"""The FIFOs CHANNEL.in (to the guest) and CHANNEL.out (guest_channel.py)."""


@record
class Program:
    """A monitor's program on this host: what it is, and every file it needs to be loaded."""

    path: str
    version: str
    libraries: tuple[str, ...]
    data: tuple[str, ...]
    position_independent: bool = True
    """Whether the kernel loads it anywhere; else it is at an address of its own."""


@record
class MachineNic:
    """A network device of the machine: frames go through a TAP device; `name` is the guest's for
    it."""

    name: str
    tap: str
    mac: str
    mtu: int
    queues: int
    """Pairs of queues; more than one: the TAP device has several, too."""


@record
class MachineDisk:
    """A block device of the machine; `path` is in the monitor's root."""

    name: str
    path: str
    read_only: bool


@record
class MachineShare:
    """A directory that the guest sees as it is, by the name `tag`."""

    kind: str
    """Of storage.facts.SHARES."""
    tag: str
    path: str
    """In the monitor's root, where the monitor itself reads it (9p)."""
    socket: str
    """Where a daemon serves it (virtiofs)."""


@record
class Machine:
    """The machine that a guest asks for, in no monitor's words. Paths are in the monitor's root."""

    id: str
    architecture: str
    accelerator: str
    nested: bool
    memory_bytes: int
    vcpus: int
    kernel: str
    initrd: str
    words: Words
    nics: tuple[MachineNic, ...]
    disks: tuple[MachineDisk, ...]
    quirks: frozenset[str]
    terminal: bool
    """Whether standard input is a terminal, whose keys (Ctrl-C too) are the guest's."""
    seccomp: bool
    arguments: tuple[str, ...]
    shares: tuple[MachineShare, ...] = ()
    channel: str = ""
    """How urunc's init in the guest talks to the host: "virtio", "vsock", "" not at all."""
    streams: tuple[str, ...] = ()
    """What standard input, output and error are, "" for none, "file" or "socket", where each has a
    way of its own into the guest; "terminal" alone where all are one and that has its way; () where
    they are the guest's console."""
    stream_descriptors: tuple[int, ...] = ()
    """Of the monitor's, for standard output and error, to write alone."""
    tells_resets: bool = False
    """Whether it shall end with a code of its own where the guest resets it: Plan.tells_resets."""
    assigns_resources: bool = False
    """Whether the guest gives PCI devices their addresses itself, or needs a firmware that does."""
    firmware: str = "auto"
    """The administrator's choice (config.FIRMWARE); "auto": what the guest needs."""


@record
class Launch:
    """All that init needs to become the monitor.

    `files` are written below RUN by the monitor's user before each start. `seccomp` is "own" where
    the monitor filters its own system calls, else the names that our filter lets through, "" for no
    filter (the administrator's choice alone).
    """

    argv: tuple[str, ...]
    files: Mapping[str, str]
    devices: tuple[str, ...]
    seccomp: str
    claims: tuple[str, ...] = ()
    """Block devices that nobody else may have meanwhile: init opens them exclusively (open(2),
    O_EXCL), and the monitor keeps that."""
    held: tuple[str, ...] = ()
    """FIFOs that are open from before the monitor's first moment on."""
    streams: bool = False
    """Whether it has `Machine.stream_descriptors` beside the standard streams."""


@record
class Need:
    """What a monitor needs of the container's memory limit for itself."""

    fixed_bytes: int
    per_gib_bytes: int

    def of(self, memory_bytes: int) -> int:
        """With a guest of this memory."""
        return self.fixed_bytes + -(-memory_bytes * self.per_gib_bytes // GIB)

    def limit_for(self, memory_bytes: int) -> int:
        """The smallest limit for a guest of this memory."""
        return memory_bytes + self.of(memory_bytes)

    def room_in(self, limit_bytes: int) -> int:
        """The most memory, in whole MiB, that a guest can have within a limit."""
        memory = (limit_bytes - self.fixed_bytes) * GIB // (GIB + self.per_gib_bytes)
        memory = memory // MIB * MIB
        while self.limit_for(memory) > limit_bytes:  # by a rounding at most
            memory -= MIB
        return memory


class Monitor:
    """A virtual machine monitor or sandbox monitor. Subclasses set the attributes and write
    `launch`."""

    name = ""
    architectures: frozenset[str] = frozenset(("x86_64", "aarch64"))
    minimum_version: tuple[int, ...] = (0,)
    needs_kvm = False
    can_emulate = False
    """Whether it can run without KVM, by emulation."""
    max_nics = 1
    max_queues = 1
    """Pairs of queues that a network device can have."""
    max_disks = 1
    sets_modes = False
    """Whether it changes how the descriptors of its standard streams behave: O_NONBLOCK, a
    terminal's modes."""
    opens_for_writing = False
    """Whether it opens every disk for writing, whatever its guest will do with it."""
    max_vcpus = 1
    takes_initrd = False
    shares: frozenset[str] = frozenset()
    """How it can share directories with its guest (storage.facts.SHARES)."""
    channel = ""
    """How urunc's init in its guest can talk to the host: "virtio" by a port over the FIFOs
    CHANNEL, "vsock" by a connection, "" not at all."""
    vsock = ""
    """Where in its root a guest's connection to urunc comes out, where the channel is "vsock"."""
    overhead_mib = 0
    """What it needs of the container's memory limit for itself, in MiB, beside what grows with the
    machine (measured by bench/overhead: docs/monitors.md)."""
    overhead_emulating_mib = 0
    """The same where it emulates."""
    overhead_tasks = 16
    """How many threads and processes it has at most beside one for each vCPU (docs/monitors.md)."""
    overhead_per_vcpu_mib = 0
    overhead_per_gib_mib = 0
    """More for each vCPU, and for each GiB of the guest's memory (page tables)."""
    solo5_target = ""
    """The target in a guest's ABI note, where it runs only such guests."""
    formats: Mapping[str, frozenset[str]] = {}
    """architecture → kernel formats (elf.Binary.format) that it boots."""
    consoles: Mapping[str, str] = {}
    """architecture → Linux's name for the machine's serial port, where it is not ttyS0."""
    control_socket = ""
    """Where in its root it listens for orders; "" where it does not."""
    orders: frozenset[str] = frozenset()
    """What it can be told while it runs: of guests.STOP_REQUESTS those that it can hand to its
    guest, and "pause" and "resume", which spare the guest's clock a jump."""
    events_socket = ""
    """Where in its root it tells what happens to its guest; "" where it does not."""
    stop_signal = 15
    """What ends it when a stop request (SIGTERM, SIGINT, SIGQUIT, SIGHUP) comes for its guest."""

    def program_name(self, architecture: str) -> str:
        """The program to look for on PATH."""
        raise NotImplementedError

    def data(self, path: str) -> tuple[str, ...]:
        """Files and directories beside the program and its libraries that it needs, as
        candidates."""
        return ()

    def order(self, control: Control, what: str) -> None:
        """Carry out one of `orders`; raises MonitorError."""
        raise NotImplementedError

    def subscribe(self, control: Control) -> None:
        """Have it tell its events on a connection to `events_socket`; raises MonitorError."""
        raise NotImplementedError

    def heard(self, control: Control) -> list[dict[str, str]]:
        """What it has told since: each with `event`, and a `reason` where that is an end; raises
        MonitorError where the connection ended."""
        raise NotImplementedError

    def is_attended(self, control: Control) -> bool:
        """Whether a guest has opened its port of the channel ("virtio"); raises MonitorError."""
        return True

    def tells_resets(self, architecture: str, version: str) -> bool:
        """Whether it can end with an exit code of its own, not 0, where a guest ("reset-by-8042")
        resets the machine; the guest has no keyboard then."""
        return False

    def ending(self, code: int) -> str:
        """What an exit code of its means, in words."""
        return f"{self.name} ended with exit code {code}"

    def need(self, vcpus: int, accelerator: str) -> Need:
        """What it needs for itself with so many vCPUs."""
        fixed = self.overhead_emulating_mib if accelerator == "tcg" else self.overhead_mib
        return Need(
            fixed_bytes=(fixed + vcpus * self.overhead_per_vcpu_mib) * MIB,
            per_gib_bytes=self.overhead_per_gib_mib * MIB,
        )

    def most_memory_bytes(self, program: Program, architecture: str) -> int:
        """The most memory that it can give to its guest; 0 where it has no bound of its own."""
        return 0

    def line_room(self, devices: int, program: Program, architecture: str) -> int:
        """How many bytes its guest's command line can have where the machine has so many virtio
        devices; 0: as many as the guest itself takes."""
        return 0

    def launch(self, machine: Machine, program: Program) -> Launch:
        """Its command line and files; pure."""
        raise NotImplementedError


def known(name: str) -> bool:
    """Whether a monitor of this name can be found, at what cost so ever."""
    return name in BUILT_IN or name in _plugins()


def names() -> list[str]:
    """Every known monitor, for messages."""
    return sorted({*BUILT_IN, *_plugins()})


def load(name: str, config: Config) -> Monitor:
    """The monitor of a name; raises ImageError."""
    if not config.get(f"monitors.{name}.allowed"):
        source = config.source(f"monitors.{name}.allowed")
        raise ImageError(f"monitor '{name}': not allowed on this machine", f"set in {source}")
    monitor: Any
    if name in BUILT_IN:
        monitor = __import__(BUILT_IN[name], fromlist=("MONITORS",)).MONITORS[name]()
    else:
        plugins = _plugins()
        if name not in plugins:
            raise ImageError(f"monitor '{name}': unknown", f"known: {', '.join(names())}")
        monitor = plugins[name].load()()
    checked: Monitor = monitor
    return checked


def _plugins() -> dict[str, Any]:
    from urunc.plugins import entry_points

    return entry_points("urunc.monitors")
