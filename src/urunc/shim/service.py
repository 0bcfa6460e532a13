# SPDX-License-Identifier: Apache-2.0
"""containerd's task service (versions 2 and 3): every call is answered when its work is done.

This process only keeps books: who is what, who waits for whom. Whatever may take time is a
worker's (worker.py).
"""

from __future__ import annotations

import posix

from urunc import guest_channel
from urunc.linux.files import unlink, write_whole
from urunc.shim import pod
from urunc.shim.calls import CODES_OF_RUNNING, Call, answering, failure
from urunc.shim.lives import Lives
from urunc.shim.messages import any_of, timestamp
from urunc.shim.options import read as runtime_options
from urunc.shim.stdio import Settling
from urunc.shim.tables import RUNNING, STOPPED
from urunc.shim.tasks import Tasks
from urunc.shim.ttrpc import (
    NOT_FOUND,
    StatusError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from urunc.shim import ttrpc
    from urunc.shim.loop import Loop
    from urunc.shim.publisher import Publisher
    from urunc.shim.verbs import Verbs
    from urunc.shim.worker import Answer


class Service:
    """The service's calls. Those that make and end are `lives`'."""

    def __init__(
        self, loop: Loop, publisher: Publisher, verbs: Verbs, namespace: str, path: str
    ) -> None:
        """`path` is where the loop listens."""
        self.tasks = Tasks()
        self.settling = Settling()
        self.lives = Lives(loop, self.tasks, verbs, publisher, self.settling, namespace)
        self._loop = loop
        self._publisher = publisher
        self._verbs = verbs
        self._path = path
        self.calls: dict[str, Callable[[Call], None]] = {
            "State": self.state,
            "Create": self.lives.create,
            "Start": self.lives.start,
            "Delete": self.lives.delete,
            "Pids": self.pids,
            "Pause": self.pause,
            "Resume": self.resume,
            "Checkpoint": self.checkpoint,
            "Kill": self.kill,
            "Exec": self.lives.add_process,
            "ResizePty": self.resize_pty,
            "CloseIO": self.close_io,
            "Update": self.update,
            "Wait": self.wait,
            "Stats": self.stats,
            "Connect": self.connect,
            "Shutdown": self.shutdown,
        }
        """What answers each method; raises StatusError, Error and OSError where it cannot."""

    def serve(self, connection: ttrpc.Connection, called: ttrpc.Request) -> None:
        """Answer a call, now or when its work is done."""
        method = called.method
        try:
            self.calls[method](Call(connection, called))
            return
        except Exception as error:  # a defect of ours must not end the other containers' shim
            answer = failure(method, error)
        connection.fail(called.stream, answer)

    def state(self, call: Call) -> None:
        """What there is to know of a process."""
        task, process = self.tasks.process_named(call.values)
        stdio = process.stdio
        call.answer(
            id=task.id, bundle=task.bundle, pid=process.pid, status=task.status_of(process),
            stdin=stdio["stdin"], stdout=stdio["stdout"], stderr=stdio["stderr"],
            terminal=stdio["terminal"], exit_status=process.exit_code,
            exited_at=timestamp(process.exited_ns) if process.exited_ns else None,
            exec_id=process.exec_id,
        )  # fmt: skip

    def wait(self, call: Call) -> None:
        """Answered when the process has ended."""
        task, process = self.tasks.process_named(call.values)

        def answer() -> None:
            call.answer(exit_status=process.exit_code, exited_at=timestamp(process.exited_ns))

        if process.status == STOPPED and not task.holds_back(process):
            answer()
        else:
            process.waiting.append(answer)

    def kill(self, call: Call) -> None:
        """Send a process a signal; `all`: each process of the container."""
        task, process = self.tasks.process_named(call.values)
        number = call.values["signal"]
        if process is not task.init:
            if process.status != RUNNING:
                raise StatusError(NOT_FOUND, f"{call.process_name}: process already finished")
            posix.kill(process.pid, number)  # our own child, not yet waited for
            call.answer()
            return
        if process.status == STOPPED:
            raise StatusError(NOT_FOUND, f"{task.id}: process already finished")
        words = ["kill", *(["--all"] if call.values["all"] else []), task.id, str(number)]
        answered = answering(call, call.answer, CODES_OF_RUNNING)
        task.killers += 1

        def done(answer: Answer) -> None:
            answered(answer)
            task.killers -= 1
            if process.exited_ns and not process.starting:
                self.lives.tell_end(task, process)

        self._verbs.run(task, words, done)

    def pids(self, call: Call) -> None:
        """The processes of a container."""
        from urunc.shim.metrics import pids

        task = self.tasks.named(call.values)
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
        call.answer(processes=found)

    def pause(self, call: Call) -> None:
        """Freeze a container."""
        task = self.tasks.named(call.values)

        def then() -> None:
            task.paused = True
            self._publisher.publish("TaskPaused", container_id=task.id)
            call.answer()

        self._verbs.run(task, ["pause", task.id], answering(call, then, CODES_OF_RUNNING))

    def resume(self, call: Call) -> None:
        """Thaw a container."""
        task = self.tasks.named(call.values)

        def then() -> None:
            task.paused = False
            self._publisher.publish("TaskResumed", container_id=task.id)
            call.answer()

        self._verbs.run(task, ["resume", task.id], answering(call, then))

    def checkpoint(self, call: Call) -> None:
        """Save a container."""
        from urunc.shim.checkpoints import checkpoint_words

        task = self.tasks.named(call.values)
        words = checkpoint_words(task, call.values["path"], runtime_options(call.values["options"]))

        def then() -> None:
            self._publisher.publish("TaskCheckpointed", container_id=task.id)
            call.answer()

        self._verbs.run(task, words, answering(call, then))

    def update(self, call: Call) -> None:
        """Give a container other limits."""
        task = self.tasks.named(call.values)
        resources = call.values["resources"]["value"]
        file = f"{task.bundle}/.urunc-resources-{call.stream}.json"
        write_whole(file, resources)

        def then() -> None:
            task.limit(pod.parsed(resources))
            call.answer()

        answered = answering(call, then, CODES_OF_RUNNING)

        def done(answer: Answer) -> None:
            unlink(file)
            answered(answer)

        self._verbs.run(task, ["update", "--resources", file, task.id], done)

    def stats(self, call: Call) -> None:
        """What a container uses."""
        from urunc.shim.metrics import metrics

        task = self.tasks.named(call.values)
        name, values = metrics(task.groups)
        call.answer(stats=any_of(name, values))

    def resize_pty(self, call: Call) -> None:
        """Give a terminal another size; passed over where the process has none."""
        task, process = self.tasks.process_named(call.values)
        width, height = call.values["width"], call.values["height"]
        if process.terminal:
            process.terminal.resize(width, height)
            if process.channel >= 0:
                guest_channel.resize(f"{task.root}/{task.id}", height, width)
        call.answer()

    def close_io(self, call: Call) -> None:
        """Let a process's input end once its client has closed it."""
        _, process = self.tasks.process_named(call.values)
        if call.values["stdin"]:
            process.streams.close_stdin()
        call.answer()

    def connect(self, call: Call) -> None:
        """Who the shim is, and the container's init, 0 where there is none."""
        task = self.tasks.get(call.values["id"])
        pid = task.init.pid if task else 0
        call.answer(shim_pid=posix.getpid(), task_pid=pid)

    def shutdown(self, call: Call) -> None:
        """End, where there is no container left."""
        if not self.tasks and not self._loop.leaving:
            self._loop.leave()
            unlink(self._path)  # from here on the next container gets another shim
        call.answer()
