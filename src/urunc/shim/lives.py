# SPDX-License-Identifier: Apache-2.0
"""The lives of the shim's containers: how they are made, started, ended and removed, and the
processes that are executed in them. Children of ended workers (containers' init processes, executed
processes) become this process's, so their ends and exit codes are seen here, at once.
"""

from __future__ import annotations

import posix

from urunc import guest_channel, logs
from urunc.errors import Error
from urunc.linux import cgroups
from urunc.linux.files import read_text, unlink, write_whole
from urunc.shim import DEFAULT_ROOT, ENDED_FILE, ROOT_FILE, pod, worker
from urunc.shim.bundle import has_own_pids, is_claimed, is_systemds, leave_answer
from urunc.shim.checkpoints import restore_words
from urunc.shim.loop import Call, Loop
from urunc.shim.messages import timestamp
from urunc.shim.options import read as runtime_options
from urunc.shim.stdio import TaskStreams
from urunc.shim.tables import CREATED, RUNNING, STOPPED
from urunc.shim.tasks import Task, TaskProcess
from urunc.shim.ttrpc import (
    ALREADY_EXISTS,
    FAILED_PRECONDITION,
    NOT_FOUND,
    UNIMPLEMENTED,
    UNKNOWN,
    StatusError,
)
from urunc.state import is_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from urunc.guest_channel import Said
    from urunc.shim.publisher import Publisher
    from urunc.shim.terminal import Terminal

FAILED = "OCI runtime {} failed: "
"""What runc's shim writes before a runtime's words; engines show it, and some look for it."""
A_GUEST = 200
"""The exit code of a worker that shall restore a unikernel, and no runtime's."""
GONE = ("does not exist", "not running", "already finished", "no such process", "not found")
"""In a runtime's message: there is no such container or process (any more)."""


class Lives(Loop):
    """The part of the service that makes and ends: `do_create`, `do_start`, `do_delete`."""

    def __init__(self, listener: Any, path: str, namespace: str, publisher: Publisher) -> None:
        super().__init__(listener, path, publisher)
        self.namespace = namespace
        self._number = 0

    def _verb(
        self,
        task: Task,
        words: list[str],
        done: Callable[[int, str], None],
        streams: tuple[int, int, int] = (-1, -1, -1),
        before: Callable[[], None] | None = None,
    ) -> None:
        """Have a worker run a verb for a task."""
        self._number += 1
        log = f"{task.bundle}/.urunc-{self._number}.log"
        options = ["--root", task.root]
        if task.systemd:
            options.append("--systemd-cgroup")
        if task.options.get("config_path"):
            options += ["--config", task.options["config_path"]]
        if task.options.get("criu_path") and words[0] in ("checkpoint", "restore"):
            options += ["--criu", task.options["criu_path"]]
        runtime = task.options.get("binary_name", "")
        started = worker.start(
            lambda: worker.verb([*options, *words], log, runtime), log, done, streams=streams,
            directory=task.bundle, before=before,
        )  # fmt: skip
        self.workers[started.pid] = started
        if self._number == 1:
            worker.preload(worker.REST)

    def _answering(
        self, request: Call, then: Callable[[], None], gone_texts: tuple[str, ...] = GONE
    ) -> Callable[[int, str], None]:
        """What follows a worker: the error to the client, or `then`. A program that is not found is
        no container that is gone: where one is looked for, there are no `gone_texts`."""

        def done(code: int, message: str) -> None:
            if code:
                gone = any(words in message.lower() for words in gone_texts)
                request.refuse(NOT_FOUND if gone else UNKNOWN, message)
                return
            then()

        return done

    # containers' lives

    def do_create(self, request: Call) -> None:
        values = request.values
        identifier, bundle = values["id"], values["bundle"]
        if identifier in self.tasks:
            raise StatusError(ALREADY_EXISTS, f"task {identifier}: already exists")
        options = runtime_options(values["options"])
        checkpoint = values["checkpoint"] or options.get("criu_image_path", "")
        streams, terminal = self._streams(values, options, identifier)
        root = f"{options.get('root') or DEFAULT_ROOT}/{self.namespace}"
        task = Task(identifier, bundle, root, TaskProcess("", values, streams, terminal))
        task.options, task.checkpoint = options, checkpoint
        task.systemd = bool(options.get("systemd_cgroup")) or is_systemds(bundle)
        mounts = values["rootfs"]
        if mounts:
            task.rootfs = f"{bundle}/rootfs"
        task.member = pod.member(bundle)
        living = [item.member for item in self.tasks.values() if item.init.status != STOPPED]
        granted = pod.granted(task.member, living)
        unlink(f"{bundle}/{ENDED_FILE}")
        kept = (root, options.get("config_path", ""), options.get("binary_name", ""))
        write_whole(f"{bundle}/{ROOT_FILE}", "\0".join(kept).encode())
        self.tasks[identifier] = task

        def before() -> None:
            streams.wait_ready()
            if mounts:
                from urunc.shim.rootfs import mount_all

                mount_all(mounts, task.rootfs)

        def done(code: int, message: str) -> None:
            if not checkpoint:
                streams.release_child()
            if code:
                self._forget(task)
                if code == A_GUEST:
                    message = f"create '{identifier}' from a checkpoint: a unikernel has none"
                    request.refuse(UNIMPLEMENTED, message)
                else:
                    request.refuse(UNKNOWN, f"{FAILED.format('create')}{message}")
                return
            pid = 0 if checkpoint else self._init_pid(task)
            if task.guest:
                task.limit(pod.resources(granted))
            task.made = True
            request.answer(pid=pid)
            self.publisher.publish(
                "TaskCreate", container_id=identifier, bundle=bundle, rootfs=mounts,
                io={key: values[key] for key in ("stdin", "stdout", "stderr", "terminal")},
                checkpoint=checkpoint, pid=pid,
            )  # fmt: skip
            if pid:
                self.adopt(task, task.init, pid)

        if checkpoint:  # `start` restores it; its root filesystem is made now
            log = f"{bundle}/.urunc-restore.log"
            path = options.get("config_path", "")
            started = worker.start(
                lambda: A_GUEST if is_claimed(bundle, path) else 0, log, done, before=before
            )
            self.workers[started.pid] = started
            return
        words = ["create", *task.making()]
        words += ["--no-new-keyring"] if options.get("no_new_keyring") else []
        words += pod.option(bundle, granted)
        self._verb(task, [*words, identifier], done, streams.child, before)

    def _init_pid(self, task: Task) -> int:
        """The pid of a container's init, which has just been made."""
        pid = int(read_text(f"{task.bundle}/init.pid"))
        task.guest = is_ours(task.root, task.id)
        task.init.channel = guest_channel.listen(f"{task.root}/{task.id}")
        self._watch_memory(task, pid)
        return pid

    def _streams(
        self, values: dict[str, Any], options: dict[str, Any], identifier: str
    ) -> tuple[TaskStreams, Terminal | None]:
        streams = TaskStreams(
            values["stdin"], values["stdout"], values["stderr"], terminal=values["terminal"],
            namespace=self.namespace, identifier=identifier,
            owner=(options.get("io_uid", 0), options.get("io_gid", 0)),
        )  # fmt: skip
        streams.open()
        if not values["terminal"]:
            return streams, None
        from urunc.shim.terminal import Terminal

        return streams, Terminal(streams)

    def do_start(self, request: Call) -> None:
        task, process = self._find(request)
        if process.status != CREATED or process.starting:
            raise StatusError(FAILED_PRECONDITION, f"{name_of(request)}: cannot start: not created")
        process.starting = True
        if process is not task.init:
            self._start_exec(request, task, process)
            return

        def then() -> None:
            process.status = RUNNING
            request.answer(pid=process.pid)
            self.publisher.publish("TaskStart", container_id=task.id, pid=process.pid)

        if task.checkpoint:
            self._restore(request, task)
            return
        self._verb(task, ["start", task.id], self._started(request, task, process, then))

    def _restore(self, request: Call, task: Task) -> None:
        """Start what was made from a checkpoint: its init comes to be only now."""
        init = task.init

        def then() -> None:
            pid = self._init_pid(task)
            init.status = RUNNING
            self.publisher.publish("TaskStart", container_id=task.id, pid=pid)
            request.answer(pid=pid)
            self.adopt(task, init, pid)

        started = self._started(request, task, init, then)

        def done(code: int, message: str) -> None:
            init.streams.release_child()
            started(code, message)

        self._verb(task, restore_words(task), done, init.streams.child)

    def _started(
        self, request: Call, task: Task, process: TaskProcess, then: Callable[[], None]
    ) -> Callable[[int, str], None]:
        verb = "exec" if process.exec_id else "restore" if task.checkpoint else "start"
        answered = self._answering(request, then, ())

        def done(code: int, message: str) -> None:
            answered(code, f"{FAILED.format(verb)}{message}")
            process.starting = False
            if process.exited_ns:  # it has ended meanwhile: nobody hears of that before its start
                process.status = STOPPED
                self._tell_end(task, process)

        return done

    def _start_exec(self, request: Call, task: Task, process: TaskProcess) -> None:
        pid_file = f"{task.bundle}/{process.exec_id}.pid"
        spec = f"{task.bundle}/{process.exec_id}.json"
        write_whole(spec, process.spec)
        words = ["exec", "--detach", "--process", spec, "--pid-file", pid_file]
        if process.terminal:
            words += ["--console-socket", process.terminal.socket_path]

        def then() -> None:
            pid = int(read_text(pid_file))
            process.status = RUNNING
            self.publisher.publish(
                "TaskExecStarted", container_id=task.id, exec_id=process.exec_id, pid=pid
            )
            request.answer(pid=pid)
            self.adopt(task, process, pid)

        started = self._started(request, task, process, then)

        def done(code: int, message: str) -> None:
            process.streams.release_child()
            if code:
                process.end(255 if code < 0 else code)
            started(code, message)
            unlink(spec)
            unlink(pid_file)

        self._verb(task, [*words, task.id], done, process.streams.child, process.streams.wait_ready)

    def ended(self, task: Task, process: TaskProcess, status: int) -> None:
        """A container's process has ended."""
        code = posix.waitstatus_to_exitcode(status)
        said = guest_channel.last_words(process.channel)
        process.channel = -1
        if task.guest:
            code = self._guest_code(task, code, said)
        elif code < 0:
            code = 128 - code
        process.streams.release()
        if process is task.init:
            self._count_memory(task)
            if said.kills:
                self.publisher.publish("TaskOOM", container_id=task.id)
            if not task.guest and not has_own_pids(task.bundle):
                # once its end is told nothing of a container runs: containerd closes its streams
                words = ["kill", "--all", task.id, "KILL"]
                self._verb(task, words, lambda *_: self._end(task, process, code))
                return
        self._end(task, process, code)

    def _guest_code(self, task: Task, status: int, said: Said) -> int:
        """The exit code of a guest, whose monitor ended with a status."""
        if said.code is not None:
            return said.code
        from urunc import config, monitors
        from urunc.lifecycle import exit_reason
        from urunc.state import load

        stop = exit_reason.stop_of(f"{task.root}/{task.id}")
        try:
            plan = load(task.root, task.id).plan
            code = exit_reason.exit_code(plan, status, said, stop)
            if code and not stop:
                options = config.load(task.options.get("config_path", ""))
                monitor = monitors.load(plan.monitor, options)
                why = exit_reason.reason(plan, monitor, status, said)
                logs.warn(f"container '{task.id}' ended with {code}: {why}")
        except Error as error:
            logs.warn(f"how '{task.id}' ended: {error.message}")
            return 128 - status if status < 0 else status
        return code

    def _end(self, task: Task, process: TaskProcess, code: int) -> None:
        process.end(code)
        if not process.starting:
            self._tell_end(task, process)

    def _tell_end(self, task: Task, process: TaskProcess) -> None:
        """Tell who waits; the init's end after those of all that was executed beside it, and after
        the answers to who killed it: containerd closes its connection once it has heard of that."""
        if process.told or task.holds_back(process):
            return
        process.told = True
        waiting, process.waiting = process.waiting, []
        for wake in waiting:
            wake()
        if process.pid:  # an exec that failed to start never was
            self.publisher.publish(
                "TaskExit", container_id=task.id, id=process.exec_id or task.id, pid=process.pid,
                exit_status=process.exit_code, exited_at=timestamp(process.exited_ns),
            )  # fmt: skip
        init = task.init
        if process is not init and init.status == STOPPED and not init.starting:
            self._tell_end(task, init)

    def do_delete(self, request: Call) -> None:
        task, process = self._find(request)
        if process.status == RUNNING or process.starting:
            raise StatusError(
                FAILED_PRECONDITION, f"{name_of(request)}: cannot delete a running process"
            )
        if process is not task.init:
            process.streams.close()
            del task.execs[process.exec_id]
            request.answer(**end_of(process))
            return

        def then() -> None:
            task.killers = 0
            if process.exited_ns:  # it is not told after the container is no more
                self._tell_end(task, process)
            self._forget(task)
            end = end_of(process)
            leave_answer(task.bundle, end)
            request.answer(**end)
            self.publisher.publish("TaskDelete", container_id=task.id, **end)

        self._verb(task, ["delete", "--force", task.id], self._answering(request, then))

    def _forget(self, task: Task) -> None:
        """Let go of everything of a container that is no more."""
        for process in (task.init, *task.execs.values()):
            if process.terminal:
                process.terminal.close()
            process.streams.close()
        if task.memory:
            task.memory.close()
        if task.rootfs:
            from urunc.shim.rootfs import unmount_all

            unmount_all(task.rootfs)
        self.tasks.pop(task.id, None)
        self.processes.pop(task.init.pid, None)

    # memory

    def _watch_memory(self, task: Task, pid: int) -> None:
        from urunc.lifecycle.events import MemoryEvents
        from urunc.shim.metrics import groups_of

        task.groups = groups_of(task.root, task.id, pid)
        task.memory = MemoryEvents(task.groups)

    def hear_memory(self, task: Task) -> Callable[[int], None]:
        def hear(_events: int) -> None:
            assert task.memory
            task.memory.acknowledge()
            self._count_memory(task)

        return hear

    def _count_memory(self, task: Task) -> None:
        kills = cgroups.oom_kills(task.groups.paths) if task.groups.paths else 0
        if kills > task.kills:
            task.kills = kills
            self.publisher.publish("TaskOOM", container_id=task.id)

    # helpers

    def _task(self, request: Call) -> Task:
        task = self.tasks.get(request.values["id"])
        if not task or not task.made:
            raise StatusError(NOT_FOUND, f"container '{request.values['id']}': not found")
        return task

    def _find(self, request: Call) -> tuple[Task, TaskProcess]:
        task = self._task(request)
        process = task.process(request.values.get("exec_id", ""))
        if not process:
            raise StatusError(NOT_FOUND, f"process '{request.values['exec_id']}': not found")
        return task, process


def end_of(process: TaskProcess) -> dict[str, Any]:
    """What is told of a process that is removed."""
    return {
        "pid": process.pid,
        "exit_status": process.exit_code,
        "exited_at": timestamp(process.exited_ns),
    }


def name_of(request: Call) -> str:
    exec_id = request.values.get("exec_id", "")
    return f"{request.values['id']}{f' ({exec_id})' if exec_id else ''}"
