# SPDX-License-Identifier: Apache-2.0
"""A container's directory below --root: made, and locked by flock(2) on itself while a verb works
on it."""

from __future__ import annotations

import posix
from errno import ENOENT, ENOTDIR
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock

from urunc.errors import ExistsError, HostError, reason
from urunc.linux.files import append, exists, make_directories, remove_tree, unlink
from urunc.state import FILE, JOURNAL, OLD_FILE, State, check_id, load, not_found


class Directory:
    """A container's directory below --root, locked while a verb works on it."""

    def __init__(self, root: str, identifier: str) -> None:
        self.path = f"{root}/{identifier}"
        self.identifier = identifier
        self._fd = -1

    def make(self) -> None:
        """Make the directory, locked; ExistsError where the id is taken."""
        made = False
        try:
            make_directories(self.path.rpartition("/")[0], 0o711)
            posix.mkdir(self.path, 0o711)
            made = True
            append(f"{self.path}/{JOURNAL}", b"")
        except FileExistsError:
            raise ExistsError(
                f"create '{self.identifier}': container with given ID already exists"
            ) from None
        except OSError as error:
            if made:
                self._unmake()
            raise HostError(
                f"create '{self.identifier}': make directory '{self.path}': {reason(error)}",
                "--root names another place for the state of containers",
            ) from None
        try:
            self.lock()
        except HostError:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the directory; HostError where that cannot be, and then it is a container's still,
        which can be deleted again. (The door removes in the same order.)"""
        try:
            remove_tree(self.path, (OLD_FILE, FILE, JOURNAL))
        except OSError as error:
            raise HostError(
                f"delete '{self.identifier}': remove '{error.filename}': {reason(error)}",
                "the container stays until this can be removed: delete it again then",
            ) from None

    def _unmake(self) -> None:
        try:
            unlink(f"{self.path}/{JOURNAL}")
            posix.rmdir(self.path)
        except OSError:
            pass  # the error that led here matters more

    def lock(self, *, wait: bool = True) -> bool:
        """Have the directory alone; NotFoundError where there is none. Without `wait`, False where
        another verb has it."""
        while True:
            try:
                fd = posix.open(self.path, posix.O_DIRECTORY | posix.O_RDONLY | posix.O_CLOEXEC)
            except OSError as error:
                if error.errno in (ENOENT, ENOTDIR):
                    raise not_found(self.identifier) from None
                raise HostError(f"lock '{self.path}': {reason(error)}") from None
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
