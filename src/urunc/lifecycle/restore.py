# SPDX-License-Identifier: Apache-2.0
"""`restore`: a container is made as `create` makes it, but for its disks, which are those that were
saved, and its monitor, which waits for a guest; then the monitor loads it, and it goes on.

Runs in the caller's process, in the host's namespaces, with its privilege. Everything that was
saved is compared with this machine and this container before anything is made; what the network and
the files are is known only as they are made. A failure at any point takes back all that was made.
"""

from __future__ import annotations

import posix

from urunc import logs, timing
from urunc.bundle import image
from urunc.directory import Directory
from urunc.errors import (
    Error,
    ExistsError,
    HostError,
    SnapshotError,
    WrongStatusError,
    reason,
)
from urunc.lifecycle.create import Creation, create
from urunc.lifecycle.delete import end
from urunc.lifecycle.loading import Loading
from urunc.lifecycle.run_hooks import run_hooks
from urunc.lifecycle.start import let_go
from urunc.linux import _linux
from urunc.linux.files import O_PATH, exists, open_in_root, unlink
from urunc.net.facts import NetFacts
from urunc.plan.model import as_planned
from urunc.plan.prepare import within_pod
from urunc.record import replace
from urunc.snapshot import fit
from urunc.snapshot.files import Reading, digest
from urunc.snapshot.guard import Guard
from urunc.snapshot.host import host_for
from urunc.snapshot.manifest import SAME, SAVED
from urunc.state import CREATED, RUNNING, check_id, load
from urunc.storage import sparse
from urunc.storage.facts import NO_STORAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from urunc.bundle.image import UnikernelImage
    from urunc.bundle.spec import Spec
    from urunc.config import Config
    from urunc.lifecycle.create import CreateOptions
    from urunc.monitors import Launch, Snapshots
    from urunc.plan.model import Plan, PlannedFile
    from urunc.plan.prepare import Prepared
    from urunc.snapshot.manifest import SavedDisk
    from urunc.state import State

EINVAL = 22
NO_EXCHANGE = (
    "the image's file system cannot exchange two files at once (renameat2(2), RENAME_EXCHANGE): "
    "keep the bundle on another"
)


class Restoring:
    """A saved guest that becomes a container's."""

    def __init__(self, path: str) -> None:
        try:
            self.saved = Reading(path)
        except SnapshotError as error:
            raise SnapshotError(f"restore: {error.message}", error.hint) from None
        self.replaced: list[_Replaced] = []
        self.guard: Guard | None = None

    def close(self) -> None:
        """Let go of the saved guest; disks are as before unless the guest goes on."""
        self._take_back()
        self._release()
        self.saved.close()

    def _take_back(self) -> None:
        """The disks as they were before; also in the guard, whose parent may have been killed."""
        for item in reversed(self.replaced):
            item.take_back()
        self.replaced = []

    def _release(self) -> None:
        if self.guard:
            self.guard.release()
            self.guard = None

    def create(
        self,
        root: str,
        identifier: str,
        spec: Spec,
        unikernel: UnikernelImage,
        config: Config,
        options: CreateOptions,
    ) -> State:
        """The container, whose monitor only has to be started; raises Error, leaving nothing."""
        where = f"restore '{identifier}' from '{self.saved.path}'"
        if exists(f"{root}/{check_id(identifier)}"):
            raise ExistsError(f"restore '{identifier}': container with given ID already exists")
        try:
            _, prepared = within_pod(identifier, spec, unikernel, config, options.pod)
            self._check(prepared)

            def making(directory: Directory, *rest: Any) -> Creation:
                return _Restoration(directory, *rest, saved=self.saved)

            self._put_back(prepared.plan)
            if self.replaced:
                unikernel = image.read(spec, config)  # a disk is another file now
            return create(root, identifier, spec, unikernel, config, options, making)
        except SnapshotError as error:
            raise SnapshotError(f"{where}: {error.message}", error.hint) from None

    def _check(self, prepared: Prepared) -> None:
        plan, manifest = prepared.plan, self.saved.manifest
        problem = fit.problem(plan, as_planned(plan), NO_STORAGE, prepared.monitor.snapshots())
        if problem:
            raise SnapshotError(problem)
        for warning in fit.check_plan(manifest, plan, host_for(plan.machine.accelerator)):
            logs.warn(warning)
        if digest_of(plan, plan.kernel.file) != manifest.kernel:
            raise SnapshotError(
                "the guest's kernel is not the one that was saved", fit.OTHER_CONTAINER
            )
        self._check_files(prepared)
        self.saved.verify()

    def _check_files(self, prepared: Prepared) -> None:
        """What the monitor loads is there, and as large as it will be taken to be."""
        snapshots = prepared.monitor.snapshots()
        assert snapshots
        sizes = {file.name: file.size_bytes for file in self.saved.manifest.files}
        memory_bytes = prepared.plan.machine.memory_bytes
        for name in snapshots.files:
            if name not in sizes:
                raise SnapshotError(f"'{name}': it was not saved")
            if name == snapshots.memory and sizes[name] != memory_bytes:
                raise SnapshotError(
                    f"memory: {sizes[name]} bytes when it was saved, and {memory_bytes} here",
                    fit.OTHER_CONTAINER,
                )

    def _put_back(self, plan: Plan) -> None:
        """The image's own disks, as they were saved."""
        saved = {disk.target: disk for disk in self.saved.manifest.disks}
        sources = []
        for file in plan.storage.disks:
            disk = saved.get(file.target)
            if not disk or disk.read_only != file.read_only:
                raise SnapshotError(f"disk '{file.target}': it was not saved", fit.OTHER_CONTAINER)
            if disk.kind == SAVED:
                self.replaced.append(_Replaced(plan, file))
                sources.append((self.saved.files[disk.file], disk.size_bytes))
            elif digest_of(plan, file) != disk.digest:
                raise _other_disk(file.target)
        if self.replaced:
            self.guard = Guard(self._take_back)
        for item, (source, size) in zip(self.replaced, sources, strict=True):
            item.put(source, size)

    def start(self, root: str, identifier: str, config: Config) -> None:
        """Let the monitor run and load the guest, which goes on; raises Error, and then the caller
        deletes the container."""
        directory = Directory(root, identifier)
        directory.lock()
        try:
            state = load(root, identifier)
            stamps = state.timestamps
            timing.open_file(
                stamps or config.get("timestamps.file"), identifier, always=bool(stamps)
            )
            timing.stamp(12)
            status = state.status()
            if status != CREATED:
                raise WrongStatusError(f"restore '{identifier}': container is {status}")
            let_go(state, None)
            Loading(state, config, self.saved).run()
            timing.stamp(19)
        finally:
            directory.unlock()
        self._release()  # from here on the guest has these disks
        for item in self.replaced:
            item.settle()
        self.replaced = []
        try:
            run_hooks(state, "poststart", RUNNING)
        except Error:
            end(state, config.get("timeouts.kill_s"))
            raise


def digest_of(plan: Plan, file: PlannedFile) -> str:
    """The digest of a file of the image's or of the host's; raises SnapshotError."""
    source = file.source
    try:
        if source.inside:
            fd = open_in_root(plan.storage.root, source.path, posix.O_RDONLY | posix.O_NONBLOCK)
        else:
            fd = posix.open(source.path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    except OSError as error:
        raise SnapshotError(f"'{source.path}': {reason(error)}") from None
    try:
        return digest(fd, posix.fstat(fd).st_size)
    finally:
        posix.close(fd)


def _other_disk(target: str) -> SnapshotError:
    return SnapshotError(
        f"disk '{target}': its content is not what the guest had", fit.OTHER_CONTAINER
    )


class _Replaced:
    """A disk of the image in place of which there is the saved one; who has the other open keeps
    it. Raises SnapshotError."""

    def __init__(self, plan: Plan, file: PlannedFile) -> None:
        self._file = file.source
        try:
            fd = open_in_root(plan.storage.root, file.source.path, O_PATH)
            try:
                # links are resolved within the root: this is where the file itself is
                self._path = posix.readlink(f"/proc/self/fd/{fd}")
                self._inode = posix.fstat(fd).st_ino
            finally:
                posix.close(fd)
        except OSError as error:
            raise self._failed(error) from None
        directory, _, name = self._path.rpartition("/")
        self._other = f"{directory}/.{name}.{posix.getpid()}.restored"

    def _failed(self, error: OSError, hint: str = "") -> SnapshotError:
        return SnapshotError(f"disk '{self._file.path}': {reason(error)}", hint)

    def put(self, source: int, size: int) -> None:
        """Put the saved one there."""
        owner = self._file
        try:
            copy_disk(source, self._other, size, owner.uid, owner.gid, owner.mode)
        except OSError as error:
            raise self._failed(error) from None
        try:
            _linux.exchange(self._other, self._path)
        except OSError as error:
            unlink(self._other)
            raise self._failed(error, NO_EXCHANGE if error.errno == EINVAL else "") from None

    def take_back(self) -> None:
        """The disk as it was before, however far `put` came."""
        try:
            if posix.stat(self._other).st_ino == self._inode:
                _linux.exchange(self._other, self._path)
            unlink(self._other)
        except FileNotFoundError:
            pass  # it was not begun
        except OSError as error:
            logs.warn(f"disk '{self._path}': {reason(error)}: it was '{self._other}'")

    def settle(self) -> None:
        """What was there before is not needed any more."""
        try:
            unlink(self._other)
        except OSError as error:
            logs.warn(f"remove '{self._other}': {reason(error)}")


def copy_disk(source: int, path: str, size: int, uid: int, gid: int, mode: int) -> None:
    """A new file at `path` with a saved disk's content; raises OSError, leaving none."""
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC
    fd = posix.open(path, flags, 0o600)
    try:
        sparse.copy(source, fd, size)
        posix.ftruncate(fd, size)
        posix.fchown(fd, uid, gid)
        posix.fchmod(fd, mode & 0o7777)
    except OSError:
        unlink(path)
        raise
    finally:
        posix.close(fd)


class _Restoration(Creation):
    """The steps of `create` for a saved guest."""

    def __init__(self, *given: Any, saved: Reading) -> None:
        super().__init__(*given)
        self.saved = saved
        snapshots = self.prepared.monitor.snapshots()
        assert snapshots
        self.snapshots: Snapshots = snapshots

    def provide(self) -> None:
        """The container's files, with the disks as they were saved."""
        super().provide()
        plan = self.prepared.plan
        problem = fit.problem(plan, self.chosen, self.storage, self.snapshots)
        if problem:
            raise SnapshotError(problem)
        known = [(file.target, file.read_only) for file in plan.storage.disks]
        known += [(disk.target, disk.read_only) for disk in self.storage.disks]
        disks = self.saved.manifest.disks
        if known != [(disk.target, disk.read_only) for disk in disks]:
            raise SnapshotError(
                f"the guest had other disks: {_targets(disk.target for disk in disks)} when it "
                f"was saved, and {_targets(target for target, _ in known)} here",
                fit.OTHER_CONTAINER,
            )
        made = disks[len(plan.storage.disks) :]
        for disk, stored in zip(made, self.storage.disks, strict=True):
            self._fill(disk, stored.source)

    def _fill(self, disk: SavedDisk, path: str) -> None:
        try:
            if disk.kind == SAVED:
                temporary = f"{path}.restored"
                user = self.user
                mode = posix.stat(path).st_mode
                source = self.saved.files[disk.file]
                copy_disk(source, temporary, disk.size_bytes, user.uid, user.gid, mode)
                posix.rename(temporary, path)
            elif disk.kind == SAME:
                fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
                try:
                    if digest(fd, posix.fstat(fd).st_size) != disk.digest:
                        raise _other_disk(disk.target)
                finally:
                    posix.close(fd)
        except OSError as error:
            raise HostError(f"disk '{path}': {reason(error)}") from None

    def realize(self, net: NetFacts) -> tuple[NetFacts, Launch]:
        """The network with the guest's own hardware addresses, and a monitor that waits."""
        plan, manifest = self.prepared.plan, self.saved.manifest
        net = fit.check_network(manifest, plan, net)
        # the guest keeps its port for input, or has none, whatever the input is here
        given = self.chosen
        for no_input in (given.no_input, not given.no_input):
            self.chosen = replace(given, no_input=no_input)
            launch = self.prepared.realize(net, self.storage, self.chosen)
            machine = self.snapshots.machine(launch, plan.host.program)
            if machine == manifest.machine:
                return net, self.snapshots.waiting(launch)
        self.chosen = given
        launch = self.prepared.realize(net, self.storage, self.chosen)
        fit.check_machine(manifest, self.snapshots.machine(launch, plan.host.program))
        return net, self.snapshots.waiting(launch)


def _targets(targets: Iterable[str]) -> str:
    return ", ".join(f"'{target}'" for target in targets) or "none"
