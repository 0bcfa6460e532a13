# SPDX-License-Identifier: Apache-2.0
"""The journal of a container's resources outside its namespaces: each is recorded before it is
made; they are removed newest first.

The journal is a file in the container's directory with a line of JSON per resource. Removal is
idempotent, and works from another process and for a resource that was only half made. One that
cannot be removed stays in the journal for the next `delete`.
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
    """A line of the journal: `kind`, and the parameters of its class."""
    Registry = Callable[[str], "type[Resource] | None"]


class Resource:
    """Something that outlives the container's namespaces."""

    kind = ""

    def parameters(self) -> dict[str, object]:
        """The constructor's arguments, as JSON values, to construct it again."""
        return dict(self.__dict__)

    def make(self) -> None:
        """Make it; raises OSError."""
        raise NotImplementedError

    def remove(self) -> None:
        """Remove it, even if it was half made or is removed already; raises OSError."""
        raise NotImplementedError

    def removal(self) -> list[tuple[str, ...]] | None:
        """What `remove` does, as actions of a recipe (door/remove.c); None where that takes
        Python."""
        return None


class Journal:
    """The resources of one container, in its directory."""

    def __init__(self, directory: str, registry: Registry) -> None:
        """`registry`: kind of a resource → its class, None for an unknown kind."""
        self.directory = directory
        self.path = f"{directory}/{JOURNAL}"
        self.registry = registry

    def make(self, resource: Resource) -> None:
        """Record a resource, then make it; raises OSError.

        After a failure the record stays, so that `remove_all` removes a half-made resource. With
        EEXIST and EBUSY the record goes: the resource is another container's.
        """
        append(self.path, _line({"kind": resource.kind, **resource.parameters()}))
        try:
            resource.make()
        except OSError as error:
            if error.errno in (EEXIST, EBUSY):
                self._write(self._entries()[:-1])
            raise

    def resources(self) -> list[Resource]:
        """The recorded resources of known kinds, oldest first."""
        return [resource for entry in self._entries() if (resource := self._resource(entry))]

    def __len__(self) -> int:
        """How many resources are recorded."""
        return len(self._entries())

    def remove_all(self) -> None:
        """Remove every resource, newest first; raises HostError after trying all.

        Their records go at once: hooks may run for long before the directory is removed, and when a
        killed `delete` is repeated, a name may be another container's.
        """
        self.remove(lambda _resource: True)
        unknown = [entry["kind"] for entry in self._entries()]  # all others are forgotten
        if unknown:
            raise HostError(
                f"clean up '{self.path}': {', '.join(unknown)}: unknown kind of resource",
                "another version of urunc wrote it: delete the container with that one",
            )

    def remove(self, chosen: Callable[[Resource], bool]) -> int:
        """Remove the resources for which `chosen` returns true, and their records, newest first;
        how many. Raises HostError after trying all."""
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

    def forget(self, kind: str) -> None:
        """Take the records of a kind out: nothing of it is to be removed any more."""
        self._write([entry for entry in self._entries() if entry["kind"] != kind])

    def take_back(self, kept: int) -> None:
        """Remove what was recorded after the first `kept` resources.

        A resource that is also among those was only renewed, and stays. A failure is a warning,
        since the error that led here matters more.
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
                logs.warn(f"remove {entry['kind']}: unknown kind of resource")
            except OSError as error:
                logs.warn(f"remove {entry['kind']}: {reason(error)}")
            left.insert(kept, entry)
        self._write(left)

    def _entries(self) -> list[Entry]:
        """The lines, oldest first; a line that a crash cut short is ignored, as its resource was
        never made."""
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
    """An entry without the path of its namespace, by which equal resources are equal."""
    return {**entry, "namespace": ""}
