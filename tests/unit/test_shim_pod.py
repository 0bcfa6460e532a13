# SPDX-License-Identifier: Apache-2.0
"""What of a pod's totals is left for a container."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from urunc.shim.bundle import configuration
from urunc.shim.pod import (
    NONE,
    Limits,
    Member,
    changed,
    granted,
    left,
    member,
    option,
    parsed,
    resources,
)

MIB = 1 << 20
CRI = "io.kubernetes.cri."
PAUSE = {
    f"{CRI}container-type": "sandbox",
    f"{CRI}sandbox-id": "pod1",
    f"{CRI}sandbox-memory": str(256 * MIB),
    f"{CRI}sandbox-cpu-quota": "250000",
    f"{CRI}sandbox-cpu-period": "100000",
    f"{CRI}sandbox-cpu-shares": "1024",
}
TOTALS = Limits(
    memory_bytes=256 * MIB, cpu_quota_us=250_000, cpu_period_us=100_000, cpu_shares=1024
)


def test_a_pause_container_has_the_totals() -> None:
    found = member({"annotations": PAUSE, "linux": {"resources": {"cpu": {"shares": 2}}}})
    assert found == Member(pod="pod1", limits=Limits(cpu_shares=2), totals=TOTALS)


def test_others_have_limits() -> None:
    """Annotations with totals count on a pause container only."""
    annotations = PAUSE | {f"{CRI}container-type": "container"}
    limits = {"memory": {"limit": 64 * MIB}, "cpu": {"quota": -1, "period": 50_000}}
    found = member({"annotations": annotations, "linux": {"resources": limits}})
    assert found.totals is None
    assert found.limits == Limits(memory_bytes=64 * MIB, cpu_period_us=50_000)


@pytest.mark.parametrize("text", ["", "-1", "0", "1e9", "²", "9" * 30])
def test_totals_that_say_nothing(text: str) -> None:
    annotations = PAUSE | {f"{CRI}sandbox-memory": text}
    found = member({"annotations": annotations})
    assert found.totals and found.totals.memory_bytes == 0


@pytest.mark.parametrize(
    "document", [[], {}, {"annotations": 7}, {"linux": {"resources": {"memory": [], "cpu": 1}}}]
)
def test_a_configuration_that_is_none(document: object) -> None:
    assert member(document) == Member()


def test_no_configuration(tmp_path: pathlib.Path) -> None:
    assert member(configuration(str(tmp_path))) == Member()


def test_everything_is_left() -> None:
    assert left(TOTALS, NONE, ()) == TOTALS
    assert left(NONE, NONE, ()) == NONE


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"memory_bytes": MIB}, {"memory_bytes": 0}),
        ({"cpu_quota_us": 1000}, {"cpu_quota_us": 0, "cpu_period_us": 0}),
        ({"cpu_shares": 100}, {"cpu_shares": 0}),
        ({"cpu_shares": 2}, {}),
    ],
)
def test_a_limit_of_its_own_stays(own: dict[str, int], expected: dict[str, int]) -> None:
    """A kubelet's 2 shares are no request."""
    assert left(TOTALS, Limits(**own), ()).__dict__ == TOTALS.__dict__ | expected


def test_what_others_have_is_gone() -> None:
    """Quotas are counted in the pod's period."""
    others = (
        Limits(memory_bytes=64 * MIB, cpu_quota_us=50_000, cpu_shares=24),
        Limits(memory_bytes=32 * MIB, cpu_quota_us=25_000, cpu_period_us=50_000),
        NONE,
    )
    expected = Limits(
        memory_bytes=160 * MIB, cpu_quota_us=150_000, cpu_period_us=100_000, cpu_shares=1000
    )
    assert left(TOTALS, NONE, others) == expected


def test_nothing_is_left() -> None:
    """A pod without a limit of its own has its containers' sum for a total."""
    assert left(TOTALS, NONE, (TOTALS,)) == NONE
    assert left(TOTALS, NONE, (TOTALS, TOTALS)) == NONE
    nearly = Limits(cpu_quota_us=249_001, memory_bytes=1 << 40, cpu_shares=1022)
    assert left(TOTALS, NONE, (nearly,)) == NONE


def test_who_is_granted_something() -> None:
    """Members of the same pod, and not the pause container."""
    pause = Member(pod="a", limits=Limits(cpu_shares=2), totals=TOTALS)
    sidecar = Member(pod="a", limits=Limits(memory_bytes=56 * MIB))
    stranger = Member(pod="b", limits=Limits(memory_bytes=100 * MIB))
    members = (stranger, pause, sidecar)
    found = granted(Member(pod="a"), members)
    assert (found.memory_bytes, found.cpu_shares) == (200 * MIB, 1024)
    assert granted(Member(pod="b"), members) == NONE
    assert granted(pause, ()) == NONE


def test_an_update(tmp_path: pathlib.Path) -> None:
    """What it does not say stays; -1 takes a limit away."""
    before = Limits(memory_bytes=MIB, cpu_shares=5)
    text = b'{"memory": {"limit": -1}, "cpu": {"quota": 7000, "shares": 0}}'
    assert changed(before, parsed(text)) == Limits(cpu_quota_us=7000, cpu_shares=5)
    for said in (b"null", b"[]", b"{", b"\xff", b'{"memory": 1}'):
        assert changed(before, parsed(said)) == before


def test_what_create_is_told(tmp_path: pathlib.Path) -> None:
    assert option(str(tmp_path), NONE) == []
    name, file = option(str(tmp_path), Limits(memory_bytes=MIB, cpu_quota_us=7000))
    said: dict[str, Any] = json.loads(pathlib.Path(file).read_text())
    assert name == "--pod-resources"
    assert said == {"memory": {"limit": MIB}, "cpu": {"quota": 7000}}
    assert resources(TOTALS)["cpu"] == {"quota": 250_000, "period": 100_000, "shares": 1024}
