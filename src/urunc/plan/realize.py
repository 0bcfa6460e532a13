# SPDX-License-Identifier: Apache-2.0
"""A plan and the network's facts in the guest's and the monitor's words. Pure."""

from __future__ import annotations

from urunc.errors import ImageError
from urunc.guests import SHARE_TAG, Disk, Guest, Request, Words, share_tag
from urunc.monitors import CHANNEL as CHANNEL_FILES
from urunc.monitors import (
    SHARE,
    SHARE_SOCKET,
    Launch,
    Machine,
    MachineDisk,
    MachineShare,
    Monitor,
)
from urunc.net.facts import NetFacts
from urunc.plan.model import (
    CONFIG_DISK,
    INITRD_TARGET,
    SUPERVISOR,
    Plan,
)
from urunc.plan.network import nics, omissions, other_hosts
from urunc.record import replace
from urunc.storage.facts import (
    NO_STORAGE,
    StorageFacts,
    share_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass


def realize(
    plan: Plan, net: NetFacts, guest: Guest, monitor: Monitor, storage: StorageFacts = NO_STORAGE
) -> Launch:
    """The guest's words and the monitor's command line; raises ImageError where they cannot be
    said."""
    _, machine_nics = nics(plan.id, plan.net_names, plan.queues, net)
    _, words, _ = told(plan, net, guest, monitor, storage)
    disks = [
        MachineDisk(name=name, path=file.target, read_only=file.read_only)
        for name, file in zip(plan.disk_names, plan.disks, strict=False)
    ]
    disks += [
        MachineDisk(name=disk.name, path=disk.target, read_only=disk.read_only)
        for disk in storage.disks
    ]
    if words.config:
        disks.append(MachineDisk(name="", path=CONFIG_DISK, read_only=True))
    if len(disks) > monitor.max_disks:
        raise ImageError(
            f"disks: {len(disks)} are more than {monitor.name} has ({monitor.max_disks})",
            "mount fewer volumes",
        )
    initrd = INITRD_TARGET if plan.initrd or storage.initrd else ""
    machine = Machine(
        id=plan.id,
        architecture=plan.architecture,
        accelerator=plan.accelerator,
        nested=plan.host.nested,
        memory_bytes=plan.memory_bytes,
        vcpus=plan.vcpus,
        kernel=plan.kernel.target,
        initrd=initrd,
        words=words,
        nics=machine_nics,
        disks=tuple(disks),
        quirks=guest.quirks,
        terminal=plan.terminal,
        seccomp=plan.seccomp,
        arguments=plan.arguments,
        shares=_shares(plan),
        channel=plan.channel,
        streams=_streams(plan),
        stream_descriptors=plan.stream_descriptors,
        tells_resets=plan.tells_resets,
        assigns_resources=guest.assigns_resources,
        firmware=plan.firmware,
    )
    launch = monitor.launch(machine, plan.host.program)
    argv, files = launch.argv, launch.files
    if words.config:
        files = {**files, CONFIG_DISK: words.config}
    if plan.supervisor:
        ear = f"{CHANNEL_FILES}.out" if plan.channel == "virtio" else f"vsock:{monitor.vsock}"
        untold = () if plan.tells_resets else ("-u",)
        argv = (SUPERVISOR, *untold, ear, *argv)
    taken = plan.root_way is not None and bool(plan.root_way.device)
    return replace(
        launch,
        argv=argv,
        files=files,
        held=(f"{CHANNEL_FILES}.in",) if plan.channel == "virtio" else (),
        claims=(storage.disks[0].target,) if taken else (),
    )


def _shares(plan: Plan) -> tuple[MachineShare, ...]:
    """One with all shared directories, of which urunc's init takes each to its place; other guests
    have a share for each directory (guests.share_tag)."""
    kind = share_of(plan.root_way, plan.volumes)
    if not kind:
        return ()
    if plan.process:
        return (MachineShare(kind=kind, tag=SHARE_TAG, path=SHARE, socket=SHARE_SOCKET),)
    paths = {"root": f"{SHARE}/root"} if plan.root_way and plan.root_way.form == kind else {}
    for index, volume in enumerate(plan.volumes):
        if volume.way == kind:
            paths[share_tag(index)] = f"{SHARE}/volumes/{index}"
    return tuple(
        MachineShare(kind=kind, tag=tag, path=path, socket="") for tag, path in paths.items()
    )


def untold(
    plan: Plan, net: NetFacts, guest: Guest, monitor: Monitor, storage: StorageFacts = NO_STORAGE
) -> list[str]:
    """What of the network the guest is not told by `realize`, in words for its user."""
    request, _, left_out = told(plan, net, guest, monitor, storage)
    return [*omissions(net, guest), *guest.omissions(request), *filter(None, (left_out,))]


def _streams(plan: Plan) -> tuple[str, ...]:
    if plan.streams and plan.process and plan.process.no_input:
        return ("", *plan.streams[1:])
    return plan.streams


def told(
    plan: Plan, net: NetFacts, guest: Guest, monitor: Monitor, storage: StorageFacts
) -> tuple[Request, Words, str]:
    """(what the guest is told, in its words, what of the service links there is no room for);
    raises ImageError."""
    request = _request(plan, net, monitor, storage)
    best: tuple[Request, Words, str] | None = None
    lost: list[str] = []
    problem: ImageError | None = None
    try:
        best = request, _words(plan, request, guest, monitor), ""
        lost = guest.omissions(request)
        if not lost:
            return best
    except ImageError as error:
        problem = error
    from urunc.guests.service_links import reduced

    for env, left_out in reduced(plan.env):
        less = replace(request, env=env)
        try:
            words = _words(plan, less, guest, monitor)
        except ImageError as error:
            problem = error
            continue
        still = guest.omissions(less)
        # what is lost is something else: the links were in its place
        if not best or len(still) < len(lost) or (len(still) == len(lost) and still != lost):
            best, lost = (less, words, left_out), still
    if not best:
        assert problem
        raise problem
    return best


def _words(plan: Plan, request: Request, guest: Guest, monitor: Monitor) -> Words:
    """The guest's words, for which the monitor has room; raises ImageError."""
    words = guest.words(request)
    devices = len(request.disks) + len(request.nics) + bool(words.config) + bool(plan.channel)
    room = monitor.line_room(devices, plan.host.program, plan.architecture)
    size = len(" ".join(filter(None, (words.program, *words.words))).encode())
    if room and size > room:
        raise ImageError(
            f"command line of {guest.name}: {size} bytes are more than {monitor.name} takes "
            f"({room})",
            "shorten the arguments or the environment",
        )
    return words


def _request(plan: Plan, net: NetFacts, monitor: Monitor, storage: StorageFacts) -> Request:
    guest_nics, _ = nics(plan.id, plan.net_names, plan.queues, net)
    disks = [
        Disk(name=name, read_only=file.read_only, mount_point=mount_point)
        for name, file, mount_point in zip(
            plan.disk_names, plan.disks, plan.disk_mount_points, strict=False
        )
    ]
    disks += [
        Disk(
            name=disk.name,
            read_only=disk.read_only,
            mount_point=disk.mount_point,
            filesystem=disk.filesystem,
        )
        for disk in storage.disks
    ]
    return Request(
        args=plan.args,
        env=plan.env,
        hostname=plan.hostname,
        version=plan.version,
        console=monitor.consoles.get(plan.architecture, "ttyS0"),
        initrd=plan.initrd is not None or bool(storage.initrd),
        nics=guest_nics,
        disks=tuple(disks),
        dns=net.dns,
        search=net.search,
        options=net.options,
        hosts=other_hosts(net),
        resolver_file=net.resolver_file,
        hosts_file=net.hosts_file,
        root=plan.root_way,
        volumes=plan.volumes,
        archive=storage.archive + len(plan.disks) if storage.archive >= 0 else -1,
        layer=storage.layer,
        opaque=storage.opaque,
        upper=storage.upper + len(plan.disks) if storage.upper >= 0 else -1,
        returned=storage.returned + len(plan.disks) if storage.returned >= 0 else -1,
        process=plan.process,
        channel=plan.channel,
        streams=bool(plan.streams),
        parameters=plan.parameters,
    )
