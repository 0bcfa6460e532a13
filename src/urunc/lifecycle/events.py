# SPDX-License-Identifier: Apache-2.0
"""What happens to a container, as it happens: statistics, memory that ran out, what the monitor
says of its guest, and why it ended.

Runs in a process of its own (`urunc events`), beside the container and only as long as somebody
watches. The end is seen through a pidfd; its status is the kernel's word where that is new enough
(PIDFD_GET_INFO, Linux 6.15), for the container's parent is another.
"""

from __future__ import annotations

import posix
from select import POLLERR, POLLIN, POLLPRI, poll
from time import monotonic

from urunc import guest_channel
from urunc.cgroup import groups, stats
from urunc.errors import MonitorError, WrongStatusError
from urunc.lifecycle import exit_reason
from urunc.linux import cgroups, process
from urunc.linux.files import write_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from urunc.cgroup.groups import Groups
    from urunc.config import Config
    from urunc.monitor_client import Control
    from urunc.state import State


def follow(state: State, interval_s: float, config: Config) -> Iterator[dict[str, Any]]:
    """Events until the container ends, the last being `exit`; raises WrongStatusError."""
    pidfd = state.pidfd()
    if pidfd is None:
        raise WrongStatusError(f"events '{state.id}': container not running")
    from urunc import monitors

    monitor = monitors.load(state.plan.monitor, config)
    follower = _Follower(state, pidfd, monitor)
    try:
        yield from follower.run(interval_s)
    finally:
        follower.close()


def statistics(state: State) -> dict[str, Any]:
    """The `stats` event, now."""
    return _event(state, "stats", stats.read(groups.of(state)))


def _event(state: State, kind: str, data: Any = None) -> dict[str, Any]:
    event = {"type": kind, "id": state.id}
    if data is not None:
        event["data"] = data
    return event


class _Follower:
    def __init__(self, state: State, pidfd: int, monitor: Any) -> None:
        self.state = state
        self.pidfd = pidfd
        self.monitor = monitor
        self.group = groups.of(state)
        self.memory = MemoryEvents(self.group)
        self.kills = cgroups.oom_kills(self.group.paths)
        self.told: dict[str, str] = {}
        self.listener: Control | None = None
        self.ear = guest_channel.listen(state.directory)
        self.said = guest_channel.said(self.ear)

    def run(self, interval_s: float) -> Iterator[dict[str, Any]]:
        poller = poll()
        poller.register(self.pidfd, POLLIN)
        if self.memory.fd >= 0:
            poller.register(self.memory.fd, self.memory.events)
        next_s = monotonic()
        while True:
            self._listen(poller)
            now_s = monotonic()
            if now_s >= next_s:
                yield statistics(self.state)
                next_s = now_s + interval_s
            ready = [fd for fd, _ in poller.poll(max(1, int((next_s - now_s) * 1000)))]
            if self.memory.fd in ready:
                self.memory.acknowledge()
            kills = cgroups.oom_kills(self.group.paths)
            if kills > self.kills:
                self.kills = kills
                yield _event(self.state, "oom")
            said, before = guest_channel.said(self.ear), self.said
            self.said = (
                said if said != guest_channel.Said() else before
            )  # gone with who else listens
            if self.said.kills > before.kills:
                yield _event(self.state, "oom")
            if self.listener is not None and self.listener.fileno() in ready:
                yield from self._hear(poller)
            if self.pidfd in ready:
                if self.listener is not None:
                    yield from self._hear(poller)
                yield self._exit()
                return

    def _listen(self, poller: Any) -> None:
        """Connect to the monitor's own events, once it runs."""
        if self.listener is not None or not self.monitor.events_socket:
            return
        from urunc.monitor_client import Control

        try:
            listener = Control(self.state.pid, self.monitor.events_socket)
        except MonitorError:
            return  # not there yet: the next round tries again
        try:
            self.monitor.subscribe(listener)
        except MonitorError:
            listener.close()  # somebody else follows: QMP serves one at a time
            return
        self.listener = listener
        poller.register(listener.fileno(), POLLIN)

    def _hear(self, poller: Any) -> Iterator[dict[str, Any]]:
        assert self.listener is not None
        try:
            for event in self.monitor.heard(self.listener):
                self.told = event
                yield _event(self.state, "monitor", event)
        except MonitorError:
            poller.unregister(self.listener.fileno())
            self.listener.close()
            self.listener = None

    def _exit(self) -> dict[str, Any]:
        status = process.exit_status(self.pidfd, self.state.pid)
        data: dict[str, Any] = {"reason": self._why(status)}
        if status is not None:
            data["status"] = status if status >= 0 else 128 - status
        return _event(self.state, "exit", data)

    def _why(self, status: int | None) -> str:
        if self.kills:
            return "killed: out of memory (OOM)"
        plan, stop = self.state.plan, exit_reason.stop_of(self.state.directory)
        if plan.supervisor and status is not None and status >= 0 and not stop:
            return f"its application, or its monitor, ended with {status}"
        told = self.told.get("reason", "")
        return exit_reason.reason(plan, self.monitor, status, self.said, stop, told)

    def close(self) -> None:
        posix.close(self.pidfd)
        self.memory.close()
        if self.ear >= 0:
            posix.close(self.ear)
        if self.listener is not None:
            self.listener.close()


class MemoryEvents:
    """A descriptor that wakes when memory runs out: v1's eventfd, v2's memory.events."""

    def __init__(self, group: Groups) -> None:
        self.fd = -1
        self.events = POLLIN
        self._held = -1
        self._v1 = "memory" in group.paths
        directory = group.directory("memory")
        try:
            if self._v1:
                self._held = posix.open(f"{directory}/memory.oom_control", posix.O_RDONLY)
                self.fd = posix.eventfd(0, posix.EFD_CLOEXEC | posix.EFD_NONBLOCK)
                word = f"{self.fd} {self._held}".encode()
                write_bytes(f"{directory}/cgroup.event_control", word)
            elif directory:
                self.fd = posix.open(f"{directory}/memory.events", posix.O_RDONLY | posix.O_CLOEXEC)
                self.events = POLLPRI | POLLERR
        except OSError:
            pass  # no memory controller: nothing can run out by itself

    def acknowledge(self) -> None:
        try:
            if self._v1:
                posix.eventfd_read(self.fd)
            else:
                posix.pread(self.fd, 4096, 0)
        except OSError:
            pass  # the group is gone: the end is what comes next

    def close(self) -> None:
        for fd in (self.fd, self._held):
            if fd >= 0:
                posix.close(fd)
