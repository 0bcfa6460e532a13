# SPDX-License-Identifier: Apache-2.0
"""Whether a guest can be saved, and whether a saved one fits this machine and this container. Pure:
the answers are reasons, in words for the user."""

from __future__ import annotations

from urunc.errors import SnapshotError
from urunc.net.facts import NetFacts
from urunc.plan.network import nics
from urunc.record import replace
from urunc.snapshot.files import digest_of_words
from urunc.snapshot.manifest import FREE, SAME, SAVED, Manifest, SavedInterface
from urunc.storage.facts import DEVICE, StorageFacts, share_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.monitors import Snapshots
    from urunc.plan.model import Chosen, Plan
    from urunc.snapshot.host import Host

IMAGE_NAMES = (
    "io.kubernetes.cri.image-name",
    "io.kubernetes.cri-o.ImageName",
    "org.opencontainers.image.ref.name",
)
"""Annotations by which engines name a container's image."""
OTHER_CONTAINER = "a checkpoint is restored with the bundle, or one of the same image, it is of"


def problem(plan: Plan, chosen: Chosen, storage: StorageFacts, snapshots: Snapshots | None) -> str:
    """Why a container's guest cannot be saved or taken up again, "" where it can."""
    if snapshots is None:
        return f"{plan.monitor} cannot save its guest: firecracker and qemu can"
    share = share_of(chosen.root_way, plan.storage.volumes)
    if share:
        return f"the guest has directories of the host's by {share}, which cannot be saved with it"
    devices = [volume.source for volume in plan.storage.volumes if volume.way == DEVICE]
    devices += [disk.source.path for disk in plan.storage.disks if not disk.source.inside]
    devices += [disk.source for disk in storage.disks if disk.device]
    if devices:
        return (
            f"the guest has the host's device '{devices[0]}', whose content cannot be saved with it"
        )
    return snapshots.problem(plan.host.program.version, plan.application.channel)


def words_of(plan: Plan) -> tuple[str, str]:
    """(the digest of the application's arguments, that of its environment and its host name)."""
    application = plan.application
    return (
        digest_of_words(*application.args),
        digest_of_words(application.hostname, *application.env),
    )


def interfaces_of(plan: Plan, net: NetFacts) -> tuple[SavedInterface, ...]:
    """The guest's network devices."""
    known = {interface.tap: interface for interface in net.interfaces}
    found = []
    for nic in nics(plan.id, plan.network, net)[1]:
        interface = known.get(nic.tap)
        addresses = (*interface.ipv4, *interface.ipv6) if interface else ()
        routes = interface.routes if interface else ()
        found.append(
            SavedInterface(
                mac=nic.mac,
                mtu=nic.mtu,
                tap=nic.tap,
                addresses=tuple(
                    f"{item.address}/{item.prefix}"
                    for item in addresses
                    if not item.address.startswith("fe80:")
                ),
                gateways=tuple(
                    sorted(
                        {
                            route.gateway
                            for route in routes
                            if route.destination in ("0.0.0.0/0", "::/0")
                            and not route.gateway.startswith("fe80:")
                        }
                    )
                ),
            )
        )
    return tuple(found)


def disk_kind(target: str, source: str, cache: str, *, read_only: bool, archive: bool) -> str:
    """What becomes of a disk; `cache` is the directory of the images that containers share."""
    if archive:
        return FREE  # urunc's init has read it when the guest started
    if read_only and (not source or source.startswith(f"{cache}/")):
        return SAME
    return SAVED


def check_plan(manifest: Manifest, plan: Plan, host: Host) -> list[str]:
    """Raise SnapshotError where a saved guest is not this container's, or not for this machine;
    what will be otherwise than config.json says, in words."""
    arguments, environment = words_of(plan)
    program = plan.host.program
    pairs = (
        ("architecture", manifest.architecture, plan.machine.architecture, ""),
        ("guest", manifest.guest, plan.guest, OTHER_CONTAINER),
        ("monitor", manifest.monitor, plan.monitor, OTHER_CONTAINER),
        (
            f"version of {plan.monitor}", manifest.monitor_version, program.version,
            "a monitor loads what the same version of it has saved",
        ),
        (
            "accelerator", manifest.accelerator, plan.machine.accelerator,
            "the annotation 'accelerator' chooses it",
        ),
        ("processor", manifest.processor, host.processor, "restore it on the same kind of machine"),
        ("line of the host's kernel", manifest.host_kernel, host.kernel, "boot the same one"),
    )  # fmt: skip
    for what, saved, here, hint in pairs:
        if saved != here:
            raise SnapshotError(f"{what}: '{saved}' when it was saved, and '{here}' here", hint)
    if manifest.features != host.features:
        raise SnapshotError(
            "processor: it has other features than when the guest was saved",
            "restore it on the same kind of machine, with the same microcode and kernel options",
        )
    if manifest.arguments != arguments:
        raise SnapshotError(
            "config.json: process.args: not those that the guest was started with", OTHER_CONTAINER
        )
    if manifest.environment != environment:
        return ["the guest keeps the environment and the host name that it was started with"]
    return []


def check_machine(manifest: Manifest, machine: tuple[str, ...]) -> None:
    """Raise SnapshotError where the machine that would be made is another."""
    if manifest.machine == machine:
        return
    saved = [word for word in manifest.machine if word not in machine]
    here = [word for word in machine if word not in manifest.machine]
    raise SnapshotError(
        "the machine would be another: "
        f"{_listed(saved) or 'the same words in another order'} when it was saved"
        + (f", and {_listed(here)} here" if here else ""),
        OTHER_CONTAINER,
    )


def _listed(words: list[str]) -> str:
    return ", ".join(f"'{word}'" for word in words[:4]) + (", …" if len(words) > 4 else "")


def check_network(manifest: Manifest, plan: Plan, net: NetFacts) -> NetFacts:
    """The network with the guest's own hardware addresses; raises SnapshotError where it is not the
    one that the guest knows."""
    here = interfaces_of(plan, net)
    saved = manifest.interfaces
    if len(here) != len(saved):
        raise SnapshotError(
            f"network: the guest has {len(saved)} interfaces, and there are {len(here)} here",
            "it cannot be told of another network: make the one that it was saved with",
        )
    for index, (old, new) in enumerate(zip(saved, here, strict=True)):
        if set(old.addresses) != set(new.addresses) or set(old.gateways) != set(new.gateways):
            raise SnapshotError(
                f"network: the guest's interface {index} has {_network(old)}, "
                f"and the container's has {_network(new)}",
                "it cannot be told of another network: have the engine give the container the "
                "address that it was saved with",
            )
        if old.mtu != new.mtu:
            raise SnapshotError(
                f"network: interface {index}: an MTU of {old.mtu} bytes when it was saved, and "
                f"{new.mtu} here"
            )
    taps = {interface.tap: index for index, interface in enumerate(here)}
    return replace(
        net,
        interfaces=tuple(
            replace(interface, mac=saved[taps[interface.tap]].mac) for interface in net.interfaces
        ),
    )


def _network(interface: SavedInterface) -> str:
    addresses = ", ".join(interface.addresses) or "no address"
    return addresses + (f" by {', '.join(interface.gateways)}" if interface.gateways else "")
