# SPDX-License-Identifier: Apache-2.0
"""The contract of guest frameworks, and the table of the known ones.

A guest turns a Request into Words; no monitor's option appears here or in any guest. A guest's
module is pure: it reads nothing and makes nothing. A new one is a module whose `GUEST` is a
subclass of Guest, an entry in BUILT_IN and a golden file. A package from outside registers its
class under the entry-point group `urunc.guests`, and states the CONTRACT that it was written for. A
guest whose whole dialect is one line of text needs only `guests.NAME.cmdline` in the configuration
(template.py). HACKING.md is the guide, urunc.testing holds a guest against this contract.

The public names here are what plugins build on, and stay while CONTRACT does.
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
    from urunc.vocabulary import Accelerator, ChannelKind, StopOrder

CONTRACT = 1
"""This contract's version. It changes when a class that was written for the one before may no
longer work: a name or a field is gone, or means something else. What is only added, with a default,
leaves it as it is."""
STOP_REQUESTS: tuple[StopOrder, ...] = ("acpi-power-button", "ctrl-alt-del")
"""Signals by which a machine can ask its guest to stop, the gentler one first."""
SHARE_TAG = "share"
"""The tag (virtiofs, 9p) of the directories that are shared with the host."""
CHANNEL_PORT = "org.urunc.guest"
VSOCK_PORT = 1024
"""The virtio-serial port's name and the vsock port's number by which urunc's init in a guest talks
to the host."""
STREAM_PORTS = ("org.urunc.stdin", "org.urunc.stdout", "org.urunc.stderr")
"""The virtio-serial ports that carry an application's standard streams."""
BUILT_IN = ("linux", "mewz", "mirage", "rumprun", "unikraft")


@record
class Nic:
    """A network interface as the guest should see it. Addresses are text, "" for none; `mtu` is in
    bytes.

    `ipv4` and `ipv6` are the first address of their kind, with the prefix that is truly on the
    link: 32 or 128 if even the gateway needs a route of its own. `ipv4_subnet` is the prefix as
    configured. `more` are further addresses (ADDRESS/PREFIX). `routes` are all that do not follow
    from the addresses, with the default routes (0.0.0.0/0, ::/0), on-link ones first.
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
    """Its name in the container's network namespace, "" for a device that is the guest's alone
    (network mode shared)."""


@record
class Disk:
    """A block device of the guest; `name` is the one that the guest declares, "" if it knows disks
    by their order."""

    name: str
    read_only: bool
    mount_point: str
    filesystem: str = ""
    """Its filesystem's type, "" if it is not known."""


@record
class Process:
    """How urunc's init runs the application in a guest; ids are the guest's own. Fields are those
    of config.json's process, as init takes them."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    cwd: str
    umask: int | None
    capabilities: tuple[str, ...]
    """Masks in hexadecimal, in the order of spec.CAPABILITY_SETS; empty: all capabilities."""
    no_new_privileges: bool
    rlimits: tuple[str, ...]
    """`TYPE SOFT HARD`, as in `RLIMIT_NOFILE 1024 4096`."""
    sysctls: Mapping[str, str]
    masked_paths: tuple[str, ...]
    read_only_paths: tuple[str, ...]
    domainname: str
    terminal: bool
    own_pids: bool
    """Whether it is PID 1 of a PID namespace of its own."""
    no_input: bool = False
    """Whether its standard input is /dev/null."""
    personality: str = ""
    """Its execution domain (personality(2)): "LINUX" or "LINUX32", "" for the default."""
    time_offsets: tuple[str, ...] = ()
    """`CLOCK SECONDS NANOSECONDS`, as in `monotonic 100 0`."""
    filter: str = ""
    """Its seccomp filter: a BPF program in hexadecimal, "" for none."""
    filter_flags: int = 0
    """SECCOMP_FILTER_FLAG_* for seccomp(2)."""
    most_processes: int = 0
    """The most tasks that it may have with its children, threads included; 0: no limit."""
    files: tuple[str, ...] = ()
    """The storage.facts.NETWORK_FILES that the container has mounted."""


@record
class Request:
    """Everything that a guest may build its Words from. `console` is Linux's name of the machine's
    serial port (`ttyS0`); indices are those of `disks`, -1 for none."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    hostname: str
    version: str
    console: str
    initrd: bool
    nics: tuple[Nic, ...]
    disks: tuple[Disk, ...]
    dns: tuple[str, ...]
    """Name servers' addresses, all reachable from the guest."""
    search: tuple[str, ...]
    """The resolver's search domains."""
    hosts: tuple[str, ...]
    """Lines of the hosts file: `ADDRESS NAME…`."""
    options: tuple[str, ...] = ()
    """The resolver's options as in resolv.conf (`ndots:5`)."""
    root: Root | None = None
    """The container's root filesystem, if it is the guest's."""
    volumes: tuple[Volume, ...] = ()
    archive: int = -1
    """The disk with copied volumes and the files of the container's writable layer."""
    layer: bool = False
    """Whether that disk holds files of the writable layer."""
    opaque: tuple[str, ...] = ()
    """Opaque directories of that layer, which hide those of the image (overlayfs)."""
    upper: int = -1
    """The disk for the guest's own writable layer."""
    returned: int = -1
    """The disk for the termination message, which the engine reads at the end."""
    process: Process | None = None
    """The application, if urunc's init runs it."""
    channel: ChannelKind = ""
    """How urunc's init talks to the host: "virtio", "vsock", or "" for not at all."""
    parameters: tuple[str, ...] = ()
    """Parameters for the kernel itself, for guests with `takes_parameters`."""
    streams: bool = False
    """Whether each standard stream has a port of its own (STREAM_PORTS); else all are the
    console."""
    resolver_file: str | None = None
    hosts_file: str | None = None
    """The content of the container's resolv.conf and hosts file, None if it has none."""


@record
class Setting:
    """The machine that was decided on for a guest; an unknown version is ""."""

    version: str
    """The guest framework's version, from the image's annotation or else from the kernel's file."""
    release: str
    """The version in the kernel's file."""
    monitor: str
    monitor_version: str
    architecture: str
    accelerator: Accelerator
    """"kvm", "tcg" (QEMU's emulation) or "none"."""
    memory_bytes: int


@record
class Words:
    """A guest's command line: the program's own name and what follows it.

    `program` is "" for a guest that takes none. A monitor that passes words separately keeps each
    as one argument; one that passes a line joins them with blanks.
    """

    program: str
    words: tuple[str, ...]
    config: str = ""
    """The text that urunc's init reads from a disk (guests/linux_config.py), "" if it does not run
    in the guest."""


@record
class Devices:
    """The names of the devices that a guest's file declares; None for a guest that declares none
    and takes any."""

    nets: tuple[str, ...] | None
    blocks: tuple[str, ...] | None


class Guest:
    """A guest framework. Subclasses set the attributes and write `words`."""

    contract = 0
    """The CONTRACT that the class was written for, as a number: from another package a class that
    states none, or another, is refused. urunc's own need not say."""
    name = ""
    monitors: frozenset[str] = frozenset()
    """Names of the monitors that it is known to run on; empty: any."""
    storage: frozenset[str] = frozenset()
    """The annotations by which an image can give it files: "initrd", "block"."""
    takes_arguments = True
    takes_environment = True
    """Whether it can be given the application's arguments and environment; if not, a warning says
    that they are left out."""
    splits_arguments = False
    """Whether the guest splits the line at blanks, so that no argument may hold one."""
    takes_hostname = False
    takes_parameters = False
    """Whether its kernel has parameters that are separate from the application's words."""
    takes_ipv6 = False
    """Whether it can be configured with an IPv6 address."""
    max_addressed = 1
    """How many interfaces it can be configured with addresses."""
    stops_on: frozenset[str] = frozenset()
    """The STOP_REQUESTS that every guest of this kind listens to; an image may name more
    (annotation stopsOn)."""
    quirks: frozenset[str] = frozenset()
    """Traits that a monitor may use: "isa-debug-exit", "virtio-modern" (no legacy virtio),
    "reset-by-8042" (the guest resets the machine through the keyboard controller, after a panic
    through nothing else, and looks for one only if ACPI announces it)."""
    assigns_resources = False
    """Whether it assigns addresses to PCI devices itself, so that a firmware that leaves them
    unassigned (qboot) will do."""
    block_mount_point = ""
    """Where it mounts its first block device, unless the image says so."""
    root_forms: tuple[str, ...] = ()
    """The formats (storage.facts.ROOT_FORMATS) in which it can take the container's root
    filesystem, the cheapest first."""
    volume_ways: tuple[str, ...] = ()
    """The transports (storage.facts) by which it can take a volume, the best first."""
    working_mib = 0
    """The memory in MiB that it needs beside its kernel's and its initrd's to run an
    application."""
    working_percent = 0
    """And how much more, in percent of what its kernel takes."""
    init = False
    """Whether it runs urunc's init when it gets the container's root filesystem."""

    def modules(self, filesystems: tuple[str, ...]) -> tuple[str, ...]:
        """The kernel modules that urunc's init needs, with those that mount these filesystems."""
        return ()

    def devices(self, binary: Binary) -> Devices:
        """The devices that the guest's file declares: those of its Solo5 manifest, if it has
        one."""
        if not binary.solo5_target:
            return Devices(nets=None, blocks=None)
        return Devices(
            nets=tuple(name for name, kind in binary.solo5_devices if kind == "net"),
            blocks=tuple(name for name, kind in binary.solo5_devices if kind == "block"),
        )

    def words(self, request: Request) -> Words:
        """The command line for a request; raises ImageError for what this guest's dialect cannot
        express."""
        raise NotImplementedError

    def omissions(self, request: Request) -> list[str]:
        """Warnings for the user: what `words` leaves out of this request for want of room, or
        because of the guest's version."""
        return []

    def cautions(self, setting: Setting) -> list[str]:
        """Warnings for the user: what a guest of this version cannot use of this machine, or fails
        on. Raises ImageError for a version that is not one."""
        return []


def share_tag(index: int) -> str:
    """The tag of the share with the volume of this index, for guests without urunc's init."""
    return f"volume{index}"


def known(name: str, config: Config) -> bool:
    """Whether there is a guest of this name. Looks through installed packages if need be, which
    takes time."""
    return name in BUILT_IN or name in config.names("guests") or name in _plugins()


def names(config: Config) -> list[str]:
    """The names of all known guests, for messages."""
    return sorted({*BUILT_IN, *config.names("guests"), *_plugins()})


def load(name: str, config: Config) -> Guest:
    """The guest of a name; raises ImageError for one that is unknown or not allowed."""
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
        from urunc.plugins import made

        guest = made("guest", plugins[name], Guest, CONTRACT)
    checked: Guest = guest
    return checked


def _plugins() -> dict[str, Any]:
    from urunc.plugins import entry_points

    return entry_points("urunc.guests")


def host_name(name: str) -> str:
    """`name` itself, if it can stand between other fields in a word; raises ImageError
    otherwise."""
    if not all(letter.isalnum() or letter in "-_." for letter in name):
        raise ImageError(
            f"hostname: {name!r} cannot stand in the guest's command line",
            "letters, digits, hyphens and dots only",
        )
    return name


def joined(words: Iterable[str], guest: str) -> str:
    """Words as one line for a guest that splits it at blanks and knows no quoting; raises
    ImageError for an empty word and one with a blank."""
    parts = list(words)
    for word in parts:
        if not word or word.split() != [word]:
            raise ImageError(
                f"command line of {guest}: the argument {word!r} is empty or holds blanks",
                f"{guest} splits its command line at blanks; write the argument without them",
            )
    return " ".join(parts)
