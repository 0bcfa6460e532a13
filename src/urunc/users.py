# SPDX-License-Identifier: Apache-2.0
"""The choice of the user and groups that a monitor runs as.

A monitor runs under an id that no other container of the machine has (docs/decisions/0004): from
the configured range, or, in a user namespace, from the ids mapped into it. Plans hold ids as the
runtime sees them; only what init does inside speaks the container's.
"""

from __future__ import annotations

import posix

from urunc.errors import HostError, SpecError, reason
from urunc.ids import Ids, mapped
from urunc.journaled import ReservedUser
from urunc.places import runtime_directory
from urunc.plan.model import MonitorUser
from urunc.programs import COMMON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from urunc.bundle.spec import Spec
    from urunc.config import Config
    from urunc.journal import Journal
    from urunc.plan.model import Plan

EVERY = 0xFFFFFFFF


def candidates(identifier: str, ids: Ids, first: int, count: int) -> Iterator[tuple[int, int]]:
    """(uid, gid) to try for a container's monitor, as the runtime sees them, best first; raises
    HostError where there can be none."""
    # start from the id's own place in the range: two containers seldom meet
    place = sum(ord(letter) * 31**index for index, letter in enumerate(identifier[:64]))
    if not ids.own:
        first, count = _within(first, count)
        for number in range(count):
            uid = first + (place + number) % count
            yield uid, uid
        return
    if posix.geteuid() != 0:
        # an ordinary user's container: the monitor is that user, as the namespace's root without
        # a capability
        yield _inside(ids, 0)
        return
    # the upper half: engines give the lower ids to applications
    largest = max(ids.users.ranges, key=lambda item: item.size)
    half = largest.size // 2
    for number in range(largest.size - half):
        inner = largest.container + half + (place + number) % (largest.size - half)
        if ids.groups.to_host(inner) is not None:
            yield _inside(ids, inner)


def _inside(ids: Ids, inner: int) -> tuple[int, int]:
    uid, gid = ids.users.to_host(inner), ids.groups.to_host(inner)
    if uid is None or gid is None:
        raise SpecError(f"config.json: linux.uidMappings, linux.gidMappings: no {inner}")
    return uid, gid


def _within(first: int, count: int) -> tuple[int, int]:
    """The part of the configured range that this process may use; in a user namespace that has
    none of it, the upper part of what it has."""
    ranges = mapped()
    for start, size in ranges:
        low, high = max(first, start), min(first + count, start + size, EVERY)
        if low < high:
            return low, high - low
    start, size = max(ranges, key=lambda item: item[1])
    if size < 2:
        raise HostError(
            "choose a user: this user namespace has one id only",
            "give the container a process.user.uid, or map more ids",
        )
    return start + size // 2, size - size // 2


def mapped_groups(groups: tuple[int, ...], ids: Ids) -> tuple[int, ...]:
    """Those of the host's groups that a process of the container can have: one that its user
    namespace has no id for opens nothing there."""
    return tuple(group for group in groups if ids.groups.to_inner(group) is not None)


def choose_user(plan: Plan, spec: Spec, ids: Ids, config: Config, journal: Journal) -> MonitorUser:
    """The monitor's user: the one that the plan names, else one of the configured range that no
    other container has. Raises SpecError, HostError."""
    wanted = plan.user
    groups = mapped_groups(wanted.groups, ids)
    if wanted.uid is not None:
        uid, gid = ids.users.to_host(wanted.uid), ids.groups.to_host(wanted.gid or 0)
        if uid is None or gid is None:
            raise SpecError(
                f"config.json: process.user: {wanted.uid}:{wanted.gid} is not mapped into the "
                "user namespace"
            )
        extra = tuple(ids.groups.to_host(group) for group in spec.additional_gids)
        known = tuple(group for group in extra if group is not None)
        return MonitorUser(uid=uid, gid=gid, groups=(*groups, *known))
    first, count = config.get("users.first"), config.get("users.count")
    for uid, gid in candidates(plan.id, ids, first, count):
        if posix.geteuid() == 0:  # others have no users to choose from, and no one to meet
            path = f"{runtime_directory()}/{COMMON}/users/{uid}"
            try:
                journal.make(ReservedUser(path=path, folder=journal.directory))
            except FileExistsError:
                continue
            except OSError as error:
                raise HostError(
                    f"reserve user '{path}': {reason(error)}",
                    "in a user namespace, XDG_RUNTIME_DIR names a directory of the user's",
                ) from None
        return MonitorUser(uid=uid, gid=gid, groups=groups)
    raise HostError(
        "choose a user: every id of the range is taken",
        "enlarge users.count in the configuration",
    )
