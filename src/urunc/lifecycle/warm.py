# SPDX-License-Identifier: Apache-2.0
"""A start from a snapshot: what `start` does in place of booting, or beside it.

Runs in `start`'s process. Until init is let go, whatever speaks against the snapshot is a warning,
and the guest boots as it would have. Without a snapshot of its key the guest boots, and a process
apart (lifecycle/warm_save.py) saves it once it is ready.
"""

from __future__ import annotations

import posix
from time import clock_gettime_ns, monotonic, sleep

from urunc import guest_channel, logs, monitors, timing
from urunc.bundle.pods import annotated
from urunc.bundle.ready import wish_of
from urunc.errors import Error, HostError, MonitorError, SnapshotError, reason
from urunc.init.letters import monitor_exec
from urunc.lifecycle.booting import Booting
from urunc.lifecycle.loading import Loading
from urunc.linux.files import write_whole
from urunc.monitors import Launch
from urunc.net.facts import NetFacts
from urunc.plan.model import CONFIG_DISK, as_planned, unflatten
from urunc.record import replace
from urunc.snapshot import fit, store
from urunc.snapshot.key import Made
from urunc.snapshot.manifest import SAVED
from urunc.storage.facts import StorageFacts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from urunc.bundle.ready import Wish
    from urunc.config import Config
    from urunc.init.letters import MonitorExec
    from urunc.monitors import Snapshots
    from urunc.plan.model import Plan
    from urunc.snapshot.files import Reading
    from urunc.snapshot.store import Place
    from urunc.state import State

CONFIG_STEP = 1 << 16
"""The size of the configuration's disk is a multiple: the guest knows that of its first start."""
TOLD_S = 60.0
"""How long a guest may take to go on as another container."""
INTERVAL_S = 0.001
SEED_BYTES = 64
REALTIME = 0
KEYS = ("start", "ready")
"""Annotations."""
KEY = "snapshot"
"""The file in a container's directory with the key of the snapshot that it comes from, or that is
to be made of it."""


def begin(state: State, config: Config, changed: MonitorExec | None) -> Booting:
    """How a container of whom `start.snapshots` may want that starts; `changed` is its launch where
    the network has changed since `create`. Nothing has happened to it yet."""
    booting = Booting()
    booting.letter = changed
    overrides = annotated(state.document["annotations"], KEYS)
    wish, why = wish_of(overrides, config.get("start.snapshots"), config.get("start.ready"))
    if wish is None:
        if why:
            _warn(state, why)
        return booting
    try:
        return _Wanted(state, config, wish).decide()
    except (Error, OSError) as error:
        _warn(state, str(error))
        return booting


def foreseen(
    plan: Plan, net: NetFacts, storage: StorageFacts, annotations: Mapping[str, str], config: Config
) -> str:
    """How a container will start, for `plan`: "" where nobody has asked for a snapshot."""
    overrides = annotated(annotations, KEYS)
    wish, why = wish_of(overrides, config.get("start.snapshots"), config.get("start.ready"))
    if wish is None:
        return f"boots: {why}" if why else ""
    made = Made(0, plan, as_planned(plan), storage, net, _cache(config))
    problem = made.problem(wish, monitors.load(plan.monitor, config).snapshots())
    if problem:
        return f"boots: {problem}"
    return "from a snapshot, if there is one of its key; else it boots, and one is made of it"


def _cache(config: Config) -> str:
    from urunc.storage import cache

    return cache.location(config)


def _warn(state: State, why: str) -> None:
    logs.warn(f"start '{state.id}': not from a snapshot: {why}")


class _Wanted:
    """A container that is to start from a snapshot."""

    def __init__(self, state: State, config: Config, wish: Wish) -> None:
        self.state = state
        self.config = config
        self.wish = wish
        self.plan, self.chosen = state.read_by("plan", unflatten)
        self.net = state.read("net", NetFacts)
        storage = state.read("storage", StorageFacts)
        shared = _cache(config) if storage.disks else ""
        self.made = Made(state.pid, self.plan, self.chosen, storage, self.net, shared)
        self.storage = storage
        monitor = monitors.load(self.plan.monitor, config)
        snapshots = monitor.snapshots()
        problem = self.made.problem(wish, snapshots)
        if problem or snapshots is None:
            raise SnapshotError(problem)
        self.snapshots: Snapshots = snapshots
        self.launch = self._padded(state.read("launch", Launch))
        self.directory: str = config.get("start.directory")

    def _padded(self, launch: Launch) -> Launch:
        text = launch.files.get(CONFIG_DISK)
        if text is None:
            return launch
        size = len(text.encode("utf-8", "surrogateescape"))
        padded = text + "\0" * (-size % CONFIG_STEP)
        return replace(launch, files={**launch.files, CONFIG_DISK: padded})

    def decide(self) -> Booting:
        """From the snapshot, or by booting; raises SnapshotError, OSError to boot as ever."""
        store.prepare(self.directory)
        salt = store.salt(self.directory)
        key = self.made.key(self.wish, self.launch, self.snapshots, salt)
        timing.stamp(20)
        write_whole(f"{self.state.directory}/{KEY}", key.encode())
        place = store.Place(self.directory, key)
        try:
            if not place.lock(alone=False):
                return self._boot(key, "there is none of its key yet")
            if not store.is_sealed(place.path):
                place.release()
                return self._boot(key, "the one of its key is not complete")
            return self._take(key, place)
        except SnapshotError as error:
            place.release()
            removed = store.drop(self.directory, key)
            raise SnapshotError(f"{error}{'; it is removed' if removed else ''}") from None
        except BaseException:
            place.release()
            raise

    def _boot(self, key: str, why: str) -> Booting:
        from urunc.lifecycle.warm_save import Saving

        logs.info(f"start '{self.state.id}': it boots, to be saved as {key[:12]}: {why}")
        return Saving(self.state, self.config, self.wish, self.snapshots, self.launch, key)

    def _take(self, key: str, place: Place) -> Booting:
        saved = place.read()
        try:
            fit.check_plan(saved.manifest, self.plan, self.made.host)
            self._check_files(saved)
            # nothing else can fail any more: from here on the disk is not empty
            self._fill_layer(saved)
        except BaseException:
            saved.close()
            raise
        logs.info(f"start '{self.state.id}': from the snapshot {key[:12]}")
        waiting = self.snapshots.waiting(self.launch)
        return _Taking(self.state, self.config, saved, place, waiting, told=self.made.told)

    def _check_files(self, saved: Reading) -> None:
        for name in self.snapshots.files:
            if name not in saved.files:
                raise SnapshotError(f"'{name}': it was not saved")
        if len(fit.interfaces_of(self.plan, self.net)) != len(saved.manifest.interfaces):
            raise SnapshotError("it has another number of network interfaces")

    def _fill_layer(self, saved: Reading) -> None:
        """The writable layer as it was when the guest was saved: its kernel has it mounted."""
        if self.made.upper < 0:
            return
        from urunc.storage import sparse

        disk = saved.manifest.disks[self.made.upper]
        if disk.kind != SAVED:
            raise SnapshotError(f"disk '{disk.target}': it was not saved")
        path = self.storage.disks[self.storage.upper].source
        fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)
        try:
            posix.ftruncate(fd, 0)
            sparse.copy(saved.files[disk.file], fd, disk.size_bytes)
            posix.ftruncate(fd, disk.size_bytes)
        except OSError as error:
            raise HostError(f"disk '{path}': {reason(error)}") from None
        finally:
            posix.close(fd)


class _Taking(Booting):
    """The monitor waits, and takes the saved guest up."""

    def __init__(
        self,
        state: State,
        config: Config,
        saved: Reading,
        place: Place,
        waiting: Launch,
        *,
        told: bool,
    ) -> None:
        self.letter = monitor_exec(waiting)
        self._state = state
        self._config = config
        self._saved = saved
        self._place = place
        self._told = told

    def follow(self) -> None:
        try:
            _Loading(self._state, self._config, self._saved, told=self._told).run()
            self._place.count()
        except (Error, OSError):
            # nobody else has to meet with it
            self._place.release()
            store.drop(self._place.directory, self._place.key)
            from urunc.lifecycle.delete import end

            end(self._state, self._config.get("timeouts.kill_s"))
            raise
        finally:
            self._saved.close()
            self._place.release()


class _Loading(Loading):
    """The same as in a restore, but that the guest is told who it is now."""

    verb = "start"

    def __init__(self, *given: Any, told: bool) -> None:
        super().__init__(*given)
        self._told = told

    def before_it_goes_on(self) -> None:
        timing.stamp(21)

    def after_it_went_on(self) -> None:
        timing.stamp(19)
        if not self._told:
            return
        directory = self.state.directory
        ear = guest_channel.listen(directory)
        try:
            now_ns = clock_gettime_ns(REALTIME)
            if not guest_channel.tell_again(directory, now_ns, posix.urandom(SEED_BYTES)):
                raise MonitorError("the channel of the guest's init has no reader")
            until = monotonic() + TOLD_S
            while not guest_channel.said(ear).told:
                if monotonic() > until:
                    raise MonitorError("the guest did not take its new names and addresses")
                if guest_channel.said(ear).code is not None:
                    raise MonitorError("the guest has ended: its console has the reason")
                sleep(INTERVAL_S)
        finally:
            if ear >= 0:
                posix.close(ear)
        timing.stamp(22)
        self.say_ready()
