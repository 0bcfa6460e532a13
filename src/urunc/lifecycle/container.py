# SPDX-License-Identifier: Apache-2.0
"""The life of a container after `create`: start, pause, delete. The hall that every door leads
through.

Runs in the caller's process, in the host's namespaces, with its privilege. Each verb takes the
container's lock. What is needed only where
something changed, or where there are hooks, is imported there: each of these verbs is a process of
its own, and an import is time.
"""

from __future__ import annotations

import posix
from errno import ENXIO

from urunc import logs, timing
from urunc.errors import (
    Error,
    HostError,
    InitError,
    MonitorError,
    NotFoundError,
    StateError,
    WrongStatusError,
    reason,
)
from urunc.jsontext import dumps, loads
from urunc.linux import process
from urunc.linux.files import exists, read_descriptor, remove_tree, write_all
from urunc.state import (
    CREATED,
    FILE,
    PAUSED,
    RUNNING,
    START,
    STARTED,
    STOPPED,
    Folder,
    State,
    check_id,
    load,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.config import Config
    from urunc.monitors import Launch

SIGKILL = 9
UNFINISHED = "unfinished"
"""In state.json while `start` changes the network: how many resources were recorded before."""


def start(root: str, identifier: str, config: Config) -> State:
    """Let a created container's monitor run; raises WrongStatusError, InitError."""
    folder = Folder(root, check_id(identifier))
    folder.lock()
    try:
        state = load(root, identifier)
        timing.open_file(config.get("timestamps.file"), identifier)
        timing.stamp(12)
        status = state.status()
        if status != CREATED:
            raise WrongStatusError(f"start '{identifier}': container is {status}, not created")
        changed = _look_again(state, config)
        _let_go(state, changed)
    finally:
        folder.unlock()
    try:
        _run_hooks(state, "poststart", RUNNING)
    except Error:
        _end(state, config.get("timeouts.kill_s"))
        raise
    return state


def _look_again(state: State, config: Config) -> dict[str, object]:
    """What changed in the network since `create`, made good: a new launch, or nothing."""
    if not state.data["nicCount"]:
        return {}
    from urunc.net.attach import connect, look
    from urunc.net.facts import Found, NetFacts
    from urunc.plan.model import Plan
    from urunc.plan.realize import realize, untold
    from urunc.record import plain, rebuild
    from urunc.storage.facts import StorageFacts

    plan = rebuild(Plan, state.data["plan"])
    storage = rebuild(StorageFacts, state.data["storage"])
    namespace = network_of(
        state.pid, state.data["network"], tuple(state.data.get("networkIdentity", ()))
    )
    _take_back(state)
    now = look(plan, namespace, state.data["files"])
    if UNFINISHED not in state.data and now == rebuild(Found, state.data["found"]):
        return {}
    from urunc import guests, monitors
    from urunc.journal import Journal
    from urunc.journaled import resource_class

    logs.detail("the network changed between create and start")
    known = rebuild(NetFacts, state.data["net"])
    journal = Journal(state.folder, resource_class)
    # written down before anything is made: this call may be killed, too
    state.data[UNFINISHED] = len(journal)
    state.save()
    try:
        net = connect(now, namespace, plan, journal, known)
        guest, monitor = guests.load(plan.guest, config), monitors.load(plan.monitor, config)
        launch = realize(plan, net, guest, monitor, storage)
    except BaseException:
        _take_back(state)
        raise
    for omission in untold(plan, net, guest, monitor, storage):
        logs.warn(omission)
    del state.data[UNFINISHED]
    state.data.update(found=plain(now), net=plain(net), launch=plain(launch))
    state.save()
    return parts(launch)


def parts(launch: Launch) -> dict[str, object]:
    """What init needs of a launch to become the monitor."""
    return {
        "argv": launch.argv,
        "files": dict(launch.files),
        "claims": launch.claims,
        "held": launch.held,
        "streams": launch.streams,
    }


def _take_back(state: State) -> None:
    """Remove what a `start` that did not finish made: state.json does not know of it."""
    if UNFINISHED in state.data:
        from urunc.journal import Journal
        from urunc.journaled import resource_class

        Journal(state.folder, resource_class).take_back(state.data[UNFINISHED])


def network_of(pid: int, given: str, known: tuple[int, ...] = ()) -> str:
    """A path to the network namespace that init is in: the one that the engine gave where it leads
    there still, for that outlives init. `known` is the (device, inode) that it had in `create`."""
    own = f"/proc/{pid}/ns/net"
    if not given:
        return own
    from urunc.linux.namespaces import identity

    try:
        now = identity(given)
        try:
            return given if now == identity(own) else own
        except PermissionError:  # proc(5): another user's takes CAP_SYS_PTRACE
            return given if known in ((), now) else own
    except OSError:
        return own


def _let_go(state: State, launch: dict[str, object]) -> None:
    """Open init's FIFO and wait until it has become the monitor."""
    message = dumps({"launch": launch, "state": dumps(state.oci(CREATED))})
    answer = posix.open(
        f"{state.folder}/{STARTED}", posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC
    )
    try:
        timing.stamp(13)
        fd = posix.open(
            f"{state.folder}/{START}", posix.O_WRONLY | posix.O_NONBLOCK | posix.O_CLOEXEC
        )
        posix.set_blocking(fd, True)
        try:
            write_all(fd, message.encode())
        finally:
            posix.close(fd)
        posix.set_blocking(answer, True)
        said = read_descriptor(answer)
    except OSError as error:
        if error.errno == ENXIO:
            raise WrongStatusError(f"start '{state.id}': its init has ended") from None
        raise
    finally:
        posix.close(answer)
    if said:
        problem = loads(said.decode())
        raise InitError(f"start '{state.id}': {problem['error']}", problem.get("hint", ""))


def thaw(state: State) -> None:
    """Let the frozen go on, even the dead; a failure is a warning."""
    from urunc.linux.cgroups import freeze

    try:
        freeze(state.data["groups"]["paths"], on=False)
    except OSError as error:
        logs.warn(f"thaw '{state.id}': {reason(error)}")


def pause(root: str, identifier: str, config: Config) -> None:
    """Freeze a container; raises WrongStatusError, HostError."""
    with locked(root, identifier) as state:
        status = state.status()
        if status not in (CREATED, RUNNING):
            raise WrongStatusError(f"pause '{identifier}': container not running: {status}")
        _order_clock(state, "pause", status, config)
        try:
            _freeze(state, on=True)
        except HostError:
            _order_clock(state, "resume", status, config)
            raise


def resume(root: str, identifier: str, config: Config) -> None:
    """Let a paused container go on; raises WrongStatusError, HostError."""
    with locked(root, identifier) as state:
        status = state.status()
        if status != PAUSED:
            raise WrongStatusError(f"resume '{identifier}': container not paused: {status}")
        _freeze(state, on=False)
        _order_clock(state, "resume", state.status(), config)


def _freeze(state: State, *, on: bool) -> None:
    from urunc.linux.cgroups import freeze

    try:
        freeze(state.data["groups"]["paths"], on=on)
    except OSError as error:
        verb = "pause" if on else "resume"
        raise HostError(
            f"{verb} '{state.id}': {reason(error)}",
            "it takes a freezer control group (v1) or cgroup v2",
        ) from None


def _order_clock(state: State, what: str, status: str, config: Config) -> None:
    """Have the monitor stop (or start) the guest's clock too, where it can: a guest that is only
    frozen finds that time has jumped. Freezing is what pauses; so a failure is no more than a
    warning."""
    if status != RUNNING:
        return
    from urunc import monitors
    from urunc.lifecycle.order import order

    if what not in monitors.load(state.data["plan"]["monitor"], config).orders:
        return
    try:
        order(state, what, config)
    except MonitorError as error:
        logs.warn(f"{what} '{state.id}': {error.message}: the guest's clock will jump")


class locked:
    """A container with its folder locked."""

    def __init__(self, root: str, identifier: str) -> None:
        self.folder = Folder(root, check_id(identifier))
        self.root = root

    def __enter__(self) -> State:
        self.folder.lock()
        try:
            return load(self.root, self.folder.identifier)
        except BaseException:
            self.folder.unlock()
            raise

    def __exit__(self, *_error: object) -> None:
        self.folder.unlock()


def delete(root: str, identifier: str, config: Config, *, force: bool) -> None:
    """Remove a stopped container and all that is left of it; with `force`, kill it first.

    NotFoundError, WrongStatusError. With `force` an id without a container is no error, as with
    runc.
    """
    folder = Folder(root, check_id(identifier))
    try:
        folder.lock()
    except NotFoundError:
        if force:
            return
        raise
    try:
        state = _load_for_delete(root, folder, force=force)
        if state:
            status = state.status()
            if status != STOPPED:
                if not force:
                    raise WrongStatusError(
                        f"delete '{identifier}': container is {status}, not stopped",
                        "kill it first, or use --force",
                    )
                _end(state, config.get("timeouts.kill_s"))
            _report_end(state)
            give_back(state)
        from urunc.journal import Journal
        from urunc.journaled import resource_class

        Journal(folder.path, resource_class).remove_all()
        if state:
            run_poststop(state)
        remove_tree(folder.path)
    finally:
        folder.unlock()


def _load_for_delete(root: str, folder: Folder, *, force: bool) -> State | None:
    """The state; None where `create` died before it wrote one, or (with `force`) where it cannot be
    read: the journal alone tells what to remove then."""
    if not exists(f"{folder.path}/{FILE}"):
        return None
    try:
        return load(root, folder.identifier)
    except StateError:
        if force:
            return None
        raise


def _end(state: State, timeout_s: float) -> None:
    pidfd = state.pidfd()
    if pidfd is None:
        return
    process.send_signal(pidfd, SIGKILL)
    if state.data.get("groups") and state.paused():
        thaw(state)
    ended = process.wait_gone(pidfd, timeout_s)
    posix.close(pidfd)
    if not ended:
        raise HostError(f"end '{state.id}': process {state.pid} did not end within {timeout_s} s")


def _report_end(state: State) -> None:
    """Say so where memory ran out: nothing else of a killed monitor would."""
    groups = state.data.get("groups")
    if groups:
        from urunc.linux.cgroups import oom_kills

        if oom_kills(groups["paths"]):
            logs.warn(f"container '{state.id}': its memory limit was reached: killed (OOM)")


def give_back(state: State) -> None:
    """Put a stopped container's termination message where the engine reads it, if it is not there
    already."""
    if state.data.get("storage", {}).get("returned", -1) >= 0:
        from urunc.storage.returned import give_back as write

        write(state.data)


def run_poststop(state: State) -> None:
    """The hooks of a container that is no more; their failures are warnings."""
    _run_hooks(state, "poststop", STOPPED)


def _run_hooks(state: State, kind: str, status: str) -> None:
    programs = state.data["hooks"].get(kind)
    if not programs:
        return
    from urunc.bundle.spec import Hook
    from urunc.init import hooks
    from urunc.record import rebuild

    for number, hook in enumerate(programs):
        try:
            hooks.run(f"{kind}[{number}]", rebuild(Hook, hook), dumps(state.oci(status)))
        except Error as error:
            if kind == "poststart":
                raise
            logs.warn(error.message)
