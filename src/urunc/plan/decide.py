# SPDX-License-Identifier: Apache-2.0
"""The two decisions: `decide` says what is wanted, `realize` says it in the guest's and the
monitor's words.

Pure: everything here follows from the arguments. The network's facts come in between, because they
are known only once hooks have run and devices were made. `urunc plan` prints both.
"""

from __future__ import annotations

from urunc.bundle.image import ImageFile
from urunc.errors import ImageError
from urunc.guests import STOP_REQUESTS, Guest, Setting
from urunc.monitors import (
    MIB,
    Monitor,
)
from urunc.net.facts import Ports
from urunc.plan.compatibility import accelerator_of, check_pair, check_root, devices_of
from urunc.plan.host import HostFacts
from urunc.plan.model import (
    INITRD_TARGET,
    KERNEL_DIRECTORY,
    Plan,
    PlannedFile,
)
from urunc.plan.sizing import INITRD_BYTES, least_of, memory_of, vcpus_of
from urunc.plan.unsupported import check as check_asked
from urunc.plan.unsupported import without_effect
from urunc.record import replace
from urunc.state import CHANNEL
from urunc.storage.facts import (
    DISKS,
    IN_INITRD,
    INITRD,
    Root,
    Volume,
    channel_of,
    disk_count,
    filesystems_of,
    share_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.bundle.image import UnikernelImage
    from urunc.bundle.spec import Spec
    from urunc.config import Config
    from urunc.storage.facts import StorageFound

OWN_TASKS = 8
"""Processes of a container beside its monitor's: init, its helper, their hooks', a supervisor."""
VIRTIOFSD_TASKS = 16
VIRTIOFSD_MIB = 12
"""What the daemon of shared directories needs of the container's memory limit."""
CONSOLES: dict[str, tuple[str, ...]] = {"quiet": (), "boot": ("loglevel=7",)}
"""The annotation `console` → what the kernel is told more: "boot" shows all but what is there to
find its faults."""


def decide(
    identifier: str,
    spec: Spec,
    image: UnikernelImage,
    guest: Guest,
    monitor: Monitor,
    host: HostFacts,
    config: Config,
    found: StorageFound | None = None,
) -> Plan:
    """What this container shall be; `found` is what was looked at of its files, where any are the
    guest's. Raises ImageError or HostError where it cannot be."""
    warnings: list[str] = [*image.remarks]
    check_pair(image, guest, monitor, host, config)
    accelerator, why = accelerator_of(image, monitor, host, config, warnings)
    root_way: Root | None = None
    volumes: tuple[Volume, ...] = ()
    if found:
        from urunc.plan.storage import choose

        root_way, volumes = choose(spec, image, guest, monitor, found, config, warnings)
    parameters = _parameters(spec, image, guest)
    disks = disk_count(root_way, volumes)
    if guest.init and not (root_way or image.initrd or image.blocks or disks):
        check_root(image, guest, parameters, warnings)
    nets, names = devices_of(image, guest, disks, found)
    managed = guest.init and root_way is not None
    process = None
    if managed:
        from urunc.plan.application import process_of

        process = process_of(spec)
    channel = channel_of(monitor.channel, found.supervisor) if found and managed else ""
    apart = channel == "virtio" and not spec.terminal
    own_way = ("terminal",) if channel == "virtio" and spec.terminal else ()
    vcpus = vcpus_of(spec, image, monitor, config, warnings)
    need = monitor.need(vcpus, accelerator)
    served = share_of(root_way, volumes) == "virtiofs"
    if served:
        need = replace(need, fixed_bytes=need.fixed_bytes + VIRTIOFSD_MIB * MIB)
    kernel_bytes = image.binary.memory_bytes or image.kernel.size_bytes
    initrd_bytes = image.initrd.size_bytes if image.initrd else 0
    initrd_bytes += INITRD_BYTES if managed else 0
    least = least_of(guest, kernel_bytes, initrd_bytes, own_init=managed)
    grows = (root_way and root_way.form == INITRD) or any(v.way == IN_INITRD for v in volumes)
    more = ", and more for the files that go into its initrd" if grows else ""
    memory_bytes = memory_of(spec, image, least, need, config, monitor, host, warnings, more=more)
    network, network_reason = _network(spec, image, config, warnings)
    ports, other_ports = _ports(spec, image, network, warnings)
    only_read = spec.root_read_only
    if only_read and monitor.opens_for_writing and any(disk.inside for disk in image.blocks):
        warnings.append(
            f"root.readonly: {monitor.name} has no disk that is only read: the guest writes to it"
        )
    uid, gid = _user(spec, monitor, config, managed=managed)
    count = monitor.max_nics if nets is None else len(nets)
    warnings += guest.cautions(_setting(image, monitor, host, accelerator, memory_bytes))
    warnings += without_effect(image, guest)
    warnings += check_asked(spec, guest, managed=managed, nics=0 if network == "none" else count)
    _note_devices(spec, volumes, warnings)
    args = spec.args or tuple(image.cmdline.split())
    if not managed and args[1:2] == ("--",):
        from urunc.plan.application import without_init

        args = without_init(spec, warnings)
    return Plan(
        id=identifier,
        guest=guest.name,
        monitor=monitor.name,
        accelerator=accelerator,
        accelerator_reason=why,
        architecture=host.architecture,
        root=spec.root,
        kernel=_planned(image.kernel, _kernel_target(image.kernel), read_only=True),
        initrd=_planned(image.initrd, INITRD_TARGET, read_only=True) if image.initrd else None,
        disks=tuple(
            _planned(
                disk,
                f"/disk{index}" if disk.inside else f"/dev/disk{index}",
                read_only=disk.inside and only_read and not monitor.opens_for_writing,
            )
            for index, disk in enumerate(image.blocks)
        ),
        disk_names=names,
        disk_mount_points=_mount_points(image, guest, root_way, volumes),
        root_way=root_way,
        volumes=volumes,
        process=process,
        channel=channel,
        streams=("file", "file", "file") if apart else own_way,
        stream_descriptors=(3, 4) if apart else (),
        supervisor=found.supervisor if found and managed else "",
        virtiofsd=found.virtiofsd if found and served else "",
        virtiofsd_rust=bool(found and found.virtiofsd_rust),
        filesystems=filesystems_of(root_way, volumes) if managed else (),
        kernel_modules=config.get(f"guests.{guest.name}.modules") if managed else "",
        net_names=nets,
        max_nics=monitor.max_nics,
        network=network,
        network_reason=network_reason,
        ports=ports,
        other_ports=other_ports,
        shared_subnets=tuple(config.get("network.shared_subnets")),
        queues=min(vcpus, monitor.max_queues),
        memory_bytes=memory_bytes,
        overhead_bytes=need.of(memory_bytes),
        kernel_bytes=kernel_bytes,
        need=need,
        vcpus=vcpus,
        uid=uid,
        gid=gid,
        groups=_groups(host, accelerator),
        args=args,
        env=spec.env,
        hostname=spec.hostname,
        terminal=spec.terminal,
        version=image.version or image.binary.release,
        seccomp=config.get(f"monitors.{monitor.name}.seccomp"),
        stop_signal=monitor.stop_signal,
        stop_order=CHANNEL if channel == "virtio" else _stop_order(image, guest, monitor, host),
        arguments=tuple(config.get(f"monitors.{monitor.name}.arguments")),
        parameters=parameters,
        host=host,
        warnings=tuple(warnings),
        tasks=OWN_TASKS + monitor.overhead_tasks + vcpus + (VIRTIOFSD_TASKS if served else 0),
        tells_resets=_tells_resets(image, guest, monitor, host),
        firmware=config.get(f"monitors.{monitor.name}.firmware"),
    )


def _setting(
    image: UnikernelImage,
    monitor: Monitor,
    host: HostFacts,
    accelerator: str,
    memory_bytes: int,
) -> Setting:
    return Setting(
        version=image.version or image.binary.release,
        release=image.binary.release,
        monitor=monitor.name,
        monitor_version=host.program.version,
        architecture=host.architecture,
        accelerator=accelerator,
        memory_bytes=memory_bytes,
    )


def _mount_points(
    image: UnikernelImage, guest: Guest, root: Root | None, volumes: tuple[Volume, ...]
) -> tuple[str, ...]:
    """Where the guest mounts its disks, in their order; "" where nobody says."""
    first = len(image.blocks) + bool(root and root.form in DISKS)
    said = image.block_mount_points or (guest.block_mount_point,)
    if guest.init and root:
        said = ("/",)
    if len(said) > max(first, 1):
        raise ImageError(
            f"annotation 'blkMntPoint': {len(said)} places for {first} disks",
            "as many as there are block images",
        )
    points = [said[index] if index < len(said) else "" for index in range(first)]
    return (*points, *(volume.destination for volume in volumes if volume.way in DISKS))


def _parameters(spec: Spec, image: UnikernelImage, guest: Guest) -> tuple[str, ...]:
    """The words for the guest's kernel itself."""
    said = spec.machine.parameters if spec.machine else ()
    console = image.overrides.get("console", "quiet")
    if console not in CONSOLES:
        known = ", ".join(CONSOLES)
        raise ImageError(f"annotation 'console': '{console}' is unknown", f"known: {known}")
    if console != "quiet" and not guest.takes_parameters:
        raise ImageError(
            f"annotation 'console': '{console}' is not for a guest of the kind '{guest.name}'",
            "it is for Linux guests; leave it out",
        )
    return (*said, *CONSOLES[console])


def _network(
    spec: Spec, image: UnikernelImage, config: Config, warnings: list[str]
) -> tuple[str, str]:
    """(mode, why)."""
    from urunc.config import BUILT_IN, NETWORK_MODES

    if "network" in image.overrides:
        mode, why = image.overrides["network"], "asked for by annotation"
        if mode not in NETWORK_MODES:
            known = ", ".join(NETWORK_MODES)
            raise ImageError(f"annotation 'network': '{mode}' is unknown", f"known: {known}")
    elif image.container_name in config.get("network.shared_containers"):
        mode, why = "shared", f"for containers named '{image.container_name}'"
    else:
        mode, source = config.get("network.mode"), config.source("network.mode")
        why = "the default" if source == BUILT_IN else f"set in {source}"
    if mode != "none" and not spec.has_own("network"):
        if "network" in image.overrides:
            raise ImageError(
                f"annotation 'network': '{mode}' is not to be had in the host's network namespace",
                "the guest would take the host's interfaces: give the container a network "
                "namespace of its own (a pod without hostNetwork), or say 'none'",
            )
        warnings.append("host network namespace: the guest has no network")
        return "none", "host network namespace"
    return mode, why


def _ports(
    spec: Spec, image: UnikernelImage, network: str, warnings: list[str]
) -> tuple[tuple[Ports, ...], bool]:
    """(ports of a shared namespace that lead to the guest, whether all others do, too)."""
    text = image.overrides.get("ports", "")
    if not text and network == "shared":
        # what Knative, and many a platform besides, tells its application to listen on
        variables = dict(variable.partition("=")[::2] for variable in spec.env)
        text = variables.get("PORT", "")
        text = text if text.isdecimal() else ""
    if not text:
        return (), False
    from urunc.net.ports import parse

    ports, others = parse(text)
    if network == "shared":
        return ports, others
    warnings.append(f"annotation 'ports': for network 'shared', without effect in '{network}'")
    return (), False


def _user(
    spec: Spec, monitor: Monitor, config: Config, *, managed: bool
) -> tuple[int | None, int | None]:
    """The monitor's user: the administrator's root, the specification's, or (None) one from the
    range."""
    if config.get(f"monitors.{monitor.name}.run_as_root"):
        return 0, 0
    if spec.uid and not managed:  # else it is a user of the guest's own
        return spec.uid, spec.gid
    return None, None


def _groups(host: HostFacts, accelerator: str) -> tuple[int, ...]:
    """The group that opens /dev/kvm, where there is one that does."""
    kvm = host.kvm
    return (kvm.gid,) if accelerator == "kvm" and kvm.gid and kvm.mode & 0o060 == 0o060 else ()


def _stop_order(image: UnikernelImage, guest: Guest, monitor: Monitor, host: HostFacts) -> str:
    listens = guest.stops_on if image.stops_on is None else image.stops_on
    for request in STOP_REQUESTS:
        # no board of the other architectures has a PC's keyboard controller
        fits = host.architecture == "x86_64" or request != "ctrl-alt-del"
        if request in listens and request in monitor.orders and fits:
            return request
    return ""


def _tells_resets(image: UnikernelImage, guest: Guest, monitor: Monitor, host: HostFacts) -> bool:
    listens = guest.stops_on if image.stops_on is None else image.stops_on
    return (
        "reset-by-8042" in guest.quirks
        and "ctrl-alt-del" not in listens
        and monitor.tells_resets(host.architecture, host.program.version)
    )


def _kernel_target(file: ImageFile) -> str:
    """The kernel keeps its name: some guests see it as their program's."""
    return f"{KERNEL_DIRECTORY}/{file.path.rpartition('/')[2]}"


def _planned(file: ImageFile, target: str, *, read_only: bool) -> PlannedFile:
    return PlannedFile(source=file, target=target, read_only=read_only)


def _note_devices(spec: Spec, volumes: tuple[Volume, ...], warnings: list[str]) -> None:
    given = {volume.destination for volume in volumes}
    paths = [device.path for device in spec.devices if device.path not in given]
    if paths:
        shown = ", ".join(paths[:8]) + (", …" if len(paths) > 8 else "")
        warnings.append(f"devices that the guest does not have: {shown}")
