# SPDX-License-Identifier: Apache-2.0
"""How a container's init comes to be in its namespaces: new ones and given ones, in the order that
the kernel allows.

Runs in the runtime. The usual container takes one clone3(2). A user or a time namespace takes a
stage before: a child that enters what must be entered first, and makes init its own sibling, so
that init is the runtime's child all the same. The traps: a namespace that a path leads to may
belong to the host (joined before the user namespace is entered, while there is the privilege) or
to the container's user namespace (joined after); a time namespace's clocks are fixed once a process
is in it, so it is unshared, set and only then entered by the clone (time_namespaces(7)); a pid
namespace is entered by children only (pid_namespaces(7)).
"""

from __future__ import annotations

import posix
from errno import EPERM

from urunc.errors import HostError, reason
from urunc.init.letters import Channel, Forked, MapIds, Problem, Proceed
from urunc.linux import _linux, namespaces
from urunc.linux.files import write_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from urunc.bundle.rare_keys import TimeOffset
    from urunc.ids import Ids

CLONE_PARENT = 0x8000
LATE = ("cgroup",)
"""Made by init itself, once it is in its control groups: the group it is in then is the new
namespace's root."""


def by_init(wanted: Mapping[str, str]) -> dict[str, str]:
    """The namespaces that init joins by path itself: all of them, but where there is a stage."""
    if has_stage(wanted):
        return {}
    return {kind: path for kind, path in wanted.items() if path and kind != "pid"}


def has_stage(wanted: Mapping[str, str]) -> bool:
    """Whether init is forked by a stage."""
    return "user" in wanted or "time" in wanted


def fork_init(
    wanted: Mapping[str, str],
    ids: Ids,
    offsets: tuple[TimeOffset, ...],
    group: int,
    directory: str,
    main: Callable[[], NoReturn],
) -> int:
    """The pid of a new process that runs `main` in the wanted namespaces (kind → path, "" for a new
    one) and, where `group` is a descriptor of one, in a control group; raises HostError.

    With a user namespace its working directory is `directory`, which it might not reach from
    inside.
    """
    if has_stage(wanted):
        return _fork_by_stage(wanted, ids, offsets, directory, main)
    home = -1
    if wanted.get("pid"):
        # its children enter it; ours comes back after the fork
        home = namespaces.open_namespace("/proc/self/ns/pid")
        _join("pid", wanted["pid"])
    pid = _linux.clone3(_flags(wanted), group)
    if pid == 0:
        main()
    if home >= 0:
        _linux.setns(home, namespaces.CLONE_NEWPID)
        posix.close(home)
    return pid


def _flags(wanted: Mapping[str, str], but: tuple[str, ...] = ()) -> int:
    flags = namespaces.CLONE_NEWNS
    for kind, path in wanted.items():
        if not path and kind not in LATE and kind not in but:
            flags |= namespaces.KINDS[kind][0]
    return flags


def _join(kind: str, path: str) -> None:
    try:
        namespaces.join(path, namespaces.KINDS[kind][0])
    except OSError as error:
        raise HostError(f"{kind} namespace '{path}': {reason(error)}") from None


class _Stage:
    """The stage's side: runs in the child, reports init's pid or what went wrong."""

    def __init__(
        self, wanted: Mapping[str, str], offsets: tuple[TimeOffset, ...], channel: Channel
    ) -> None:
        self.wanted = wanted
        self.offsets = offsets
        self.channel = channel

    def run(self, main: Callable[[], NoReturn]) -> NoReturn:
        try:
            pid = self._enter()
            if pid == 0:
                self.channel.close()
                main()
            self.channel.send(Forked(pid=pid))
        except HostError as error:
            self.channel.send(Problem(error=error.message, hint=error.hint))
        except OSError as error:
            self.channel.send(Problem(error=f"enter namespaces: {reason(error)}"))
        finally:
            posix._exit(0)

    def _enter(self) -> int:
        given = [kind for kind, path in self.wanted.items() if path and kind != "user"]
        later = [kind for kind in given if not self._join_now(kind)]
        new_time = self.wanted.get("time") == "" and self._new_time()
        if "user" in self.wanted:
            self._enter_user()
        for kind in later:
            _join(kind, self.wanted[kind])
        if self.wanted.get("time") == "" and not new_time:
            _linux.unshare(namespaces.KINDS["time"][0])
            self._set_clocks()
        if self.wanted.get("pid") == "":
            _linux.unshare(namespaces.CLONE_NEWPID)  # beside CLONE_PARENT older kernels refuse it
        flags = _flags(self.wanted, but=("user", "time", "pid"))
        return _linux.clone3(flags | CLONE_PARENT, -1)

    def _join_now(self, kind: str) -> bool:
        """Join by path, if the host's privilege is what it takes."""
        try:
            namespaces.join(self.wanted[kind], namespaces.KINDS[kind][0])
        except OSError as error:
            if error.errno == EPERM and "user" in self.wanted:
                return False
            raise HostError(f"{kind} namespace '{self.wanted[kind]}': {reason(error)}") from None
        return True

    def _new_time(self) -> bool:
        try:
            _linux.unshare(namespaces.KINDS["time"][0])
        except OSError as error:
            if error.errno == EPERM and "user" in self.wanted:
                return False
            raise HostError(f"time namespace: {reason(error)}") from None
        self._set_clocks()
        return True

    def _set_clocks(self) -> None:
        lines = [f"{item.clock} {item.seconds} {item.nanoseconds}\n" for item in self.offsets]
        if lines:
            try:
                write_bytes("/proc/self/timens_offsets", "".join(lines).encode())
            except OSError as error:
                raise HostError(f"linux.timeOffsets: {reason(error)}") from None

    def _enter_user(self) -> None:
        path = self.wanted["user"]
        if path:
            _join("user", path)
        else:
            try:
                _linux.unshare(namespaces.KINDS["user"][0])
            except OSError as error:
                raise HostError(
                    f"user namespace: {reason(error)}",
                    "the host may forbid them: sysctl user.max_user_namespaces, "
                    "kernel.unprivileged_userns_clone",
                ) from None
            self.channel.send(MapIds())
            if self.channel.receive() is None:
                posix._exit(1)  # the runtime gave up
        # the root of the namespace from here on, without the groups of the caller
        try:
            posix.setgroups([])
        except OSError:
            pass  # denied where an ordinary user made the namespace (user_namespaces(7))
        posix.setresgid(0, 0, 0)
        posix.setresuid(0, 0, 0)


def _fork_by_stage(
    wanted: Mapping[str, str],
    ids: Ids,
    offsets: tuple[TimeOffset, ...],
    directory: str,
    main: Callable[[], NoReturn],
) -> int:
    hear, say = posix.pipe()
    wait, go = posix.pipe()
    stage = posix.fork()
    if stage == 0:
        posix.close(hear)
        posix.close(go)
        if "user" in wanted:
            posix.chdir(directory)
        _Stage(wanted, offsets, Channel(wait, say)).run(main)
    posix.close(say)
    posix.close(wait)
    channel = Channel(hear, go)
    try:
        letter = channel.receive()
        if isinstance(letter, MapIds):
            write_maps(stage, ids)
            channel.send(Proceed())
            letter = channel.receive()
    finally:
        channel.close()
        posix.waitpid(stage, 0)
    if isinstance(letter, Problem):
        raise HostError(letter.error, letter.hint)
    if letter is None:
        raise HostError("enter namespaces: the stage died")
    return int(letter.pid)


def write_maps(pid: int, ids: Ids) -> None:
    """Say which ids of the runtime the new user namespace of a process has; raises HostError.

    Root writes them; an ordinary user may map its own id alone, and asks newuidmap(1) for those
    that /etc/subuid allows it.
    """
    for kind, tool, own, id_map in (
        ("uid", "newuidmap", posix.geteuid(), ids.users),
        ("gid", "newgidmap", posix.getegid(), ids.groups),
    ):
        lines = [(item.container, item.host, item.size) for item in id_map.ranges]
        only_own = len(lines) == 1 and lines[0][1:] == (own, 1)
        try:
            if posix.geteuid() == 0 or only_own:
                if kind == "gid" and posix.geteuid() != 0:
                    write_bytes(f"/proc/{pid}/setgroups", b"deny")
                text = "".join(f"{a} {b} {c}\n" for a, b, c in lines)
                write_bytes(f"/proc/{pid}/{kind}_map", text.encode())
            else:
                _map_by_tool(tool, pid, lines)
        except OSError as error:
            raise HostError(f"linux.{kind}Mappings: {reason(error)}") from None


def _map_by_tool(tool: str, pid: int, lines: list[tuple[int, int, int]]) -> None:
    from urunc.programs import capture, find_program

    program = find_program(tool)
    if not program:
        raise HostError(
            f"linux.uidMappings: '{tool}' is not installed",
            "an ordinary user needs it to map more than the own id (package uidmap)",
        )
    words = [str(number) for line in lines for number in line]
    status, text = capture([program, str(pid), *words])
    if status:
        raise HostError(f"{tool}: {text.strip()}", "see /etc/subuid and /etc/subgid")
