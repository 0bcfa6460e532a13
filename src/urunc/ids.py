# SPDX-License-Identifier: Apache-2.0
"""User and group ids on both sides of a user namespace."""

from __future__ import annotations

from urunc.bundle.namespaces import IdMapping
from urunc.errors import HostError, SpecError, reason
from urunc.linux.files import read_text
from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


@record
class IdMap:
    """One kind of ids, container's to the runtime's; no range at all: they are the same."""

    ranges: tuple[IdMapping, ...]

    def to_host(self, inner: int) -> int | None:
        """The runtime's id for a container's; None where it is not mapped."""
        if not self.ranges:
            return inner
        for item in self.ranges:
            if item.container <= inner < item.container + item.size:
                return item.host + inner - item.container
        return None

    def to_inner(self, host: int) -> int | None:
        """The container's id for the runtime's; None where it is not mapped."""
        if not self.ranges:
            return host
        for item in self.ranges:
            if item.host <= host < item.host + item.size:
                return item.container + host - item.host
        return None


@record
class Ids:
    """A container's users and groups."""

    users: IdMap
    groups: IdMap
    own: bool
    """Whether the container has a user namespace of its own."""


def ids_of(
    namespaces: Mapping[str, str], users: tuple[IdMapping, ...], groups: tuple[IdMapping, ...]
) -> Ids:
    """The ids of a container that has these namespaces; for one that is joined, the kernel's own
    word; raises HostError, and SpecError where the specification says otherwise (as runc does)."""
    if "user" not in namespaces:
        return Ids(users=IdMap(ranges=()), groups=IdMap(ranges=()), own=False)
    path = namespaces["user"]
    if not path:
        return Ids(users=IdMap(ranges=users), groups=IdMap(ranges=groups), own=True)
    from urunc.linux.namespaces import maps_of

    try:
        inside = [
            IdMap(ranges=tuple(IdMapping(container=a, host=b, size=c) for a, b, c in lines))
            for lines in maps_of(path)
        ]
    except OSError as error:
        raise HostError(f"user namespace '{path}': {reason(error)}") from None
    for key, asked, found in zip(("uid", "gid"), (users, groups), inside, strict=True):
        if asked and _joined(asked) != _joined(found.ranges):
            said = ", ".join(f"{a}:{b}:{c}" for a, b, c in _joined(found.ranges))
            raise SpecError(
                f"config.json: linux.{key}Mappings: the user namespace '{path}' has others",
                f"leave them out, or say what it has (container:host:size): {said}",
            )
    return Ids(users=inside[0], groups=inside[1], own=True)


def _joined(ranges: tuple[IdMapping, ...]) -> list[tuple[int, int, int]]:
    """Ranges as (container, host, size), in order; what continues another is one with it."""
    found: list[tuple[int, int, int]] = []
    for item in sorted((item.container, item.host, item.size) for item in ranges):
        if found:
            inner, outer, size = found[-1]
            if item[:2] == (inner + size, outer + size):
                found[-1] = (inner, outer, size + item[2])
                continue
        found.append(item)
    return found


def mapped() -> list[tuple[int, int]]:
    """(first, size) of the ranges of ids that this process may use: all of them, but in a user
    namespace."""
    return [
        (int(words[0]), int(words[2]))
        for words in (line.split() for line in read_text("/proc/self/uid_map").splitlines())
    ]
