# SPDX-License-Identifier: Apache-2.0
"""What init does to itself to become the monitor, as a list of named steps.

Which steps a container takes is init/setup.py's business. They run in init, in the container's
namespaces, as root until `User`; they die with the namespaces, so none needs an undo. Everything is
imported before the first step: after `PivotRoot` there is nothing left to import from.
"""

from __future__ import annotations

import posix

from urunc.linux import _linux, mounts
from urunc.linux.files import (
    O_PATH,
    S_IFBLK,
    S_IFDIR,
    S_IFMT,
    exists,
    make_directories,
    open_in_root,
    write_all,
    write_bytes,
)
from urunc.linux.process import RLIMITS
from urunc.record import plain, rebuild, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PR_SET_NO_NEW_PRIVS = 38
PR_CAPBSET_DROP = 24
PR_SET_DUMPABLE = 4
NODE_BYTES = 128
"""Of a mask of NUMA nodes: as many as a kernel can be built for."""
TIOCSCTTY, TIOCSWINSZ, TIOCSPTLCK, TIOCGPTPEER = 0x540E, 0x5414, 0x40045431, 0x5441
"""ioctl_tty(2), the same on x86_64 and aarch64."""


class Step:
    """One thing init does. Raises OSError; `describe` is one line for people."""

    def describe(self) -> str:
        raise NotImplementedError

    def execute(self) -> None:
        raise NotImplementedError


@record
class PrivateMounts(Step):
    """Cut the mounts of this namespace off from the host's."""

    slave: bool = False
    """Whether what is mounted on the host later appears all the same, where a Bind wants that."""

    def describe(self) -> str:
        return f"make every mount {'a slave of the host' if self.slave else 'private'}"

    def execute(self) -> None:
        if self.slave:
            mounts.make_slaves()
        else:
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
    context: str = ""
    """SELinux's label of its files."""

    def describe(self) -> str:
        return (
            f"tmpfs {self.target} size={self.size} mode={self.mode:o} owner={self.uid}:{self.gid}"
            + (f" context={self.context}" if self.context else "")
        )

    def execute(self) -> None:
        flags = mounts.MS_NOSUID
        flags |= 0 if self.executable else mounts.MS_NOEXEC
        flags |= 0 if self.devices else mounts.MS_NODEV
        make_directories(self.target)
        options = f"size={self.size},mode={self.mode:o},uid={self.uid},gid={self.gid}"
        if self.context:
            options += f',context="{self.context}"'
        mounts.mount_tmpfs(self.target, flags, options)


@record
class Bind(Step):
    """A file or directory of the host, or (with `inside`) of the image, in the monitor's root."""

    source: str
    target: str
    inside: str
    read_only: bool
    recursive: bool = False
    """Whether what is mounted below it appears, too."""
    set: int = 0
    clear: int = 0
    set_below: int = 0
    clear_below: int = 0
    """MOUNT_ATTR_* of the mount, and of those below it as well, beside what `read_only` says of the
    mount."""
    slave: bool = False
    """Whether what is mounted there on the host later appears, too."""

    def describe(self) -> str:
        origin = f"{self.source} of the image" if self.inside else self.source
        kind = "rbind" if self.recursive else "bind"
        return f"{kind} {origin} on {self.target} {'read-only' if self.read_only else 'writable'}"

    def execute(self) -> None:
        if self.inside:
            fd = open_in_root(self.inside, self.source, O_PATH)
        else:
            fd = posix.open(self.source, O_PATH | posix.O_CLOEXEC)
        if posix.fstat(fd).st_mode & S_IFMT == S_IFDIR:
            make_directories(self.target)
        else:
            make_file(self.target)
        mount = mounts.clone(fd, recursive=self.recursive)
        posix.close(fd)
        self.restrict(mount)
        _linux.move_mount(mount, self.target)
        posix.close(mount)

    def restrict(self, mount: int) -> None:
        """Have a mount that is nowhere attached as it shall be."""
        read_only = mounts.MOUNT_ATTR_RDONLY if self.read_only else 0
        mounts.restrict(
            mount,
            mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | self.set_below,
            recursive=self.recursive,
            clear=self.clear_below,
            top=self.set | read_only,
            top_clear=self.clear & ~read_only,
            propagation=mounts.PROPAGATION["slave" if self.slave else "private"],
        )


@record
class MountPoint(Step):
    """A directory of the image for a mount of the guest's own, made where it is missing, as runc
    makes it: a guest that has the image read-only cannot."""

    root: str
    path: str

    def describe(self) -> str:
        return f"make {self.path} in the image, where it is missing"

    def execute(self) -> None:
        names = [name for name in self.path.split("/") if name]
        for count in range(1, len(names) + 1):
            try:
                fd = open_in_root(self.root, "/".join(names[:count]), O_PATH | posix.O_DIRECTORY)
            except FileNotFoundError:
                fd = open_in_root(self.root, "/".join(names[: count - 1]) or "/", O_PATH)
                posix.mkdir(names[count - 1], 0o755, dir_fd=fd)
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
class DiskNode(Step):
    """A block device by its numbers: the monitor user's own node of a disk of the host's."""

    target: str
    major: int
    minor: int
    uid: int
    gid: int
    read_only: bool

    def describe(self) -> str:
        access = "read-only" if self.read_only else "writable"
        return f"block device {self.major}:{self.minor} as {self.target} {access}"

    def execute(self) -> None:
        make_directories(self.target.rpartition("/")[0])
        mode = 0o400 if self.read_only else 0o600
        posix.mknod(self.target, S_IFBLK | mode, posix.makedev(self.major, self.minor))
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
class Attach(Step):
    """A mount that the runtime prepared with its own privilege: in a user namespace of its own,
    init could neither make device nodes nor look behind directories closed to it."""

    descriptor: int
    target: str
    what: str
    is_file: bool = False

    def describe(self) -> str:
        return f"attach {self.what} at {self.target}"

    def execute(self) -> None:
        if self.is_file:
            make_file(self.target)
        else:
            make_directories(self.target)
        _linux.move_mount(self.descriptor, self.target)
        posix.close(self.descriptor)


@record
class Detach(Step):
    """Take a mount away that was needed for the steps before."""

    target: str
    kept: bool = False
    """Whether others still have it: to remove the directory would take it from them, too."""

    def describe(self) -> str:
        return f"detach {self.target}"

    def execute(self) -> None:
        _linux.umount2(self.target, mounts.MNT_DETACH)
        if not self.kept:
            posix.rmdir(self.target)


@record
class BindDevice(Step):
    """A device node of the host as it is: where a user namespace forbids to make one."""

    source: str
    target: str

    def describe(self) -> str:
        return f"bind device {self.source} on {self.target}"

    def execute(self) -> None:
        make_file(self.target)
        fd = posix.open(self.source, O_PATH | posix.O_CLOEXEC)
        mounts.bind(fd, self.target, mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NOEXEC)
        posix.close(fd)


@record
class ConsoleTerminal(Step):
    """A pseudoterminal as standard input, output and error; its other end goes to the engine.

    The devices of both ends are in a devpts of the container's own, which nobody else sees; the
    monitor gets descriptors only (pty(7), TIOCGPTPEER of Linux 4.13).
    """

    devpts: str
    rows: int
    columns: int
    uid: int
    gid: int
    socket: int
    raw: bool
    """Whether the guest has one of its own, which echoes and edits; from now on, for keys that come
    before the monitor."""

    def describe(self) -> str:
        size = f" of {self.columns}x{self.rows}" if self.rows else ""
        return f"terminal{size} on {self.devpts}"

    def execute(self) -> None:
        from fcntl import ioctl

        make_directories(self.devpts)
        flags = mounts.MS_NOSUID | mounts.MS_NOEXEC
        _linux.mount("devpts", self.devpts, "devpts", flags, "newinstance,ptmxmode=0600,mode=0600")
        noctty = posix.O_RDWR | posix.O_NOCTTY | posix.O_CLOEXEC
        master = posix.open(f"{self.devpts}/ptmx", noctty)
        ioctl(master, TIOCSPTLCK, bytes(4))
        slave = ioctl(master, TIOCGPTPEER, noctty)
        if self.rows or self.columns:
            size = self.rows.to_bytes(2, "little") + self.columns.to_bytes(2, "little")
            ioctl(master, TIOCSWINSZ, size + bytes(4))
        posix.fchown(slave, self.uid, self.gid)
        if self.raw:
            from termios import TCSANOW
            from tty import setraw

            setraw(slave, TCSANOW)
        send_terminal(self.socket, master)
        posix.close(self.socket)
        posix.close(master)
        ioctl(slave, TIOCSCTTY, 0)
        for number in (0, 1, 2):
            posix.dup2(slave, number)
        posix.close(slave)


@record
class Daemon(Step):
    """A program that serves the monitor on a socket, with mounts of its own, which are those of now
    (init/daemon.py)."""

    argv: tuple[str, ...]
    socket: str
    uid: int
    gid: int
    """Who may connect."""
    directory: str
    """What it sees as daemon.PLACE, "" for nothing."""
    quiet: bool
    """Whether what it says is dropped."""

    def describe(self) -> str:
        return f"start {' '.join(self.argv)} for {self.socket} owner={self.uid}:{self.gid}"

    def execute(self) -> None:
        from urunc.init.daemon import start

        start(
            self.argv, self.socket, self.uid, self.gid, directory=self.directory, quiet=self.quiet
        )


@record
class Propagation(Step):
    """How mounts spread between this root and copies of its namespace (linux.rootfsPropagation);
    nothing spreads to the host, which this root is cut off from."""

    kind: str

    def describe(self) -> str:
        return f"make every mount {self.kind}"

    def execute(self) -> None:
        _linux.mount(None, "/", None, mounts.MS_REC | mounts.PROPAGATION[self.kind], None)


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
class Sysctl(Step):
    """A kernel parameter of one of the container's namespaces, by its path below /proc/sys."""

    path: str
    value: str

    def describe(self) -> str:
        return f"sysctl {self.path}={self.value}"

    def execute(self) -> None:
        write_bytes(f"/proc/sys/{self.path}", self.value.encode())


@record
class Label(Step):
    """What a security module shall call the monitor from its execve on (AppArmor's profile,
    SELinux's context); before the host's /proc is gone."""

    files: tuple[str, ...]
    value: str

    def describe(self) -> str:
        return f"label '{self.value}' from execve on"

    def execute(self) -> None:
        path = next((file for file in self.files if exists(file)), self.files[-1])
        write_bytes(path, self.value.encode())


@record
class Umask(Step):
    """The permissions that new files do not get (umask(2))."""

    mask: int

    def describe(self) -> str:
        return f"umask {self.mask:04o}"

    def execute(self) -> None:
        posix.umask(self.mask)


@record
class ResourceLimit(Step):
    """setrlimit(2); by init itself, the last thing as root, for a low limit would hinder it and
    another's limits take CAP_SYS_RESOURCE."""

    type: str
    soft: int
    hard: int

    def describe(self) -> str:
        return f"{self.type} {self.soft} {self.hard}"

    def execute(self) -> None:
        _linux.setrlimit(0, RLIMITS[self.type.removeprefix("RLIMIT_")], self.soft, self.hard)


@record
class SetMemoryPolicy(Step):
    """From which NUMA nodes the monitor's memory comes, its guest's with it (set_mempolicy(2));
    execve keeps it, and every thread has it from the one that made it."""

    mode: int
    nodes: tuple[int, ...]
    words: str

    def describe(self) -> str:
        return f"linux.memoryPolicy {self.words}"

    def execute(self) -> None:
        mask = sum(1 << node for node in self.nodes)
        _linux.set_mempolicy(self.mode, mask.to_bytes(NODE_BYTES, "little") if mask else b"")


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
    keep_groups: bool
    """Where setgroups(2) is denied: a user namespace that an ordinary user made."""

    def describe(self) -> str:
        groups = f" groups={','.join(map(str, self.groups))}" if self.groups else ""
        return f"user {self.uid}:{self.gid}{groups}, no capabilities, no new privileges"

    def execute(self) -> None:
        for capability in range(64):
            try:
                _linux.prctl(PR_CAPBSET_DROP, capability)
            except OSError:
                break  # EINVAL: the kernel's last one is behind us
        if not self.keep_groups:
            posix.setgroups(list(self.groups))
        posix.setresgid(self.gid, self.gid, self.gid)
        posix.setresuid(self.uid, self.uid, self.uid)
        _linux.capset(0)
        _linux.prctl(PR_SET_NO_NEW_PRIVS, 1)
        _linux.prctl(PR_SET_DUMPABLE, 0)  # setresuid made it so already, but for root


def make_file(path: str) -> None:
    """An empty file to mount on, in directories that are made where they are not there."""
    make_directories(path.rpartition("/")[0])
    posix.close(posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_CLOEXEC, 0o444))


STEPS: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        PrivateMounts, Tmpfs, Bind, MountPoint, Copy, Device, DiskNode, BindDevice, Attach, Detach,
        ConsoleTerminal, Daemon, ReadOnly, Propagation, PivotRoot, HostName, Sysctl, Label, Umask,
        SetMemoryPolicy, Keyring, ResourceLimit, User,
    )
}  # fmt: skip


def send_terminal(socket: int, master: int) -> None:
    """Hand a terminal's engine side over through the console socket (SCM_RIGHTS, unix(7))."""
    from _socket import SCM_RIGHTS, SOL_SOCKET
    from _socket import socket as Socket

    connection = Socket(fileno=socket)
    connection.sendmsg([b"/dev/ptmx"], [(SOL_SOCKET, SCM_RIGHTS, master.to_bytes(4, "little"))])
    connection.detach()


def pack(steps: list[Step]) -> list[Any]:
    """Steps as JSON values, for init's pipe."""
    return [[type(step).__name__, plain(step)] for step in steps]


def unpack(values: list[Any]) -> list[Step]:
    """The steps that `pack` took apart."""
    return [rebuild(STEPS[name], fields) for name, fields in values]
