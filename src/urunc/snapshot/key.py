# SPDX-License-Identifier: Apache-2.0
"""The key of a guest's snapshot: a digest of everything that made the guest, but for what it is
told anew when it goes on. Guests with the same key are interchangeable when they are ready.

What is left out is listed here (FREE_RECORDS, hardware addresses); whatever is new in a guest's
words or its machine is in the key without being listed anywhere.
"""

from __future__ import annotations

import posix

from urunc import __version__
from urunc.errors import SnapshotError, reason
from urunc.linux.files import S_IFMT, S_IFREG, open_in_root
from urunc.plan.model import CONFIG_DISK, INITRD_TARGET
from urunc.plan.network import nics
from urunc.record import plain
from urunc.snapshot import fit
from urunc.snapshot.files import digest, digest_of_words
from urunc.snapshot.host import host_for
from urunc.snapshot.manifest import FREE, SAME, SAVED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.bundle.ready import Wish
    from urunc.monitors import Launch, Snapshots
    from urunc.net.facts import NetFacts
    from urunc.plan.model import Chosen, Plan
    from urunc.snapshot.host import Host
    from urunc.storage.facts import StorageFacts

SCHEMA = 1
"""Of the key's content; another number makes all snapshots so far useless."""
FREE_RECORDS = ("hostname", "domainname")
"""Records of the configuration of urunc's init that it applies anew."""
NAME_FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
"""Files that it writes anew."""
SAID_NEW = "(said anew)"


class Made:
    """A container whose monitor's root is there, as far as a key depends on it."""

    def __init__(
        self, pid: int, plan: Plan, chosen: Chosen, storage: StorageFacts, net: NetFacts, cache: str
    ) -> None:
        self.root = f"/proc/{pid}/root"
        self.plan = plan
        self.chosen = chosen
        self.storage = storage
        self.net = net
        self.cache = cache
        """The directory of the images that containers share."""
        self._host: Host | None = None

    @property
    def host(self) -> Host:
        """This machine, looked at once: some kernels measure their processors for that."""
        if self._host is None:
            self._host = host_for(self.plan.machine.accelerator)
        return self._host

    @property
    def told(self) -> bool:
        """Whether the guest can be told who it is once it goes on: urunc's init is in it, and
        listens."""
        return self.plan.application.channel == "virtio"

    def problem(self, wish: Wish, snapshots: Snapshots | None) -> str:
        """Why this guest cannot start from a snapshot, "" where it can."""
        found = fit.problem(self.plan, self.chosen, self.storage, snapshots)
        if found:
            return found
        if not self.told and not wish.same_random:
            return (
                f"nobody can give a {self.plan.guest} guest new random numbers once it goes on: "
                "the annotation 'start' can accept it ('snapshot same-random')"
            )
        if self.told and self.plan.ending.supervisor:
            return "a supervisor hears what urunc's init in the guest says, and nobody else"
        if wish.mark.kind == "init" and not self.told:
            return "the ready mark is 'init', and urunc's init is not in the guest"
        for target, kind, index in self._disks():
            if kind == SAVED and index != self.upper:
                return f"disk '{target}' was made for this container alone"
        return ""

    @property
    def upper(self) -> int:
        """The index of the disk with a writable layer, which is empty at first; -1 for none."""
        storage = self.storage
        return storage.upper + len(self.plan.storage.disks) if storage.upper >= 0 else -1

    def _disks(self) -> list[tuple[str, str, int]]:
        """(path in the monitor's root, kind, index) of each disk."""
        image = self.plan.storage.disks
        known = [(file.target, "", file.read_only) for file in image]
        known += [(disk.target, disk.source, disk.read_only) for disk in self.storage.disks]
        archive = len(image) + self.storage.archive if self.storage.archive >= 0 else -1
        return [
            (
                target,
                fit.disk_kind(
                    target, source, self.cache, read_only=read_only, archive=index == archive
                ),
                index,
            )
            for index, (target, source, read_only) in enumerate(known)
        ]

    def key(self, wish: Wish, launch: Launch, snapshots: Snapshots, salt: str) -> str:
        """The key; raises SnapshotError where a file cannot be read. `salt` is this machine's own:
        a key says nothing to whoever guesses at what is in it, such as a password."""
        plan = self.plan
        host = self.host
        program = plan.host.program
        words = [salt, str(SCHEMA), __version__, plan.guest, plan.kernel.version, plan.monitor]
        words += [program.version, self._program(program.path), plan.machine.architecture]
        words += [plan.machine.accelerator, host.processor, host.features, host.kernel]
        words += [repr(sorted(plain(wish.mark).items())), str(plan.machine.memory_bytes)]
        words += [str(plan.machine.vcpus), str(plan.host.nested)]
        words += ["machine", *map(self._without_macs, snapshots.machine(launch, program))]
        words += ["words", *snapshots.words(launch), *self._records(launch, wish)]
        words += ["kernel", self._file(plan.kernel.file.target)]
        if plan.kernel.initrd or self.storage.initrd:
            words += ["initrd", self._file(INITRD_TARGET)]
        if not self.told:
            words += ["network", *map(repr, fit.interfaces_of(plan, self.net))]
        for target, kind, _ in self._disks():
            content = self._file(target) if kind in (SAME, FREE) else str(self._size(target))
            words += ["disk", target, kind, content]
        return digest_of_words(*words)

    def _program(self, path: str) -> str:
        """The monitor's program: another build can have the same version."""
        try:
            facts = posix.stat(path)
        except OSError as error:
            raise SnapshotError(f"'{path}': {reason(error)}") from None
        return f"{path} {facts.st_size} {facts.st_mtime_ns}"

    def _without_macs(self, word: str) -> str:
        """A word of the machine's without hardware addresses, if the guest is told of them."""
        if self.told:
            for index, nic in enumerate(nics(self.plan.id, self.plan.network, self.net)[1]):
                word = word.replace(nic.mac, f"(address {index})")
        return word

    def _records(self, launch: Launch, wish: Wish) -> list[str]:
        """The configuration of urunc's init, but for what it is told anew."""
        text = launch.files.get(CONFIG_DISK, "")
        if not self.told:
            return [text]
        found = []
        hostname = self.plan.application.hostname
        for record in text.rstrip("\0").split("\0"):
            key, _, value = record.partition("=")
            fields = value.split("\t")
            if key in FREE_RECORDS:
                continue
            if key == "file" and fields[0] in NAME_FILES:
                value = "\t".join((*fields[:2], SAID_NEW, *fields[3:]))
            elif key == "net":
                fixed = [item for item in fields[1:] if item.startswith("mtu=")]
                value = "\t".join((fields[0], *fixed))
            elif key == "env" and wish.same_hostname and value == f"HOSTNAME={hostname}":
                value = SAID_NEW
            found.append(f"{key}={value}")
        return found

    def _file(self, target: str) -> str:
        fd = self._open(target)
        try:
            return digest(fd, posix.fstat(fd).st_size)
        finally:
            posix.close(fd)

    def _size(self, target: str) -> int:
        fd = self._open(target)
        try:
            return posix.fstat(fd).st_size
        finally:
            posix.close(fd)

    def _open(self, target: str) -> int:
        try:
            fd = open_in_root(self.root, target, posix.O_RDONLY | posix.O_NONBLOCK)
        except OSError as error:
            raise SnapshotError(f"'{target}': {reason(error)}") from None
        if posix.fstat(fd).st_mode & S_IFMT != S_IFREG:
            posix.close(fd)
            raise SnapshotError(f"'{target}': it is no regular file")
        return fd
