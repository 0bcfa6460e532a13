# SPDX-License-Identifier: Apache-2.0
"""What the runtime has ready before init is forked, because init will not be able to do it.

In a user namespace of its own init may not make device nodes, nor look behind directories that are
closed to its root: the runtime mounts both where nobody sees them yet (fsmount(2), open_tree(2)),
and init attaches them. An ordinary user has neither privilege; then the host's nodes are bound.
Runs in the runtime; makes nothing but descriptors.
"""

from __future__ import annotations

import posix

from urunc import logs
from urunc.errors import HostError, reason
from urunc.init.setup import ATTACH, BIND, MAKE, Ready, shared_volume, shares, stored_files
from urunc.linux import _linux, cgroups, mounts
from urunc.linux.files import AT_FDCWD, O_PATH, S_IFBLK, exists
from urunc.plan.device_nodes import device_nodes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from urunc.bundle.spec import Spec
    from urunc.config import Config
    from urunc.ids import Ids
    from urunc.plan.model import MonitorUser, Plan
    from urunc.storage.facts import StorageFacts


TUN = "/dev/net/tun"


def prepare(
    plan: Plan,
    user: MonitorUser,
    storage: StorageFacts,
    spec: Spec,
    ids: Ids,
    config: Config,
    opened: Mapping[int, int],
) -> Ready:
    """Prepare for init; raises HostError. `opened`: descriptors of volumes that are mounts of their
    own already (storage/detached_mounts.py), by their index."""
    _check_labels(spec)
    devices, device_mount, image_mount = MAKE, -1, -1
    missing: frozenset[str] = frozenset()
    stored: tuple[tuple[str, int], ...] = ()
    if posix.geteuid() != 0 or cgroups.in_user_namespace():
        devices = BIND
        missing = _missing_devices(plan, user)
    elif ids.own:
        devices = ATTACH
        device_mount, image_mount = _mount_devices(plan, user, storage), _mount_image(spec)
        stored = _mount_files(plan, storage)
    places = {shared_volume(index): mount for index, mount in opened.items()}
    shared = _mount_shares(plan, places, every=devices == ATTACH)
    for mount in set(opened.values()) - {mount for _, mount in shared}:
        posix.close(mount)  # it was copied
    return Ready(
        ids=ids,
        devices=devices,
        device_mount=device_mount,
        image_mount=image_mount,
        stored=stored,
        shared=shared,
        missing=missing,
        keep_groups=posix.geteuid() != 0,
        selinux_type=config.get("security.selinux_type"),
    )


def _check_labels(spec: Spec) -> None:
    """A label that nobody enforces would be a promise not kept."""
    if (
        spec.apparmor_profile
        and not exists("/sys/kernel/security/apparmor")
        and not exists("/sys/module/apparmor")
    ):
        raise HostError(
            f"process.apparmorProfile: '{spec.apparmor_profile}': this machine has no AppArmor",
            "leave it out, or enable AppArmor",
        )
    if (spec.selinux_label or spec.mount_label) and not exists("/sys/fs/selinux/enforce"):
        raise HostError(
            "process.selinuxLabel, linux.mountLabel: this machine has no SELinux",
            "leave them out, or enable SELinux",
        )


def _nodes(plan: Plan) -> tuple[str, ...]:
    return ("/dev/kvm",) if plan.machine.accelerator == "kvm" else ()


def _missing_devices(plan: Plan, user: MonitorUser) -> frozenset[str]:
    """The host's own nodes must let the caller in: its permissions are all there is. Without a
    network the guest can be."""
    missing = []
    for node in device_nodes(plan, user, _nodes(plan)):
        try:
            posix.close(posix.open(node.source, posix.O_RDWR | posix.O_CLOEXEC))
        except OSError as error:
            if node.source == TUN:
                logs.warn(f"'{TUN}': {reason(error)}: the guest can have no network")
                missing.append(TUN)
                continue
            raise HostError(
                f"device '{node.source}': {reason(error)}",
                "in a user namespace no node can be made for the monitor: let this user open the "
                "host's (a group such as kvm, kept by the engine), or use a monitor without it",
            ) from None
    return frozenset(missing)


def _mount_devices(plan: Plan, user: MonitorUser, storage: StorageFacts) -> int:
    """A /dev for the monitor, with its nodes, mounted nowhere."""
    try:
        mount = _linux.new_tmpfs((("size", "64k"), ("mode", "755")))
        directory = f"/proc/self/fd/{mount}"
        posix.mkdir(f"{directory}/pts", 0o755)
        posix.mkdir(f"{directory}/net", 0o755)
        for node in device_nodes(plan, user, _nodes(plan)):
            facts = posix.stat(node.source)
            path = directory + node.target.removeprefix("/dev")
            posix.mknod(path, facts.st_mode & 0o170000 | node.mode, facts.st_rdev)
            posix.chmod(path, node.mode)
            posix.chown(path, node.uid, node.gid)
        for disk in storage.disks:
            if disk.device:
                path = directory + disk.target.removeprefix("/dev")
                mode = S_IFBLK | (0o400 if disk.read_only else 0o600)
                posix.mknod(path, mode, posix.makedev(*disk.device))
                posix.chown(path, user.uid, user.gid)
        attributes = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NOEXEC | mounts.MOUNT_ATTR_RDONLY
        _linux.mount_setattr(mount, "", mounts.AT_EMPTY_PATH, attributes, 0, 0)
    except OSError as error:
        raise HostError(f"make the monitor's devices: {reason(error)}") from None
    return mount


def _mount_image(spec: Spec) -> int:
    """The image's root, mounted nowhere."""
    flags = mounts.OPEN_TREE_CLONE | mounts.OPEN_TREE_CLOEXEC
    try:
        mount = _linux.open_tree(AT_FDCWD, spec.root, flags)
        attributes = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
        _linux.mount_setattr(mount, "", mounts.AT_EMPTY_PATH, attributes, 0, 0)
    except OSError as error:
        raise HostError(f"root.path '{spec.root}': {reason(error)}") from None
    return mount


def _mount_files(plan: Plan, storage: StorageFacts) -> tuple[tuple[str, int], ...]:
    """Files in directories that are closed to init, each a mount of its own, mounted nowhere."""
    flags = mounts.OPEN_TREE_CLONE | mounts.OPEN_TREE_CLOEXEC
    found = []
    for source, target, read_only in stored_files(plan, storage):
        attributes = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV
        attributes |= mounts.MOUNT_ATTR_RDONLY if read_only else 0
        try:
            mount = _linux.open_tree(AT_FDCWD, source, flags)
            _linux.mount_setattr(mount, "", mounts.AT_EMPTY_PATH, attributes, 0, 0)
        except OSError as error:
            raise HostError(f"mount '{source}' for the monitor: {reason(error)}") from None
        found.append((target, mount))
    return tuple(found)


def _mount_shares(
    plan: Plan, opened: Mapping[str, int], *, every: bool
) -> tuple[tuple[str, int], ...]:
    """What the guest shares of the host's files, of mounts that init could not make: with `every`,
    any."""
    found = []
    for share in shares(plan):
        if not every and share.target not in opened:
            continue
        try:
            mount = opened.get(share.target, -1)
            if mount < 0:
                fd = posix.open(share.source, O_PATH | posix.O_CLOEXEC)
                mount = mounts.clone(fd, recursive=share.recursive)
                posix.close(fd)
            share.restrict(mount)
        except OSError as error:
            raise HostError(f"share '{share.source}': {reason(error)}") from None
        found.append((share.target, mount))
    return tuple(found)


def connect_console(path: str) -> int:
    """A connection to the engine's console socket; raises HostError."""
    from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM
    from _socket import socket as Socket

    try:
        connection = Socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        connection.connect(path)
    except OSError as error:
        raise HostError(
            f"console socket '{path}': {reason(error)}", "the engine listens on it"
        ) from None
    descriptor: int = connection.detach()
    return descriptor
