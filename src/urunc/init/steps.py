# SPDX-License-Identifier: Apache-2.0
"""All steps by which init becomes the monitor: those on the process itself are defined here, those
that make its root in init/root_steps.py. `pack` and `unpack` carry them through init's pipe.

init/setup.py says which steps a container takes. They run in init, in the container's namespaces,
as root until `User`. Everything is imported before the first step: after `PivotRoot` there is
nothing left to import from.
"""

from __future__ import annotations

import posix

from urunc.init.root_steps import ROOT_STEPS, Step
from urunc.linux import _linux
from urunc.linux.files import exists, write_bytes
from urunc.linux.process import RLIMITS
from urunc.record import plain, rebuild, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

PR_SET_NO_NEW_PRIVS = 38
PR_SET_DUMPABLE = 4
NODE_MASK_BYTES = 128
"""The length of a mask of NUMA nodes: 1024 bits, the most that a kernel can be built for
(MAX_NUMNODES)."""


@record
class HostName(Step):
    """Set the names of the UTS namespace; an empty one stays as it is."""

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
    """The monitor's AppArmor profile or SELinux context, from its execve on. Written to the first
    of `files` that exists (proc(5), attr/exec), so before the host's /proc is gone."""

    files: tuple[str, ...]
    value: str

    def describe(self) -> str:
        return f"label '{self.value}' from execve on"

    def execute(self) -> None:
        path = next((file for file in self.files if exists(file)), self.files[-1])
        write_bytes(path, self.value.encode())


@record
class Umask(Step):
    """umask(2), for the monitor."""

    mask: int

    def describe(self) -> str:
        return f"umask {self.mask:04o}"

    def execute(self) -> None:
        posix.umask(self.mask)


@record
class ResourceLimit(Step):
    """setrlimit(2). Init does it itself, as its last step but `User`: a low limit would hinder the
    other steps, and setting it from outside takes CAP_SYS_RESOURCE."""

    type: str
    soft: int
    hard: int

    def describe(self) -> str:
        return f"{self.type} {self.soft} {self.hard}"

    def execute(self) -> None:
        _linux.setrlimit(0, RLIMITS[self.type.removeprefix("RLIMIT_")], self.soft, self.hard)


@record
class SetMemoryPolicy(Step):
    """set_mempolicy(2): the NUMA nodes that the monitor's memory comes from, and its guest's with
    it. The policy survives execve, and threads inherit it."""

    mode: int
    nodes: tuple[int, ...]
    words: str

    def describe(self) -> str:
        return f"linux.memoryPolicy {self.words}"

    def execute(self) -> None:
        mask = sum(1 << node for node in self.nodes)
        _linux.set_mempolicy(self.mode, mask.to_bytes(NODE_MASK_BYTES, "little") if mask else b"")


@record
class Keyring(Step):
    """Join a new session keyring (keyctl(2), KEYCTL_JOIN_SESSION_KEYRING)."""

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
    """Become the monitor's user: no capabilities, an empty bounding set, no new privileges."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    keep_groups: bool
    """Whether setgroups(2) is left out: a user namespace of an ordinary user denies it."""

    def describe(self) -> str:
        groups = f" groups={','.join(map(str, self.groups))}" if self.groups else ""
        return f"user {self.uid}:{self.gid}{groups}, no capabilities, no new privileges"

    def execute(self) -> None:
        _linux.drop_bounding()
        if not self.keep_groups:
            try:
                posix.setgroups(list(self.groups))
            except PermissionError:
                # an ordinary user's namespace denies it to its root, too (user_namespaces(7)): the
                # groups stay those of that user, who has made the container
                if self.groups:
                    raise
        posix.setresgid(self.gid, self.gid, self.gid)
        posix.setresuid(self.uid, self.uid, self.uid)
        _linux.capset(0)
        _linux.prctl(PR_SET_NO_NEW_PRIVS, 1)
        _linux.prctl(PR_SET_DUMPABLE, 0)  # setresuid(2) has done so unless the user is root


STEPS: dict[str, type[Step]] = {
    cls.__name__: cls
    for cls in (
        *ROOT_STEPS, HostName, Sysctl, Label, Umask, SetMemoryPolicy, Keyring, ResourceLimit, User,
    )
}  # fmt: skip


def pack(steps: list[Step]) -> tuple[tuple[str, Any], ...]:
    """Steps by their names and fields, for init's pipe."""
    return tuple((type(step).__name__, plain(step)) for step in steps)


def unpack(values: Iterable[tuple[str, Any]]) -> list[Step]:
    """The steps that `pack` made these values of; KeyError or TypeError for others."""
    return [rebuild(STEPS[name], fields) for name, fields in values]
