# SPDX-License-Identifier: Apache-2.0
"""state.json: what `create` wrote of a container, and its status, which is read from the kernel
each time.

Written whole or not at all. A directory below --root is urunc's if it holds a `journal`; any other
is an ordinary runtime's (see ordinary.py). The directory is locked by flock(2) on itself.
"""

from __future__ import annotations

import posix
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock

from urunc import OCI_VERSION
from urunc.errors import (
    ExistsError,
    HostError,
    NotFoundError,
    StateError,
    UsageError,
    reason,
)
from urunc.jsontext import dumps, loads
from urunc.linux import process
from urunc.linux.files import (
    append,
    exists,
    make_directories,
    read_text,
    write_whole,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SCHEMA = 4
FILE = "state.json"
JOURNAL = "journal"
START, STARTED = "start", "started"
"""The FIFOs between `start` and init (see init/main.py)."""
INIT_NAME = "urunc:[init]"
"""The command name by which /proc tells a container that is created from one that runs: execve
changes it."""
ID_LIMIT = 255
ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")

CHANNEL = "channel"
"""The plan's stop order where the signal is told to urunc's init in the guest (guest_channel.py),
and none to the monitor."""
CREATING, CREATED, RUNNING, STOPPED = "creating", "created", "running", "stopped"
PAUSED = "paused"


def runtime_directory() -> str:
    """Where what does not outlive the machine is kept: /run, or an ordinary user's own directory
    (XDG base directories), which is that user's, too, as root of a user namespace (as runc has
    it)."""
    directory = posix.environ.get(b"XDG_RUNTIME_DIR", b"").decode("utf-8", "surrogateescape")
    if posix.geteuid() == 0:
        if not directory or posix.environ.get(b"USER") == b"root":
            return "/run"
        from urunc.linux.cgroups import in_user_namespace

        return directory if in_user_namespace() else "/run"
    return directory or f"/tmp/urunc-{posix.geteuid()}"


def check_id(identifier: str) -> str:
    """The id, if it is one; raises UsageError."""
    if not identifier or len(identifier) > ID_LIMIT:
        raise UsageError(
            f"container id of {len(identifier)} characters: 1 to {ID_LIMIT} are allowed"
        )
    if not ID_CHARACTERS.issuperset(identifier) or identifier in (".", ".."):
        raise UsageError(
            f"container id '{identifier}': not allowed",
            "letters, digits and the characters _ + - . only",
        )
    return identifier


class Directory:
    """A container's directory below --root, locked while a verb works on it."""

    def __init__(self, root: str, identifier: str) -> None:
        self.path = f"{root}/{identifier}"
        self.identifier = identifier
        self._fd = -1

    def make(self) -> None:
        """Make the directory, locked; ExistsError where the id is taken."""
        try:
            make_directories(self.path.rpartition("/")[0], 0o711)
            posix.mkdir(self.path, 0o711)
            append(f"{self.path}/{JOURNAL}", b"")
        except FileExistsError:
            raise ExistsError(
                f"create '{self.identifier}': container with given ID already exists"
            ) from None
        except OSError as error:
            self._unmake()
            raise HostError(
                f"create '{self.identifier}': make directory '{self.path}': {reason(error)}",
                "--root names another place for the state of containers",
            ) from None
        self.lock()

    def _unmake(self) -> None:
        try:
            posix.rmdir(self.path)
        except OSError:
            pass  # it was not made

    def lock(self, *, wait: bool = True) -> bool:
        """Have the directory alone; NotFoundError where there is none. Without `wait`, False where
        another verb has it."""
        while True:
            try:
                fd = posix.open(self.path, posix.O_DIRECTORY | posix.O_RDONLY | posix.O_CLOEXEC)
            except OSError:
                raise not_found(self.identifier) from None
            try:
                flock(fd, LOCK_EX if wait else LOCK_EX | LOCK_NB)
            except BlockingIOError:
                posix.close(fd)
                return False
            # it may have been removed, and even made anew, while we waited
            try:
                same = posix.stat(self.path).st_ino == posix.fstat(fd).st_ino
            except OSError:
                same = False
            if same and exists(f"{self.path}/{JOURNAL}"):
                self._fd = fd
                return True
            posix.close(fd)

    def unlock(self) -> None:
        """Let others at it. A forked init may hold the descriptor too: the lock is released, not
        just closed."""
        if self._fd >= 0:
            flock(self._fd, LOCK_UN)
            posix.close(self._fd)
            self._fd = -1


def not_found(identifier: str) -> NotFoundError:
    """The error for an id that there is no container of, in the words that tools look for."""
    return NotFoundError(f"container '{identifier}' does not exist")


def is_ours(root: str, identifier: str) -> bool:
    """Whether this id is a container of urunc's own."""
    return exists(f"{root}/{identifier}/{JOURNAL}")


class State:
    """A container as recorded. `data` is state.json's object; what is not there yet is absent."""

    def __init__(self, directory: str, data: dict[str, Any]) -> None:
        self.directory = directory
        self.data = data

    @property
    def id(self) -> str:
        """The container's id."""
        return str(self.data["id"])

    @property
    def pid(self) -> int:
        """Init's (later the monitor's) pid in the runtime's pid namespace; 0 before there is
        one."""
        return int(self.data["pid"])

    def save(self) -> None:
        """Write it whole."""
        write_whole(f"{self.directory}/{FILE}", dumps(self.data).encode())

    def status(self) -> str:
        """What the kernel says: creating, created, running, paused or stopped. A zombie is
        stopped."""
        who = "init" if self.pid else "creator"
        pid, start_time = self.data[f"{who}Process"]
        facts = process.stat(pid)
        if facts is None or facts[1] in "ZX" or facts[2] != start_time:
            return STOPPED
        if self.data["bootId"] != process.boot_id():
            return STOPPED
        if who == "creator" or not self.data.get("ready"):
            return CREATING
        if self.paused():
            return PAUSED
        return CREATED if facts[0] == INIT_NAME else RUNNING

    def paused(self) -> bool:
        """Whether its control groups are frozen."""
        from urunc.linux.cgroups import frozen

        return frozen(self.data["groups"]["paths"])

    def pidfd(self) -> int | None:
        """A pidfd of init (or the monitor); None where it has ended."""
        pid, start_time = self.data.get("initProcess", (0, 0))
        if not pid or self.data["bootId"] != process.boot_id():
            return None
        return process.open_pidfd(pid, start_time)

    def oci(self, status: str = "") -> dict[str, Any]:
        """The specification's state object; `status` says it where the caller knows better."""
        status = status or self.status()
        return {
            "ociVersion": self.data.get("ociVersion", OCI_VERSION),
            "id": self.id,
            "status": status,
            "pid": 0 if status == STOPPED else self.pid,
            "bundle": self.data["bundle"],
            "annotations": self.data["annotations"],
        }


def load(root: str, identifier: str) -> State:
    """The recorded state of a container; NotFoundError, or StateError where it cannot be read."""
    directory = f"{root}/{check_id(identifier)}"
    path = f"{directory}/{FILE}"
    try:
        data = loads(read_text(path, 1 << 24))
    except OSError:
        raise not_found(identifier) from None
    except ValueError as error:
        raise StateError(
            f"read '{path}': {error}", "`urunc delete --force` removes the container"
        ) from None
    if data.get("schema") != SCHEMA:
        raise StateError(
            f"read '{path}': schema {data.get('schema')} is not {SCHEMA}",
            "another version of urunc wrote it: use that one, or `urunc delete --force`",
        )
    return State(directory, data)


class locked:
    """A container with its directory locked."""

    def __init__(self, root: str, identifier: str) -> None:
        self.directory = Directory(root, check_id(identifier))
        self.root = root

    def __enter__(self) -> State:
        self.directory.lock()
        try:
            return load(self.root, self.directory.identifier)
        except BaseException:
            self.directory.unlock()
            raise

    def __exit__(self, *_error: object) -> None:
        self.directory.unlock()
