# SPDX-License-Identifier: Apache-2.0
"""The plan: what is wanted of one container, checked, in groups, and where its files are in the
monitor's root.

Nothing changes a plan once it is decided. What `create` settles later (the monitor's user, what the
streams are, the form of the root filesystem) is another record, Chosen. container.json and `urunc
plan` have both as one object without groups: `flatten` makes it, `unflatten` reads it back.
"""

from __future__ import annotations

from urunc.bundle.image import ImageFile
from urunc.guests import Process
from urunc.monitors import RUN, Need, Program
from urunc.net.facts import Ports
from urunc.record import plain, rebuild, record
from urunc.storage.facts import Root, Volume, filesystems_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from urunc.bundle.image import UnikernelImage
    from urunc.bundle.spec import Spec
    from urunc.config import Config
    from urunc.guests import Guest
    from urunc.monitors import Monitor
    from urunc.storage.facts import StorageFound
    from urunc.vocabulary import Accelerator, ChannelKind, NetworkMode, StopOrder

KERNEL_DIRECTORY = "/guest"
"""Where the unikernel is in the monitor's root."""
INITRD_TARGET = "/initrd"
SUPERVISOR = "/supervisor"
CONFIG_DISK = f"{RUN}/guest.config"
"""The disk by which urunc's init is told everything: written at each start."""


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


@record
class ApplicationFilter:
    """What an application in the guest may call of its kernel, as compiled here."""

    program: str
    """BPF, in hexadecimal; "" for all of them."""
    flags: int
    """For seccomp(2)."""
    warning: str
    """Why there is no filter where one was asked for, else ""."""


NO_FILTER = ApplicationFilter(program="", flags=0, warning="")


@record
class Inputs:
    """All that a decision follows from; `found`: None where no files of the container's can be the
    guest's."""

    spec: Spec
    image: UnikernelImage
    guest: Guest
    monitor: Monitor
    host: HostFacts
    config: Config
    found: StorageFound | None


@record
class PlannedFile:
    """A file of the image and where the monitor finds it."""

    source: ImageFile
    target: str
    read_only: bool


@record
class KernelPlan:
    """What boots."""

    file: PlannedFile
    initrd: PlannedFile | None
    version: str
    """The guest's, "" where nobody says."""
    parameters: tuple[str, ...] = ()
    modules: str
    """The directory with the kernel's modules, "" where it needs none."""
    memory_bytes: int = 0
    """What the kernel takes of the guest's memory."""


@record
class ApplicationPlan:
    """What runs in the guest, and how it is heard."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    hostname: str
    terminal: bool
    process: Process | None
    """What urunc's init runs in the guest; None where it is not there."""
    channel: ChannelKind
    """How urunc's init talks to the host: "virtio", "vsock", or "" not at all."""
    streams: tuple[str, ...] = ()
    """What the standard streams are expected to be (Machine.streams)."""
    stream_descriptors: tuple[int, ...] = ()


@record
class MachinePlan:
    """The virtual machine, and what its monitor needs beside it."""

    accelerator: Accelerator
    accelerator_reason: str
    architecture: str
    memory_bytes: int
    overhead_bytes: int
    """What the monitor needs for itself beside the guest's memory."""
    need: Need = Need(fixed_bytes=0, per_gib_bytes=0)
    """What the monitor would need for itself with a guest of another size."""
    vcpus: int
    tasks: int = 0
    """How many processes and threads the container has beside the application's."""
    seccomp: bool
    arguments: tuple[str, ...]
    """The administrator's own, for the monitor."""
    firmware: str = "auto"
    """The administrator's choice of the machine's firmware (config.FIRMWARE)."""


@record
class NetworkPlan:
    """The guest's part in the container's network namespace."""

    mode: NetworkMode
    """`dynamic`: the guest takes the namespace's interfaces over; `pod`: it has the namespace's
    address, too; `shared`: it is behind NAT in it; `none`."""
    reason: str
    net_names: tuple[str, ...] | None
    """The network devices that the guest's file declares; None where it takes any."""
    max_nics: int
    queues: int
    """Pairs of queues of each network device."""
    ports: tuple[Ports, ...]
    other_ports: bool
    shared_subnets: tuple[str, ...]

    @property
    def nic_count(self) -> int:
        """How many interfaces this guest on this monitor can have."""
        if self.mode == "none":
            return 0
        most = 1 if self.mode in ("pod", "shared") else self.max_nics
        return most if self.net_names is None else min(len(self.net_names), most)


@record
class StoragePlan:
    """The guest's files: the image's disks, the root filesystem and the volumes."""

    root: str
    """The container's root filesystem on the host."""
    disks: tuple[PlannedFile, ...]
    disk_names: tuple[str, ...]
    """The guest's names of all its disks: the image's, the root filesystem's, the volumes'."""
    disk_mount_points: tuple[str, ...]
    root_way: Root | None
    """How the container's root filesystem becomes the guest's; None where it does not."""
    volumes: tuple[Volume, ...]
    filesystems: tuple[str, ...]
    """What the guest's kernel has to mount, for its modules."""
    virtiofsd: str
    """The daemon that serves shared directories, "" where none is needed."""
    virtiofsd_rust: bool


@record
class UserPlan:
    """Whose the monitor shall be, by the host's ids outside a user namespace, else the
    container's."""

    uid: int | None
    """None where `create` chooses one of the configured range."""
    gid: int | None
    groups: tuple[int, ...]


@record
class EndingPlan:
    """How the container is stopped, and how its end is told."""

    stop_signal: int
    """What ends the monitor."""
    stop_order: StopOrder
    """How the monitor asks its guest to stop; "" where one of the two cannot."""
    supervisor: str
    """The program between the container and its monitor that ends as the application did, "" for
    none."""
    tells_resets: bool = False
    """Whether the monitor ends with a code of its own where the guest resets its machine."""


@record
class Plan:
    """What is wanted of one container, checked."""

    id: str
    guest: str
    monitor: str
    host: HostFacts
    kernel: KernelPlan
    application: ApplicationPlan
    machine: MachinePlan
    network: NetworkPlan
    storage: StoragePlan
    user: UserPlan
    ending: EndingPlan
    warnings: tuple[str, ...]


@record
class MonitorUser:
    """Whose the monitor is, by the ids that the runtime sees."""

    uid: int
    gid: int
    groups: tuple[int, ...]


@record
class Chosen:
    """What `create` settles after the decision."""

    user: MonitorUser
    streams: tuple[str, ...]
    """What the standard streams are (Machine.streams)."""
    stream_descriptors: tuple[int, ...]
    no_input: bool
    """Whether standard input is /dev/null."""
    root_way: Root | None
    """In another form than the plan's where that could not hold all of the root filesystem."""


GROUPS: dict[str, Any] = {
    "kernel": KernelPlan,
    "application": ApplicationPlan,
    "machine": MachinePlan,
    "network": NetworkPlan,
    "storage": StoragePlan,
    "user": UserPlan,
    "ending": EndingPlan,
}
KEYS = {
    ("kernel", "file"): "kernel",
    ("kernel", "modules"): "kernel_modules",
    ("kernel", "memory_bytes"): "kernel_bytes",
    ("network", "mode"): "network",
    ("network", "reason"): "network_reason",
}
"""Keys of the flat object that are not called as the group's field."""


def as_planned(plan: Plan, user: MonitorUser | None = None) -> Chosen:
    """What is chosen where nothing comes in between; without a user, the plan's, or root."""
    application, own = plan.application, plan.user
    return Chosen(
        user=user or MonitorUser(uid=own.uid or 0, gid=own.gid or 0, groups=own.groups),
        streams=application.streams,
        stream_descriptors=application.stream_descriptors,
        no_input=application.process is not None and application.process.no_input,
        root_way=plan.storage.root_way,
    )


def flatten(plan: Plan, chosen: Chosen | None = None) -> dict[str, Any]:
    """A plan as one JSON object without groups, with what was chosen in place of what was
    planned."""
    values: dict[str, Any] = plain(plan)
    groups = {group: values.pop(group) for group in GROUPS}
    values.update((key, groups[group][field]) for group, field, key in _fields())
    if not chosen:
        return values
    values.update(plain(chosen.user))
    values["streams"] = list(chosen.streams)
    values["stream_descriptors"] = list(chosen.stream_descriptors)
    if chosen.root_way != plan.storage.root_way:
        values["root_way"] = plain(chosen.root_way)
        values["filesystems"] = list(filesystems_of(chosen.root_way, plan.storage.volumes))
    if values["process"]:
        values["process"]["no_input"] = chosen.no_input
    return values


def unflatten(values: Mapping[str, Any]) -> tuple[Plan, Chosen]:
    """The plan of a container that was created, and what was chosen; raises TypeError where another
    version of urunc wrote it whose plan has other keys."""
    rest = dict(values)
    groups: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for group, field, key in _fields():
        if key in rest:
            groups[group][field] = rest.pop(key)
    plan = rebuild(Plan, {**rest, **groups})
    return plan, as_planned(plan)


def _fields() -> Iterator[tuple[str, str, str]]:
    """(group, field, flat key) of each field that is in a group."""
    for group, cls in GROUPS.items():
        for field in cls.record_fields:
            yield group, field, KEYS.get((group, field), field)
