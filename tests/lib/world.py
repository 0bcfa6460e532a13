#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A world of its own for a run of tests: `world.py [--with-parent] [--keep DIRECTORY]… [--root TREE
[--bind SOURCE:TARGET]…] -- COMMAND…`

The command runs in new namespaces (mount, PID, network, IPC, UTS, cgroup) with its own /proc, /sys,
/run and /tmp, and below a control group of its own in each hierarchy, which is the root of what it
sees. So all that it sees can be compared before and after a test, whoever else uses the machine,
and runs beside each other do not meet. Shared with the machine are the rest of its files, /dev
(loop devices, /dev/kvm) and the kernel's own settings.

/tmp is empty but for what is kept: the project where it is below /tmp, directories that are named
(--keep), and `pytest-of-USER`, so a failed test's files can be looked at later.

With --root it is another machine: its root is a tree of another distribution (debian.py makes
them), with the machine's /dev, and --bind shows further files and directories in it. The network
stays the caller's, since packages come from there; the command makes worlds of its own in it, for
tests.

The first process reaps orphans and ends with the command; the kernel then ends all others and takes
the namespaces down. A child of this process, the keeper, then removes the groups and the /tmp: also
on SIGTERM and SIGHUP, when this process is killed, and with --with-parent when its parent dies.
SIGINT is passed on. If the keeper is killed itself, the next run removes what stayed. A caller that
is not root has the command without a world. Standard library only: it runs before anything is
built.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import getpass
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
CGROUPS = "/sys/fs/cgroup"
PREFIX = "urunc-world-"
PREFIX_TMP = "urunc-tmp-"
MARK = "URUNC_TEST_WORLD"
"""Set in the environment of the command."""

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x0002_0000, 0x0200_0000, 0x0400_0000
CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x0800_0000, 0x2000_0000, 0x4000_0000
PR_SET_PDEATHSIG = 1
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = 4096, 16384, 1 << 18, 1 << 20
MNT_DETACH = 2
SYS_PIVOT_ROOT, SYS_OPEN_TREE, SYS_MOVE_MOUNT = 155, 428, 429  # the first: x86_64's
AT_FDCWD, AT_RECURSIVE, OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = -100, 0x8000, 1, 4
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
SI_USER = 0

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> int:
    result: int = getattr(_libc, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", str(arguments))
    return result


def _mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    words = [word.encode() if word else None for word in (source, target, kind)]
    _call("mount", *words, ctypes.c_ulong(flags), options.encode() or None)


class Hierarchy:
    """A hierarchy of control groups that is mounted in its usual place, and the world's group."""

    def __init__(self, line: str, name: str) -> None:
        _, controllers, own = line.split(":", 2)
        first = controllers.split(",")[0].removeprefix("name=")
        self.pure = not controllers and os.path.exists(f"{CGROUPS}/cgroup.controllers")
        self.kind = "cgroup" if controllers else "cgroup2"
        self.options = ("none," if "=" in controllers else "") + controllers
        if self.pure:
            self.mounted = CGROUPS
        else:
            self.mounted = os.path.realpath(f"{CGROUPS}/{first or 'unified'}")
        # v2 lets no group hand controllers down that has processes: the caller's own is no parent
        self.parent = os.path.normpath(f"{self.mounted}/{own}") if controllers else self.mounted
        self.group = f"{self.parent}/{name}"
        self.lock = -1

    def there(self) -> bool:
        """Whether it is mounted."""
        return os.path.exists(f"{self.parent}/cgroup.procs")

    def make(self) -> None:
        """Make the group, and lock its directory: whose lock is free belongs to nobody."""
        os.mkdir(self.group)
        self.lock = os.open(self.group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        for name in ("cpuset.cpus", "cpuset.mems"):  # on v1 nothing may join a group without
            if self.kind == "cgroup" and os.path.exists(f"{self.group}/{name}"):
                inherited = pathlib.Path(self.parent, name).read_text()
                pathlib.Path(self.group, name).write_text(inherited)

    def join(self) -> None:
        """Put this process into the group."""
        pathlib.Path(self.group, "cgroup.procs").write_text("0")

    def mount(self) -> None:
        """Mount it, in the cgroup namespace; on v2 processes then are in leaves alone, and all
        controllers are handed down that there are."""
        if not self.pure:
            os.mkdir(self.mounted)
        _mount(self.kind, self.mounted, self.kind, 0, self.options)
        if self.pure:
            os.mkdir(f"{CGROUPS}/tests")
            pathlib.Path(CGROUPS, "tests/cgroup.procs").write_text("0")
            for controller in pathlib.Path(CGROUPS, "cgroup.controllers").read_text().split():
                with contextlib.suppress(OSError):  # one that cannot be had for groups
                    control = pathlib.Path(CGROUPS, "cgroup.subtree_control")
                    control.write_text(f"+{controller}")

    def remove(self, timeout_s: float = 10) -> None:
        """Remove the group and all below; the kernel lets go of the dead in its own time."""
        end = time.monotonic() + timeout_s
        for directory, _, _ in os.walk(self.group, topdown=False):
            while True:
                try:
                    os.rmdir(directory)
                    break
                except OSError as error:
                    if time.monotonic() > end:
                        print(f"world: {directory} stays: {error}", file=sys.stderr)
                        break
                    time.sleep(0.01)

    def sweep(self) -> None:
        """Remove groups of worlds whose keeper was killed."""
        for path in _left(self.parent, PREFIX):
            with contextlib.suppress(OSError):  # somebody else is at it too
                for directory, _, _ in os.walk(path, topdown=False):
                    os.rmdir(directory)


def _left(parent: str, prefix: str) -> list[str]:
    """Directories of worlds whose keeper was killed: nobody has them locked."""
    found = []
    for name in os.listdir(parent):
        if not name.startswith(prefix):
            continue
        with contextlib.suppress(OSError):  # gone meanwhile, or locked by its keeper
            directory = os.open(f"{parent}/{name}", os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # one that is being made is not locked yet
                if time.time() - os.fstat(directory).st_ctime > 60:
                    found.append(f"{parent}/{name}")
            finally:
                os.close(directory)
    return found


def _sweep_tmp() -> None:
    """Remove the /tmp of worlds whose keeper was killed."""
    for path in _left("/tmp", PREFIX_TMP):
        shutil.rmtree(path, ignore_errors=True)


def _hierarchies(name: str) -> list[Hierarchy]:
    lines = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
    return [found for found in (Hierarchy(line, name) for line in lines) if found.there()]


class World:
    """What a command is surrounded with, and how it is taken down."""

    def __init__(
        self, kept: list[str], *, with_parent: bool, root: str = "", binds: Sequence[str] = ()
    ) -> None:
        self.with_parent = with_parent
        self.root = os.path.realpath(root) if root else ""
        self.binds = [tuple(bind.split(":", 1)) for bind in binds]
        mine = f"/tmp/pytest-of-{getpass.getuser()}"
        os.makedirs(mine, mode=0o700, exist_ok=True)
        paths = [str(PROJECT), os.path.realpath(sys.prefix), os.getcwd(), mine, *kept]
        inside = [path for path in dict.fromkeys(paths) if path.startswith("/tmp/")]
        self.kept = [] if root else inside
        self.shared = _shared_root()
        name = f"{PREFIX}{os.getpid()}-{time.time_ns() % 1_000_000:06}"
        self.groups = _hierarchies(name)
        self.links = _links()
        self.tmp = ""

    def run(self, command: list[str]) -> int:
        """Run the command to its end: its exit status."""
        if self.with_parent:
            _call("prctl", PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        all_of_them = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
        # what the caller ignores (nohup) stays so
        wanted = {number for number in all_of_them if signal.getsignal(number) != signal.SIG_IGN}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, wanted | {signal.SIGCHLD})
        keeper = os.fork()
        if keeper:
            return _wait(keeper, wanted, lambda number: os.kill(keeper, number))
        _call("prctl", PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        os._exit(self._keep(command, wanted, mask))

    def _keep(
        self,
        command: list[str],
        wanted: set[signal.Signals],
        mask: set[int | signal.Signals],
    ) -> int:
        """Make the world, wait for its end, take it down."""
        _sweep_tmp()
        self.tmp = tempfile.mkdtemp(prefix=PREFIX_TMP, dir="/tmp")
        fcntl.flock(os.open(self.tmp, os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_EX)
        first = 0
        try:
            for group in self.groups:
                group.sweep()
                group.make()
            alive, ours = os.pipe()
            _call("unshare", CLONE_NEWPID)
            first = os.fork()
            if not first:
                os.close(ours)
                os._exit(self._first(command, mask, alive))
            os.close(alive)
            return _wait(first, wanted, lambda number: self._told(first, number))
        finally:
            if first:
                with contextlib.suppress(ProcessLookupError, ChildProcessError):
                    os.kill(first, signal.SIGKILL)
                    os.waitpid(first, 0)
            for group in self.groups:
                group.remove()
            shutil.rmtree(self.tmp, ignore_errors=True)

    @staticmethod
    def _told(first: int, number: int) -> None:
        os.kill(first, number if number == signal.SIGINT else signal.SIGKILL)

    def _first(self, command: list[str], mask: set[int | signal.Signals], alive: int) -> int:
        """The first process of the PID namespace: builds the rest, and reaps until the end."""
        try:
            _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            os.set_blocking(alive, False)
            with contextlib.suppress(BlockingIOError):
                if not os.read(alive, 1):  # the other has died before it could be said
                    return 1
            self._build()
            process = os.fork()
            if not process:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                if not self.root:
                    os.environ[MARK] = "1"
                os.execvp(command[0], command)
            return _wait(process, {signal.SIGINT}, lambda number: os.kill(process, number))
        except BaseException as error:
            print(f"world: {error!r}", file=sys.stderr, flush=True)
            return 1

    def _build(self) -> None:
        for group in self.groups:
            group.join()
        flags = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
        _call("unshare", flags | (0 if self.root else CLONE_NEWNET))
        _mount("", "/", flags=MS_REC | MS_PRIVATE)
        tmp, *kept = [_clone(path) for path in (self.tmp, *self.kept)]
        if self.root:
            self._enter_root()
        self._mount_sys()
        _detach("/proc", "/tmp", "/run")
        _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        _attach(tmp, "/tmp")
        os.chmod("/tmp", 0o1777)
        for path, descriptor in zip(self.kept, kept, strict=True):
            os.makedirs(path, exist_ok=True)
            _attach(descriptor, path)
        _mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
        for name in ("lock", "netns"):
            os.mkdir(f"/run/{name}")
        _attach(_clone("/run/netns"), "/run/netns")  # as ip-netns(8) would, in the first test
        _mount("", "/run/netns", flags=MS_SHARED)
        if self.shared or self.root:  # systemd, which the other machine would have, shares it
            _mount("", "/", flags=MS_REC | MS_SHARED)
        if self.root:
            return
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            request = struct.pack("16sH14x", b"lo", 0)
            flags = struct.unpack("16xH14x", fcntl.ioctl(sock, SIOCGIFFLAGS, request))[0]
            fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))

    def _enter_root(self) -> None:
        """Make the tree the root, with the machine's /dev and what is bound. Nothing can be
        imported after it."""
        b"-".decode("unicode_escape").encode("latin-1")  # codecs are modules
        sources = [("/dev", "/dev"), *self.binds]
        clones = [(_clone(source, recursive=True), target) for source, target in sources]
        _mount(self.root, self.root, flags=MS_BIND | MS_REC)
        for (source, _), (clone, target) in zip(sources, clones, strict=True):
            path = pathlib.Path(self.root + target)
            if os.path.isdir(source):
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            _attach(clone, str(path))
        os.chdir(self.root)
        _call("syscall", SYS_PIVOT_ROOT, b".", b".")
        _call("umount2", b".", MNT_DETACH)
        os.chdir("/")
        _mount("proc", "/proc", "proc")

    def _mount_sys(self) -> None:
        """sysfs shows the network namespace of who has mounted it."""
        links = self.links
        _detach("/sys")
        _mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        if self.groups and not any(group.pure for group in self.groups):
            _mount("tmpfs", CGROUPS, "tmpfs", 0, "mode=755")
        for group in self.groups:
            group.mount()
        for name, target in links.items():
            os.symlink(target, f"{CGROUPS}/{name}")


def _links() -> dict[str, str]:
    """The links among the hierarchies of v1, and what they lead to."""
    if not os.path.isdir(CGROUPS):
        return {}
    names = [name for name in os.listdir(CGROUPS) if os.path.islink(f"{CGROUPS}/{name}")]
    return {name: os.readlink(f"{CGROUPS}/{name}") for name in names}


def _clone(path: str, *, recursive: bool = False) -> int:
    """A mount of a directory that is nowhere yet (open_tree(2)), its descriptor: a bind mount's
    source would go with the mount that it is in."""
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return _call("syscall", SYS_OPEN_TREE, AT_FDCWD, path.encode(), flags)


def _attach(mount: int, path: str) -> None:
    """Mount at a directory what `_clone` has made (move_mount(2))."""
    words = (mount, b"", AT_FDCWD, path.encode(), MOVE_MOUNT_F_EMPTY_PATH)
    _call("syscall", SYS_MOVE_MOUNT, *words)
    os.close(mount)


def _detach(*directories: str) -> None:
    """Take off all that is mounted at or below some directories."""
    table = pathlib.Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    targets = [line.split()[4] for line in table.splitlines()]
    for target in reversed(targets):
        if any(target == path or target.startswith(f"{path}/") for path in directories):
            name = target.encode(errors="surrogateescape").decode("unicode_escape")
            with contextlib.suppress(OSError):  # gone with the one that it was in
                _call("umount2", name.encode("latin-1"), MNT_DETACH)


def _shared_root() -> bool:
    """Whether mounts in the root directory are propagated, as systemd has it."""
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" - ")[0].split()
        if fields[4] == "/":
            return any(field.startswith("shared:") for field in fields[6:])
    return False


def _wait(process: int, wanted: set[signal.Signals], told: Callable[[int], None]) -> int:
    """Wait for a child's end, reap all others, pass signals on: its exit status."""
    while True:
        found = signal.sigwaitinfo(wanted | {signal.SIGCHLD})
        if found.si_signo != signal.SIGCHLD:
            # a terminal's SIGINT has come to the command, too
            if found.si_signo != signal.SIGINT or found.si_code == SI_USER:
                told(found.si_signo)
            continue
        with contextlib.suppress(ChildProcessError):
            while True:
                ended, status = os.waitpid(-1, os.WNOHANG)
                if not ended:
                    break
                if ended == process:
                    code = os.waitstatus_to_exitcode(status)
                    return code if code >= 0 else 128 - code


def possible() -> bool:
    """Whether this process may make a world."""
    words = ["unshare", "--mount", "--net", "--pid", "--fork", "true"]
    return os.geteuid() == 0 and subprocess.run(words, stderr=subprocess.DEVNULL).returncode == 0


def main(words: list[str]) -> int:
    """Run a command in a world."""
    border = words.index("--")
    options, command = words[:border], words[border + 1 :]

    def given(name: str) -> list[str]:
        return [options[i + 1] for i, option in enumerate(options) if option == name]

    root = "".join(given("--root"))
    if (os.environ.get(MARK) and not root) or not possible():
        if root:
            sys.exit("world: a root of its own takes root's rights")
        os.execvp(command[0], command)
    world = World(
        given("--keep"), with_parent="--with-parent" in options, root=root, binds=given("--bind")
    )
    return world.run(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
