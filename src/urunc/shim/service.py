# SPDX-License-Identifier: Apache-2.0
"""containerd's task service (versions 2 and 3): every request is answered when its work is done.

This process only keeps books: who is what, who waits for whom. Whatever may take time is a
worker's (worker.py).
"""

from __future__ import annotations

import posix

from urunc import guest_channel
from urunc.linux.files import unlink, write_whole
from urunc.shim import pod
from urunc.shim.checkpoints import checkpoint_words
from urunc.shim.lives import Lives, name_of
from urunc.shim.loop import Call
from urunc.shim.messages import any_of, timestamp
from urunc.shim.options import read as runtime_options
from urunc.shim.tables import RUNNING, STOPPED
from urunc.shim.tasks import TaskProcess
from urunc.shim.ttrpc import (
    ALREADY_EXISTS,
    FAILED_PRECONDITION,
    NOT_FOUND,
    UNIMPLEMENTED,
    StatusError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Shim(Lives):
    """The service: a method `do_…` for each of containerd's."""

    # what clients ask for meanwhile

    def do_state(self, request: Call) -> None:
        task, process = self._find(request)
        stdio = process.stdio
        request.answer(
            id=task.id, bundle=task.bundle, pid=process.pid, status=task.status_of(process),
            stdin=stdio["stdin"], stdout=stdio["stdout"], stderr=stdio["stderr"],
            terminal=stdio["terminal"], exit_status=process.exit_code,
            exited_at=timestamp(process.exited_ns) if process.exited_ns else None,
            exec_id=process.exec_id,
        )  # fmt: skip

    def do_wait(self, request: Call) -> None:
        task, process = self._find(request)

        def answer() -> None:
            request.answer(exit_status=process.exit_code, exited_at=timestamp(process.exited_ns))

        if process.status == STOPPED and not task.holds_back(process):
            answer()
        else:
            process.waiting.append(answer)

    def do_kill(self, request: Call) -> None:
        task, process = self._find(request)
        number = request.values["signal"]
        if process is not task.init:
            if process.status != RUNNING:
                raise StatusError(NOT_FOUND, f"{name_of(request)}: process already finished")
            posix.kill(process.pid, number)  # our own child, not yet waited for
            request.answer()
            return
        if process.status == STOPPED:
            raise StatusError(NOT_FOUND, f"{task.id}: process already finished")
        words = ["kill", *(["--all"] if request.values["all"] else []), task.id, str(number)]
        answered = self._answering(request, request.answer)
        task.killers += 1

        def done(code: int, message: str) -> None:
            answered(code, message)
            task.killers -= 1
            if process.exited_ns and not process.starting:
                self._tell_end(task, process)

        self._verb(task, words, done)

    def do_exec(self, request: Call) -> None:
        task = self._task(request)
        values = request.values
        if task.guest:
            text = f"exec in '{task.id}': a unikernel has no processes to run a command in"
            raise StatusError(UNIMPLEMENTED, text)
        if values["exec_id"] in task.execs:
            raise StatusError(ALREADY_EXISTS, f"{values['exec_id']}: already exists")
        if task.init.status != RUNNING:
            raise StatusError(FAILED_PRECONDITION, f"exec in '{task.id}': container not running")
        streams, terminal = self._streams(values, task.options, task.id)
        process = TaskProcess(values["exec_id"], values, streams, terminal)
        process.spec = values["spec"]["value"]
        task.execs[process.exec_id] = process
        self.publisher.publish("TaskExecAdded", container_id=task.id, exec_id=process.exec_id)
        request.answer()

    def do_pids(self, request: Call) -> None:
        from urunc.shim.metrics import pids

        task = self._task(request)
        execs = {process.pid: process.exec_id for process in task.execs.values()}
        found = []
        for pid in pids(task.groups):
            info: dict[str, Any] = {"pid": pid}
            if pid in execs:
                details = {"exec_id": execs[pid]}
                info["info"] = any_of("containerd.runc.v1.ProcessDetails", details)
            found.append(info)
        if not found:
            # of a shim without any a containerd that comes back thinks that its task was never
            # made, and forgets how it ended (containerd/containerd#6860)
            found = [{"pid": task.init.pid}]
        request.answer(processes=found)

    def do_pause(self, request: Call) -> None:
        task = self._task(request)

        def then() -> None:
            task.paused = True
            self.publisher.publish("TaskPaused", container_id=task.id)
            request.answer()

        self._verb(task, ["pause", task.id], self._answering(request, then))

    def do_resume(self, request: Call) -> None:
        task = self._task(request)

        def then() -> None:
            task.paused = False
            self.publisher.publish("TaskResumed", container_id=task.id)
            request.answer()

        self._verb(task, ["resume", task.id], self._answering(request, then))

    def do_checkpoint(self, request: Call) -> None:
        task = self._task(request)
        if task.guest:
            raise StatusError(UNIMPLEMENTED, f"checkpoint of '{task.id}': a unikernel has none")
        options = runtime_options(request.values["options"])
        words = checkpoint_words(task, request.values["path"], options)

        def then() -> None:
            self.publisher.publish("TaskCheckpointed", container_id=task.id)
            request.answer()

        self._verb(task, words, self._answering(request, then))

    def do_update(self, request: Call) -> None:
        task = self._task(request)
        file = f"{task.bundle}/.urunc-resources-{request.stream}.json"
        write_whole(file, request.values["resources"]["value"])

        def then() -> None:
            task.limit(pod.parsed(request.values["resources"]["value"]))
            request.answer()

        answered = self._answering(request, then)

        def done(code: int, message: str) -> None:
            unlink(file)
            answered(code, message)

        self._verb(task, ["update", "--resources", file, task.id], done)

    def do_stats(self, request: Call) -> None:
        from urunc.shim.metrics import metrics

        task = self._task(request)
        name, values = metrics(task.groups)
        request.answer(stats=any_of(name, values))

    def do_resize_pty(self, request: Call) -> None:
        task, process = self._find(request)
        width, height = request.values["width"], request.values["height"]
        if process.terminal:
            process.terminal.resize(width, height)
            if process.channel >= 0:
                guest_channel.resize(f"{task.root}/{task.id}", height, width)
        request.answer()

    def do_close_io(self, request: Call) -> None:
        _, process = self._find(request)
        if request.values["stdin"]:
            process.streams.close_stdin()
        request.answer()

    def do_connect(self, request: Call) -> None:
        task = self.tasks.get(request.values["id"])
        pid = task.init.pid if task else 0
        request.answer(shim_pid=posix.getpid(), task_pid=pid)

    def do_shutdown(self, request: Call) -> None:
        if not self.tasks and not self.leaving:
            self.leaving = True
            unlink(self.path)  # from here on the next container gets another shim
        request.answer()
