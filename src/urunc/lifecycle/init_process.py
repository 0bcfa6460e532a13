# SPDX-License-Identifier: Apache-2.0
"""A container's first process as `create` sees it: forked with what it knows from its birth, told
what to do, listened to, and killed where `create` fails (init/main.py is its own side)."""

from __future__ import annotations

import posix

from urunc import timing
from urunc.errors import InitError
from urunc.init import clone
from urunc.init.letters import Channel, Problem, RunHooks, Setup
from urunc.init.main import main
from urunc.linux.cgroups import UNIFIED
from urunc.state import START, STARTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from urunc.bundle.spec import Spec
    from urunc.cgroup.groups import Groups
    from urunc.ids import Ids
    from urunc.init.letters import Prepare
    from urunc.init.setup import Ready
    from urunc.lifecycle.streams import Streams

SIGKILL = 9
FIFO_FLAGS = posix.O_NONBLOCK | posix.O_CLOEXEC


class InitProcess:
    """Init, from its fork on; `pid` is 0 before."""

    def __init__(self, timeout_s: int) -> None:
        self.pid = 0
        self.in_groups = False
        """Whether it was in its control groups from its first moment."""
        self._owed = 0
        """How many answers are still to come."""
        self._timeout_s = timeout_s
        self._channel: Channel | None = None

    def fork(
        self,
        spec: Spec,
        directory: str,
        ids: Ids,
        groups: Groups,
        ready: Ready,
        streams: Streams | None,
        preserve_fds: int,
    ) -> None:
        """Fork it, and close what is its alone from then on. Raises HostError, OSError."""
        posix.mkfifo(f"{directory}/{START}", 0o600)
        posix.mkfifo(f"{directory}/{STARTED}", 0o600)
        posix.mkdir(f"{directory}/root", 0o755)  # init in a user namespace may not
        unified, others = self._groups_to_be_born_in(spec, groups)
        setup = Setup(
            image_root=spec.root,
            groups=others,
            join=clone.by_init(spec.namespaces),
            start_fd=posix.open(f"{directory}/{START}", FIFO_FLAGS | posix.O_RDONLY),
            started_fd=posix.open(f"{directory}/{STARTED}", FIFO_FLAGS | posix.O_RDWR),
            prepared=_prepared(ready, streams),
            streams=streams.descriptors if streams else (),
            readers=streams.readers if streams else (),
            keep_descriptors=preserve_fds,
            create_hooks=spec.hooks.get("createContainer", ()),
            start_hooks=spec.hooks.get("startContainer", ()),
            hook_capabilities=_hook_capabilities(spec),
        )
        to_init, from_init = posix.pipe(), posix.pipe()

        def become_init() -> NoReturn:
            main(setup, Channel(to_init[0], from_init[1]))

        timing.stamp(3)
        self.pid = clone.fork_init(
            spec.namespaces, ids, spec.time_offsets, unified, directory, become_init
        )
        timing.stamp(6)
        own = (to_init[0], from_init[1], setup.start_fd, setup.started_fd, unified)
        for fd in (*own, *setup.prepared):
            if fd >= 0:
                posix.close(fd)
        self.begin(Channel(from_init[0], to_init[1]))

    def begin(self, channel: Channel) -> None:
        """Talk with an init that is on the way to its place."""
        self._channel = channel
        self._owed = 1

    def _groups_to_be_born_in(self, spec: Spec, groups: Groups) -> tuple[int, tuple[str, ...]]:
        """A descriptor of the v2 group, in which init is from its first moment
        (CLONE_INTO_CGROUP), -1 where there is none, and v1's groups, which it joins before all
        else. Behind a stage it may not, and is joined from outside."""
        self.in_groups = bool(groups.paths) and not clone.has_stage(spec.namespaces)
        if not self.in_groups:
            return -1, ()
        directory = groups.paths.get(UNIFIED)
        others = tuple(path for path in groups.directories if path != directory)
        if not directory:
            return -1, others
        flags = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC
        return posix.open(directory, flags), others

    def run_hooks(self, state: str) -> None:
        """Have it run the createContainer hooks, with this on their standard input."""
        self.hear()
        self.say(RunHooks(state=state))
        self.hear(limited=False)  # each hook has a time limit of its own

    def say(self, letter: RunHooks | Prepare) -> None:
        """Tell it something, which it does once it is through with what it does now; raises what it
        reports where it is gone."""
        assert self._channel
        self._owed += 1
        try:
            self._channel.send(letter)
        except BrokenPipeError:
            self.hear()

    def hear(self, *, limited: bool = True) -> None:
        """Wait until it is through with all that it was told: to be in its place, at first. Raises
        InitError with what it reports."""
        assert self._channel
        while self._owed:
            try:
                answer = self._channel.receive(self._timeout_s if limited else None)
            except TimeoutError:
                raise InitError(f"init did not answer within {self._timeout_s} s") from None
            if answer is None:
                raise InitError("init died while it was set up")
            if isinstance(answer, Problem):
                raise InitError(answer.error, answer.hint)
            self._owed -= 1

    def kill(self) -> None:
        """End it, if it is there."""
        if self.pid:
            try:
                posix.kill(self.pid, SIGKILL)  # our own child, not yet waited for: the pid is its
                posix.waitpid(self.pid, 0)
            except OSError:
                pass


def _hook_capabilities(spec: Spec) -> int:
    """What the application may have (process.capabilities.bounding), for programs of its image."""
    if not spec.capabilities or "startContainer" not in spec.hooks:
        return 0
    from urunc.linux.capabilities import mask

    return int(mask(spec.capabilities["bounding"]), 16)


def _prepared(ready: Ready, streams: Streams | None) -> frozenset[int]:
    """The descriptors that were made for init, -1 among them for what was not."""
    given = (mount for _, mount in (*ready.stored, *ready.shared))
    taken = (*streams.descriptors, *streams.readers) if streams else ()
    return frozenset((ready.device_mount, ready.image_mount, ready.console_socket, *given, *taken))
