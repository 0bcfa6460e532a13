# SPDX-License-Identifier: Apache-2.0
"""Which device nodes the monitor needs, with whose permissions, and which of the image's files its
user may open. Pure."""

from __future__ import annotations

from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.plan.model import DeviceNode, MonitorUser, Plan, PlannedFile


@record
class MonitorNode:
    """A device node that the monitor has: the host's `source` at `target`, with whose
    permissions."""

    source: str
    target: str
    uid: int
    gid: int
    mode: int


def device_nodes(plan: Plan, user: MonitorUser, names: tuple[str, ...]) -> list[MonitorNode]:
    """The nodes of the monitor's /dev: the launch's, the one for a network that may arrive between
    create and start, and the host's disks that it was given."""
    late = ("/dev/net/tun",) if plan.network.mode != "none" or plan.network.net_names else ()
    known = {"/dev/kvm": plan.host.kvm, "/dev/net/tun": plan.host.tun}
    nodes = [_device(known[path], user) for path in dict.fromkeys((*names, *late))]
    nodes += [
        MonitorNode(
            source=file.source.path, target=file.target, uid=user.uid, gid=user.gid, mode=0o600
        )
        for file in plan.storage.disks
        if not file.source.inside
    ]
    return nodes


def _device(node: DeviceNode, user: MonitorUser) -> MonitorNode:
    """A node as on the host where its permissions let the monitor's user in, else that user's own:
    of the container's /dev alone."""
    open_to_all = node.mode & 0o006 == 0o006
    open_to_group = node.mode & 0o060 == 0o060 and node.gid in user.groups
    if open_to_all or open_to_group:
        return MonitorNode(
            source=node.path, target=node.path, uid=0, gid=node.gid, mode=node.mode & 0o666
        )
    return MonitorNode(source=node.path, target=node.path, uid=user.uid, gid=user.gid, mode=0o600)


def may_access(file: PlannedFile, user: MonitorUser) -> bool:
    """Whether the monitor's user may open a file of the image as the plan wants it."""
    source = file.source
    wanted = 4 if file.read_only else 6
    if user.uid == 0:
        granted = 6
    elif user.uid == source.uid:
        granted = source.mode >> 6
    elif source.gid in (user.gid, *user.groups):
        granted = source.mode >> 3
    else:
        granted = source.mode
    return granted & wanted == wanted
