# SPDX-License-Identifier: Apache-2.0
"""Starts a program (virtiofsd) that serves the monitor on a socket until the monitor ends.

Runs in init, as root in the container's namespaces and groups, before pivot_root(2): the program is
the host's, and neither it nor the files that it serves need be in the monitor's root. Init becomes
the monitor, so the daemon is the monitor's child and is killed with it (PR_SET_PDEATHSIG); it
should also end when its connection does.
"""

from __future__ import annotations

import posix
from _signal import SIGKILL
from _socket import AF_UNIX, SOCK_STREAM
from _socket import socket as Socket
from errno import EIO
from fcntl import F_DUPFD_CLOEXEC, fcntl
from resource import RLIMIT_NOFILE, getrlimit

from urunc.linux import _linux
from urunc.linux.files import O_PATH, read_descriptor
from urunc.linux.mounts import MS_BIND, MS_REC
from urunc.linux.namespaces import CLONE_NEWNS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

LISTENER = 3
"""The program's descriptor of the listening socket."""
PLACE = "/tmp"
"""Where the program sees `directory`. In a user namespace no absolute path may lead there, only
init's working directory, and programs change theirs (fuse_daemonize goes to the root)."""
DESCRIPTORS = 1_000_000
"""The limit of open files to set, if permitted: the program holds one for each file that its client
knows."""
PR_SET_PDEATHSIG = 1


def start(
    argv: tuple[str, ...], socket: str, uid: int, gid: int, *, directory: str = "", quiet: bool
) -> None:
    """Make a socket to which user `uid` may connect, and start a program that listens on it; raises
    OSError. `directory` is bound to PLACE for the program, "" for none. `quiet` drops its
    output."""
    listener = Socket(AF_UNIX, SOCK_STREAM)
    parent_directory, _, name = socket.rpartition("/")
    # a socket's path has 107 bytes at most (unix(7))
    fd = posix.open(parent_directory, O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    listener.bind(f"/proc/self/fd/{fd}/{name}")
    posix.close(fd)
    listener.listen(1)
    posix.chown(socket, uid, gid)
    hear, tell = posix.pipe()
    parent = posix.getpid()
    if posix.fork() == 0:
        try:
            _become(argv, listener.fileno(), tell, parent, directory=directory, quiet=quiet)
        except BaseException as error:
            posix.write(tell, str(getattr(error, "errno", EIO)).encode())
        finally:
            posix._exit(127)
    posix.close(tell)
    listener.close()
    problem = read_descriptor(hear)  # the pipe closes at its execve
    posix.close(hear)
    if problem:
        raise OSError(int(problem), posix.strerror(int(problem)))


def _become(
    argv: tuple[str, ...], listener: int, tell: int, parent: int, *, directory: str, quiet: bool
) -> NoReturn:
    posix.setsid()
    _linux.prctl(PR_SET_PDEATHSIG, SIGKILL)
    if posix.getppid() != parent:
        posix._exit(127)
    _linux.unshare(CLONE_NEWNS)
    if directory:
        _linux.mount(directory, PLACE, None, MS_BIND | MS_REC, None)
    _raise_limit()
    null = posix.open("/dev/null", posix.O_RDWR)
    posix.dup2(null, 0)
    posix.dup2(null if quiet else 2, 1)
    posix.dup2(1, 2)
    listener = fcntl(listener, F_DUPFD_CLOEXEC, LISTENER + 1)
    tell = fcntl(tell, F_DUPFD_CLOEXEC, LISTENER + 1)
    posix.dup2(listener, LISTENER)
    _linux.close_range(LISTENER + 1, tell - 1, 0)
    _linux.close_range(tell + 1, 0xFFFFFFFF, 0)
    _linux.default_signals()
    posix.execve(argv[0], argv, {})


def _raise_limit() -> None:
    """Raise the limit of open files to DESCRIPTORS, or as far as permitted."""
    hard = getrlimit(RLIMIT_NOFILE)[1]
    try:
        _linux.setrlimit(0, RLIMIT_NOFILE, max(hard, DESCRIPTORS), max(hard, DESCRIPTORS))
    except OSError:  # no CAP_SYS_RESOURCE, or fs.nr_open is less
        _linux.setrlimit(0, RLIMIT_NOFILE, hard, hard)
