# SPDX-License-Identifier: Apache-2.0
"""`urunc try`: runs an image, a folder or a kernel at once, without an engine."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

from urunc import logs
from urunc.cli.create import create
from urunc.cli.options import FILE, FLAG, VALUE, Arguments
from urunc.errors import HostError, NotFoundError, UsageError, WrongStatusError, reason
from urunc.jsontext import dumps
from urunc.lifecycle.start import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from urunc.config import Config
    from urunc.trial.nat import Made
    from urunc.trial.ports import Listener
    from urunc.trial.subject import Subject

OPTIONS = {
    "--publish": (
        "[ADDRESS:][HOST:]GUEST[/udp]...",
        "-p: have a port of this machine lead to the guest's, at 127.0.0.1 and ::1 without an "
        "address, at a free one without HOST; can be repeated",
    ),
    "--volume": ("HOST:GUEST[:ro]...", "-v: a file or folder for the guest; can be repeated"),
    "--env": ("NAME=VALUE...", "-e: an environment variable; can be repeated"),
    "--memory": (VALUE, "-m: the guest's memory, as 64m or 1g (default: the configuration's)"),
    "--cpus": (VALUE, "how many virtual CPUs (default: the configuration's)"),
    "--guest": (VALUE, "the framework (default: told by the image or kernel)"),
    "--monitor": (VALUE, "the monitor (default: the image's, else one that runs it here)"),
    "--accelerator": ("auto|kvm|tcg", "QEMU's (default: KVM where it runs guests, else tcg)"),
    "--initrd": (FILE, "an initrd for a kernel that is a file alone"),
    "--block": (FILE, "a block image for a kernel that is a file alone"),
    "--net": ("auto|none", "the network: auto, or none (default: auto)"),
    "--interactive": (FLAG, "-i: pass standard input on to the guest"),
    "--tty": (FLAG, "-t: give the guest's console a terminal (-it: both)"),
    "--keep": (FLAG, "keep the bundle's directory, and say where it is"),
}
ALIASES = {
    "-p": "--publish",
    "-v": "--volume",
    "-e": "--env",
    "-m": "--memory",
    "-i": "--interactive",
    "-t": "--tty",
    "-it": "--tty",
    "-ti": "--tty",
}
USAGE = "[OPTION...] IMAGE|FOLDER|KERNEL [-- COMMAND...]"
SUMMARY = "Run an image, a folder or a kernel at once."
TERMINATE = (2, 15)


def main(arguments: Arguments) -> int:
    """Run the verb: the guest's exit code."""
    from contextlib import ExitStack

    from urunc.trial import ports

    if not arguments.words:
        arguments.only("an image, a folder or a kernel")
    config = arguments.config()
    asked = [ports.parse(text) for text in arguments.many.get("--publish", ())]
    networked = arguments.get("--net", "auto") != "none"
    if asked and not networked:
        raise UsageError("option '--publish': not together with --net none")
    _stop_in_order()
    with ExitStack() as stack:
        listeners = [item for port in asked for item in ports.open_at(port, stack)]
        return _Trial(arguments, config, networked=networked).run(listeners)


class _Trial:
    """One run."""

    def __init__(self, arguments: Arguments, config: Config, *, networked: bool) -> None:
        from tempfile import mkdtemp

        self.arguments, self.config, self.networked = arguments, config, networked
        try:
            self.directory = mkdtemp(prefix="urunc-try-")
        except OSError as error:
            raise HostError(
                f"make a temporary directory: {reason(error)}", "TMPDIR names where"
            ) from None
        self.id = f"try-{self.directory.rpartition('-')[2]}"
        self.bundle = f"{self.directory}/bundle"
        self.problem = ""
        """Why KVM does not do."""

    def run(self, listeners: list[Listener]) -> int:
        from urunc.trial.keeper import Keeper
        from urunc.trial.nat import Nat, check_tun
        from urunc.trial.rootless import SETTINGS, Rootless

        keeper = Keeper(self._clean)
        try:
            os.makedirs(f"{self.bundle}/rootfs")
            if self.networked:
                check_tun()
            subject = self._resolve()
            self.config.values |= subject.settings
            for key in ("cache", "private"):
                self.config.values[f"storage.{key}"] = f"{self.directory}/{key}"
            place: Nat | Rootless | None = Nat() if self.networked else None
            if os.geteuid():
                place = Rootless(networked=self.networked)
                self.config.values |= SETTINGS
                subject.annotations["network"] = "shared"
            if not self.networked:
                subject.annotations["network"] = "none"
            made = keeper.start(place, listeners)
            self._write(subject, made)
            self._say(subject, made, listeners)
            return self._carry()
        except OSError as error:
            raise HostError(
                f"try: {reason(error)}", "df shows which disk is full; TMPDIR names another one"
            ) from None
        finally:
            if not keeper.end():
                self._clean()

    def _resolve(self) -> Subject:
        from contextlib import ExitStack

        from urunc.trial.subject import Wishes, kvm_problem, resolve

        reference, *words = self.arguments.words
        wishes = Wishes(
            guest=self.arguments.get("--guest"),
            monitor=self.arguments.get("--monitor"),
            initrd=self.arguments.get("--initrd"),
            block=self.arguments.get("--block"),
            words=tuple(words),
            terminal=self.arguments.has("--tty"),
        )
        if self.arguments.get("--accelerator", "auto") == "auto":
            self.problem = kvm_problem()
        with ExitStack() as stack:
            return resolve(reference, wishes, f"{self.bundle}/rootfs", self.config, stack)

    def _write(self, subject: Subject, made: Made | None) -> None:
        """Write the bundle."""
        from urunc.trial import bundle

        arguments = self.arguments
        accelerator = arguments.get("--accelerator", "auto")
        if accelerator == "auto" and self.problem:
            accelerator = "tcg" if subject.annotations["hypervisor"] == "qemu" else "auto"
        machine = bundle.Machine(
            memory=arguments.get("--memory"),
            cpus=arguments.get("--cpus"),
            accelerator=accelerator if accelerator != "auto" else "",
            volumes=tuple(arguments.many.get("--volume", ())),
            environment=tuple(arguments.many.get("--env", ())),
            terminal=arguments.has("--tty"),
        )
        resolver = bundle.resolver(self.bundle) if made else ""
        document = bundle.document(
            subject, machine, f"{self.bundle}/rootfs", made.namespace if made else "", resolver
        )
        with open(f"{self.bundle}/config.json", "w") as file:
            file.write(dumps(document, indent=2) + "\n")

    def _say(self, subject: Subject, made: Made | None, listeners: list[Listener]) -> None:
        """What is tried, and where it will answer: not on the guest's console's stream."""
        kind = subject.annotations
        say = [f"{subject.what}: {kind['unikernelType']} on {kind['hypervisor']}, as {self.id}"]
        if self.problem and kind["hypervisor"] != "spt":
            emulates = kind["hypervisor"] == "qemu"
            then = "it is emulated (TCG)" if emulates else "--monitor qemu would emulate it"
            say.append(f"{self.problem}: {then}")
        say += [*subject.remarks, *(made.remarks if made else ())]
        say += [
            f"{item.port.shown(item.address)} -> port {item.port.guest} of the guest"
            for item in listeners
        ]
        for text in say:
            sys.stderr.write(f"urunc try: {logs.printable(text)}\n")
        if self.arguments.has("--keep"):
            sys.stderr.write(f"urunc try: the bundle stays in {self.bundle}\n")
        sys.stderr.flush()

    def _carry(self) -> int:
        """`urunc run` of the bundle."""
        from urunc.cli import run

        if not self.arguments.has("--interactive") and not self.arguments.has("--tty"):
            nothing = os.open("/dev/null", os.O_RDONLY)
            os.dup2(nothing, 0)
            os.close(nothing)
        logs.container = self.id
        words = _Words([])
        words.settled = self.config
        words.words = [self.id]
        words.options = {"--bundle": self.bundle}
        words.root = self.arguments.root
        return run.carry(words, create, self._begin)

    def _begin(self, root: str, identifier: str, config: Config) -> object:
        """Start it. From here on a second Ctrl-C or SIGTERM ends a guest that does not stop."""
        for number in TERMINATE:
            forward = signal.getsignal(number)
            signal.signal(number, self._twice(forward))
        return start(root, identifier, config)

    def _twice(self, forward: object) -> Callable[[int, FrameType | None], None]:
        times = 0

        def handle(number: int, frame: FrameType | None) -> None:
            nonlocal times
            times += 1
            if times > 1:
                self._kill()
            elif callable(forward):
                forward(number, frame)

        return handle

    def _kill(self) -> None:
        from urunc.lifecycle import kill
        from urunc.state import load

        with suppress(WrongStatusError, NotFoundError):
            kill.kill(load(self.arguments.root, self.id), signal.SIGKILL, self.config)

    def _clean(self) -> None:
        """Remove what is left; in the keeper, and where there is none yet."""
        from shutil import rmtree

        from urunc.lifecycle import delete

        try:
            delete.delete(self.arguments.root, self.id, self.config, force=True)
        finally:
            if not self.arguments.has("--keep"):
                rmtree(self.directory, ignore_errors=True)


class _Words(Arguments):
    """What `run` is told, with a configuration that is settled."""

    settled: Config

    def config(self, *, log: bool = True) -> Config:
        """The configuration of `try`, and what the subject adds to it."""
        del log
        return self.settled


def _stop_in_order() -> None:
    """End on SIGTERM as on an interrupt until the guest runs, so that all is removed."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
