# SPDX-License-Identifier: Apache-2.0
"""Who carries out a verb for the shim: the door where there is a recipe, who stands by for
`create`, and else a worker. The loop waits for each.
"""

from __future__ import annotations

import posix

from urunc.shim import door
from urunc.shim.standby import Order, Standby
from urunc.shim.worker import NO_STREAMS, Answer, RuntimeLog, Worker, mount, start, verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from urunc.shim.loop import Loop
    from urunc.shim.tasks import Task

MEANWHILE = ("lifecycle.events", "lifecycle.exit_reason", "shim.metrics", "shim.unmount", "state")
"""What the shim itself needs from the first container on: loaded while that is made."""
MAKING = ("create", "restore", "start", "exec")
"""Verbs that look for a program, whose absence is no container's."""


class Verbs:
    """The runtime's verbs for tasks, each in a worker that the loop waits for."""

    def __init__(self, loop: Loop, standby: Standby | None = None) -> None:
        self._loop = loop
        self._standby = standby
        self._number = 0

    def run(
        self,
        task: Task,
        words: list[str],
        done: Callable[[Answer], None],
        *,
        streams: tuple[int, int, int] = NO_STREAMS,
        before: Callable[[], None] | None = None,
        document: Any = None,
    ) -> None:
        """Run a verb for a task; see `start` and `verb`."""
        whole = [*_options(task, words[0]), *words]
        log = self._log(task, words[0])
        runtime = task.options.get("binary_name", "")

        def by_worker(said: bytes = b"") -> None:
            def work() -> int:
                if said:
                    from urunc.lifecycle.start import SAID

                    posix.environ[SAID] = said
                return verb(whole, log, runtime, document)

            started = start(
                work, done, log=log, streams=streams, directory=task.bundle, before=before
            )
            self._loop.await_worker(started)

        def by_door(said: bytes | None) -> None:
            if said is None:
                done(Answer(code=0))
            else:
                by_worker(said)

        opened = None
        if task.guest and door.is_for(words):
            opened = door.start(whole, by_door)
        if opened:
            self._loop.await_worker(opened)
        else:
            by_worker()

    def create(
        self,
        task: Task,
        words: list[str],
        done: Callable[[Answer], None],
        *,
        mounts: list[dict[str, Any]],
        document: Any,
    ) -> None:
        """Make a container, with these mounts of containerd's for its root filesystem, by who
        stands by for it (standby.py), or else by a worker like any other."""
        streams = task.init.streams
        standby, self._standby = self._standby, None
        if standby:
            log = self._log(task, words[0])
            whole = [*_options(task, words[0]), *words]
            order = Order(
                words=tuple(whole), runtime=task.options.get("binary_name", ""),
                directory=task.bundle, mounts=tuple(mounts), rootfs=task.rootfs, log=log.path,
            )  # fmt: skip
            if not streams.has_logger and standby.begin(order, streams.child):
                self._loop.await_worker(Worker(standby.pid, standby.answer, done, log))
                _load()
                return
            standby.dismiss()

        def before() -> None:
            streams.wait_ready()
            mount(mounts, task.rootfs)

        self.run(task, words, done, streams=streams.child, before=before, document=document)
        _load()

    def stand_by(self) -> None:
        """Have somebody ready for the next container, which is about to come."""
        if not self._standby:
            self._standby = Standby()

    def _log(self, task: Task, action: str) -> RuntimeLog:
        self._number += 1
        return RuntimeLog(f"{task.bundle}/.urunc-{self._number}.log", making=action in MAKING)

    def check(
        self,
        work: Callable[[], int],
        done: Callable[[Answer], None],
        before: Callable[[], None],
    ) -> None:
        """Have a worker do something that is no verb; see `start`."""
        self._loop.await_worker(start(work, done, before=before))
        _load()


def _load() -> None:
    """Load MEANWHILE: no later, when urunc may have been installed anew. Where it has been already,
    the worker finds the same, and says so."""
    try:
        for name in MEANWHILE:
            __import__(f"urunc.{name}")
    except ImportError:
        pass


def _options(task: Task, action: str) -> list[str]:
    """The global options of a verb for a task."""
    options = ["--root", task.root]
    if task.systemd:
        options.append("--systemd-cgroup")
    if task.options.get("config_path"):
        options += ["--config", task.options["config_path"]]
    if task.options.get("criu_path") and action in ("checkpoint", "restore"):
        options += ["--criu", task.options["criu_path"]]
    return options
