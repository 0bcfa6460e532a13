# SPDX-License-Identifier: Apache-2.0
"""What a container leaves outside its namespaces: written down before it is made, removed newest
first.

A line of JSON per resource in the container's directory. Removing is idempotent and works from
another process, later, and for what was only half made; a resource that cannot be removed stays in
the journal, so that the next `delete` tries again.
"""

from __future__ import annotations

import posix
from errno import EBUSY, EEXIST

from urunc import logs
from urunc.errors import HostError, reason
from urunc.jsontext import dumps, loads
from urunc.linux.files import append, read_text, write_whole
from urunc.state import JOURNAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Entry = dict[str, Any]
    """A resource as a line has it: its kind, and the parameters of its class."""
    Registry = Callable[[str], "type[Resource] | None"]


class Resource:
    """Something that outlives the container's namespaces. `parameters` are the constructor's, as
    JSON."""

    kind = ""

    def parameters(self) -> dict[str, object]:
        """What the constructor needs to name this resource again."""
        return dict(self.__dict__)

    def make(self) -> None:
        """Bring it about; raises OSError."""
        raise NotImplementedError

    def remove(self) -> None:
        """Take it back, also half made, also twice; raises OSError."""
        raise NotImplementedError


class Journal:
    """The resources of one container, in its directory."""

    def __init__(self, directory: str, registry: Registry) -> None:
        """`registry` gives the class of a kind of resource, None for one that it does not know."""
        self.directory = directory
        self.path = f"{directory}/{JOURNAL}"
        self.registry = registry

    def make(self, resource: Resource) -> None:
        """Record a resource, then make it. A failure leaves the record: `remove_all` takes back the
        half.

        But what the kernel says is there already is another's: then the record goes, before anybody
        removes by it what is not this container's.
        """
        append(self.path, _line({"kind": resource.kind, **resource.parameters()}))
        try:
            resource.make()
        except OSError as error:
            if error.errno in (EEXIST, EBUSY):
                self._write(self._entries()[:-1])
            raise

    def resources(self) -> list[Resource]:
        """What is recorded of kinds that the registry knows, oldest first."""
        return [resource for entry in self._entries() if (resource := self._resource(entry))]

    def __len__(self) -> int:
        """How many resources are recorded."""
        return len(self._entries())

    def remove_all(self) -> None:
        """Remove every resource, newest first; raises HostError after trying all.

        What is removed is forgotten at once: a hook may run for long before the directory goes, and
        a name may be another container's by the time that a `delete` which was killed is repeated.
        """
        unknown = [entry["kind"] for entry in self._entries() if not self._resource(entry)]
        self.remove(lambda _resource: True)
        if unknown:
            raise HostError(
                f"clean up '{self.path}': {', '.join(unknown)}: no such kind of resource",
                "another version of urunc wrote it: use that one",
            )

    def remove(self, chosen: Callable[[Resource], bool]) -> int:
        """Remove and forget the chosen ones, newest first; returns how many. Raises HostError after
        trying all."""
        failed: list[str] = []
        left: list[Entry] = []
        recorded = self._entries()
        for entry in reversed(recorded):
            resource = self._resource(entry)
            if resource and chosen(resource):
                try:
                    resource.remove()
                    continue
                except OSError as error:
                    failed.append(f"{resource.kind}: {reason(error)}")
            left.insert(0, entry)
        if len(left) < len(recorded):
            self._write(left)
        if failed:
            raise HostError(
                f"clean up '{self.path}': {'; '.join(failed)}", "`delete` can be repeated"
            )
        return len(recorded) - len(left)

    def take_back(self, kept: int) -> None:
        """Remove what was recorded after the first `kept` resources.

        One that is recorded among those, too, was there before and was only renewed: it stays. A
        failure is a warning, for the error that led here matters more.
        """
        recorded = self._entries()
        if len(recorded) <= kept:
            return
        before = [_identity(entry) for entry in recorded[:kept]]
        left = recorded[:kept]
        for entry in reversed(recorded[kept:]):
            if _identity(entry) in before:
                continue
            resource = self._resource(entry)
            try:
                if resource:
                    resource.remove()
                    continue
                logs.warn(f"take back {entry['kind']}: no such kind of resource")
            except OSError as error:
                logs.warn(f"take back {entry['kind']}: {reason(error)}")
            left.insert(kept, entry)
        self._write(left)

    def _entries(self) -> list[Entry]:
        """The lines, oldest first; a last one that a crash cut short was never made."""
        try:
            text = read_text(self.path, 1 << 24)
        except FileNotFoundError:
            return []
        found = []
        for line in text.splitlines():
            try:
                entry = loads(line)
                entry["kind"]
            except (ValueError, KeyError, TypeError):
                continue
            found.append(entry)
        return found

    def _resource(self, entry: Entry) -> Resource | None:
        kind = self.registry(entry["kind"])
        values = {key: value for key, value in entry.items() if key != "kind"}
        return kind(**values) if kind else None

    def _write(self, entries: list[Entry]) -> None:
        if entries:
            write_whole(self.path, b"".join(map(_line, entries)))
        else:
            posix.truncate(self.path, 0)


def _line(entry: Entry) -> bytes:
    return dumps(entry).encode() + b"\n"


def _identity(entry: Entry) -> Entry:
    """All that is recorded of it, but for the path by which its namespace was reached."""
    return {**entry, "namespace": ""}
