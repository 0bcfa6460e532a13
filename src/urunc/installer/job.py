# SPDX-License-Identifier: Apache-2.0
"""Install, verify, uninstall: the order of things.

Everything that can be refused is refused before the first change. Each change is recorded before it
is made; the engine is restarted once, last, and if it is not well then, its files are put back and
it is restarted again.
"""

from __future__ import annotations

import difflib
import posixpath
from dataclasses import dataclass

from urunc.installer import program, record, service
from urunc.installer.host import Failure, Host
from urunc.installer.node import BACKUP, HANDLER, Changes, Node, Runtime
from urunc.installer.record import Record

DEVICES = ("/dev/kvm", "/dev/net/tun")
MONITORS = (
    *("qemu-system-x86_64", "qemu-system-aarch64"),
    *("firecracker", "solo5-hvt", "solo5-spt"),
)


@dataclass
class Job:
    """One run of the installer."""

    host: Host
    prefix: str
    restart: str = "auto"
    force: bool = False
    shim: bool = False
    """Whether containerd is told of urunc's own shim, rather than runc's."""

    def install(self, node: Node, source: program.Source) -> bool:
        """Make urunc a runtime of the node; False where it was one already, just so."""
        host = self.host
        known = record.load(host, self.prefix)
        here = source.prefix.resolve() == host.path(self.prefix)
        if self.shim and not source.has_shim:
            raise Failure(f"{source.prefix}: has no shim of urunc's own (--shim urunc)")
        host.say(node.name)
        runtime = Runtime(self.prefix, self.shim)
        changes = node.changes(runtime)
        engines = [*known.engines]
        self._take_up(node, known)
        changed = False
        old: dict[str, bytes | None] = {}
        if not here:
            wanted = program.wanted(host, source, self.prefix)
            self._may_replace(wanted, known)
            changed = self._program(source, wanted, known, old)
        try:
            changed |= self._configure(node, changes, known, installs=True)
        except BaseException:
            for path, content in old.items():
                self._put_back(path, content)
            raise
        if changed or known.engines != engines or not host.exists(record.path(self.prefix)):
            self._save(known)
        if host.dry:
            host.say("nothing was changed (--dry-run)" if changed else "nothing to do")
        else:
            host.say(
                f"urunc {source.version} {'is installed' if changed else 'was installed already'}"
            )
            host.say(f"to use it: {node.use}")
        return changed

    def _take_up(self, node: Node, known: Record) -> None:
        """Note the engine; raises Failure where a run for another was cut short."""
        if known.pending and known.engine not in ("", node.kind):
            raise Failure(
                f"a run for {known.engine} was cut short: please run that again, and then this"
            )
        known.note("engines", *filter(None, (known.engine, node.kind)))
        known.engine = node.kind

    def _may_replace(self, wanted: program.Program, known: Record) -> None:
        for path, content in wanted.files.items():
            here = self.host.path(path)
            if path in known.programs or not here.exists() or here.read_bytes() == content:
                continue
            raise Failure(
                f"{path} is there, and not made by this installer: please move it away, or choose "
                "another directory (--prefix)"
            )

    def _program(
        self,
        source: program.Source,
        wanted: program.Program,
        known: Record,
        old: dict[str, bytes | None],
    ) -> bool:
        """Put the version's directory in place, then the launchers; `old` gets what those were."""
        host = self.host
        stale = []
        for path, content in wanted.files.items():
            here = host.path(path)
            if not here.exists() or here.read_bytes() != content:
                stale.append(path)
                old[path] = here.read_bytes() if here.exists() else None
        if not stale and not wanted.new:
            old.clear()
            return False
        known.note("folders", *host.lacks(f"{self.prefix}/bin"))
        known.note("versions", wanted.directory)
        known.note("programs", *stale)
        self._save(known)
        host.make_directory(f"{self.prefix}/bin")
        if wanted.new:
            program.place(host, source, wanted)
        program.check(host, wanted)
        host.say(f"urunc {source.version}: {wanted.directory}, run by {wanted.interpreter.path}")
        for path in stale:
            host.write(path, wanted.files[path], 0o755)
            host.say(f"  {path}")
        return True

    def _configure(self, node: Node, changes: Changes, known: Record, *, installs: bool) -> bool:
        """Write the engine's files, restart it, see that it is well; else go back."""
        host = self.host
        before = {path: host.read(path) for path in changes}
        for path, new in changes.items():
            self._show(path, before[path], new)
        if not changes and not known.pending:
            return False
        if host.dry:
            return True
        runs = bool(service.listener(node))
        ailed = service.ailment(node) if runs else ""
        if known.pending:
            host.say("an earlier run was cut short: going on")
        known.ran = runs or (known.ran and bool(known.pending))
        known.pending = {**before, **known.pending}
        clean = {**before, **node.clean()}
        backups = {
            path + BACKUP: old for path in changes if installs and (old := clean[path]) is not None
        }
        try:
            for path in changes:
                known.note("folders", *host.lacks(posixpath.dirname(path)))
            known.note("backups", *backups)
            self._save(known)
            for path in changes:
                host.make_directory(posixpath.dirname(path))
            for path, old in backups.items():
                host.write(path, old, 0o600)
            for path, new in changes.items():
                host.remove(path) if new is None else host.write(path, new)
            if not node.is_service:
                self._see(node, installs=installs)
            elif self.restart == "none" or not known.ran:
                host.say(f"{node.kind} was not restarted: it takes this at its next start")
            else:
                self._restart(node, ailed, installs=installs)
        except BaseException as error:
            self._back(node, known, restarts=isinstance(error, Restarted))
            raise
        known.pending = {}
        self._save(known)
        return True

    def _restart(self, node: Node, ailed: str, *, installs: bool) -> None:
        try:
            self.host.about_to(f"restart {node.kind}")
            self.host.say(f"restarting: {service.restart(node, self.restart)}")
            reason = service.wait_until_well(node, node.start_s)
            if reason and reason != ailed:
                raise Failure(reason)
            self._see(node, installs=installs)
        except Failure as error:
            raise Restarted(
                f"{node.kind} is not well with the new configuration: {error}"
            ) from error
        self.host.say(f"{node.kind} is well{f', as far as it was: {reason}' if reason else ''}")

    def _see(self, node: Node, *, installs: bool) -> None:
        """Raises Failure where the engine does not have urunc, or still has it."""
        if not service.settles(node, known=installs):
            raise Failure(f"its configuration has {'no' if installs else 'still a'} '{HANDLER}'")

    def _back(self, node: Node, known: Record, *, restarts: bool) -> None:
        """Put the files back as they were, and the engine with them."""
        for path, content in known.pending.items():
            self._put_back(path, content.encode() if content is not None else None)
        self.host.say("the files are as they were before")
        if restarts:
            try:
                service.restart(node, self.restart)
                reason = service.wait_until_well(node, node.start_s)
            except Failure as error:
                reason = str(error)
            self.host.say(
                f"{node.kind} is {f'still not well: {reason}' if reason else 'well again'}"
            )
        known.pending = {}
        self._save(known)

    def _put_back(self, path: str, content: bytes | None) -> None:
        try:
            self.host.remove(path) if content is None else self.host.write(path, content)
        except Failure as error:
            self.host.say(f"cannot put back: {error}")

    def _show(self, path: str, old: str | None, new: str | None) -> None:
        """What changes in a file, as a diff."""
        lines = difflib.unified_diff(
            (old or "").splitlines(keepends=True),
            (new or "").splitlines(keepends=True),
            path if old is not None else "/dev/null",
            path if new is not None else "/dev/null",
        )
        self.host.say(
            "".join(line if line.endswith("\n") else line + "\n" for line in lines).rstrip()
        )

    def _save(self, known: Record) -> None:
        known.note("folders", *self.host.lacks(posixpath.dirname(record.path(self.prefix))))
        record.save(self.host, self.prefix, known)

    def uninstall(self, node: Node | None) -> bool:
        """Take away all that was made; False where there was nothing."""
        host = self.host
        known = record.load(host, self.prefix)
        changes = node.removal() if node else {}
        if not changes and not host.exists(record.path(self.prefix)):
            host.remove_unfinished(record.path(self.prefix))
            host.say("nothing to do")
            return False
        if node:
            self._take_up(node, known)
            others = [kind for kind in known.engines if kind != node.kind]
            if others:
                return self._leave(node, changes, known, others)
        left = program.containers(host)
        if left and not self.force:
            raise Failure(
                f"{len(left)} containers of urunc's are on this node, among them {left[0]}: "
                "please drain it first (or --force, which leaves them without a runtime)"
            )
        if node:
            self._configure(node, changes, known, installs=False)
        for path in known.programs + known.backups:
            host.remove(path)
        used = [directory for directory in known.versions if program.in_use(host, directory)]
        for directory in known.versions:
            if directory not in used:
                host.remove(directory)
                host.remove(f"{directory}.new")
                host.remove(f"{directory}.tools")
        if used:
            known.programs, known.backups, known.versions = [], [], used
            record.save(host, self.prefix, known)
            raise Failure(f"{', '.join(used)}: a shim still runs it: please uninstall again later")
        for directory in reversed(known.folders):
            host.remove_empty(directory)
        host.remove_with_directories(record.path(self.prefix), known.folders)
        host.say("nothing was changed (--dry-run)" if host.dry else "urunc is uninstalled")
        return True

    def _leave(self, node: Node, changes: Changes, known: Record, others: list[str]) -> bool:
        """Take urunc out of one engine's configuration, and keep it for the others."""
        self._configure(node, changes, known, installs=False)
        for path in changes:
            self.host.remove(path + BACKUP)
        known.backups = [path for path in known.backups if path.removesuffix(BACKUP) not in changes]
        known.engines, known.engine = others, others[-1]
        self._save(known)
        self.host.say(f"{node.kind} has no urunc any more; {', '.join(others)} still has")
        return True

    def verify(self, node: Node) -> bool:
        """Say what there is of urunc on the node; False where something lacks."""
        host = self.host
        good = True

        def row(name: str, fine: bool, text: str) -> None:
            nonlocal good
            good &= fine
            host.say(f"{'ok  ' if fine else 'FAIL'} {name}: {text}")

        path = f"{self.prefix}/bin/urunc"
        if host.exists(path):
            result = host.run(path, "--version", check=False)
            said = (result.stdout or result.stderr).strip().splitlines() or [""]
            row("program", result.returncode == 0, f"{path}: {said[0]}")
        else:
            row("program", False, f"no {path}")
        try:
            told = node.runtimes(node.view({})).get(HANDLER) or {}
            kind = told.get("runtime_type") or told.get("path") or f"runtime '{HANDLER}'"
            found = node.has_runtime()
            row("configuration", found, f"{node.kind}: {kind if found else f'no {kind}'}")
        except Failure as error:
            row("configuration", False, str(error))
        host.say(f"ok   engine: {node.name}")
        if node.is_service:
            ailment = service.ailment(node)
            row("service", not ailment, ailment or f"{node.kind} answers at {node.socket}")
        if record.load(host, self.prefix).pending:
            row("installation", False, "a run was cut short: please run `install` again")
        for device in DEVICES:
            host.say(f"{'ok  ' if host.exists(device) else 'note'} device: {device}")
        names = [
            name
            for name in MONITORS
            if host.program(name) or host.exists(f"{self.prefix}/bin/{name}")
        ]
        host.say(f"{'ok  ' if names else 'note'} monitors: {', '.join(names) or 'none on PATH'}")
        return good


class Restarted(Failure):
    """The engine was restarted with new files, and is not well."""
