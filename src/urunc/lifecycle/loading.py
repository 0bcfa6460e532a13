# SPDX-License-Identifier: Apache-2.0
"""A monitor that runs and waits takes up a saved guest: by `restore`, and by a `start` from a
snapshot.

Runs in the caller's process, in the host's namespaces, with its privilege.
"""

from __future__ import annotations

import posix

from urunc import guest_channel, logs, monitors
from urunc.errors import HostError, MonitorError, reason
from urunc.lifecycle.reach import connect, has_ended
from urunc.monitor_client import NONSENSE
from urunc.net.facts import NetFacts
from urunc.plan.model import unflatten
from urunc.snapshot import fit, lend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.config import Config
    from urunc.monitor_client import Control
    from urunc.monitors import Monitor
    from urunc.snapshot.files import Reading
    from urunc.state import State

READY = b"ready\n"
"""What urunc's init in the guest has said before it was saved."""


class Loading:
    """A monitor that waits for its guest."""

    verb = "restore"

    def __init__(self, state: State, config: Config, saved: Reading) -> None:
        self.state = state
        self.saved = saved
        self.plan, self.chosen = state.read_by("plan", unflatten)
        self.monitor: Monitor = monitors.load(self.plan.monitor, config)

    def run(self) -> None:
        """Have it load the guest, which goes on; raises MonitorError."""
        state = self.state
        try:
            control = connect(self.state, self.monitor)
            try:
                self._load(control)
            finally:
                control.close()
            self.before_it_goes_on()
            control = connect(self.state, self.monitor)
            try:
                self.monitor.order(control, "resume")
            finally:
                control.close()
            self.after_it_went_on()
        except MonitorError as error:
            gone = has_ended(state)
            why = f"{self.plan.monitor} ended: its console has the reason" if gone else error
            raise MonitorError(
                f"{self.verb} '{state.id}' from '{self.saved.path}': {why}"
            ) from None

    def before_it_goes_on(self) -> None:
        """What is to be done while the guest stands still."""
        if self.plan.application.channel == "virtio":
            self.say_ready()

    def after_it_went_on(self) -> None:
        """What the guest itself has to do first."""

    def _load(self, control: Control) -> None:
        snapshots = self.monitor.snapshots()
        assert snapshots
        state = self.state
        files = {name: self.saved.files[name] for name in snapshots.files}
        paths: dict[str, str] = {}
        here = fit.interfaces_of(self.plan, state.read("net", NetFacts))
        before = self.saved.manifest.interfaces
        taps = {old.tap: new.tap for old, new in zip(before, here, strict=True)}
        own: list[int] = []
        try:
            if snapshots.lent:
                paths = lend.lend(state.pid, self.chosen.user, files, read_only=True)
            for name in () if snapshots.lent else snapshots.files:
                files[name] = lend.to_read(files[name])
                own.append(files[name])
            version = self.plan.host.program.version
            snapshots.load(control, files, paths, version, taps)
        except NONSENSE as error:
            raise MonitorError(f"an answer that makes no sense: {error!r}") from None
        finally:
            for fd in own:
                posix.close(fd)
            if paths:
                self._take_back(snapshots.files)

    def _take_back(self, names: tuple[str, ...]) -> None:
        """What was lent, unless the monitor has ended, and with it the mounts."""
        try:
            lend.take_back(self.state.pid, names)
        except HostError as error:
            if not has_ended(self.state):
                logs.warn(f"restore '{self.state.id}': {error.message}")

    def say_ready(self) -> None:
        """What the guest's init does not say again, to who listens now."""
        path = f"{self.state.directory}/{guest_channel.OUT}"
        try:
            fd = posix.open(path, posix.O_WRONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
            posix.write(fd, READY)
            posix.close(fd)
        except OSError as error:
            raise MonitorError(f"the channel of the guest's init: {reason(error)}") from None
