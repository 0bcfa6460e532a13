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
    Chosen,
    Plan,
    as_planned,
)
from urunc.plan.network import nics, omissions_of, other_hosts
from urunc.record import replace
from urunc.storage.facts import (
    NO_STORAGE,
    StorageFacts,
    share_of,
)


def realize(
    plan: Plan,
    net: NetFacts,
    guest: Guest,
    monitor: Monitor,
    storage: StorageFacts = NO_STORAGE,
    chosen: Chosen | None = None,
) -> Launch:
    """The guest's words and the monitor's command line; raises ImageError where they cannot be
    said. `chosen`: None for what is planned."""
    chosen = chosen or as_planned(plan)
    _, words, _ = _fitting(plan, net, guest, monitor, storage, chosen)
    machine = _machine(plan, net, guest, monitor, storage, chosen, words)
    launch = monitor.launch(machine, plan.host.program)
    argv, files = launch.argv, launch.files
    if words.config:
        files = {**files, CONFIG_DISK: words.config}
    virtio = plan.application.channel == "virtio"
    if plan.ending.supervisor:
        ear = f"{CHANNEL_FILES}.out" if virtio else f"vsock:{monitor.vsock}"
        options = () if plan.ending.tells_resets else ("-u",)
        argv = (SUPERVISOR, *options, ear, *argv)
    root = chosen.root_way
    return replace(
        launch,
        argv=argv,
        files=files,
        held=(f"{CHANNEL_FILES}.in",) if virtio else (),
        claims=(storage.disks[0].target,) if root and root.device else (),
    )


def omissions(
    plan: Plan,
    net: NetFacts,
    guest: Guest,
    monitor: Monitor,
    storage: StorageFacts = NO_STORAGE,
    chosen: Chosen | None = None,
) -> list[str]:
    """What of the network and the environment `realize` leaves out, in words for the user."""
    request, _, left_out = _fitting(plan, net, guest, monitor, storage, chosen or as_planned(plan))
    return [*omissions_of(net, guest), *guest.omissions(request), *filter(None, (left_out,))]


def _machine(
    plan: Plan,
    net: NetFacts,
    guest: Guest,
    monitor: Monitor,
    storage: StorageFacts,
    chosen: Chosen,
    words: Words,
) -> Machine:
    wanted, application = plan.machine, plan.application
    _, machine_nics = nics(plan.id, plan.network, net)
    streams = chosen.streams
    if streams and application.process and chosen.no_input:
        streams = ("", *streams[1:])
    return Machine(
        id=plan.id,
        architecture=wanted.architecture,
        accelerator=wanted.accelerator,
        nested=plan.host.nested,
        memory_bytes=wanted.memory_bytes,
        vcpus=wanted.vcpus,
        kernel=plan.kernel.file.target,
        initrd=INITRD_TARGET if plan.kernel.initrd or storage.initrd else "",
        words=words,
        nics=machine_nics,
        disks=_disks(plan, monitor, storage, words),
        quirks=guest.quirks,
        terminal=application.terminal,
        seccomp=wanted.seccomp,
        arguments=wanted.arguments,
        shares=_shares(plan),
        channel=application.channel,
        streams=streams,
        stream_descriptors=chosen.stream_descriptors,
        tells_resets=plan.ending.tells_resets,
        assigns_resources=guest.assigns_resources,
        firmware=wanted.firmware,
    )


def _disks(
    plan: Plan, monitor: Monitor, storage: StorageFacts, words: Words
) -> tuple[MachineDisk, ...]:
    """The image's, those that were made, and the one with the configuration of urunc's init."""
    image = plan.storage
    disks = [
        MachineDisk(name=name, path=file.target, read_only=file.read_only)
        for name, file in zip(image.disk_names, image.disks, strict=False)
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
    return tuple(disks)


def _shares(plan: Plan) -> tuple[MachineShare, ...]:
    """One with all shared directories, of which urunc's init takes each to its place; other guests
    have a share for each directory (guests.share_tag)."""
    root, volumes = plan.storage.root_way, plan.storage.volumes
    kind = share_of(root, volumes)
    if not kind:
        return ()
    if plan.application.process:
        return (MachineShare(kind=kind, tag=SHARE_TAG, path=SHARE, socket=SHARE_SOCKET),)
    paths = {"root": f"{SHARE}/root"} if root and root.form == kind else {}
    for index, volume in enumerate(volumes):
        if volume.way == kind:
            paths[share_tag(index)] = f"{SHARE}/volumes/{index}"
    return tuple(
        MachineShare(kind=kind, tag=tag, path=path, socket="") for tag, path in paths.items()
    )


def _fitting(
    plan: Plan,
    net: NetFacts,
    guest: Guest,
    monitor: Monitor,
    storage: StorageFacts,
    chosen: Chosen,
) -> tuple[Request, Words, str]:
    """(the request, the guest's words, which of Kubernetes' service links there is no room for, in
    words or ""); raises ImageError."""
    request = _request(plan, net, monitor, storage, chosen)
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

    for env, left_out in reduced(plan.application.env):
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
    """The guest's words; raises ImageError, also where the monitor has no room for them."""
    words = guest.words(request)
    devices = len(request.disks) + len(request.nics)
    devices += bool(words.config) + bool(plan.application.channel)
    room = monitor.line_room(devices, plan.host.program, plan.machine.architecture)
    size = len(" ".join(filter(None, (words.program, *words.words))).encode())
    if room and size > room:
        raise ImageError(
            f"command line of {guest.name}: {size} bytes are more than {monitor.name} takes "
            f"({room})",
            "shorten the arguments or the environment",
        )
    return words


def _request(
    plan: Plan, net: NetFacts, monitor: Monitor, storage: StorageFacts, chosen: Chosen
) -> Request:
    application, image = plan.application, plan.storage
    guest_nics, _ = nics(plan.id, plan.network, net)
    disks = [
        Disk(name=name, read_only=file.read_only, mount_point=mount_point)
        for name, file, mount_point in zip(
            image.disk_names, image.disks, image.disk_mount_points, strict=False
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
    first = len(image.disks)
    process = application.process
    return Request(
        args=application.args,
        env=application.env,
        hostname=application.hostname,
        version=plan.kernel.version,
        console=monitor.consoles.get(plan.machine.architecture, "ttyS0"),
        initrd=plan.kernel.initrd is not None or bool(storage.initrd),
        nics=guest_nics,
        disks=tuple(disks),
        dns=net.dns,
        search=net.search,
        options=net.options,
        hosts=other_hosts(net),
        resolver_file=net.resolver_file,
        hosts_file=net.hosts_file,
        root=chosen.root_way,
        volumes=image.volumes,
        archive=storage.archive + first if storage.archive >= 0 else -1,
        layer=storage.layer,
        opaque=storage.opaque,
        upper=storage.upper + first if storage.upper >= 0 else -1,
        returned=storage.returned + first if storage.returned >= 0 else -1,
        process=replace(process, no_input=chosen.no_input) if process else None,
        channel=application.channel,
        streams=bool(chosen.streams),
        parameters=plan.kernel.parameters,
    )
