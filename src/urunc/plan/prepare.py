# SPDX-License-Identifier: Apache-2.0
"""From a bundle to a plan: looks at the machine and at the container's files, and decides. Makes
nothing and needs no root, so `plan` shows what `create` would do."""

from __future__ import annotations

from urunc import guests, logs, monitors
from urunc.bundle.network_files import hostname
from urunc.bundle.resources import Resources, merge
from urunc.errors import HostError, RoomError
from urunc.plan.decide import decide
from urunc.plan.host import probe
from urunc.plan.model import NO_FILTER, ApplicationFilter, Chosen, Plan
from urunc.plan.realize import omissions, realize
from urunc.plan.unsupported import check_seccomp
from urunc.record import replace
from urunc.storage.facts import TMPFS, StorageFacts, volume_mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urunc.bundle.image import UnikernelImage
    from urunc.bundle.spec import Spec
    from urunc.config import Config
    from urunc.guests import Guest
    from urunc.monitors import Launch, Monitor
    from urunc.net.facts import NetFacts


STORED = frozenset(("disks", "rootfs", "rootfsSize", "volumes"))
"""Annotations about files: asked for where there are none, too."""


class Prepared:
    """A container's plan with the two who can say it."""

    def __init__(self, plan: Plan, guest: Guest, monitor: Monitor) -> None:
        self.plan = plan
        self.guest = guest
        self.monitor = monitor

    def realize(self, net: NetFacts, storage: StorageFacts, chosen: Chosen | None = None) -> Launch:
        return realize(self.plan, net, self.guest, self.monitor, storage, chosen)

    def omissions(
        self, net: NetFacts, storage: StorageFacts, chosen: Chosen | None = None
    ) -> list[str]:
        return omissions(self.plan, net, self.guest, self.monitor, storage, chosen)


def settled(spec: Spec) -> Spec:
    """The specification with what was found of its namespaces; raises SpecError."""
    if not any(spec.namespaces.values()):
        return spec
    from urunc.bundle.joined_namespaces import settle

    return settle(spec)


def prepare(identifier: str, spec: Spec, unikernel: UnikernelImage, config: Config) -> Prepared:
    """Decide what a container of a specification that is settled (bundle/joined_namespaces.py)
    shall be; makes nothing and needs no root."""
    guest = guests.load(unikernel.guest, config)
    monitor = monitors.load(unikernel.monitor, config)
    host = probe(monitor, config)
    found = None
    disks = any(device.type == "b" and device.named for device in spec.devices)
    requested = not STORED.isdisjoint(unikernel.overrides)
    if (
        unikernel.mount_rootfs
        or disks
        or requested
        or volume_mounts(spec, init=guest.init, tmpfs=TMPFS in guest.volume_ways)
    ):
        from urunc.storage.look import read_storage

        found = read_storage(spec, unikernel, guest, config)
    named = replace(spec, hostname=hostname(spec))
    filtered = NO_FILTER
    if guest.init and unikernel.mount_rootfs and spec.seccomp is not None:
        check_seccomp(spec)
        filtered = _filter(spec.seccomp)
    plan = decide(identifier, named, unikernel, guest, monitor, host, config, found, filtered)
    return Prepared(plan, guest, monitor)


def _filter(profile: Any) -> ApplicationFilter:
    """The application's system calls as they are filtered in the guest."""
    from urunc.filters import for_application

    try:
        program, flags = for_application(profile)
    except HostError as error:  # engines always ask for it
        warning = f"linux.seccomp: no filter for the application: {error}"
        return replace(NO_FILTER, warning=warning)
    return ApplicationFilter(program=program, flags=flags, warning="")


def within_pod(
    identifier: str, spec: Spec, unikernel: UnikernelImage, config: Config, pod: Resources | None
) -> tuple[Spec, Prepared]:
    """The container held to what its pod has left; not to the memory if the guest does not fit into
    that: a pod without a limit of its own has the sum of its containers' for a total, and then
    nothing is meant for this one. Its namespaces are as they were found
    (bundle/joined_namespaces.py)."""
    spec = settled(spec)
    if pod and pod.memory_limit_bytes:
        within = replace(spec, resources=merge(spec.resources, pod))
        try:
            return _placed(within, prepare(identifier, within, unikernel, config))
        except RoomError as error:
            logs.warn(f"'{identifier}' is not held to the memory that its pod has left: {error}")
        pod = replace(pod, memory_limit_bytes=None)
    if pod:
        spec = replace(spec, resources=merge(spec.resources, pod))
    return _placed(spec, prepare(identifier, spec, unikernel, config))


def _placed(spec: Spec, prepared: Prepared) -> tuple[Spec, Prepared]:
    """With an empty network namespace in place of the host's where the monitor wants the TAP
    devices that its guest declares: nothing is made in the host's."""
    if prepared.plan.network.net_names and not spec.has_own("network"):
        spec = replace(spec, namespaces={**spec.namespaces, "network": ""})
    return spec, prepared
