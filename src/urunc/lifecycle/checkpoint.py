# SPDX-License-Identifier: Apache-2.0
"""`checkpoint`: a guest is saved into a directory, and ends or goes on.

Runs in the caller's process, in the host's namespaces, with its privilege. The guest stands still
while its monitor saves its state and memory and while the disks that it writes are copied; digests
and fsync(2) come after that. Whatever fails, the guest goes on and nothing of the image is left;
should this process be killed, a child of it sees to that (snapshot/guard.py).
"""

from __future__ import annotations

import posix
from time import gmtime, monotonic, sleep, strftime

from urunc import __version__, guest_channel, guests, logs, monitors
from urunc.directory import locked
from urunc.errors import Error, HostError, MonitorError, SnapshotError, WrongStatusError, reason
from urunc.guest_channel import Said
from urunc.lifecycle.delete import end, remove
from urunc.lifecycle.reach import connect, has_ended
from urunc.linux.files import S_IFMT, S_IFREG, open_in_root
from urunc.monitor_client import NONSENSE
from urunc.monitors import MIB, Launch
from urunc.net.facts import NetFacts
from urunc.plan.model import unflatten
from urunc.plan.realize import realize
from urunc.snapshot import fit, lend
from urunc.snapshot.files import Writing, digest
from urunc.snapshot.guard import Guard
from urunc.snapshot.host import host_for
from urunc.snapshot.manifest import MOST_NAME, SAME, SAVED, SCHEMA, Manifest, SavedDisk, SavedFile
from urunc.state import PAUSED, RUNNING, STOPPED
from urunc.storage import cache, sparse
from urunc.storage.facts import StorageFacts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.config import Config
    from urunc.state import State

GUARD_S = 10.0
"""How long a monitor whose saving was broken off may refuse to go on."""
GUARD_INTERVAL_S = 0.02
BESIDE_BYTES = 512 * MIB
"""The most that a monitor saves beside the guest's memory."""


def checkpoint(
    root: str, identifier: str, config: Config, path: str, *, leave_running: bool
) -> Manifest:
    """Save a container's guest into a directory, and delete the container, as runc does, unless it
    is to stay. Raises WrongStatusError, SnapshotError, HostError, MonitorError, leaving the guest
    as it was."""
    container = locked(root, identifier)
    with container as state:
        status = state.status()
        if status not in (RUNNING, PAUSED):
            raise WrongStatusError(
                f"checkpoint '{identifier}': container is {status}, not running or paused"
            )
        saving = _Saving(state, config, path, paused=status == PAUSED)
        manifest = saving.run(leave_running=leave_running)  # it has ended, or goes on
        size = sum(file.size_bytes for file in manifest.files) // MIB
        logs.info(
            f"container '{identifier}' saved in '{path}': it stood still for "
            f"{manifest.paused_ms} ms, {size} MiB"
        )
        if not leave_running:
            remove(root, container.directory, config, force=True)
    return manifest


class _Disk:
    """A disk to be saved: its descriptor, and its place in the image."""

    def __init__(self, fd: int, target: str, kind: str, file: str, *, read_only: bool) -> None:
        self.fd = fd
        self.target = target
        self.kind = kind
        self.file = file
        self.read_only = read_only


class _Saving:
    """One container that is being saved."""

    def __init__(self, state: State, config: Config, path: str, *, paused: bool) -> None:
        self.state = state
        self.config = config
        self.was_paused = paused
        self.plan, self.chosen = state.read_by("plan", unflatten)
        self.storage = state.read("storage", StorageFacts)
        self.net = state.read("net", NetFacts)
        self.monitor = monitors.load(self.plan.monitor, config)
        self.writing = Writing(path)
        self.disks: list[_Disk] = []
        self.lent: tuple[str, ...] = ()
        self.stands = False
        """Whether the guest stands still for this."""
        where = f"checkpoint '{state.id}'"
        snapshots = self.monitor.snapshots()
        problem = fit.problem(self.plan, self.chosen, self.storage, snapshots)
        if problem or snapshots is None:
            raise SnapshotError(f"{where}: {problem}")
        self.snapshots = snapshots
        if self._is_starting():
            raise SnapshotError(
                f"{where}: the guest's application does not run yet", "try again once it does"
            )

    def _is_starting(self) -> bool:
        """Whether urunc's init has not said yet that the application runs; behind a supervisor
        nobody else hears of that."""
        application = self.plan.application
        if application.channel != "virtio" or self.plan.ending.supervisor:
            return False
        return guest_channel.last_words(guest_channel.listen(self.state.directory)) == Said()

    def run(self, *, leave_running: bool) -> Manifest:
        """Save it; the guest goes on, or has ended."""
        guard = None
        self.writing.begin()
        try:
            guard = Guard(self._undo_for_parent)
            self._open_disks()
            pause_ms = self._save()
            if leave_running:
                self._go_on()
            manifest = self._manifest(pause_ms)
            self.writing.settle()
            self.writing.commit(manifest)
            if not leave_running:
                end(self.state, self.config.get("timeouts.kill_s"))
                self.stands = False
            return manifest
        except OSError as error:
            raise HostError(
                f"checkpoint '{self.state.id}' to '{self.writing.path}': {reason(error)}"
            ) from None
        except MonitorError as error:
            gone = has_ended(self.state)
            what = "its monitor ended while it was saved" if gone else error.message
            raise MonitorError(f"checkpoint '{self.state.id}': {what}", error.hint) from None
        finally:
            self._undo()
            for disk in self.disks:
                posix.close(disk.fd)
            if guard:
                guard.release()

    def _undo(self) -> None:
        """Whatever is not as it was, and not to stay."""
        for work in (self._take_back, self._go_on, self.writing.end):
            try:
                work()
            except (Error, OSError) as error:
                logs.warn(f"checkpoint '{self.state.id}': {error}")

    def _undo_for_parent(self) -> None:
        """The same in the guard, which does not know how far its parent came."""
        self.lent = self.snapshots.files if self.snapshots.lent else ()
        self.stands = True
        until = monotonic() + GUARD_S
        while self.stands:
            try:
                self._go_on()
            except (Error, OSError):  # there is nobody to tell
                if self.state.status() == STOPPED or monotonic() > until:
                    break
                sleep(GUARD_INTERVAL_S)
        try:
            self.writing.remove()
        except OSError:
            pass

    def _open_disks(self) -> None:
        """The disks as the monitor has them: its root is read-only to it."""
        root = f"/proc/{self.state.pid}/root"
        known = [(file.target, "", file.read_only) for file in self.plan.storage.disks]
        known += [(disk.target, disk.source, disk.read_only) for disk in self.storage.disks]
        archive = len(self.plan.storage.disks) + self.storage.archive
        shared = cache.location(self.config)
        for index, (target, source, read_only) in enumerate(known):
            kind = fit.disk_kind(
                target,
                source,
                shared,
                read_only=read_only,
                archive=self.storage.archive >= 0 and index == archive,
            )
            fd = open_in_root(root, target, posix.O_RDONLY | posix.O_NONBLOCK)
            file = f"disk-{index}" if kind == SAVED else ""
            self.disks.append(_Disk(fd, target, kind, file, read_only=read_only))
            if posix.fstat(fd).st_mode & S_IFMT != S_IFREG:
                raise SnapshotError(f"disk '{target}': it is no regular file")

    def _save(self) -> int:
        """State, memory and disks, while the guest stands still; for how many milliseconds it has
        up to now."""
        state, snapshots, writing = self.state, self.snapshots, self.writing
        user = self.chosen.user
        memory_bytes = self.plan.machine.memory_bytes
        for name in snapshots.files:
            size = memory_bytes if name == snapshots.memory else 0
            writing.new(name, size, (user.uid, user.gid) if snapshots.lent else None)
        copies = [(disk, writing.new(disk.file)) for disk in self.disks if disk.kind == SAVED]
        files = {name: writing.files[name] for name in snapshots.files}
        self.stands = True
        if self.was_paused:
            self._freeze(on=False)
        begun = monotonic()
        self._order("pause")
        paths: dict[str, str] = {}
        if snapshots.lent:
            self.lent = snapshots.files
            paths = lend.lend(state.pid, user, files, read_only=False)
        control = connect(state, self.monitor)
        try:
            snapshots.save(control, files, paths, 2 * memory_bytes + BESIDE_BYTES)
        except NONSENSE as error:
            raise MonitorError(f"an answer that makes no sense: {error!r}") from None
        finally:
            control.close()
        self._check_sizes(files, 2 * memory_bytes + BESIDE_BYTES)
        for disk, fd in copies:
            size = posix.fstat(disk.fd).st_size
            sparse.copy(disk.fd, fd, size)
            posix.ftruncate(fd, size)
        return round((monotonic() - begun) * 1000)

    def _check_sizes(self, files: dict[str, int], most_bytes: int) -> None:
        """Raise MonitorError where a monitor wrote other than what can be loaded again."""
        for name, fd in files.items():
            size, wanted = posix.fstat(fd).st_size, self.plan.machine.memory_bytes
            if size > most_bytes or (name == self.snapshots.memory and size != wanted):
                raise MonitorError(f"'{name}': the monitor made {size} bytes of it")

    def _manifest(self, paused_ms: int) -> Manifest:
        """All of it, with the files' digests."""
        plan, state = self.plan, self.state
        files = []
        for name, fd in self.writing.files.items():
            size = posix.fstat(fd).st_size
            dig = name == self.snapshots.memory
            files.append(SavedFile(name=name, size_bytes=size, digest=digest(fd, size, dig=dig)))
        known = {file.name: file for file in files}
        host = host_for(plan.machine.accelerator)
        arguments, environment = fit.words_of(plan)
        guest = guests.load(plan.guest, self.config)
        launch = realize(plan, self.net, guest, self.monitor, self.storage, self.chosen)
        annotations = state.document["annotations"]
        image = next((annotations[key] for key in fit.IMAGE_NAMES if key in annotations), "")
        return Manifest(
            schema=SCHEMA,
            urunc=__version__,
            created=strftime("%Y-%m-%dT%H:%M:%SZ", gmtime()),
            id=state.id,
            image=image if image.isprintable() and len(image) <= MOST_NAME else "",
            guest=plan.guest,
            kernel=self._digest_of(plan.kernel.file.target),
            arguments=arguments,
            environment=environment,
            monitor=plan.monitor,
            monitor_version=plan.host.program.version,
            architecture=plan.machine.architecture,
            accelerator=plan.machine.accelerator,
            machine=self._machine(launch),
            processor=host.processor,
            features=host.features,
            host_kernel=host.kernel,
            paused_ms=paused_ms,
            interfaces=fit.interfaces_of(plan, self.net),
            disks=tuple(self._disk(disk, known) for disk in self.disks),
            files=tuple(files),
        )

    def _machine(self, launch: Launch) -> tuple[str, ...]:
        return self.snapshots.machine(launch, self.plan.host.program)

    def _disk(self, disk: _Disk, known: dict[str, SavedFile]) -> SavedDisk:
        size = posix.fstat(disk.fd).st_size
        found = ""
        if disk.kind == SAVED:
            size, found = known[disk.file].size_bytes, known[disk.file].digest
        elif disk.kind == SAME:
            found = digest(disk.fd, size)
        return SavedDisk(
            target=disk.target,
            read_only=disk.read_only,
            kind=disk.kind,
            file=disk.file,
            size_bytes=size,
            digest=found,
        )

    def _digest_of(self, target: str) -> str:
        fd = open_in_root(f"/proc/{self.state.pid}/root", target, posix.O_RDONLY)
        try:
            return digest(fd, posix.fstat(fd).st_size)
        finally:
            posix.close(fd)

    def _go_on(self) -> None:
        """The guest is as it was: it runs, or is frozen."""
        if not self.stands:
            return
        try:
            self._take_back()
        finally:
            if self.was_paused:
                self._freeze(on=True)
            else:
                self._order("resume")
            self.stands = False

    def _take_back(self) -> None:
        names, self.lent = self.lent, ()
        if names and self.state.status() == RUNNING:
            lend.take_back(self.state.pid, names)

    def _order(self, what: str) -> None:
        control = connect(self.state, self.monitor)
        try:
            self.monitor.order(control, what)
        finally:
            control.close()

    def _freeze(self, *, on: bool) -> None:
        from urunc.linux.cgroups import freeze

        freeze(self.state.group_paths, on=on)
