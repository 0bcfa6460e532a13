# SPDX-License-Identifier: Apache-2.0
"""What the shim knows of each container: its init process, the processes executed beside it, their
statuses and ends. Plain state; what is done with it is in lives.py and service.py."""

from __future__ import annotations

from time import time_ns

from urunc.cgroup.groups import Groups
from urunc.record import replace
from urunc.shim.pod import Member, changed
from urunc.shim.tables import CREATED, PAUSED, RUNNING, STOPPED
from urunc.shim.ttrpc import NOT_FOUND, StatusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from urunc.lifecycle.events import MemoryEvents
    from urunc.shim.stdio import TaskStreams
    from urunc.shim.terminal import Terminal


class TaskProcess:
    """One process of a container: its init (`exec_id` ""), or one that was executed in it."""

    def __init__(
        self,
        exec_id: str,
        stdio: dict[str, Any],
        streams: TaskStreams,
        terminal: Terminal | None,
    ) -> None:
        self.exec_id = exec_id
        self.stdio = stdio
        """`stdin`, `stdout`, `stderr`, `terminal` as the client named them."""
        self.streams = streams
        self.terminal = terminal
        self.spec = b""
        """What an executed process shall be, until it is started."""
        self.pid = 0
        self.status = CREATED
        self.exit_code = 0
        self.exited_ns = 0
        self.waiting: list[Callable[[], None]] = []
        """Who waits for its end."""
        self.told = False
        """Whether its end has been told."""
        self.starting = False
        self.channel = -1
        """Where the exit code of a guest's application comes from, -1 for nowhere."""

    def end(self, code: int) -> None:
        """It has ended, now, with this exit code."""
        self.status = STOPPED
        self.exit_code = code
        self.exited_ns = time_ns()


class Task:
    """A container."""

    def __init__(self, identifier: str, bundle: str, root: str, init: TaskProcess) -> None:
        self.id = identifier
        self.bundle = bundle
        self.root = root
        """--root of the runtime."""
        self.init = init
        self.guest = False
        """Whether it is a unikernel."""
        self.member = Member()
        """What it is of its pod, with the limits that it has now."""
        self.options: dict[str, Any] = {}
        """The runtime's options (options.py)."""
        self.systemd = False
        """Whether systemd makes its control groups."""
        self.own_pids = True
        """Whether its processes end with its init."""
        self.checkpoint = ""
        """The directory that it is restored from when it is started, "" where it is made anew."""
        self.made = False
        """Whether `create` has been answered."""
        self.rootfs = ""
        """Where the shim mounted its root filesystem, "" where it did not."""
        self.execs: dict[str, TaskProcess] = {}
        self.paused = False
        self.memory: MemoryEvents | None = None
        self.groups = Groups({})
        self.killers = 0
        """How many workers send it signals right now."""
        self.kills = 0
        """How many of its processes were killed for want of memory, as far as was told."""

    def limit(self, resources: Any) -> None:
        """It has got the limits of a linux.resources object."""
        self.member = replace(self.member, limits=changed(self.member.limits, resources))

    def processes(self) -> tuple[TaskProcess, ...]:
        """Its init, and those that were executed in it."""
        return self.init, *self.execs.values()

    def making(self) -> list[str]:
        """The runtime's options to make its init, anew or from a checkpoint."""
        words = ["--bundle", self.bundle, "--pid-file", f"{self.bundle}/init.pid"]
        words += ["--no-pivot"] if self.options.get("no_pivot_root") else []
        terminal = self.init.terminal
        return [*words, "--console-socket", terminal.socket_path] if terminal else words

    def process(self, exec_id: str) -> TaskProcess | None:
        """Its init, or one that was executed in it."""
        return self.execs.get(exec_id) if exec_id else self.init

    def holds_back(self, process: TaskProcess) -> bool:
        """Whether a process's end is not to be told yet."""
        busy = self.killers or any(item.status == RUNNING for item in self.execs.values())
        return process is self.init and bool(busy)

    def status_of(self, process: TaskProcess) -> int:
        """The status that clients see."""
        if process is self.init and self.paused and process.status == RUNNING:
            return PAUSED
        return process.status


class Tasks:
    """The containers of a shim, by their ids."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}

    def __iter__(self) -> Iterator[Task]:
        return iter(tuple(self._tasks.values()))

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: Task) -> None:
        """From here on there is this one."""
        self._tasks[task.id] = task

    def remove(self, task: Task) -> None:
        """It is no more."""
        self._tasks.pop(task.id, None)

    def get(self, identifier: str) -> Task | None:
        """The container of an id, also while it is being made."""
        return self._tasks.get(identifier)

    def named(self, values: Mapping[str, Any]) -> Task:
        """The container that a call's values name (`id`); raises StatusError."""
        task = self._tasks.get(values["id"])
        if not task or not task.made:
            raise StatusError(NOT_FOUND, f"container '{values['id']}': not found")
        return task

    def process_named(self, values: Mapping[str, Any]) -> tuple[Task, TaskProcess]:
        """The process that a call's values name (`id`, `exec_id`), with its container; raises
        StatusError."""
        task = self.named(values)
        process = task.process(values.get("exec_id", ""))
        if not process:
            raise StatusError(NOT_FOUND, f"process '{values['exec_id']}': not found")
        return task, process

    def members(self, beside: Task | None = None) -> list[Member]:
        """What those that have not ended are of their pods; without one, its others."""
        return [
            task.member
            for task in self._tasks.values()
            if task is not beside and task.init.status != STOPPED
        ]
