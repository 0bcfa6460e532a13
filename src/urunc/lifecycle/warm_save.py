# SPDX-License-Identifier: Apache-2.0
"""The first start of a key: the guest boots, and a process apart waits until it is ready, saves it,
and ends. Nothing of it is on the guest's way, and nothing stays.

The process is a grandchild of `start`, with nobody's streams. Should it be killed, the guest goes
on (snapshot/guard.py), and what it has written is swept away by the next one.
"""

from __future__ import annotations

import posix
from select import POLLIN, poll
from time import monotonic, sleep

from urunc import guest_channel, logs, timing
from urunc.bundle.ready import AFTER, INIT, LINE, PORT
from urunc.errors import Error, SnapshotError
from urunc.init.letters import monitor_exec
from urunc.lifecycle.booting import Booting
from urunc.linux.files import S_IFMT, S_IFREG
from urunc.monitors import MIB
from urunc.net.facts import NetFacts
from urunc.snapshot import store
from urunc.snapshot.guard import Guard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from urunc.bundle.ready import Wish
    from urunc.config import Config
    from urunc.monitors import Launch, Snapshots
    from urunc.state import State

INTERVAL_S = 0.005
HELD_S = 10.0
"""How long the guest's init may take to have its application stand still."""
SETTLE_S = 0.05
"""For a guest to close the connection by which it was seen to answer."""
CONNECT_S = 0.2
TAIL_BYTES = 1 << 12


class Saving(Booting):
    """A guest that boots, and is saved once it is ready."""

    _heard = b""
    """The end of what the guest has printed so far."""

    def __init__(
        self,
        state: State,
        config: Config,
        wish: Wish,
        snapshots: Snapshots,
        launch: Launch,
        key: str,
    ) -> None:
        self._state = state
        self._config = config
        self._mark = wish.mark
        self._key = key
        self._told = state.plan.channel == "virtio"
        self._path: str = config.get("start.directory")
        self._limit_bytes: int = config.get("start.limit_mib") * MIB
        self._ear = -1
        most = state.plan.memory_bytes
        if most > self._limit_bytes:
            raise SnapshotError(
                f"its memory of {most // MIB} MiB is more than start.limit_mib has for all"
            )
        if self._mark.kind == LINE:
            launch = self._listen(snapshots, launch)
        self.letter = monitor_exec(launch)

    def _listen(self, snapshots: Snapshots, launch: Launch) -> Launch:
        """Hear what the guest prints: from the file that it goes to, or from the monitor."""
        path = f"/proc/{self._state.pid}/fd/1"
        if posix.stat(path).st_mode & S_IFMT == S_IFREG:
            self._ear = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
            posix.lseek(self._ear, 0, 2)
            return launch
        from urunc.snapshot import lend

        logging = snapshots.logging(launch, lend.LOG)
        if logging is None:
            raise SnapshotError(
                f"{self._state.plan.monitor} tells nobody else what its guest prints, and standard "
                "output is no file: choose another ready mark"
            )
        from urunc.plan.model import unflatten

        _, chosen = self._state.read_by("plan", unflatten)
        self._ear = lend.make_log(self._state.pid, chosen.user)
        return logging

    def follow(self) -> None:
        """Leave the rest to a process of its own; a failure there is a line in the log."""
        child = posix.fork()
        if child:
            posix.waitpid(child, 0)
            if self._ear >= 0:
                posix.close(self._ear)
            return
        try:
            posix.setsid()
            if not posix.fork():
                self._detach()
                self._work()
        finally:
            posix._exit(0)

    def _detach(self) -> None:
        """Hold nothing that somebody waits for the end of."""
        posix.chdir("/")
        timing.enabled = False
        null = posix.open("/dev/null", posix.O_RDWR)
        for stream in (0, 1, 2):
            posix.dup2(null, stream)
        for fd in map(int, posix.listdir("/proc/self/fd")):
            if fd > 2 and fd != self._ear:
                try:
                    posix.close(fd)
                except OSError:
                    pass  # the list's own

    def _work(self) -> None:
        name = f"snapshot of '{self._state.id}'"
        place = store.Place(self._path, self._key)
        try:
            if not place.lock(alone=True, make=True) or store.is_sealed(place.path):
                logs.info(f"{name}: another container's is being saved")
                return
            if self._is_ready():
                self._save(place)
                logs.info(f"{name}: saved as {self._key}")
            else:
                logs.warn(f"{name}: it was not ready within {self._wait_s()} s, or has ended")
        except (Error, OSError) as error:
            logs.warn(f"{name}: {error}")
        finally:
            if not store.is_sealed(place.path):
                try:
                    place.remove()
                except OSError:
                    pass  # swept away later
            place.release()

    def _save(self, place: store.Place) -> None:
        from urunc.lifecycle.checkpoint import checkpoint

        root, _, identifier = self._state.directory.rpartition("/")
        store.shrink(self._path, self._limit_bytes - self._state.plan.memory_bytes, self._key)
        guard = None
        try:
            if self._told:
                guard = Guard(self._let_go)
                self._hold()
            manifest = checkpoint(root, identifier, self._config, place.path, leave_running=True)
        finally:
            if guard:
                self._let_go()
                guard.release()
        place.seal(manifest)
        store.shrink(self._path, self._limit_bytes, self._key)

    def _let_go(self) -> None:
        guest_channel.let_go(self._state.directory)

    def _hold(self) -> None:
        """Have the application stand still, so that whoever is taken up from this does nothing
        before it knows who it is. Raises SnapshotError."""
        directory = self._state.directory
        ear = guest_channel.listen(directory)
        try:
            if not guest_channel.hold(directory) or not self._until(
                lambda: guest_channel.said(ear).held, HELD_S
            ):
                raise SnapshotError("urunc's init in the guest did not hold the application")
        finally:
            if ear >= 0:
                posix.close(ear)

    def _wait_s(self) -> int:
        found: int = self._config.get("start.wait_s")
        return found

    def _is_ready(self) -> bool:
        """Wait for the mark; False where it never comes."""
        mark = self._mark
        if mark.kind == AFTER:
            until = monotonic() + mark.number
            return self._until(lambda: monotonic() >= until, mark.number + 1)
        looks: dict[str, Callable[[], bool]] = {
            INIT: self._init_is_ready, LINE: self._has_line, PORT: self._answers,
        }  # fmt: skip
        return self._until(looks[mark.kind], self._wait_s())

    def _until(self, look: Callable[[], bool], seconds: float) -> bool:
        pidfd = self._state.pidfd()
        if pidfd is None:
            return False
        poller = poll()
        poller.register(pidfd, POLLIN)
        until = monotonic() + seconds
        try:
            while not look():
                if poller.poll(int(INTERVAL_S * 1000)) or monotonic() > until:
                    return False
            return True
        finally:
            posix.close(pidfd)

    def _init_is_ready(self) -> bool:
        return guest_channel.last_words(guest_channel.listen(self._state.directory)).ready

    def _has_line(self) -> bool:
        """Whether the text came on the console; what came before it is forgotten."""
        wanted = self._mark.text.encode()
        found = self._heard
        try:
            while part := posix.read(self._ear, 1 << 16):
                found = (found + part)[-(1 << 16) - TAIL_BYTES :]
                if wanted in found:
                    return True
        except BlockingIOError:
            pass
        self._heard = found[-TAIL_BYTES:]
        return False

    def _answers(self) -> bool:
        """Whether the guest takes connections, asked from the host or from within the container's
        own network."""
        import socket

        from urunc.linux.namespaces import call_in_network

        net = self._state.read("net", NetFacts)
        addresses = [item.address for one in net.interfaces for item in one.ipv4[:1]]

        def connect() -> bool:
            for address in (*addresses, "127.0.0.1"):
                try:
                    socket.create_connection((address, self._mark.number), CONNECT_S).close()
                except OSError:
                    continue
                return True
            return False

        try:
            found = call_in_network(f"/proc/{self._state.pid}/ns/net", connect)
        except OSError:
            return False
        if not found:
            try:
                for address in addresses:
                    socket.create_connection((address, self._mark.number), CONNECT_S).close()
                    found = True
            except OSError:
                pass
        if found:
            sleep(SETTLE_S)
        return found
