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
from urunc.shim import DEFAULT_ROOT, ENDED_FILE, ROOT_FILE, pod
from urunc.shim.bundle import configuration, has_own_pids, is_claimed, is_systemds, leave_answer
from urunc.shim.calls import answering, guarded, refuse
from urunc.shim.messages import timestamp
from urunc.shim.options import read as runtime_options
from urunc.shim.stdio import TaskStreams
from urunc.shim.tables import CREATED, RUNNING, STOPPED
from urunc.shim.tasks import Task, TaskProcess
from urunc.shim.ttrpc import ALREADY_EXISTS, FAILED_PRECONDITION, UNIMPLEMENTED, StatusError
from urunc.shim.worker import mount
from urunc.state import is_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from urunc.guest_channel import Said
    from urunc.shim.calls import Call
    from urunc.shim.loop import Loop
    from urunc.shim.publisher import Publisher
    from urunc.shim.stdio import Settling
    from urunc.shim.tasks import Tasks
    from urunc.shim.terminal import Terminal
    from urunc.shim.verbs import Verbs
    from urunc.shim.worker import Answer


class Lives:
    """The calls that make and end, and the ends that nobody called for; a source of the loop."""

    def __init__(
        self,
        loop: Loop,
        tasks: Tasks,
        verbs: Verbs,
        publisher: Publisher,
        settling: Settling,
        namespace: str,
    ) -> None:
        self._loop = loop
        self._tasks = tasks
        self._verbs = verbs
        self._publisher = publisher
        self._settling = settling
        self._namespace = namespace

    # containers' lives

    def create(self, call: Call) -> None:
        """Make a container; of one that `start` restores from a checkpoint, the root filesystem."""
        values = call.values
        if self._tasks.get(values["id"]):
            raise StatusError(ALREADY_EXISTS, f"task {values['id']}: already exists")
        bundle = values["bundle"]
        document = configuration(bundle)
        task = self._new_task(values, document)
        granted = pod.granted(task.member, self._tasks.members())
        self._tasks.add(task)
        try:
            self._make(call, task, granted, document)
        except Exception:
            self._forget(task)
            raise

    def _make(self, call: Call, task: Task, granted: pod.Limits, document: Any) -> None:
        """Have a task made that its client has described."""
        values, bundle, options = call.values, task.bundle, task.options
        unlink(f"{bundle}/{ENDED_FILE}")
        kept = (task.root, options.get("config_path", ""), options.get("binary_name", ""))
        write_whole(f"{bundle}/{ROOT_FILE}", "\0".join(kept).encode())

        def before() -> None:
            task.init.streams.wait_ready()
            mount(values["rootfs"], task.rootfs)

        def check() -> int:
            if is_claimed(document, bundle, options.get("config_path", "")):
                from urunc.snapshot.files import Reading

                Reading(task.checkpoint).close()
            return 0

        done = guarded(call, lambda answer: self._created(call, task, granted, answer))
        if task.checkpoint:
            self._verbs.check(check, done, before)
            return
        words = ["create", *task.making()]
        words += ["--no-new-keyring"] if options.get("no_new_keyring") else []
        words += [*pod.option(bundle, granted), task.id]
        self._verbs.create(task, words, done, mounts=values["rootfs"], document=document)

    def _new_task(self, values: dict[str, Any], document: Any) -> Task:
        """The container that a CreateTaskRequest and its config.json describe, with its streams
        open."""
        options = runtime_options(values["options"])
        streams, terminal = self._streams(values, options, values["id"])
        root = f"{options.get('root') or DEFAULT_ROOT}/{self._namespace}"
        init = TaskProcess("", values, streams, terminal)
        task = Task(values["id"], values["bundle"], root, init)
        task.options = options
        task.checkpoint = values["checkpoint"] or options.get("criu_image_path", "")
        task.systemd = bool(options.get("systemd_cgroup")) or is_systemds(document)
        task.own_pids = has_own_pids(document)
        task.member = pod.member(document)
        task.rootfs = f"{task.bundle}/rootfs" if values["rootfs"] else ""
        return task

    def _created(self, call: Call, task: Task, granted: pod.Limits, answer: Answer) -> None:
        """What follows the worker that made a container."""
        if not task.checkpoint:
            task.init.streams.release_child()
        if answer.code:
            refuse(call, answer, verb="create")
            self._forget(task)
            return
        try:
            pid = 0 if task.checkpoint else self._init_pid(task)
        except Exception:  # nobody hears of it, so nobody would delete it
            words = ["delete", "--force", task.id]
            self._verbs.run(task, words, lambda _: self._forget(task))
            raise
        if task.guest:
            task.limit(pod.resources(granted))
        task.made = True
        call.answer(pid=pid)
        stdio = task.init.stdio
        self._publisher.publish(
            "TaskCreate", container_id=task.id, bundle=task.bundle, rootfs=call.values["rootfs"],
            io={key: stdio[key] for key in ("stdin", "stdout", "stderr", "terminal")},
            checkpoint=task.checkpoint, pid=pid,
        )  # fmt: skip
        if pid:
            self._adopt(task, task.init, pid)
        if task.member.totals:  # a pod's first container: another follows
            self._verbs.stand_by()

    def _init_pid(self, task: Task) -> int:
        """The pid of a container's init, which has just been made."""
        from urunc.lifecycle.events import MemoryEvents
        from urunc.shim.metrics import groups_of

        pid = int(read_text(f"{task.bundle}/init.pid"))
        task.guest = is_ours(task.root, task.id)
        task.init.channel = guest_channel.listen(f"{task.root}/{task.id}")
        task.groups = groups_of(task.root, task.id, pid)
        task.memory = MemoryEvents(task.groups)
        return pid

    def _adopt(self, task: Task, process: TaskProcess, pid: int) -> None:
        """A process of a container is known by its pid from here on; it may have ended already."""
        process.pid = pid
        self._loop.adopt(pid, lambda status: self.ended(task, process, status))

    def _streams(
        self, values: dict[str, Any], options: dict[str, Any], identifier: str
    ) -> tuple[TaskStreams, Terminal | None]:
        streams = TaskStreams(
            values["stdin"], values["stdout"], values["stderr"], terminal=values["terminal"],
            namespace=self._namespace, identifier=identifier, settling=self._settling,
            owner=(options.get("io_uid", 0), options.get("io_gid", 0)),
        )  # fmt: skip
        streams.open()
        if not values["terminal"]:
            return streams, None
        from urunc.shim.terminal import Terminal

        return streams, Terminal(streams)

    def start(self, call: Call) -> None:
        """Start a container, or a process that was added to one."""
        task, process = self._tasks.process_named(call.values)
        if process.status != CREATED or process.starting:
            raise StatusError(
                FAILED_PRECONDITION, f"{call.process_name}: cannot start: not created"
            )
        process.starting = True
        if process is not task.init:
            self._start_exec(call, task, process)
            return

        def then() -> None:
            process.status = RUNNING
            call.answer(pid=process.pid)
            self._publisher.publish("TaskStart", container_id=task.id, pid=process.pid)

        if task.checkpoint:
            self._restore(call, task)
            return
        self._verbs.run(task, ["start", task.id], self._started(call, task, process, then))

    def _restore(self, call: Call, task: Task) -> None:
        """Start what was made from a checkpoint: its init comes to be only now."""
        from urunc.shim.checkpoints import restore_words

        init = task.init
        granted = pod.granted(task.member, self._tasks.members(beside=task))

        def then() -> None:
            pid = self._init_pid(task)
            task.limit(pod.resources(granted))
            init.status = RUNNING
            self._publisher.publish("TaskStart", container_id=task.id, pid=pid)
            call.answer(pid=pid)
            self._adopt(task, init, pid)

        started = self._started(call, task, init, then)

        def done(answer: Answer) -> None:
            init.streams.release_child()
            started(answer)

        words = restore_words(task, pod.option(task.bundle, granted))
        self._verbs.run(task, words, done, streams=init.streams.child)

    def _started(
        self, call: Call, task: Task, process: TaskProcess, then: Callable[[], None]
    ) -> Callable[[Answer], None]:
        """What follows the worker that starts a process."""
        verb = "exec" if process.exec_id else "restore" if task.checkpoint else "start"
        answered = answering(call, then, verb=verb)

        def done(answer: Answer) -> None:
            answered(answer)
            process.starting = False
            if process.exited_ns:  # it has ended meanwhile: nobody hears of that before its start
                process.status = STOPPED
                self.tell_end(task, process)

        return done

    def add_process(self, call: Call) -> None:
        """`Exec`: a process to execute in a container, once it is started."""
        task = self._tasks.named(call.values)
        values = call.values
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
        self._publisher.publish("TaskExecAdded", container_id=task.id, exec_id=process.exec_id)
        call.answer()

    def _start_exec(self, call: Call, task: Task, process: TaskProcess) -> None:
        pid_file = f"{task.bundle}/{process.exec_id}.pid"
        spec = f"{task.bundle}/{process.exec_id}.json"
        write_whole(spec, process.spec)
        words = ["exec", "--detach", "--process", spec, "--pid-file", pid_file]
        if process.terminal:
            words += ["--console-socket", process.terminal.socket_path]

        def then() -> None:
            pid = int(read_text(pid_file))
            process.status = RUNNING
            self._publisher.publish(
                "TaskExecStarted", container_id=task.id, exec_id=process.exec_id, pid=pid
            )
            call.answer(pid=pid)
            self._adopt(task, process, pid)

        started = self._started(call, task, process, then)

        def done(answer: Answer) -> None:
            process.streams.release_child()
            if answer.code:
                process.end(255 if answer.code < 0 else answer.code)
            started(answer)
            unlink(spec)
            unlink(pid_file)

        streams = process.streams
        self._verbs.run(
            task, [*words, task.id], done, streams=streams.child, before=streams.wait_ready
        )

    # ends

    def ended(self, task: Task, process: TaskProcess, status: int) -> None:
        """A container's process has ended, with this status of wait(2)."""
        how = posix.waitstatus_to_exitcode(status)
        said = guest_channel.last_words(process.channel)
        process.channel = -1
        code = 128 - how if how < 0 else how
        if task.guest:
            code = _guest_code(task, how, said)
        process.streams.release()
        if process is task.init:
            self._count_memory(task)
            if said.kills:
                self._publisher.publish("TaskOOM", container_id=task.id)
            if not task.guest and not task.own_pids:
                # once its end is told nothing of a container runs: containerd closes its streams
                words = ["kill", "--all", task.id, "KILL"]
                self._verbs.run(task, words, lambda _: self._end(task, process, code))
                return
        self._end(task, process, code)
        if task.guest and code and said.code is None:
            _explain(task, how, said, code)

    def _end(self, task: Task, process: TaskProcess, code: int) -> None:
        process.end(code)
        if not process.starting:
            self.tell_end(task, process)

    def tell_end(self, task: Task, process: TaskProcess) -> None:
        """Tell who waits; the init's end after those of all that was executed beside it, and after
        the answers to who killed it: containerd closes its connection once it has heard of that."""
        if process.told or task.holds_back(process):
            return
        process.told = True
        waiting, process.waiting = process.waiting, []
        for wake in waiting:
            wake()
        if process.pid:  # an exec that failed to start never was
            self._publisher.publish(
                "TaskExit", container_id=task.id, id=process.exec_id or task.id, pid=process.pid,
                exit_status=process.exit_code, exited_at=timestamp(process.exited_ns),
            )  # fmt: skip
        init = task.init
        if process is not init and init.status == STOPPED and not init.starting:
            self.tell_end(task, init)

    def delete(self, call: Call) -> None:
        """Remove a container that has ended, or a process that was executed in one."""
        task, process = self._tasks.process_named(call.values)
        if process.status == RUNNING or process.starting:
            raise StatusError(
                FAILED_PRECONDITION, f"{call.process_name}: cannot delete a running process"
            )
        if process is not task.init:
            process.streams.close()
            del task.execs[process.exec_id]
            call.answer(**_end_of(process))
            return

        def then() -> None:
            task.killers = 0
            if process.exited_ns:  # it is not told after the container is no more
                self.tell_end(task, process)
            self._forget(task)
            end = _end_of(process)
            leave_answer(task.bundle, end)
            call.answer(**end)
            self._publisher.publish("TaskDelete", container_id=task.id, **end)

        self._verbs.run(task, ["delete", "--force", task.id], answering(call, then))

    def _forget(self, task: Task) -> None:
        """Let go of everything of a container that is no more."""
        for process in task.processes():
            if process.terminal:
                process.terminal.close()
            process.streams.close()
        if task.memory:
            task.memory.close()
        if task.rootfs:
            from urunc.shim.unmount import unmount_all

            unmount_all(task.rootfs)
        self._tasks.remove(task)
        self._loop.disown(task.init.pid)

    # what the loop looks after: terminals, and what is told of memory

    @property
    def busy(self) -> bool:
        """Whether there are containers."""
        return bool(self._tasks)

    def descriptors(self) -> list[tuple[int, int, Callable[[int], None]]]:
        """(descriptor, events, what to call then) to poll for."""
        found = []
        for task in self._tasks:
            for process in task.processes():
                for fd, events in process.terminal.descriptors() if process.terminal else ():
                    found.append((fd, events, _relaying(process.terminal, fd)))
            if task.memory and task.memory.fd >= 0:
                found.append((task.memory.fd, task.memory.events, self._hearing(task)))
        return found

    def timeout_s(self) -> float | None:
        """Nothing is to be done without an event."""
        return None

    def advance(self) -> None:
        """Nothing is to be done without an event."""

    def _hearing(self, task: Task) -> Callable[[int], None]:
        def hear(_events: int) -> None:
            assert task.memory
            task.memory.acknowledge()
            self._count_memory(task)

        return hear

    def _count_memory(self, task: Task) -> None:
        kills = cgroups.oom_kills(task.groups.paths) if task.groups.paths else 0
        if kills > task.kills:
            task.kills = kills
            self._publisher.publish("TaskOOM", container_id=task.id)


def _relaying(terminal: Terminal | None, fd: int) -> Callable[[int], None]:
    assert terminal
    return lambda events: terminal.ready(fd, events)


def _guest_code(task: Task, status: int, said: Said) -> int:
    """The exit code of a guest, whose monitor ended with a status."""
    if said.code is not None:
        return said.code
    from urunc.lifecycle import exit_reason
    from urunc.state import load

    stop = exit_reason.stop_of(f"{task.root}/{task.id}")
    try:
        return exit_reason.exit_code(load(task.root, task.id).plan, status, said, stop)
    except Error as error:
        logs.warn(f"how '{task.id}' ended: {error.message}")
        return 128 - status if status < 0 else status


def _explain(task: Task, status: int, said: Said, code: int) -> None:
    """Write into the log why a guest ended with a code that nobody asked for; its end is told by
    now."""
    from urunc.lifecycle import exit_reason
    from urunc.state import load

    if exit_reason.stop_of(f"{task.root}/{task.id}"):
        return
    try:
        from urunc import config, monitors

        plan = load(task.root, task.id).plan
        monitor = monitors.load(plan.monitor, config.load(task.options.get("config_path", "")))
        why = exit_reason.reason(plan, monitor, status, said)
        logs.warn(f"container '{task.id}' ended with {code}: {why}")
    except Error as error:
        logs.warn(f"why '{task.id}' ended with {code}: {error.message}")
    except ImportError as error:  # urunc was replaced meanwhile: no reason to end
        logs.warn(f"why '{task.id}' ended with {code}: {error}")


def _end_of(process: TaskProcess) -> dict[str, Any]:
    """What is told of a process that is removed."""
    return {
        "pid": process.pid,
        "exit_status": process.exit_code,
        "exited_at": timestamp(process.exited_ns),
    }
