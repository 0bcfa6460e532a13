# SPDX-License-Identifier: Apache-2.0
"""What a guest framework wants to be told: the contract, and the table of those that are known.

A guest turns a Request into words; no monitor's option appears here or in any guest. A guest's
module is pure: it reads nothing and makes nothing. A new one is a module with a class `GUEST`
names, an entry in BUILT_IN and a golden file; a package from outside registers its class under the
entry-point group `urunc.guests`; one whose whole dialect is a line of text needs only
`guests.NAME.cmdline` in the configuration (template.py).
"""

from __future__ import annotations

from urunc.errors import ImageError
from urunc.net.facts import Route
from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from urunc.bundle.elf import Binary
    from urunc.config import Config
    from urunc.storage.facts import Root, Volume

STOP_REQUESTS = ("acpi-power-button", "ctrl-alt-del")
"""Ways in which a machine can ask its guest to stop, the gentler first."""
SHARE_TAG = "share"
"""The name by which a guest finds the directories that it shares with the host."""
CHANNEL_PORT = "org.urunc.guest"
VSOCK_PORT = 1024
"""The name of the port of virtio-serial, and the number of vsock's, by which urunc's init in a
guest talks to the host."""
STREAM_PORTS = ("org.urunc.stdin", "org.urunc.stdout", "org.urunc.stderr")
"""The ports of virtio-serial by which an application's standard streams go."""
BUILT_IN = ("linux", "mewz", "mirage", "rumprun", "unikraft")


@record
class Nic:
    """A network interface as the guest should see it; addresses are text, empty where there are
    none.

    The first IPv4 and IPv6 address, with the prefix that is on the link in truth: 32 or 128 where
    even the gateway is reached by a route of its own. `ipv4_subnet` is the prefix as configured.
    `more` are further addresses (ADDRESS/PREFIX). `routes` are all that do not follow from the
    addresses, default routes (0.0.0.0/0, ::/0) too, on-link ones first.
    """

    name: str
    mac: str
    mtu: int
    ipv4: str
    ipv4_prefix: int
    ipv4_subnet: int
    ipv4_gateway: str
    ipv6: str
    ipv6_prefix: int
    ipv6_gateway: str
    more: tuple[str, ...]
    routes: tuple[Route, ...]
    interface: str = ""
    """What it is called in the container's network namespace, "" where it has a device for the
    guest alone."""


@record
class Disk:
    """A block device given to the guest, under the name that the guest knows it by ("" where by
    order)."""

    name: str
    read_only: bool
    mount_point: str
    filesystem: str = ""
    """What is on it, "" where nobody knows."""


@record
class Process:
    """How urunc's init runs the application in a guest; ids are the guest's own."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    cwd: str
    umask: int | None
    capabilities: tuple[str, ...]
    """Masks in hexadecimal, in the order of spec.CAPABILITY_SETS; empty: all that there are."""
    no_new_privileges: bool
    rlimits: tuple[str, ...]
    """TYPE SOFT HARD"""
    sysctls: Mapping[str, str]
    masked_paths: tuple[str, ...]
    read_only_paths: tuple[str, ...]
    domainname: str
    terminal: bool
    own_pids: bool
    """Whether it is PID 1 of a namespace of its own."""
    no_input: bool = False
    """Whether its standard input is empty: /dev/null."""
    personality: str = ""
    """Its execution domain: "LINUX", "LINUX32"."""
    time_offsets: tuple[str, ...] = ()
    """CLOCK SECONDS NANOSECONDS"""
    filter: str = ""
    """Which system calls it may make: a BPF program in hexadecimal."""
    filter_flags: int = 0
    """For seccomp(2)."""
    most_processes: int = 0
    """How many it may be with its children, threads counted; 0: any number."""
    files: tuple[str, ...] = ()
    """Of the files that engines mount into every container those that this one's has mounted."""


@record
class Request:
    """Everything that a guest may build its words from; `console` is Linux's name for the machine's
    serial port."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    hostname: str
    version: str
    console: str
    initrd: bool
    nics: tuple[Nic, ...]
    disks: tuple[Disk, ...]
    dns: tuple[str, ...]
    """Name servers, all within the guest's reach."""
    search: tuple[str, ...]
    hosts: tuple[str, ...]
    """Lines of the hosts file: ADDRESS NAME…"""
    options: tuple[str, ...] = ()
    """Of the resolver, as resolv.conf has them: `ndots:5`."""
    root: Root | None = None
    """The container's root filesystem, where it is the guest's."""
    volumes: tuple[Volume, ...] = ()
    archive: int = -1
    """The index of the disk with copied volumes and the container's own files, -1 for none."""
    layer: bool = False
    """Whether there are files of the container's own among them."""
    opaque: tuple[str, ...] = ()
    """Directories of the container's own files that hide those of the image (overlayfs)."""
    upper: int = -1
    """The index of the disk for what the guest writes to its root filesystem, -1 for none."""
    returned: int = -1
    """The index of the disk for a file that the engine reads at the end, -1 for none."""
    process: Process | None = None
    channel: str = ""
    """How urunc's init talks to the host: "virtio" or "vsock", "" not at all."""
    parameters: tuple[str, ...] = ()
    """For the kernel itself; for guests that say that they take them (`takes_parameters`)."""
    streams: bool = False
    """Whether each of the standard streams has a way of its own; else all are the console."""
    resolver_file: str | None = None
    hosts_file: str | None = None
    """The whole of the container's resolv.conf and hosts file, None where it has none."""


@record
class Setting:
    """The machine that is decided on for a guest; versions are "" where nobody knows them."""

    version: str
    """The guest's: what the image says of it, else its kernel."""
    release: str
    """What its kernel says."""
    monitor: str
    monitor_version: str
    architecture: str
    accelerator: str
    """"kvm", "tcg" (it emulates) or "none"."""
    memory_bytes: int


@record
class Words:
    """A guest's command line: the program's own name and what follows it.

    `program` is "" where the guest has no use for one. A monitor that passes words separately keeps
    each as one argument; one that passes a line joins them by blanks.
    """

    program: str
    words: tuple[str, ...]
    config: str = ""
    """What urunc's init reads from a disk, where the guest runs it."""


@record
class Devices:
    """The devices that a guest's file declares, by name; None where it declares none and takes
    any."""

    nets: tuple[str, ...] | None
    blocks: tuple[str, ...] | None


class Guest:
    """A guest framework. Subclasses set the attributes and write `words`."""

    name = ""
    monitors: frozenset[str] = frozenset()
    """The monitors it is known to run on; empty: any."""
    storage: frozenset[str] = frozenset()
    """What it can take its files from: "initrd", "block"."""
    takes_arguments = True
    takes_environment = True
    """Whether it can be told the application's; else a warning says what is left out."""
    splits_arguments = False
    """Whether arguments are joined by blanks and split again in the guest, whatever is in them."""
    takes_hostname = False
    takes_parameters = False
    """Whether its kernel has parameters apart from the application's words."""
    takes_ipv6 = False
    """Whether it can be told an IPv6 address."""
    max_addressed = 1
    """How many interfaces it can be told addresses of."""
    stops_on: frozenset[str] = frozenset()
    """Of STOP_REQUESTS those that every guest of this kind listens to; an image may say more of
    itself (annotation stopsOn)."""
    quirks: frozenset[str] = frozenset()
    """Neutral words that a monitor may know: "isa-debug-exit", "virtio-modern" (no legacy),
    "reset-by-8042" (it resets the machine by the keyboard controller, and by nothing else where it
    panics; it looks for one only where ACPI says so)."""
    assigns_resources = False
    """Whether it gives PCI devices their addresses itself, so that a firmware which leaves them
    unassigned (qboot) will do; all others get one that assigns them."""
    block_mount_point = ""
    """Where it mounts its first block device, if the image does not say."""
    root_forms: tuple[str, ...] = ()
    """Forms (storage.facts.ROOT_FORMATS) in which it can take the container's root filesystem, the
    cheapest first."""
    volume_ways: tuple[str, ...] = ()
    """Ways by which it can take a volume (storage.facts), the best first."""
    working_mib = 0
    """Memory that it needs beside its kernel's and its initrd's to come to run its application."""
    init = False
    """Whether it runs urunc's init where it is handed the container's root filesystem."""

    def modules(self, filesystems: tuple[str, ...]) -> tuple[str, ...]:
        """The kernel modules that urunc's init needs, with what mounts these filesystems."""
        return ()

    def devices(self, binary: Binary) -> Devices:
        """What the file declares: the devices in its Solo5 manifest, where it has one."""
        if not binary.solo5_target:
            return Devices(nets=None, blocks=None)
        return Devices(
            nets=tuple(name for name, kind in binary.solo5_devices if kind == "net"),
            blocks=tuple(name for name, kind in binary.solo5_devices if kind == "block"),
        )

    def words(self, request: Request) -> Words:
        """The command line; raises ImageError where the request cannot be said in this guest's
        dialect."""
        raise NotImplementedError

    def omissions(self, request: Request) -> list[str]:
        """What `words` leaves out of this request though the dialect could say it, in words for
        the user."""
        return []

    def cautions(self, setting: Setting) -> list[str]:
        """What of this machine a guest of this version cannot use, or does not bear, in words for
        the user; raises ImageError where the version is none."""
        return []


def share_tag(index: int) -> str:
    """The name of the share with one volume, for guests without urunc's init."""
    return f"volume{index}"


def known(name: str, config: Config) -> bool:
    """Whether a guest of this name can be found, at what cost so ever."""
    return name in BUILT_IN or name in config.names("guests") or name in _plugins()


def names(config: Config) -> list[str]:
    """Every known guest, for messages."""
    return sorted({*BUILT_IN, *config.names("guests"), *_plugins()})


def load(name: str, config: Config) -> Guest:
    """The guest of a name; raises ImageError."""
    if not config.get(f"guests.{name}.allowed"):
        source = config.source(f"guests.{name}.allowed")
        raise ImageError(f"guest '{name}': not allowed on this machine", f"set in {source}")
    guest: Any
    if name in BUILT_IN:
        guest = __import__(f"urunc.guests.{name}", fromlist=("GUEST",)).GUEST()
    elif config.get(f"guests.{name}.cmdline"):
        guest = __import__("urunc.guests.template", fromlist=("GUEST",)).GUEST(
            name,
            config.get(f"guests.{name}.cmdline"),
            config.get(f"guests.{name}.storage"),
            assigns_resources=config.get(f"guests.{name}.assigns_resources"),
        )
    else:
        plugins = _plugins()
        if name not in plugins:
            raise ImageError(f"guest '{name}': unknown", f"known: {', '.join(names(config))}")
        guest = plugins[name].load()()
    checked: Guest = guest
    return checked


def _plugins() -> dict[str, Any]:
    from urunc.plugins import entry_points

    return entry_points("urunc.guests")


def host_name(name: str) -> str:
    """A host's name that can stand among other fields of a word; raises ImageError."""
    if not all(letter.isalnum() or letter in "-_." for letter in name):
        raise ImageError(
            f"hostname: '{name}' cannot stand in the guest's command line",
            "letters, digits, hyphens and dots only",
        )
    return name


def joined(words: Iterable[str], guest: str) -> str:
    """Words as one line for a guest that splits it at blanks and knows no quoting."""
    parts = list(words)
    for word in parts:
        if not word or word.split() != [word]:
            raise ImageError(
                f"command line of {guest}: the argument '{word}' is empty or holds blanks",
                f"{guest} splits its command line at blanks; pass it in another form",
            )
    return " ".join(parts)
