# SPDX-License-Identifier: Apache-2.0
"""Which steps a container's init takes, in which order: from fresh namespaces to the monitor's
user.

Pure: the list follows from the plan, the launch and what the runtime prepared; `urunc plan` prints
it. The steps themselves are in init/steps.py and init/root_steps.py.
"""

from __future__ import annotations

from urunc import guest_channel, logs
from urunc.ids import IdMap, Ids
from urunc.init.root_steps import (
    Attach,
    Bind,
    BindDevice,
    ConsoleTerminal,
    Copy,
    Daemon,
    Detach,
    Device,
    DiskNode,
    MountPoint,
    PivotRoot,
    PrivateMounts,
    Propagation,
    ReadOnly,
    Step,
    Tmpfs,
)
from urunc.init.steps import (
    HostName,
    Keyring,
    Label,
    ResourceLimit,
    SetMemoryPolicy,
    Sysctl,
    Umask,
    User,
)
from urunc.monitors import RUN, SHARE, SHARE_SOCKET
from urunc.plan.device_nodes import device_nodes, may_access
from urunc.plan.model import INITRD_TARGET, SUPERVISOR, MonitorUser
from urunc.record import record, replace
from urunc.storage.facts import FILE, NO_STORAGE, StorageFacts, share_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.bundle.spec import Spec
    from urunc.monitors import Launch
    from urunc.plan.model import Plan, PlannedFile

ROOT_BYTES = 16 << 20
RUN_SIZE = "4m"
SHARE_SIZE = "1m"
DESCRIPTORS = "/proc/self/fd"
SHARED_ROOT = f"{SHARE}/root"
APPARMOR = ("/proc/self/attr/apparmor/exec", "/proc/self/attr/exec")
SELINUX = ("/proc/self/attr/exec",)
MAKE, ATTACH, BIND = "make", "attach", "bind"
"""Ways to device nodes: init makes them; the runtime made them, for init in its user namespace may
not; nobody may, so the host's are bound."""
HOST_IDS = Ids(users=IdMap(ranges=()), groups=IdMap(ranges=()), own=False)


@record
class Ready:
    """What the runtime has ready for init: descriptors (-1 where none is needed) and choices."""

    ids: Ids = HOST_IDS
    devices: str = MAKE
    device_mount: int = -1
    image_mount: int = -1
    stored: tuple[tuple[str, int], ...] = ()
    """Of `stored_files` those that init may not reach by their path: (target, mount)."""
    shared: tuple[tuple[str, int], ...] = ()
    """Of `shares` those that init could not bind: (target, mount)."""
    console_socket: int = -1
    keyring: bool = True
    pivot: bool = True
    keep_groups: bool = False
    missing: frozenset[str] = frozenset()
    """Device nodes of the host that cannot be had here and that the monitor may do without."""
    selinux_type: str = ""


def build(
    plan: Plan,
    user: MonitorUser,
    launch: Launch,
    spec: Spec,
    root: str,
    ready: Ready,
    storage: StorageFacts = NO_STORAGE,
) -> list[Step]:
    """Every step; `root` is where the monitor's root is mounted, `root` in the container's
    directory."""
    inner = _inside(user, ready.ids)
    steps: list[Step] = [PrivateMounts(slave=any(item.slave for item in plan.storage.volumes))]
    initrd = plan.kernel.initrd if not storage.initrd else None
    files = [file for file in (plan.kernel.file, initrd, *plan.storage.disks) if file]
    steps += _root(plan, user, inner, files, spec, root, ready)
    steps += _stored(plan, storage, root, ready)
    steps.append(_tmpfs(root + RUN, RUN_SIZE, spec, mode=0o700, uid=inner.uid, gid=inner.gid))
    if plan.application.channel == "virtio":
        directory = root.removesuffix("root")
        steps += [
            Bind(source=directory + name, target=f"{root}{RUN}/{name}", inside="", read_only=False)
            for name in (guest_channel.IN, guest_channel.OUT)
        ]
    steps += _device_steps(plan, user, launch, spec, root, ready, storage)
    if ready.console_socket >= 0:
        steps.append(_console(plan, inner, spec, root, ready))
    if ready.devices != ATTACH:
        steps.append(ReadOnly(target=f"{root}/dev"))
    steps += _shared(plan, inner, spec, root, ready)
    steps.append(ReadOnly(target=root))
    steps += _names(plan, spec, ready)
    steps.append(PivotRoot(target=root, move=not ready.pivot))
    if spec.rootfs_propagation not in ("", "private"):
        steps.append(Propagation(kind=spec.rootfs_propagation))
    if spec.umask is not None:
        steps.append(Umask(mask=spec.umask))
    steps += [
        ResourceLimit(type=limit.type, soft=limit.soft, hard=limit.hard) for limit in spec.rlimits
    ]
    steps.append(
        User(uid=inner.uid, gid=inner.gid, groups=inner.groups, keep_groups=ready.keep_groups)
    )
    return steps


def _inside(user: MonitorUser, ids: Ids) -> MonitorUser:
    """The user by the ids of the container's user namespace."""
    groups = (ids.groups.to_inner(group) for group in user.groups)
    return MonitorUser(
        uid=ids.users.to_inner(user.uid) or 0,
        gid=ids.groups.to_inner(user.gid) or 0,
        groups=tuple(group for group in groups if group is not None),
    )


def _root(
    plan: Plan,
    user: MonitorUser,
    inner: MonitorUser,
    files: list[PlannedFile],
    spec: Spec,
    root: str,
    ready: Ready,
) -> list[Step]:
    """The monitor's root, with its program and the image's files."""
    program, image = plan.host.program, plan.storage.root
    copied = sum(file.source.size_bytes for file in files if _is_copied(file, plan, user))
    steps: list[Step] = [_tmpfs(root, str(ROOT_BYTES + copied), spec, mode=0o755, executable=True)]
    for path in dict.fromkeys((program.path, *program.libraries, *program.data)):
        steps.append(Bind(source=path, target=root + path, inside="", read_only=True))
    if ready.image_mount >= 0:
        image = f"{root}/.image"
        steps.append(Attach(descriptor=ready.image_mount, target=image, what="the image"))
    for file in files:
        source, target = file.source, root + file.target
        if not source.inside:
            continue
        if _is_copied(file, plan, user):
            copy = Copy(
                source=source.path, target=target, inside=image, uid=inner.uid, gid=inner.gid
            )
            steps.append(copy)
        else:
            steps.append(
                Bind(source=source.path, target=target, inside=image, read_only=file.read_only)
            )
    if ready.image_mount >= 0:
        steps.append(Detach(target=image))
    return steps


def _console(
    plan: Plan, inner: MonitorUser, spec: Spec, root: str, ready: Ready
) -> ConsoleTerminal:
    rows, columns = spec.console_size or (0, 0)
    return ConsoleTerminal(
        devpts=f"{root}/dev/pts",
        rows=rows,
        columns=columns,
        uid=inner.uid,
        gid=inner.gid,
        socket=ready.console_socket,
        raw=plan.application.process is not None,
    )


def _tmpfs(
    target: str, size: str, spec: Spec, *, mode: int, uid: int = 0, gid: int = 0,
    executable: bool = False, devices: bool = False,
) -> Tmpfs:  # fmt: skip
    return Tmpfs(
        target=target, size=size, mode=mode, uid=uid, gid=gid, executable=executable,
        devices=devices, context=spec.mount_label,
    )  # fmt: skip


def stored_files(plan: Plan, storage: StorageFacts) -> list[tuple[str, str, bool]]:
    """(source, target, read-only) of the files that are not the image's: a kernel and an initrd of
    the host's, and what was made for this container or is shared by several."""
    hosts = [
        file for file in (plan.kernel.file, plan.kernel.initrd) if file and not file.source.inside
    ]
    given = [(file.source.path, file.target, True) for file in hosts]
    given += [(storage.initrd, INITRD_TARGET, True)] if storage.initrd else []
    given += [(plan.ending.supervisor, SUPERVISOR, True)] if plan.ending.supervisor else []
    given += [
        (disk.source, disk.target, disk.read_only) for disk in storage.disks if not disk.device
    ]
    return given


def _stored(plan: Plan, storage: StorageFacts, root: str, ready: Ready) -> list[Step]:
    prepared = dict(ready.stored)
    return [
        Attach(descriptor=prepared[target], target=root + target, what=source, is_file=True)
        if target in prepared
        else Bind(source=source, target=root + target, inside="", read_only=read_only)
        for source, target, read_only in stored_files(plan, storage)
    ]


def shares(plan: Plan) -> list[Bind]:
    """The directories and files of the host's that the guest sees as they are, by their places in
    the monitor's root: the root filesystem, and volumes by their index."""
    kind = share_of(plan.storage.root_way, plan.storage.volumes)
    way = plan.storage.root_way
    found = []
    if way and kind and way.form == kind:
        # its user may not write to what is root's: what the guest writes stays in the guest
        read_only = way.read_only or kind == "9p"
        found.append(
            Bind(source=plan.storage.root, target=SHARED_ROOT, inside="", read_only=read_only)
        )
    return found + [
        Bind(
            source=volume.source,
            target=shared_volume(index),
            inside="",
            read_only=volume.read_only,
            recursive=volume.recursive,
            **volume.attributes.__dict__,
            slave=volume.slave,
        )
        for index, volume in enumerate(plan.storage.volumes)
        if kind and volume.way == kind
    ]


def shared_volume(index: int) -> str:
    """The place of a shared volume in the monitor's root."""
    return f"{SHARE}/volumes/{index}"


def _shared(plan: Plan, inner: MonitorUser, spec: Spec, root: str, ready: Ready) -> list[Step]:
    """The directories that the guest sees as they are. With virtiofs the daemon has them, and the
    monitor does not."""
    kind = share_of(plan.storage.root_way, plan.storage.volumes)
    if not kind:
        return []
    directory = root + SHARE
    prepared = dict(ready.shared)
    files = {
        shared_volume(index)
        for index, volume in enumerate(plan.storage.volumes)
        if volume.kind == FILE
    }
    steps: list[Step] = [_tmpfs(directory, SHARE_SIZE, spec, mode=0o755)]
    way = plan.storage.root_way
    if way and way.form == kind and not plan.application.process and SHARED_ROOT not in prepared:
        # (urunc's init makes them in the guest)
        steps += [
            MountPoint(root=plan.storage.root, path=volume.destination)
            for volume in plan.storage.volumes
            if volume.way == kind
        ]
    for bind in shares(plan):
        target = root + bind.target
        if bind.target in prepared:
            steps.append(
                Attach(
                    descriptor=prepared[bind.target],
                    target=target,
                    what=bind.source,
                    is_file=bind.target in files,
                )
            )
        else:
            steps.append(replace(bind, target=target))
    if kind == "9p":
        if not plan.ending.supervisor:
            # QEMU's way to the attributes of a file that it has open; init's own descriptors will
            # be QEMU's
            steps.append(
                Bind(source=DESCRIPTORS, target=root + DESCRIPTORS, inside="", read_only=False)
            )
        return [*steps, ReadOnly(target=directory)]
    return [*steps, _virtiofsd(plan, inner, root), Detach(target=directory, kept=True)]


def _virtiofsd(plan: Plan, inner: MonitorUser, root: str) -> Daemon:
    from urunc.init.daemon import LISTENER, PLACE
    from urunc.storage.virtiofsd import command

    directory, rust = root + SHARE, plan.storage.virtiofsd_rust
    absolute = directory.startswith("/")
    return Daemon(
        argv=command(plan.storage.virtiofsd, directory if absolute else PLACE, LISTENER, rust=rust),
        socket=root + SHARE_SOCKET,
        uid=inner.uid,
        gid=inner.gid,
        directory="" if absolute else directory,
        # the one in C complains of each connection's end
        quiet=not rust and not logs.debug,
    )


def _device_steps(
    plan: Plan,
    user: MonitorUser,
    launch: Launch,
    spec: Spec,
    root: str,
    ready: Ready,
    storage: StorageFacts,
) -> list[Step]:
    dev = f"{root}/dev"
    if ready.devices == ATTACH:
        return [Attach(descriptor=ready.device_mount, target=dev, what="device nodes")]
    steps: list[Step] = [
        _tmpfs(dev, "64k", spec, mode=0o755, devices=ready.devices == MAKE),
    ]
    for device in device_nodes(plan, user, launch.devices):
        if device.source in ready.missing:
            continue
        if ready.devices == BIND:
            steps.append(BindDevice(source=device.source, target=root + device.target))
        else:
            steps.append(Device(**{**device.__dict__, "target": root + device.target}))
    steps += [
        DiskNode(
            target=root + disk.target,
            major=disk.device[0],
            minor=disk.device[1],
            uid=user.uid,
            gid=user.gid,
            read_only=disk.read_only,
        )
        for disk in storage.disks
        if disk.device and ready.devices == MAKE
    ]
    return steps


def _names(plan: Plan, spec: Spec, ready: Ready) -> list[Step]:
    """What the namespaces and security modules are told before the host's /proc is gone."""
    steps: list[Step] = []
    if (spec.hostname or spec.domainname) and spec.has_own("uts"):
        steps.append(HostName(hostname=spec.hostname, domainname=spec.domainname))
    steps += [Sysctl(path=path, value=value) for path, value in spec.sysctls.items()]
    if spec.memory_policy:
        from urunc.bundle.rare_keys import memory_mode, memory_words

        policy = spec.memory_policy
        steps.append(
            SetMemoryPolicy(
                mode=memory_mode(policy), nodes=policy.nodes, words=memory_words(policy)
            )
        )
    if ready.keyring:
        steps.append(Keyring(name=f"_ses.{plan.id}"))
    if spec.apparmor_profile:
        steps.append(Label(files=APPARMOR, value=f"exec {spec.apparmor_profile}"))
    if spec.selinux_label:
        label = selinux_label(spec.selinux_label, ready.selinux_type)
        steps.append(Label(files=SELINUX, value=label))
    return steps


def selinux_label(label: str, kind: str) -> str:
    """A process's label, of another type where the administrator says which (`user:role:type:…`):
    container_t may not open /dev/kvm."""
    fields = label.split(":")
    if kind and len(fields) > 2:
        fields[2] = kind
    return ":".join(fields)


def _is_copied(file: PlannedFile, plan: Plan, user: MonitorUser) -> bool:
    """The monitor's user may not read it, or the filesystem that it is on will be the guest's. A
    disk is that user's own then."""
    if not file.source.inside or not file.read_only or file in plan.storage.disks:
        return False
    root = plan.storage.root_way
    return (root is not None and bool(root.device)) or not may_access(file, user)
