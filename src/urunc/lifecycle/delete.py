# SPDX-License-Identifier: Apache-2.0
"""`delete`: what is left of a container goes, by its journal; also how one is ended at once."""

from __future__ import annotations

import posix

from urunc import logs
from urunc.directory import Directory
from urunc.errors import HostError, NotFoundError, StateError, WrongStatusError
from urunc.lifecycle.pause import thaw
from urunc.lifecycle.run_hooks import run_poststop
from urunc.linux import process
from urunc.state import STOPPED, State, check_id, load, recorded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.config import Config

SIGKILL = 9


def delete(root: str, identifier: str, config: Config, *, force: bool) -> None:
    """Remove a stopped container and all that is left of it; with `force`, kill it first.

    NotFoundError, WrongStatusError. With `force` an id without a container is no error, as with
    runc.
    """
    directory = Directory(root, check_id(identifier))
    try:
        directory.lock()
    except NotFoundError:
        if force:
            return
        raise
    try:
        remove(root, directory, config, force=force)
    finally:
        directory.unlock()


def remove(root: str, directory: Directory, config: Config, *, force: bool) -> None:
    """`delete` of the container whose directory the caller has locked."""
    state = _load_for_delete(root, directory, force=force)
    if state:
        status = state.status()
        if status != STOPPED:
            if not force:
                raise WrongStatusError(
                    f"delete '{state.id}': container is {status}, not stopped",
                    "kill it first, or use --force",
                )
            end(state, config.get("timeouts.kill_s"))
        _report_end(state)
        give_back(state)
    from urunc.journal import Journal
    from urunc.journaled import resource_class

    Journal(directory.path, resource_class).remove_all()
    if state:
        run_poststop(state)
    directory.remove()


def _load_for_delete(root: str, directory: Directory, *, force: bool) -> State | None:
    """The state; None where `create` died before it wrote one, or (with `force`) where it cannot be
    read: the journal alone tells what to remove then."""
    if not recorded(directory.path):
        return None
    try:
        return load(root, directory.identifier)
    except StateError:
        if force:
            return None
        raise


def end(state: State, timeout_s: float) -> None:
    """Kill a container and wait for its end; raises HostError after the time limit."""
    pidfd = state.pidfd()
    if pidfd is None:
        return
    process.send_signal(pidfd, SIGKILL)
    if state.paused():
        thaw(state)
    ended = process.wait_gone(pidfd, timeout_s)
    posix.close(pidfd)
    if not ended:
        raise HostError(f"end '{state.id}': process {state.pid} did not end within {timeout_s} s")


def _report_end(state: State) -> None:
    """Say so where memory ran out: nothing else of a killed monitor would."""
    paths = state.group_paths
    if paths:
        from urunc.linux.cgroups import oom_kills

        if oom_kills(paths):
            logs.warn(f"container '{state.id}': its memory limit was reached: killed (OOM)")


def give_back(state: State) -> None:
    """Put a stopped container's termination message where the engine reads it, if it is not there
    already."""
    file = state.returned
    if file:
        from urunc.storage.termination_message import give_back as write

        write(file)
