# SPDX-License-Identifier: Apache-2.0
"""`start`: lets a created container's monitor run.

What is needed only where something changed, or where there are hooks, is imported there: the verb
is a process of its own, and an import is time."""

from __future__ import annotations

import posix
from errno import ENXIO, EPIPE

from urunc import logs, timing
from urunc.directory import Directory
from urunc.errors import Error, InitError, WrongStatusError
from urunc.init.letters import Start, monitor_exec, problem_of, whole
from urunc.jsontext import dumps
from urunc.lifecycle.run_hooks import run_hooks
from urunc.linux.files import read_descriptor, write_all
from urunc.state import CREATED, RUNNING, START, STARTED, STOPPED, State, check_id, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.config import Config
    from urunc.init.letters import MonitorExec


SAID = b"URUNC_DOOR_SAID"
"""What init said to the door (door/door.c), which has no words for it, in place of starting."""


def start(root: str, identifier: str, config: Config) -> State:
    """Let a created container's monitor run; raises WrongStatusError, InitError."""
    said = posix.environ.get(SAID)
    if said:
        problem = problem_of(said)
        raise InitError(f"start '{identifier}': {problem.error}", problem.hint)
    directory = Directory(root, check_id(identifier))
    directory.lock()
    try:
        state = load(root, identifier)
        stamps = state.timestamps
        timing.open_file(stamps or config.get("timestamps.file"), identifier, always=bool(stamps))
        timing.stamp(12)
        status = state.status()
        if status != CREATED:
            raise _wrong_status(identifier, status)
        changed = _look_again(state, config)
        if config.get("start.snapshots") != "never":
            from urunc.lifecycle import warm

            way = warm.begin(state, config, changed)
            let_go(state, way.letter)
            way.follow()
        else:
            let_go(state, changed)
    finally:
        directory.unlock()
    try:
        run_hooks(state, "poststart", RUNNING)
    except Error:
        from urunc.lifecycle.delete import end

        end(state, config.get("timeouts.kill_s"))
        raise
    return state


def _wrong_status(identifier: str, status: str) -> WrongStatusError:
    return WrongStatusError(f"start '{identifier}': container is {status}, not created")


def _look_again(state: State, config: Config) -> MonitorExec | None:
    """What changed in the network since `create`, made good: another launch, or None."""
    if not state.nic_count:
        return None
    from urunc.net.attach import connect, look_at_network, network_of
    from urunc.net.facts import NetFacts, NetworkFound
    from urunc.plan.model import unflatten
    from urunc.plan.realize import omissions, realize
    from urunc.storage.facts import StorageFacts

    plan, chosen = state.read_by("plan", unflatten)
    storage = state.read("storage", StorageFacts)
    namespace = network_of(state.pid, state.network, state.network_identity)
    _take_back(state)
    now = look_at_network(plan, namespace, state.network_files)
    if state.unfinished is None and now == state.read("found", NetworkFound):
        return None
    from urunc import guests, monitors
    from urunc.journal import Journal
    from urunc.journaled import resource_class

    logs.detail("the network changed between create and start")
    known = state.read("net", NetFacts)
    journal = Journal(state.directory, resource_class)
    # written down before anything is made: this call may be killed, too
    state.unfinished = len(journal)
    state.save()
    try:
        net = connect(now, namespace, plan, chosen.user, journal, known)
        guest, monitor = guests.load(plan.guest, config), monitors.load(plan.monitor, config)
        launch = realize(plan, net, guest, monitor, storage, chosen)
    except BaseException:
        _take_back(state)
        raise
    for omission in omissions(plan, net, guest, monitor, storage, chosen):
        logs.warn(omission)
    state.unfinished = None
    state.write(found=now, net=net, launch=launch)
    state.save()
    return monitor_exec(launch)


def _take_back(state: State) -> None:
    """Remove what a `start` that did not finish made: container.json does not know of it."""
    if state.unfinished is not None:
        from urunc.journal import Journal
        from urunc.journaled import resource_class

        Journal(state.directory, resource_class).take_back(state.unfinished)


def let_go(state: State, launch: MonitorExec | None) -> None:
    """Open init's FIFO and wait until it has become the monitor."""
    letter = Start(launch=launch, state=dumps(state.oci(CREATED)))
    answer = posix.open(
        f"{state.directory}/{STARTED}", posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC
    )
    try:
        timing.stamp(13)
        fd = posix.open(
            f"{state.directory}/{START}", posix.O_WRONLY | posix.O_NONBLOCK | posix.O_CLOEXEC
        )
        posix.set_blocking(fd, True)
        try:
            write_all(fd, whole(letter))
        finally:
            posix.close(fd)
        posix.set_blocking(answer, True)
        said = read_descriptor(answer)
    except OSError as error:
        if error.errno in (ENXIO, EPIPE):
            raise _wrong_status(state.id, STOPPED) from None
        raise
    finally:
        posix.close(answer)
    if said:
        problem = problem_of(said)
        raise InitError(f"start '{state.id}': {problem.error}", problem.hint)
