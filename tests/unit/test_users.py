# SPDX-License-Identifier: Apache-2.0
"""Ids on both sides of a user namespace, and the monitor's own."""

from __future__ import annotations

import itertools

import pytest

from urunc import users
from urunc.bundle.namespaces import IdMapping
from urunc.ids import IdMap, Ids

TWO = IdMap(
    ranges=(
        IdMapping(container=0, host=1000, size=1),
        IdMapping(container=1, host=100_000, size=10),
    )
)
SAME = IdMap(ranges=())


@pytest.mark.parametrize(("inner", "host"), [(0, 1000), (1, 100_000), (10, 100_009)])
def test_both_ways(inner: int, host: int) -> None:
    assert TWO.to_host(inner) == host
    assert TWO.to_inner(host) == inner
    assert SAME.to_host(inner) == SAME.to_inner(inner) == inner


def test_what_is_not_mapped() -> None:
    assert TWO.to_host(11) is None
    assert TWO.to_inner(0) is None
    assert TWO.to_inner(100_010) is None


def take(identifier: str, ids: Ids, first: int = 500, count: int = 4) -> list[tuple[int, int]]:
    return list(itertools.islice(users.candidates(identifier, ids, first, count), 20))


def test_one_of_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "mapped", lambda: [(0, 1 << 32)])
    found = take("one", Ids(users=SAME, groups=SAME, own=False))
    assert sorted(found) == [(uid, uid) for uid in (500, 501, 502, 503)]
    assert take("one", Ids(users=SAME, groups=SAME, own=False)) == found
    assert {take(name, Ids(users=SAME, groups=SAME, own=False))[0] for name in "abcd"} == {*found}


def test_in_a_user_namespace_of_the_caller_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """A configured range that is not mapped: the upper half of what is."""
    monkeypatch.setattr(users, "mapped", lambda: [(0, 1), (1, 1000)])
    found = take("one", Ids(users=SAME, groups=SAME, own=False), first=2_000_000_000)
    assert all(501 <= uid <= 1000 for uid, _ in found)


def test_in_a_user_namespace_of_the_container_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapped id that is neither its root nor one that applications have, in both maps."""
    monkeypatch.setattr("urunc.users.posix.geteuid", lambda: 0)
    groups = IdMap(ranges=(IdMapping(container=0, host=7000, size=9),))
    found = take("one", Ids(users=TWO, groups=groups, own=True))
    assert sorted(found) == [(100_005, 7006), (100_006, 7007), (100_007, 7008)]


def test_an_ordinary_user_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urunc.users.posix.geteuid", lambda: 1000)
    assert take("one", Ids(users=TWO, groups=TWO, own=True)) == [(1000, 1000)]
