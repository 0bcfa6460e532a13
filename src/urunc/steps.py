# SPDX-License-Identifier: Apache-2.0
"""What init does to itself to become the monitor, as a list of named steps.

`build` is pure: the list follows from the plan and the launch, and `urunc plan` prints it. The
steps run in init, in the container's namespaces, as root until `User`; they die with the
namespaces, so none needs an undo. Everything is imported before the first step: after `PivotRoot`
there is nothing left to import from.
"""

from __future__ import annotations

import posix

from urunc.linux import _linux, mounts
from urunc.linux.files import (
    O_PATH,
    S_IFDIR,
    S_IFMT,
    make_directories,
    open_in_root,
    write_all,
    write_bytes,
)
from urunc.linux.process import RLIMITS
from urunc.monitors import RUN
from urunc.record import plain, rebuild, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urunc.host import DeviceNode
    from urunc.monitors import Launch
    from urunc.plan import Plan, PlannedFile
    from urunc.spec import Spec

ROOT_BYTES = 16 << 20
RUN_SIZE = "4m"
PR_SET_NO_NEW_PRIVS = 38
PR_CAPBSET_DROP = 24
PR_SET_DUMPABLE = 4


class Step:
    """One thing init does. Raises OSError; `describe` is one line for people."""

    def describe(self) -> str:
        raise NotImplementedError

    def execute(self) -> None:
        raise NotImplementedError


@record
class PrivateMounts(Step):
    """Cut the mounts of this namespace off from the host's."""

    def describe(self) -> str:
        return "make every mount private"

    def execute(self) -> None:
        mounts.make_private()


@record
class Tmpfs(Step):
    """An empty file system in memory."""

    target: str
    size: str
    mode: int
    uid: int
    gid: int
    executable: bool
    devices: bool

    def describe(self) -> str:
        return (
            f"tmpfs {self.target} size={self.size} mode={self.mode:o} owner={self.uid}:{self.gid}"
        )

    def execute(self) -> None:
        flags = mounts.MS_NOSUID
        flags |= 0 if self.executable else mounts.MS_NOEXEC
        flags |= 0 if self.devices else mounts.MS_NODEV
        make_directories(self.target)
        options = f"size={self.size},mode={self.mode:o},uid={self.uid},gid={self.gid}"
        mounts.mount_tmpfs(self.target, flags, options)


@record
class Bind(Step):
    """A file or folder of the host, or (with `inside`) of the image, in the monitor's root."""

    source: str
    target: str
    inside: str
    read_only: bool

    def describe(self) -> str:
        origin = f"{self.source} of the image" if self.inside else self.source
        return f"bind {origin} on {self.target} {'read-only' if self.read_only else 'writable'}"

    def execute(self) -> None:
        if self.inside:
            fd = open_in_root(self.inside, self.source, O_PATH)
        else:
            fd = posix.open(self.source, O_PATH | posix.O_CLOEXEC)
        if posix.fstat(fd).st_mode & S_IFMT == S_IFDIR:
            make_directories(self.target)
        else:
            make_directories(self.target.rpartition("/")[0])
            posix.close(
                posix.open(self.target, posix.O_WRONLY | posix.O_CREAT | posix.O_CLOEXEC, 0o444)
            )
        attributes = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV
        mounts.bind(
            fd, self.target, attributes | (mounts.MOUNT_ATTR_RDONLY if self.read_only else 0)
        )
        posix.close(fd)


@record
class Copy(Step):
    """A file of the image that the monitor's user may not read, copied for it."""

    source: str
    target: str
    inside: str
    uid: int
    gid: int

    def describe(self) -> str:
        return f"copy {self.source} of the image to {self.target} for user {self.uid}"

    def execute(self) -> None:
        make_directories(self.target.rpartition("/")[0])
        source = open_in_root(self.inside, self.source, posix.O_NONBLOCK)
        target = posix.open(self.target, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL, 0o400)
        while part := posix.read(source, 1 << 20):
            write_all(target, part)
        posix.fchown(target, self.uid, self.gid)
        posix.close(source)
        posix.close(target)


@record
class Device(Step):
    """A device node: the host's numbers and permissions; its owner is the monitor's user where
    those would keep that user out."""

    source: str
    target: str
    uid: int
    gid: int
    mode: int

    def describe(self) -> str:
        return f"device {self.target} owner={self.uid}:{self.gid} mode={self.mode:o}"

    def execute(self) -> None:
        make_directories(self.target.rpartition("/")[0])
        facts = posix.stat(self.source)
        posix.mknod(self.target, facts.st_mode & 0o170000 | self.mode, facts.st_rdev)
        posix.chmod(self.target, self.mode)
        posix.chown(self.target, self.uid, self.gid)


@record
class ReadOnly(Step):
    """No write to this file system by anybody from now on; mounts below it keep what they have."""

    target: str

    def describe(self) -> str:
        return f"make {self.target} read-only"

    def execute(self) -> None:
        mounts.make_read_only(self.target)


@record
class PivotRoot(Step):
    """Make the monitor's root the root and let go of the host's; `move` where the host's root is an
    initramfs, which pivot_root(2) refuses (--no-pivot)."""

    target: str
    move: bool

    def describe(self) -> str:
        return f"{'move the root' if self.move else 'pivot_root'} to {self.target}"

    def execute(self) -> None:
        if self.move:
            mounts.move_root(self.target)
        else:
            mounts.pivot(self.target)


@record
class HostName(Step):
    """The uts namespace's names."""

    hostname: str
    domainname: str

    def describe(self) -> str:
        return f"hostname '{self.hostname}' domainname '{self.domainname}'"

    def execute(self) -> None:
        if self.hostname:
            _linux.sethostname(self.hostname)
        if self.domainname:
            _linux.setdomainname(self.domainname)


@record
class OomScore(Step):
    """How willingly the kernel kills this process when memory runs out; before the host's /proc is
    gone."""

    value: int

    def describe(self) -> str:
        return f"oom_score_adj {self.value}"

    def execute(self) -> None:
        try:
            write_bytes("/proc/self/oom_score_adj", str(self.value).encode())
        except PermissionError:
            pass  # lowering it takes CAP_SYS_RESOURCE, which a nested host lacks; runc goes on too


@record
class ResourceLimit(Step):
    """setrlimit(2)."""

    type: str
    soft: int
    hard: int

    def describe(self) -> str:
        return f"{self.type} {self.soft} {self.hard}"

    def execute(self) -> None:
        _linux.setrlimit(RLIMITS[self.type.removeprefix("RLIMIT_")], self.soft, self.hard)


@record
class Keyring(Step):
    """A session keyring of its own."""

    name: str

    def describe(self) -> str:
        return f"session keyring '{self.name}'"

    def execute(self) -> None:
        try:
            _linux.join_session_keyring(self.name)
        except OSError:
            # a kernel without keyrings, or a quota that is used up: nothing is shared then either
            pass


@record
class User(Step):
    """The monitor's user, with no capability, none to be had, and no new privileges."""

    uid: int
    gid: int
    groups: tuple[int, ...]

    def describe(self) -> str:
        groups = f" groups={','.join(map(str, self.groups))}" if self.groups else ""
        return f"user {self.uid}:{self.gid}{groups}, no capabilities, no new privileges"

    def execute(self) -> None:
        for capability in range(64):
            try:
                _linux.prctl(PR_CAPBSET_DROP, capability)
            except OSError:
                break  # EINVAL: the kernel's last one is behind us
        posix.setgroups(list(self.groups))
        posix.setresgid(self.gid, self.gid, self.gid)
        posix.setresuid(self.uid, self.uid, self.uid)
        _linux.capset(0)
        _linux.prctl(PR_SET_NO_NEW_PRIVS, 1)
        _linux.prctl(PR_SET_DUMPABLE, 0)  # setresuid made it so already, but for root


STEPS: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        PrivateMounts, Tmpfs, Bind, Copy, Device, ReadOnly, PivotRoot, HostName, OomScore,
        ResourceLimit, Keyring, User,
    )
}  # fmt: skip


def pack(steps: list[Step]) -> list[Any]:
    """Steps as JSON values, for init's pipe."""
    return [[type(step).__name__, plain(step)] for step in steps]


def unpack(values: list[Any]) -> list[Step]:
    """The steps that `pack` took apart."""
    return [rebuild(STEPS[name], fields) for name, fields in values]


def build(
    plan: Plan, launch: Launch, spec: Spec, root: str, *, keyring: bool, pivot: bool
) -> list[Step]:
    """Every step from fresh namespaces to the monitor's user; `root` is where the monitor's root is
    mounted.

    The plan's user must have been chosen.
    """
    uid, gid = plan.uid or 0, plan.gid or 0
    program = plan.host.program
    files = [file for file in (plan.kernel, plan.initrd, *plan.disks) if file]
    copied = sum(file.source.size_bytes for file in files if _is_copied(file, plan, uid, gid))
    size = str(ROOT_BYTES + copied)
    steps: list[Step] = [
        PrivateMounts(),
        Tmpfs(target=root, size=size, mode=0o755, uid=0, gid=0, executable=True, devices=False),
    ]
    for path in dict.fromkeys((program.path, *program.libraries, *program.data)):
        steps.append(Bind(source=path, target=root + path, inside="", read_only=True))
    steps += [_image_file(file, plan, root, uid, gid) for file in files if file.source.inside]
    steps += [
        Tmpfs(
            target=root + RUN,
            size=RUN_SIZE,
            mode=0o700,
            uid=uid,
            gid=gid,
            executable=False,
            devices=False,
        ),
        Tmpfs(
            target=root + "/dev",
            size="64k",
            mode=0o755,
            uid=0,
            gid=0,
            executable=False,
            devices=True,
        ),
    ]
    nodes = {"/dev/kvm": plan.host.kvm, "/dev/net/tun": plan.host.tun}
    steps += [_device(nodes[path], root, plan.groups, uid, gid) for path in _devices(plan, launch)]
    for file in plan.disks:
        if not file.source.inside:
            steps.append(
                Device(
                    source=file.source.path, target=root + file.target, uid=uid, gid=gid, mode=0o600
                )
            )
    steps += [ReadOnly(target=root + "/dev"), ReadOnly(target=root)]
    if spec.oom_score_adj is not None:
        steps.append(OomScore(value=spec.oom_score_adj))
    if (spec.hostname or spec.domainname) and "uts" in spec.namespaces:
        steps.append(HostName(hostname=spec.hostname, domainname=spec.domainname))
    if keyring:
        steps.append(Keyring(name=f"_ses.{plan.id}"))
    steps += [
        ResourceLimit(type=limit.type, soft=limit.soft, hard=limit.hard) for limit in spec.rlimits
    ]
    steps.append(PivotRoot(target=root, move=not pivot))
    steps.append(User(uid=uid, gid=gid, groups=plan.groups))
    return steps


def may_access(file: PlannedFile, uid: int, gid: int, groups: tuple[int, ...]) -> bool:
    """Whether the monitor's user may open a file of the image as the plan wants it."""
    source = file.source
    wanted = 4 if file.read_only else 6
    if uid == 0:
        granted = 6
    elif uid == source.uid:
        granted = source.mode >> 6
    elif source.gid in (gid, *groups):
        granted = source.mode >> 3
    else:
        granted = source.mode
    return granted & wanted == wanted


def _is_copied(file: PlannedFile, plan: Plan, uid: int, gid: int) -> bool:
    return file.read_only and not may_access(file, uid, gid, plan.groups)


def _image_file(file: PlannedFile, plan: Plan, root: str, uid: int, gid: int) -> Step:
    target = root + file.target
    if _is_copied(file, plan, uid, gid):
        return Copy(source=file.source.path, target=target, inside=plan.root, uid=uid, gid=gid)
    return Bind(source=file.source.path, target=target, inside=plan.root, read_only=file.read_only)


def _devices(plan: Plan, launch: Launch) -> list[str]:
    """The launch's devices, and the one for a network that may arrive between create and start."""
    late = ("/dev/net/tun",) if plan.network != "none" else ()
    return list(dict.fromkeys((*launch.devices, *late)))


def _device(node: DeviceNode, root: str, groups: tuple[int, ...], uid: int, gid: int) -> Device:
    """A node as on the host where its permissions let the monitor's user in, else that user's
    own."""
    open_to_all = node.mode & 0o006 == 0o006
    if open_to_all or node.gid in groups:
        return Device(
            source=node.path, target=root + node.path, uid=0, gid=node.gid, mode=node.mode & 0o666
        )
    return Device(source=node.path, target=root + node.path, uid=uid, gid=gid, mode=0o600)
