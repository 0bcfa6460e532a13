# SPDX-License-Identifier: Apache-2.0
"""Verbs that fail, or are killed, at any call by which they change something or could run out of
something: this process's own copy of urunc, in a fork, with the calls of `posix`, of urunc's module
in C and of netlink counted and, at one of them, replaced by an error or by SIGKILL.

A place is a call in a function of urunc's, in one of the processes that a verb consists of (the
runtime itself, its init, a helper), and which time it is. So it is the same in each run, whatever
the processes do at the same time. Steps and resources need no word of their own: all they do goes
through these calls.
"""

from __future__ import annotations

import errno
import functools
import mmap
import os
import pathlib
import signal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

CALLS = (
    *("open", "read", "write", "pread", "mkdir", "mkfifo", "mknod", "rename", "rmdir", "unlink"),
    *("truncate", "ftruncate", "chown", "fchown", "chmod", "fchmod", "scandir", "fork", "pipe"),
    *("setresuid", "setresgid", "setgroups", "setsid", "chdir", "dup", "dup2", "execve"),
    *("memfd_create", "pidfd_open"),
)
"""Of posix. Calls that only ask (stat, readlink) are left out, and so is close."""
ASK = ("prctl", "set_name", "default_signals", "madvise", "statmount")
"""Of urunc's own module, those left out."""
KINDS = ("SIGKILL", "ENOSPC", "EMFILE", "ENOMEM", "EIO")
ROLES, REGION = 12, 1 << 16


class Place(NamedTuple):
    """Where a verb can fail."""

    role: str
    """Which process: "" for the verb's own, else the function that forked it."""
    function: str
    """The module and the function of urunc's, as `urunc.journal.make`."""
    call: str
    time: int
    """The first time is 1."""

    def __str__(self) -> str:
        role = f"{self.role} > " if self.role else ""
        return f"{role}{self.function}: {self.call} #{self.time}"


class Seam:
    """The calls of one verb and of the processes that it forks, counted in memory that they share:
    init closes all descriptors."""

    def __init__(self, fault: tuple[Place, str] | None) -> None:
        self.memory = mmap.mmap(-1, ROLES * REGION)
        self.place: Place | None = fault[0] if fault else None
        self.kind = fault[1] if fault else ""
        self.role = ""
        self.region = 0
        self.times: dict[tuple[str, str], int] = {}

    def install(self) -> None:
        """Put it in the way, in a process that is for this alone."""
        import posix

        from urunc.linux import _linux, netlink, tun

        for module, names in (
            (posix, CALLS),
            (_linux, [name for name in dir(_linux) if name[0] != "_" and name not in ASK]),
            (tun, ("ioctl",)),
            (netlink.Socket, ("request", "transact", "dump")),
        ):
            for name in names:
                if callable(whole := getattr(module, name)):
                    setattr(module, name, self._in_the_way(whole, name))
        self._begin()

    def _in_the_way(self, whole: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(whole)
        def called(*words: Any, **named: Any) -> Any:
            caller = sys._getframe(1)
            module = str(caller.f_globals.get("__name__", ""))
            if module.startswith("urunc"):
                self._reach(f"{module}.{caller.f_code.co_name}", name)
            if name not in ("fork", "clone3"):
                return whole(*words, **named)
            self.memory[-1] += 1  # the region of who comes next
            region = self.memory[-1]
            found = whole(*words, **named)
            if found == 0:
                self.role, self.region, self.times = caller.f_code.co_name, region, {}
                self._begin()
            return found

        return called

    def _begin(self) -> None:
        self.end = self.region * REGION + 1
        self._note(f"= {self.role}")

    def _note(self, line: str) -> None:
        content = line.encode() + b"\n"
        if self.end + len(content) < (self.region + 1) * REGION - 1:
            self.memory[self.end : self.end + len(content)] = content
            self.end += len(content)

    def _reach(self, function: str, call: str) -> None:
        time = self.times[function, call] = self.times.get((function, call), 0) + 1
        place = Place(self.role, function, call, time)
        self._note(f"{function} {call} {time}")
        if place != self.place:
            return
        self.memory[0] = 1
        if self.kind == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, self.kind)
        raise OSError(number, os.strerror(number))

    @property
    def met(self) -> bool:
        """Whether the fault's place was reached."""
        return self.memory[0] == 1

    def reached(self) -> list[Place]:
        """Every place, once, those of each process in their order."""
        found: dict[Place, None] = {}
        for region in range(ROLES):
            begin = region * REGION
            text = self.memory[begin + 1 : begin + REGION - 1].rstrip(b"\0").decode()
            role = ""
            for line in text.splitlines():
                if line.startswith("= "):
                    role = line[2:]
                    continue
                function, call, time = line.split()
                found[Place(role, function, call, int(time))] = None
        return list(found)


class Ended(NamedTuple):
    """How a verb ended."""

    code: int
    """Its exit code, negative for a signal."""
    said: str
    met: bool
    reached: list[Place]


def verb(words: list[str], output: pathlib.Path, fault: tuple[Place, str] | None = None) -> Ended:
    """Run a verb in a fork of this process; what it and its container say is in `output`."""
    seam = Seam(fault)
    with output.open("wb") as file:
        child = os.fork()
        if not child:
            _become(words, file.fileno(), seam)
        _, status = os.waitpid(child, 0)
    said = output.read_text(errors="replace")
    return Ended(os.waitstatus_to_exitcode(status), said, seam.met, seam.reached())


def _become(words: list[str], output: int, seam: Seam) -> NoReturn:
    try:
        null = os.open("/dev/null", os.O_RDONLY)
        for number, source in enumerate((null, output, output)):
            os.dup2(source, number)
        os.closerange(3, 256)
        for name in [name for name in os.environ if name.startswith("URUNC_")]:
            del os.environ[name]
        sys.argv = ["urunc", *words]
        sys.stdout = os.fdopen(1, "w")
        from urunc.__main__ import main

        seam.install()
        main()
    finally:
        os._exit(70)
