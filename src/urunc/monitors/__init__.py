# SPDX-License-Identifier: Apache-2.0
"""The contract of monitors, and the table of the known ones.

A monitor turns a Machine into a Launch; no guest's dialect appears here or in any monitor, and no
monitor imports another. A monitor's module is pure. A new one is a module whose table `MONITORS`
names a subclass of Monitor, an entry in BUILT_IN and a golden file. A package from outside
registers its class under the entry-point group `urunc.monitors`, and states the CONTRACT that it
was written for. HACKING.md is the guide, urunc.testing holds a monitor against this contract.

The public names here are what plugins build on, and stay while CONTRACT does.
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
    from urunc.vocabulary import Accelerator, ChannelKind

BUILT_IN = {
    "hvt": "urunc.monitors.solo5",
    "spt": "urunc.monitors.solo5",
    "qemu": "urunc.monitors.qemu",
    "firecracker": "urunc.monitors.firecracker",
}
"""A monitor's name → its module."""

CONTRACT = 1
"""This contract's version, which changes as guests.CONTRACT does."""
MIB = 1 << 20
GIB = 1 << 30
RUN = "/run"
"""The one directory of the monitor's root that the monitor may write to."""
SHARE = "/share"
"""The directory of shared directories in the monitor's root: `root` and `volumes/N` below it."""
SHARE_SOCKET = f"{RUN}/virtiofs.sock"
CHANNEL = f"{RUN}/channel"
"""The FIFOs CHANNEL.in (to the guest) and CHANNEL.out (guest_channel.py)."""


@record
class Program:
    """A monitor's program on this host, with every file that it needs to be loaded (`libraries`)
    and to run (`data`)."""

    path: str
    version: str
    libraries: tuple[str, ...]
    data: tuple[str, ...]
    position_independent: bool = True
    """Whether the kernel can load it at any address (PIE)."""


@record
class MachineNic:
    """A network device of the machine, connected to the TAP device `tap`. `name` is the one that
    the guest declares, "" if it declares none; `mtu` is in bytes."""

    name: str
    tap: str
    mac: str
    mtu: int
    queues: int
    """The number of queue pairs; the TAP device has as many (IFF_MULTI_QUEUE) if it is above
    one."""


@record
class MachineDisk:
    """A block device of the machine; `path` is in the monitor's root."""

    name: str
    path: str
    read_only: bool


@record
class MachineShare:
    """A directory of the host's that the guest mounts by the name `tag`."""

    kind: str
    """One of storage.facts.SHARES."""
    tag: str
    path: str
    """The directory in the monitor's root, if the monitor itself serves it (9p)."""
    socket: str
    """The socket of the daemon that serves it (virtiofs)."""


@record
class Machine:
    """The machine for a guest, in terms of no particular monitor. Paths are in the monitor's
    root."""

    id: str
    architecture: str
    accelerator: Accelerator
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
    """Whether standard input is a terminal, all of whose keys, Ctrl-C too, go to the guest."""
    seccomp: bool
    arguments: tuple[str, ...]
    shares: tuple[MachineShare, ...] = ()
    channel: ChannelKind = ""
    """How urunc's init in the guest talks to the host: "virtio", "vsock", or "" for not at all."""
    streams: tuple[str, ...] = ()
    """The kinds of standard input, output and error, if each has a port of its own into the guest:
    "file", "socket", or "" for none. ("terminal",) if one terminal is all three and has one port.
    () if they are the guest's console."""
    stream_descriptors: tuple[int, ...] = ()
    """Descriptors of the monitor's for standard output and error, opened for writing only."""
    tells_resets: bool = False
    """Whether the monitor shall end with a distinct exit code when the guest resets the machine
    (Plan.tells_resets)."""
    assigns_resources: bool = False
    """Whether the guest assigns addresses to PCI devices itself; else its firmware has to."""
    firmware: str = "auto"
    """The administrator's choice (config.FIRMWARE); "auto" is what the guest needs."""


@record
class Launch:
    """All that init needs to become the monitor.

    `files` (path below RUN → content) are written by the monitor's user before each start.
    `devices` are paths of device nodes in the monitor's root. `seccomp` is "own" if the monitor
    filters its own system calls, or else the names of those that our filter allows, separated by
    blanks; "" is no filter, which only the administrator can choose.
    """

    argv: tuple[str, ...]
    files: Mapping[str, str]
    devices: tuple[str, ...]
    seccomp: str
    claims: tuple[str, ...] = ()
    """Block devices for the monitor's exclusive use: init opens them with O_EXCL (open(2)), and the
    monitor inherits the descriptors."""
    held: tuple[str, ...] = ()
    """FIFOs that init opens and the monitor inherits, so that neither end waits for the other."""
    streams: bool = False
    """Whether the monitor gets `Machine.stream_descriptors` beside the standard streams."""


@record
class Need:
    """The part of the container's memory limit that a monitor needs for itself."""

    fixed_bytes: int
    per_gib_bytes: int

    def of(self, memory_bytes: int) -> int:
        """That part, in bytes, for a guest of `memory_bytes`."""
        return self.fixed_bytes + -(-memory_bytes * self.per_gib_bytes // GIB)

    def limit_for(self, memory_bytes: int) -> int:
        """The smallest memory limit for a guest of `memory_bytes`."""
        return memory_bytes + self.of(memory_bytes)

    def room_in(self, limit_bytes: int) -> int:
        """The most memory that a guest can have within a limit: bytes, in whole MiB."""
        memory = (limit_bytes - self.fixed_bytes) * GIB // (GIB + self.per_gib_bytes)
        memory = memory // MIB * MIB
        while self.limit_for(memory) > limit_bytes:  # rounding can make it too much by one MiB
            memory -= MIB
        return memory


def numbers(version: str) -> tuple[int, ...]:
    """A program's version as numbers, to compare; () if none is known."""
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


class Snapshots:
    """How a monitor saves its guest, which stands still, and takes up a saved one. Monitors that
    can do so have a subclass in a module of its own, which is loaded only for that."""

    files: tuple[str, ...] = ("state",)
    """The names of the files that it saves into."""
    memory = ""
    """Which of them is as large as the guest's memory, "" for none."""
    lent = False
    """Whether it opens the files by paths in its root; else it is given descriptors."""

    def problem(self, version: str, channel: ChannelKind) -> str:
        """Why a guest of this monitor cannot be saved, "" where it can."""
        return ""

    def machine(self, launch: Launch, program: Program) -> tuple[str, ...]:
        """What of a launch makes the machine that the guest sees; equal for a saved one and the one
        that takes it up."""
        raise NotImplementedError

    def words(self, launch: Launch) -> tuple[str, ...]:
        """What the guest is told when it boots."""
        raise NotImplementedError

    def logging(self, launch: Launch, path: str) -> Launch | None:
        """The launch of a monitor that also writes what its guest prints to a FIFO, for as long as
        somebody reads it; None where it cannot."""
        return None

    def waiting(self, launch: Launch) -> Launch:
        """The launch of a monitor that waits for a saved guest in place of booting one."""
        raise NotImplementedError

    def save(
        self,
        control: Control,
        files: Mapping[str, int],
        paths: Mapping[str, str],
        most_bytes: int,
    ) -> None:
        """Save into new files, `most_bytes` at most: their descriptors by their names, and where
        `lent` their paths. Raises MonitorError, OSError."""
        raise NotImplementedError

    def load(
        self,
        control: Control,
        files: Mapping[str, int],
        paths: Mapping[str, str],
        version: str,
        taps: Mapping[str, str],
    ) -> None:
        """Take up a saved guest, which stands still; `taps` are the network devices' TAP devices as
        they were → as they are. Raises MonitorError."""
        raise NotImplementedError


class Monitor:
    """A virtual machine monitor or sandbox monitor. Subclasses set the attributes and write
    `launch` and `program_name`. Paths are in the monitor's root."""

    contract = 0
    """The CONTRACT that the class was written for, as in guests.Guest."""
    name = ""
    architectures: frozenset[str] = frozenset(("x86_64", "aarch64"))
    minimum_version: tuple[int, ...] = (0,)
    needs_kvm = False
    can_emulate = False
    """Whether it can run without KVM, by emulation."""
    max_nics = 1
    max_queues = 1
    """The most queue pairs of a network device."""
    max_disks = 1
    sets_modes = False
    """Whether it changes its standard streams' descriptors: O_NONBLOCK, a terminal's modes."""
    opens_for_writing = False
    """Whether it opens even a read-only disk for writing."""
    disk_unit_bytes = 0
    """The unit of a disk's size, if a guest is not shown what a file has beyond it; 0 for none."""
    max_vcpus = 1
    takes_initrd = False
    shares: frozenset[str] = frozenset()
    """The transports by which it can share directories (of storage.facts.SHARES)."""
    channel: ChannelKind = ""
    """How urunc's init in its guest can talk to the host: "virtio" by a port that the FIFOs CHANNEL
    serve, "vsock" by a connection, "" not at all."""
    vsock = ""
    """The socket at which a guest's vsock connection to urunc arrives, if the channel is
    "vsock"."""
    overhead_mib = 0
    """The memory in MiB that it needs for itself within the container's limit, without the parts
    that grow with the machine (measured by bench/overhead: docs/monitors.md)."""
    overhead_emulating_mib = 0
    """The same when it emulates."""
    overhead_tasks = 16
    """The most threads and processes that it has beside one for each vCPU (docs/monitors.md)."""
    overhead_per_vcpu_mib = 0
    overhead_per_gib_mib = 0
    """Further MiB for each vCPU, and for each GiB of the guest's memory (page tables)."""
    solo5_target = ""
    """The target in the ABI note of the guests that it runs, "" if it runs others than Solo5's."""
    formats: Mapping[str, frozenset[str]] = {}
    """architecture → kernel formats (elf.Binary.format) that it boots."""
    consoles: Mapping[str, str] = {}
    """architecture → Linux's name of the machine's serial port, if it is not ttyS0."""
    control_socket = ""
    """The socket at which it takes orders, "" for none."""
    orders: frozenset[str] = frozenset()
    """The orders that it takes while it runs: the guests.STOP_REQUESTS that it can pass to its
    guest, and "pause" and "resume", if these keep the guest's clock from jumping."""
    events_socket = ""
    """The socket at which it reports its guest's events, "" for none."""
    stop_signal = 15
    """The signal that ends it when its guest is to stop (SIGTERM, SIGINT, SIGQUIT, SIGHUP) and has
    no other way."""

    saves_by = ""
    """The module whose SNAPSHOTS is its class of Snapshots, "" where it cannot save a guest."""

    def program_name(self, architecture: str) -> str:
        """The name of the program to look for on PATH."""
        raise NotImplementedError

    def data(self, path: str) -> tuple[str, ...]:
        """Candidates for files and directories that the program at `path` needs beside its
        libraries."""
        return ()

    def order(self, control: Control, what: str) -> None:
        """Have it carry out one of `orders`; raises MonitorError."""
        raise NotImplementedError

    def subscribe(self, control: Control) -> None:
        """Have it report events on a connection to `events_socket`; raises MonitorError."""
        raise NotImplementedError

    def heard(self, control: Control) -> list[dict[str, str]]:
        """The events reported since the last call: each has `event`, and `reason` if the guest
        ended. Raises MonitorError if the connection ended."""
        raise NotImplementedError

    def is_attended(self, control: Control) -> bool:
        """Whether the guest has opened the channel's port ("virtio"); raises MonitorError."""
        return True

    def tells_resets(self, architecture: str, version: str) -> bool:
        """Whether it can end with a distinct exit code, not 0, when a guest with the quirk
        "reset-by-8042" resets the machine; such a machine has no keyboard."""
        return False

    def ending(self, code: int) -> str:
        """The meaning of its exit code, in words for the user."""
        return f"{self.name} ended with exit code {code}"

    def snapshots(self) -> Snapshots | None:
        """How it saves a guest; None where it cannot."""
        if not self.saves_by:
            return None
        module: Any = __import__(self.saves_by, fromlist=("SNAPSHOTS",))
        found: Snapshots = module.SNAPSHOTS()
        return found

    def need(self, vcpus: int, accelerator: Accelerator) -> Need:
        """The memory that it needs for itself with `vcpus` vCPUs."""
        fixed = self.overhead_emulating_mib if accelerator == "tcg" else self.overhead_mib
        return Need(
            fixed_bytes=(fixed + vcpus * self.overhead_per_vcpu_mib) * MIB,
            per_gib_bytes=self.overhead_per_gib_mib * MIB,
        )

    def most_memory_bytes(self, program: Program, architecture: str) -> int:
        """The most memory that it can give to a guest; 0 for no limit of its own."""
        return 0

    def line_room(self, devices: int, program: Program, architecture: str) -> int:
        """The most bytes that the guest's command line can have on a machine with `devices` virtio
        devices; 0 for no limit but the guest's own."""
        return 0

    def launch(self, machine: Machine, program: Program) -> Launch:
        """Its command line and files for a machine; pure."""
        raise NotImplementedError


def known(name: str) -> bool:
    """Whether there is a monitor of this name. Looks through installed packages if need be, which
    takes time."""
    return name in BUILT_IN or name in _plugins()


def names() -> list[str]:
    """The names of all known monitors, for messages."""
    return sorted({*BUILT_IN, *_plugins()})


def load(name: str, config: Config) -> Monitor:
    """The monitor of a name; raises ImageError for one that is unknown or not allowed."""
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
        from urunc.plugins import made

        monitor = made("monitor", plugins[name], Monitor, CONTRACT)
    checked: Monitor = monitor
    return checked


def _plugins() -> dict[str, Any]:
    from urunc.plugins import entry_points

    return entry_points("urunc.monitors")
