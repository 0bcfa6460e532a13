# SPDX-License-Identifier: Apache-2.0
"""What a guest is told: a plan and what became of it, as the guest's Request, and in its words.
Where there is no room for all of it, Kubernetes' service links are left out first. Pure."""

from __future__ import annotations

from urunc.errors import ImageError
from urunc.guests import Disk, Request, Words
from urunc.plan.network import nics, other_hosts
from urunc.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.guests import Guest
    from urunc.monitors import Monitor
    from urunc.net.facts import NetFacts
    from urunc.plan.decide import Plan
    from urunc.storage.facts import StorageFacts


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
    from urunc.guests.links import reduced

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
