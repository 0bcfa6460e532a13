# SPDX-License-Identifier: Apache-2.0
"""What is wanted of one container: checks that it can be, and decides it, a group of the plan at a
time.

Pure: everything here follows from the arguments. The network's facts are not among them, because
they are known only once hooks have run and devices were made.
"""

from __future__ import annotations

from urunc.bundle.image import ImageFile
from urunc.errors import HostError, ImageError
from urunc.guests import STOP_REQUESTS, Guest, Setting
from urunc.monitors import MIB, Monitor
from urunc.net.facts import Ports
from urunc.plan.compatibility import (
    accelerator_of,
    check_pair,
    check_root,
    devices_of,
)
from urunc.plan.model import (
    INITRD_TARGET,
    KERNEL_DIRECTORY,
    NO_FILTER,
    ApplicationPlan,
    EndingPlan,
    HostFacts,
    Inputs,
    KernelPlan,
    MachinePlan,
    NetworkPlan,
    Plan,
    PlannedFile,
    StoragePlan,
    UserPlan,
)
from urunc.plan.sizing import memory_of, vcpus_of
from urunc.plan.unsupported import check as check_unsupported
from urunc.plan.unsupported import without_effect
from urunc.record import replace
from urunc.storage.facts import (
    DISKS,
    Root,
    Volume,
    channel_of,
    disk_count,
    filesystems_of,
    share_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from urunc.bundle.image import UnikernelImage
    from urunc.bundle.spec import Spec
    from urunc.config import Config
    from urunc.plan.model import ApplicationFilter
    from urunc.storage.facts import StorageFound
    from urunc.vocabulary import Accelerator, ChannelKind, NetworkMode, StopOrder

OWN_TASKS = 8
"""Processes of a container beside its monitor's: init, its helper, their hooks', a supervisor."""
VIRTIOFSD_TASKS = 16
VIRTIOFSD_MIB = 12
"""What the daemon of shared directories needs of the container's memory limit."""
CONSOLES: dict[str, tuple[str, ...]] = {"quiet": (), "boot": ("loglevel=7",)}
"""The annotation `console` → what the kernel is told more: "boot" shows all but what is there to
find its faults."""
EMULATED = {"x86_64": ("no_timer_check",)}
"""architecture → parameters for a kernel whose processor is emulated. Linux otherwise compares the
timer with its own clock while it boots, and panics if the host is too busy to be in time
(check_timer in arch/x86/kernel/apic/io_apic.c)."""


def decide(
    identifier: str,
    spec: Spec,
    image: UnikernelImage,
    guest: Guest,
    monitor: Monitor,
    host: HostFacts,
    config: Config,
    found: StorageFound | None = None,
    filtered: ApplicationFilter = NO_FILTER,
) -> Plan:
    """What this container shall be; `found` is what was looked at of its files, where any are the
    guest's. Raises ImageError, SpecError or HostError where it cannot be."""
    given = Inputs(
        spec=spec, image=image, guest=guest, monitor=monitor, host=host, config=config, found=found
    )
    check_pair(given)
    accelerator, reason, emulation = accelerator_of(given)
    root, volumes, not_given = _choose_storage(given)
    managed = guest.init and root is not None
    kernel = _kernel(given, accelerator, managed=managed)
    no_root = check_root(given, kernel.parameters, root, volumes)
    nets, names = devices_of(given, disk_count(root, volumes))
    machine, cuts = _machine(given, root, volumes, accelerator, reason)
    network, unconnected = _network(given, nets, machine.vcpus)
    application, no_init = _application(given, filtered, managed=managed)
    storage = _storage(given, root, volumes, names, managed=managed)
    return Plan(
        id=identifier,
        guest=guest.name,
        monitor=monitor.name,
        host=host,
        kernel=kernel,
        application=application,
        machine=machine,
        network=network,
        storage=storage,
        user=_user(given, accelerator, managed=managed),
        ending=_ending(given, application.channel, managed=managed),
        warnings=(
            *image.remarks,
            *emulation,
            *not_given,
            *no_root,
            *cuts,
            *unconnected,
            *_disks_written(given),
            *_disks_cut(given),
            *guest.cautions(_setting(given, machine)),
            *without_effect(image, guest),
            *check_unsupported(spec, guest, network, managed=managed),
            *_devices_left_out(spec, volumes),
            *no_init,
            *filter(None, (filtered.warning,)),
        ),
    )


def _choose_storage(given: Inputs) -> tuple[Root | None, tuple[Volume, ...], list[str]]:
    if not given.found:
        return None, (), []
    from urunc.plan.storage import choose_storage

    return choose_storage(given)


def _kernel(given: Inputs, accelerator: Accelerator, *, managed: bool) -> KernelPlan:
    image, guest = given.image, given.guest
    name = image.kernel.path.rpartition("/")[2]  # some guests see it as their program's
    return KernelPlan(
        file=_planned(image.kernel, f"{KERNEL_DIRECTORY}/{name}", read_only=True),
        initrd=_planned(image.initrd, INITRD_TARGET, read_only=True) if image.initrd else None,
        version=image.version or image.binary.release,
        parameters=_parameters(given, accelerator),
        modules=given.config.get(f"guests.{guest.name}.modules") if managed else "",
        memory_bytes=image.binary.memory_bytes or image.kernel.size_bytes,
    )


def _planned(file: ImageFile, target: str, *, read_only: bool) -> PlannedFile:
    return PlannedFile(source=file, target=target, read_only=read_only)


def _parameters(given: Inputs, accelerator: Accelerator) -> tuple[str, ...]:
    """The words for the guest's kernel itself."""
    machine, guest = given.spec.machine, given.guest
    key = f"guests.{guest.name}.parameters"
    own = (*given.config.get(key), *(machine.parameters if machine else ()))
    if given.config.get(key) and not guest.takes_parameters:
        raise HostError(
            f"{key}: {guest.name} has no words but the application's",
            f"set in {given.config.source(key)}",
        )
    if accelerator == "tcg" and guest.takes_parameters:
        own = (*EMULATED.get(given.host.architecture, ()), *own)
    console = given.image.overrides.get("console", "quiet")
    if console not in CONSOLES:
        known = ", ".join(CONSOLES)
        raise ImageError(f"annotation 'console': '{console}' is unknown", f"known: {known}")
    if console != "quiet" and not guest.takes_parameters:
        raise ImageError(
            f"annotation 'console': '{console}' is not for a guest of the kind '{guest.name}'",
            "it is for Linux guests; leave it out",
        )
    return (*own, *CONSOLES[console])


def _application(
    given: Inputs, filtered: ApplicationFilter, *, managed: bool
) -> tuple[ApplicationPlan, list[str]]:
    spec, found = given.spec, given.found
    warnings: list[str] = []
    process = None
    args = spec.args or tuple(given.image.cmdline.split())
    if managed:
        from urunc.plan.application import process_of

        process = replace(process_of(spec), filter=filtered.program, filter_flags=filtered.flags)
    elif args[1:2] == ("--",):
        from urunc.plan.application import without_init

        args, warnings = without_init(spec, args)
    channel: ChannelKind = (
        channel_of(given.monitor.channel, found.supervisor) if found and managed else ""
    )
    apart = channel == "virtio" and not spec.terminal
    own_way = ("terminal",) if channel == "virtio" and spec.terminal else ()
    return ApplicationPlan(
        args=args,
        env=spec.env,
        hostname=spec.hostname,
        terminal=spec.terminal,
        process=process,
        channel=channel,
        streams=("file", "file", "file") if apart else own_way,
        stream_descriptors=(3, 4) if apart else (),
    ), warnings


def _machine(
    given: Inputs,
    root: Root | None,
    volumes: tuple[Volume, ...],
    accelerator: Accelerator,
    reason: str,
) -> tuple[MachinePlan, list[str]]:
    """(the machine, what it has less of than was wanted)."""
    monitor, config, host = given.monitor, given.config, given.host
    vcpus, fewer = vcpus_of(given)
    need = monitor.need(vcpus, accelerator)
    tasks = OWN_TASKS + monitor.overhead_tasks + vcpus
    if share_of(root, volumes) == "virtiofs":
        need = replace(need, fixed_bytes=need.fixed_bytes + VIRTIOFSD_MIB * MIB)
        tasks += VIRTIOFSD_TASKS
    memory_bytes, less = memory_of(given, root, volumes, need)
    own = f"monitors.{monitor.name}"
    return MachinePlan(
        accelerator=accelerator,
        accelerator_reason=reason,
        architecture=host.architecture,
        memory_bytes=memory_bytes,
        overhead_bytes=need.of(memory_bytes),
        need=need,
        vcpus=vcpus,
        tasks=tasks,
        seccomp=config.get(f"{own}.seccomp"),
        arguments=tuple(config.get(f"{own}.arguments")),
        firmware=config.get(f"{own}.firmware"),
    ), [*fewer, *less]


def _setting(given: Inputs, machine: MachinePlan) -> Setting:
    image = given.image
    return Setting(
        version=image.version or image.binary.release,
        release=image.binary.release,
        monitor=given.monitor.name,
        monitor_version=given.host.program.version,
        architecture=machine.architecture,
        accelerator=machine.accelerator,
        memory_bytes=machine.memory_bytes,
    )


def _storage(
    given: Inputs,
    root: Root | None,
    volumes: tuple[Volume, ...],
    names: tuple[str, ...],
    *,
    managed: bool,
) -> StoragePlan:
    found, only_read = given.found, given.spec.root_read_only
    served = share_of(root, volumes) == "virtiofs"
    return StoragePlan(
        root=given.spec.root,
        disks=tuple(
            _planned(
                disk,
                f"/disk{index}" if disk.inside else f"/dev/disk{index}",
                read_only=disk.inside and only_read and not given.monitor.opens_for_writing,
            )
            for index, disk in enumerate(given.image.blocks)
        ),
        disk_names=names,
        disk_mount_points=_mount_points(given.image, given.guest, root, volumes),
        root_way=root,
        volumes=volumes,
        filesystems=filesystems_of(root, volumes) if managed else (),
        virtiofsd=found.virtiofsd if found and served else "",
        virtiofsd_rust=bool(found and found.virtiofsd_rust),
    )


def _mount_points(
    image: UnikernelImage, guest: Guest, root: Root | None, volumes: tuple[Volume, ...]
) -> tuple[str, ...]:
    """Where the guest mounts its disks, in their order; "" where nobody says."""
    first = len(image.blocks) + bool(root and root.form in DISKS)
    points = image.block_mount_points or (guest.block_mount_point,)
    if guest.init and root:
        points = ("/",)
    if len(points) > max(first, 1):
        raise ImageError(
            f"annotation 'blkMntPoint': {len(points)} places for {first} disks",
            "as many as there are block images",
        )
    of_image = (*points, *("",) * first)[:first]
    return (*of_image, *(volume.destination for volume in volumes if volume.way in DISKS))


def _disks_written(given: Inputs) -> list[str]:
    """A warning where the guest writes to disks that were to be read only."""
    monitor, disks = given.monitor, given.image.blocks
    if not (given.spec.root_read_only and monitor.opens_for_writing):
        return []
    text = f"root.readonly: {monitor.name} has no disk that is only read: the guest writes to it"
    return [text] if any(disk.inside for disk in disks) else []


def _disks_cut(given: Inputs) -> list[str]:
    """Warnings of disks whose end the guest does not have."""
    unit, name = given.monitor.disk_unit_bytes, given.monitor.name
    return [
        f"disk '{disk.path}': the guest lacks the last {disk.size_bytes % unit} of its "
        f"{disk.size_bytes} bytes, since {name} shows whole sectors of {unit} bytes"
        for disk in given.image.blocks
        if unit and disk.inside and disk.size_bytes % unit
    ]


def _devices_left_out(spec: Spec, volumes: tuple[Volume, ...]) -> list[str]:
    """A warning where linux.devices has some that are not the guest's."""
    given = {volume.destination for volume in volumes}
    paths = [device.path for device in spec.devices if device.path not in given]
    shown = ", ".join(paths[:8]) + (", …" if len(paths) > 8 else "")
    return [f"devices that the guest does not have: {shown}"] if paths else []


def _network(
    given: Inputs, nets: tuple[str, ...] | None, vcpus: int
) -> tuple[NetworkPlan, list[str]]:
    mode, reason, warnings = _mode(given)
    ports, others, ineffective = _ports(given, mode)
    return NetworkPlan(
        mode=mode,
        reason=reason,
        net_names=nets,
        max_nics=given.monitor.max_nics,
        queues=min(vcpus, given.monitor.max_queues),
        ports=ports,
        other_ports=others,
        shared_subnets=tuple(given.config.get("network.shared_subnets")),
    ), [*warnings, *ineffective]


def _mode(given: Inputs) -> tuple[NetworkMode, str, list[str]]:
    """(the network's mode, why, warnings)."""
    from urunc.config import AUTO_MODE, BUILT_IN, NETWORK_MODES

    image, config = given.image, given.config
    mode: NetworkMode
    if "network" in image.overrides:
        asked, why = image.overrides["network"], "asked for by annotation"
        for mode in NETWORK_MODES:
            if mode == asked:
                break
        else:
            known = ", ".join(NETWORK_MODES)
            raise ImageError(f"annotation 'network': '{asked}' is unknown", f"known: {known}")
    elif image.container_name in config.get("network.shared_containers"):
        mode, why = "shared", f"for containers named '{image.container_name}'"
    elif config.get("network.mode") == AUTO_MODE:
        # a namespace that is the container's own, and new, is nobody else's
        shares = image.in_pod and given.spec.namespaces.get("network") != ""
        mode, why = ("pod", "the default in a pod") if shares else ("dynamic", "the default")
    else:
        mode, source = config.get("network.mode"), config.source("network.mode")
        why = "the default" if source == BUILT_IN else f"set in {source}"
    if mode == "none" or given.spec.has_own("network"):
        return mode, why, []
    if "network" in image.overrides:
        raise ImageError(
            f"annotation 'network': '{mode}' is not to be had in the host's network namespace",
            "the guest would take the host's interfaces: give the container a network "
            "namespace of its own (a pod without hostNetwork), or say 'none'",
        )
    why = "host network namespace"
    return "none", why, [f"{why}: the guest has no network"]


def _ports(given: Inputs, mode: str) -> tuple[tuple[Ports, ...], bool, list[str]]:
    """(ports of a shared namespace that lead to the guest, whether all others do, too,
    warnings)."""
    text = given.image.overrides.get("ports", "")
    if not text and mode == "shared":
        # what Knative, and many a platform besides, tells its application to listen on
        variables = dict(variable.partition("=")[::2] for variable in given.spec.env)
        text = variables.get("PORT", "")
        text = text if text.isdecimal() else ""
    if not text:
        return (), mode == "pod", []
    from urunc.plan.ports import parse

    ports, others = parse(text)
    if mode in ("shared", "pod"):
        return ports, others, []
    reason = f"for network 'pod' and 'shared', without effect in '{mode}'"
    return (), False, [f"annotation 'ports': {reason}"]


def _user(given: Inputs, accelerator: Accelerator, *, managed: bool) -> UserPlan:
    """The monitor's user: the administrator's root, the specification's, or (None) one from the
    range; with the group that opens /dev/kvm, where there is one that does."""
    spec, kvm = given.spec, given.host.kvm
    uid: int | None = None
    gid: int | None = None
    if given.config.get(f"monitors.{given.monitor.name}.run_as_root"):
        uid, gid = 0, 0
    elif spec.uid and not managed:  # else it is a user of the guest's own
        uid, gid = spec.uid, spec.gid
    opens = accelerator == "kvm" and kvm.gid and kvm.mode & 0o060 == 0o060
    return UserPlan(uid=uid, gid=gid, groups=(kvm.gid,) if opens else ())


def _ending(given: Inputs, channel: ChannelKind, *, managed: bool) -> EndingPlan:
    image, guest, monitor = given.image, given.guest, given.monitor
    host, found = given.host, given.found
    listens = guest.stops_on if image.stops_on is None else image.stops_on
    return EndingPlan(
        stop_signal=monitor.stop_signal,
        stop_order="channel" if channel == "virtio" else _stop_order(listens, monitor, host),
        supervisor=found.supervisor if found and managed else "",
        tells_resets="reset-by-8042" in guest.quirks
        and "ctrl-alt-del" not in listens
        and monitor.tells_resets(host.architecture, host.program.version),
    )


def _stop_order(listens: Collection[str], monitor: Monitor, host: HostFacts) -> StopOrder:
    for request in STOP_REQUESTS:
        # no board of the other architectures has a PC's keyboard controller
        fits = host.architecture == "x86_64" or request != "ctrl-alt-del"
        if request in listens and request in monitor.orders and fits:
            return request
    return ""
