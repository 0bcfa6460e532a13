# SPDX-License-Identifier: Apache-2.0
"""The plan: what is wanted of one container, checked, and where its files are in the monitor's
root."""

from __future__ import annotations

from urunc.bundle.image import ImageFile
from urunc.guests import Process
from urunc.monitors import (
    RUN,
    Need,
)
from urunc.net.facts import Ports
from urunc.plan.host import HostFacts
from urunc.record import record
from urunc.storage.facts import (
    Root,
    Volume,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

KERNEL_DIRECTORY = "/guest"
"""Where the unikernel is in the monitor's root."""
INITRD_TARGET = "/initrd"
SUPERVISOR = "/supervisor"
CONFIG_DISK = f"{RUN}/guest.config"
"""The disk by which urunc's init is told everything: written at each start."""


@record
class PlannedFile:
    """A file of the image and where the monitor finds it."""

    source: ImageFile
    target: str
    read_only: bool


@record
class Plan:
    """What is wanted of one container, checked. JSON-able: `start` and `urunc plan` read it
    back."""

    id: str
    guest: str
    monitor: str
    accelerator: str
    accelerator_reason: str
    architecture: str
    root: str
    kernel: PlannedFile
    initrd: PlannedFile | None
    disks: tuple[PlannedFile, ...]
    disk_names: tuple[str, ...]
    """The guest's names of all its disks: the image's, the root filesystem's, the volumes'."""
    disk_mount_points: tuple[str, ...]
    root_way: Root | None
    """How the container's root filesystem becomes the guest's; None where it does not."""
    volumes: tuple[Volume, ...]
    process: Process | None
    """What urunc's init runs in the guest; None where it is not there."""
    virtiofsd: str
    """The daemon that serves shared directories, "" where none is needed."""
    virtiofsd_rust: bool
    channel: str
    """How urunc's init talks to the host: "virtio", "vsock", or "" not at all."""
    streams: tuple[str, ...] = ()
    """What the standard streams are (Machine.streams)."""
    stream_descriptors: tuple[int, ...] = ()
    supervisor: str
    """The program between the container and its monitor that ends as the application did, "" for
    none."""
    filesystems: tuple[str, ...]
    """What the guest's kernel has to mount, for its modules."""
    kernel_modules: str
    """The directory with the kernel's modules, "" where it needs none."""
    net_names: tuple[str, ...] | None
    max_nics: int
    network: str
    """`dynamic`: the guest takes the namespace's interfaces over; `shared`: it is behind NAT in
    it; `none`."""
    network_reason: str
    ports: tuple[Ports, ...]
    other_ports: bool
    shared_subnets: tuple[str, ...]
    queues: int
    """Pairs of queues of each network device."""
    memory_bytes: int
    overhead_bytes: int
    """What the monitor needs for itself beside the guest's memory."""
    kernel_bytes: int = 0
    """What the kernel takes of the guest's memory."""
    need: Need = Need(fixed_bytes=0, per_gib_bytes=0)
    """What the monitor would need for itself with a guest of another size."""
    vcpus: int
    uid: int | None
    gid: int | None
    groups: tuple[int, ...]
    args: tuple[str, ...]
    env: tuple[str, ...]
    hostname: str
    terminal: bool
    version: str
    seccomp: bool
    stop_signal: int
    stop_order: str
    """How the monitor asks its guest to stop; "" where one of the two cannot."""
    arguments: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    """For the guest's kernel."""
    host: HostFacts
    warnings: tuple[str, ...]
    tasks: int = 0
    """How many processes and threads the container has beside the application's."""
    tells_resets: bool = False
    """Whether the monitor ends with a code of its own where the guest resets its machine."""
    firmware: str = "auto"
    """The administrator's choice of the machine's firmware (config.FIRMWARE)."""


def nic_count(plan: Plan) -> int:
    """How many interfaces this guest on this monitor can have."""
    count = plan.max_nics if plan.net_names is None else min(len(plan.net_names), plan.max_nics)
    return min(count, 1) if plan.network == "shared" else count
