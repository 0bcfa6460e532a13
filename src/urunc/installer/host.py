# SPDX-License-Identifier: Apache-2.0
"""The node: its files below a root, and how its programs are run.

The root is `/`, or where a pod has the node's root mounted. A symbolic link of the node's is
followed within the root, as the node itself would. Every change passes `about_to`, so that a dry
run can leave them out and a test can end the process between any two.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import pathlib
import shutil
import socket
import stat
import struct
import subprocess
from collections.abc import Collection, Iterator

DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where the node's services look for programs."""
LINKS = 40


class Failure(Exception):
    """What stops the installer; the message is for whoever runs it."""


@contextlib.contextmanager
def locked(host: Host) -> Iterator[None]:
    """Have /run of the node locked against other installers; raises Failure."""
    lock = os.open(host.path("/run") if host.exists("/run") else host.root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure("another installer works on this node") from None
        yield
    finally:
        os.close(lock)


def started_with(pid: int, what: str) -> list[str]:
    """The texts of a process's `cmdline` or `environ` (proc(5)); raises OSError."""
    with open(f"/proc/{pid}/{what}", "rb") as file:
        return [os.fsdecode(text) for text in file.read().split(b"\0")[:-1]]


class Host:
    """A node. Paths are the node's own, absolute."""

    def __init__(self, root: str = "/", *, dry: bool = False, quiet: bool = False) -> None:
        self.root = pathlib.Path(root).resolve()
        self.dry = dry
        self.quiet = quiet
        if not self.root.is_dir():
            raise Failure(f"host root '{root}': no directory")

    def say(self, text: str) -> None:
        """Tell the user."""
        if not self.quiet:
            print(text, flush=True)

    def about_to(self, what: str) -> None:
        """Called before each change of the node."""

    def path(self, path: str) -> pathlib.Path:
        """Where a path of the node's is here, its links followed within the root."""
        parts = [part for part in path.split("/") if part]
        done: list[str] = []
        links = 0
        while parts:
            part = parts.pop(0)
            if part == "..":
                del done[-1:]
                continue
            if part == ".":
                continue
            here = self.root.joinpath(*done, part)
            if not here.is_symlink():
                done.append(part)
                continue
            links += 1
            if links > LINKS:
                raise Failure(f"{path}: too many symbolic links")
            target = os.readlink(here)
            if target.startswith("/"):
                done = []
            parts = [piece for piece in target.split("/") if piece] + parts
        return self.root.joinpath(*done)

    def exists(self, path: str) -> bool:
        """Whether the node has it."""
        return self.path(path).exists()

    def read(self, path: str) -> str | None:
        """A text file; None where there is none."""
        try:
            return self.path(path).read_text()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(f"read {path}: {error}") from error

    def matching(self, pattern: str) -> list[str]:
        """The node's paths whose last part matches a pattern, sorted."""
        directory, _, name = pattern.rpartition("/")
        here = self.path(directory)
        return [
            f"{directory}/{found.name}"
            for found in sorted(map(pathlib.Path, glob.glob(f"{glob.escape(str(here))}/{name}")))
        ]

    def program(self, *names: str, directories: tuple[str, ...] = DIRECTORIES) -> str:
        """The node's path of the first program that it has; "" for none."""
        for name in names:
            for directory in directories:
                here = self.path(f"{directory}/{name}")
                if here.is_file() and os.access(here, os.X_OK):
                    return f"{directory}/{name}"
        return ""

    @contextlib.contextmanager
    def connected(self, path: str, timeout_s: float = 5) -> Iterator[socket.socket]:
        """A client of a socket; raises OSError."""
        here = self.path(path)
        # by its directory: there are 107 bytes for a path
        directory = os.open(here.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(timeout_s)
                client.connect(f"/proc/self/fd/{directory}/{here.name}")
                yield client
        finally:
            os.close(directory)

    def listener(self, path: str) -> int:
        """The pid of who listens at a socket; 0 if nobody does, -1 if it is out of sight."""
        try:
            with self.connected(path) as client:
                size = struct.calcsize("3i")
                data = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        except OSError:
            return 0
        return int(struct.unpack("3i", data)[0]) or -1

    def write(self, path: str, text: str | bytes, mode: int = 0o644) -> bool:
        """Write a file whole or not at all; an existing one keeps its owner and mode. False where
        it was so before."""
        here = self.path(path)
        data = text.encode() if isinstance(text, str) else text
        with contextlib.suppress(OSError):
            if here.read_bytes() == data:
                return False
        self.about_to(f"write {path}")
        if self.dry:
            return True
        directory = here.parent
        if directory.name.endswith(".d") and not directory.is_mount():
            directory = (
                directory.parent
            )  # CRI-O reads whatever is in its directory, half a file too
        temporary = directory / f".{here.name}.urunc-new"
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), mode)
                with contextlib.suppress(FileNotFoundError):
                    old = here.stat()
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
                    os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
                os.fsync(file.fileno())
            temporary.replace(here)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise Failure(f"write {path}: {error.strerror}") from error
        return True

    def write_with_directories(self, path: str, text: str, mode: int) -> None:
        """Write a file, and make the directories above it that are not there in the same step:
        beside their place and with the file in them, then renamed."""
        directory, _, name = path.rpartition("/")
        missing = self.lacks(directory)
        if not missing:
            self.write(path, text, mode)
            return
        self.remove_unfinished(path)
        self.about_to(f"make {missing[0]} for {path}")
        if self.dry:
            return
        temporary = self._unfinished(missing[0])
        try:
            inner = temporary / directory[len(missing[0]) :].lstrip("/")
            inner.mkdir(parents=True)
            self.about_to(f"write {path}")
            with (inner / name).open("w") as file:
                file.write(text)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            self.about_to(f"rename {missing[0]}")
            temporary.rename(self.path(missing[0]))
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise Failure(f"write {path}: {error.strerror}") from error

    def remove_with_directories(self, path: str, made: Collection[str]) -> None:
        """Remove a file, and in the same step those of the made directories above it in which
        nothing else is."""
        top = path
        while (above := top.rpartition("/")[0]) in made:
            if os.listdir(self.path(above)) != [top.rpartition("/")[2]]:
                break
            top = above
        if top != path:
            self.about_to(f"remove {top}")
            if self.dry:
                return
            try:
                self.path(top).rename(self._unfinished(top))
            except OSError as error:
                raise Failure(f"remove {top}: {error.strerror}") from error
            self.remove_unfinished(path)
        else:
            self.remove(path)

    def remove_unfinished(self, path: str) -> None:
        """Remove what was cut short of a write or removal of this file with its directories."""
        for missing in self.lacks(path.rpartition("/")[0])[:1]:
            self.remove(f"{missing.rpartition('/')[0]}/{self._unfinished(missing).name}")

    def _unfinished(self, directory: str) -> pathlib.Path:
        here = self.path(directory)
        return here.with_name(f".{here.name}.urunc-new")

    def lacks(self, path: str) -> list[str]:
        """Which of a directory and those above it are not there, outermost first."""
        missing: list[str] = []
        while path not in ("", "/") and not self.exists(path):
            missing.insert(0, path)
            path = path.rpartition("/")[0]
        return missing

    def make_directory(self, path: str) -> None:
        """Make a directory and those above it."""
        for directory in self.lacks(path):
            self.about_to(f"make {directory}")
            if not self.dry:
                try:
                    self.path(directory).mkdir(exist_ok=True)
                except OSError as error:
                    raise Failure(f"make {directory}: {error.strerror}") from error

    def remove(self, path: str) -> bool:
        """Remove a file or a directory with all that is in it; False where there was none."""
        parent, _, name = path.rpartition("/")
        here = self.path(parent or "/") / name
        if not os.path.lexists(here):
            return False
        self.about_to(f"remove {path}")
        if not self.dry:
            try:
                if here.is_dir() and not here.is_symlink():
                    shutil.rmtree(here)
                else:
                    here.unlink()
            except OSError as error:
                raise Failure(f"remove {path}: {error.strerror}") from error
        return True

    def remove_empty(self, path: str) -> None:
        """Remove a directory if nothing is in it."""
        here = self.path(path)
        with contextlib.suppress(OSError):
            if here.is_dir() and not any(here.iterdir()):
                self.about_to(f"remove {path}")
                if not self.dry:
                    here.rmdir()

    def run(
        self, *words: str, check: bool = True, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the node's to its end, with the output as text. Raises Failure where it
        cannot be started or takes too long, with `check` also where it fails."""
        environment = {"PATH": ":".join(DIRECTORIES), "SYSTEMD_IGNORE_CHROOT": "1", "LC_ALL": "C"}
        try:
            result = subprocess.run(
                [*self.prefix(), *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                env=environment,
            )
        except subprocess.TimeoutExpired as error:
            raise Failure(f"{' '.join(words)}: no end after {timeout_s:.0f} s") from error
        except OSError as error:
            raise Failure(f"{words[0]}: {error.strerror}") from error
        if check and result.returncode:
            said = (result.stderr or result.stdout).strip()
            raise Failure(f"{' '.join(words)}: exit {result.returncode}: {said[-2000:]}")
        return result

    def prefix(self) -> list[str]:
        """The words before a command line that make it run on the node: in the mount namespace of
        its first process, where that is to be seen (systemctl refuses to work in a chroot)."""
        if self.root == pathlib.Path("/"):
            return []
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat("/proc/1/root/"), self.root.stat()):
                return ["nsenter", "--target", "1", "--mount", "--"]
        return ["chroot", str(self.root)]
