# SPDX-License-Identifier: Apache-2.0
"""The steps that make the monitor's root: mounts, files, device nodes, the terminal, pivot_root(2).

They run in init, in the container's namespaces, as root; what they mount ends with the mount
namespace, so none needs an undo. The steps on the process itself are in init/steps.py.
"""

from __future__ import annotations

import posix

from urunc.linux import _linux, mounts
from urunc.linux.files import (
    O_PATH,
    S_IFBLK,
    S_IFDIR,
    S_IFMT,
    make_directories,
    open_in_root,
    write_all,
)
from urunc.record import record

TIOCSCTTY, TIOCSWINSZ, TIOCSPTLCK, TIOCGPTPEER = 0x540E, 0x5414, 0x40045431, 0x5441
"""ioctl_tty(2), the same on x86_64 and aarch64."""


class Step:
    """One thing init does to itself."""

    def describe(self) -> str:
        """One line for people (`urunc plan`)."""
        raise NotImplementedError

    def execute(self) -> None:
        """Do it, in init; raises OSError."""
        raise NotImplementedError


@record
class PrivateMounts(Step):
    """Stop mounts from spreading between this namespace and the host's (mount_namespaces(7))."""

    slave: bool = False
    """Whether later mounts of the host still appear here, for a Bind with `slave`."""

    def describe(self) -> str:
        return f"make every mount {'a slave of the host' if self.slave else 'private'}"

    def execute(self) -> None:
        if self.slave:
            mounts.make_slaves()
        else:
            mounts.make_private()


@record
class Tmpfs(Step):
    """An empty tmpfs; `size` is mount(8)'s option (`16m`), `mode` the permission bits."""

    target: str
    size: str
    mode: int
    uid: int
    gid: int
    executable: bool
    devices: bool
    context: str = ""
    """The SELinux label of its files, "" for none."""

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
    """A bind mount in the monitor's root: of a file or directory of the host, or of the image whose
    root is `inside`."""

    source: str
    target: str
    inside: str
    read_only: bool
    recursive: bool = False
    """Whether the mounts below the source come along (MS_REC)."""
    set: int = 0
    clear: int = 0
    set_below: int = 0
    clear_below: int = 0
    """MOUNT_ATTR_* (mount_setattr(2)) to set and clear: on the mount itself, in addition to
    `read_only`, and on those below it."""
    slave: bool = False
    """Whether later mounts of the host below the source appear, too."""

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
        """Set the attributes and the propagation of a detached mount, by its descriptor."""
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
    """A directory of the image for the guest to mount on, made if it is missing, as runc makes it:
    a guest that has the image read-only could not."""

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
    """A copy of an image's file for the monitor's user, which may not read the original."""

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
    """A device node with the numbers of the host's `source`; `mode` and owner are such that the
    monitor's user may open it."""

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
    """A node of a host's block device, by its numbers, that belongs to the monitor's user."""

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
    """Remount a file system read-only; mounts below it stay as they are."""

    target: str

    def describe(self) -> str:
        return f"make {self.target} read-only"

    def execute(self) -> None:
        mounts.make_read_only(self.target)


@record
class Attach(Step):
    """Attach a detached mount that the runtime prepared: in a user namespace, init could neither
    make device nodes nor reach sources behind directories that are closed to it."""

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
    """Unmount what only the steps before needed, and remove its directory."""

    target: str
    kept: bool = False
    """Whether the directory stays, because other mount namespaces still use it as a mount point."""

    def describe(self) -> str:
        return f"detach {self.target}"

    def execute(self) -> None:
        _linux.umount2(self.target, mounts.MNT_DETACH)
        if not self.kept:
            posix.rmdir(self.target)


@record
class BindDevice(Step):
    """A bind mount of a host's device node, where a user namespace forbids mknod(2)."""

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
    """A pseudoterminal as standard input, output and error; its master end goes to the engine
    through the console socket (`socket`, a descriptor).

    Both ends are devices of a devpts of the container's own, which no other process sees; the
    monitor gets descriptors only (pty(7), TIOCGPTPEER of Linux 4.13).
    """

    devpts: str
    rows: int
    columns: int
    uid: int
    gid: int
    socket: int
    raw: bool
    """Whether to switch echo and line editing off, because the guest's own terminal does both; set
    at once, for keys that come before the monitor has started."""

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
    """Start a program that serves the monitor on a socket (init/daemon.py). It gets a mount
    namespace of its own, a copy of init's at this point."""

    argv: tuple[str, ...]
    socket: str
    uid: int
    gid: int
    """The user that may connect."""
    directory: str
    """The directory that it sees as daemon.PLACE, "" for none."""
    quiet: bool
    """Whether its output is dropped."""

    def describe(self) -> str:
        return f"start {' '.join(self.argv)} for {self.socket} owner={self.uid}:{self.gid}"

    def execute(self) -> None:
        from urunc.init.daemon import start

        start(
            self.argv, self.socket, self.uid, self.gid, directory=self.directory, quiet=self.quiet
        )


@record
class Propagation(Step):
    """linux.rootfsPropagation: how mounts spread between this root and copies of its namespace.
    Nothing spreads to the host, whose mounts are separate by now (PrivateMounts)."""

    kind: str

    def describe(self) -> str:
        return f"make every mount {self.kind}"

    def execute(self) -> None:
        _linux.mount(None, "/", None, mounts.MS_REC | mounts.PROPAGATION[self.kind], None)


@record
class PivotRoot(Step):
    """Make the monitor's root the root and unmount the host's. `move` (--no-pivot) is for a host
    whose root is an initramfs, which pivot_root(2) refuses."""

    target: str
    move: bool

    def describe(self) -> str:
        return f"{'move the root' if self.move else 'pivot_root'} to {self.target}"

    def execute(self) -> None:
        if self.move:
            mounts.move_root(self.target)
        else:
            mounts.pivot(self.target)


def make_file(path: str) -> None:
    """Make an empty file to mount on, and its directories."""
    make_directories(path.rpartition("/")[0])
    posix.close(posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_CLOEXEC, 0o444))


def send_terminal(socket: int, master: int) -> None:
    """Send the master end of a terminal through the console socket (SCM_RIGHTS, unix(7))."""
    from _socket import SCM_RIGHTS, SOL_SOCKET
    from _socket import socket as Socket

    connection = Socket(fileno=socket)
    connection.sendmsg([b"/dev/ptmx"], [(SOL_SOCKET, SCM_RIGHTS, master.to_bytes(4, "little"))])
    connection.detach()


ROOT_STEPS: tuple[type[Step], ...] = (
    PrivateMounts, Tmpfs, Bind, MountPoint, Copy, Device, DiskNode, BindDevice, Attach, Detach,
    ConsoleTerminal, Daemon, ReadOnly, Propagation, PivotRoot,
)  # fmt: skip
"""Every step of this module, for the table in init/steps.py."""
