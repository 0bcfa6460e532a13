# SPDX-License-Identifier: Apache-2.0
"""A pod's totals, and what is left of them for a guest that has no limits of its own.

containerd's CRI says the totals on the pause container alone, by annotations; only a shim has the
whole pod. Pure, but for files in the bundle.
"""

from __future__ import annotations

from urunc.jsontext import dumps, loads
from urunc.linux.files import write_whole
from urunc.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

POD = "io.kubernetes.cri.sandbox-id"
TYPE = "io.kubernetes.cri.container-type"
TOTALS = {
    "memory_bytes": "io.kubernetes.cri.sandbox-memory",
    "cpu_quota_us": "io.kubernetes.cri.sandbox-cpu-quota",
    "cpu_period_us": "io.kubernetes.cri.sandbox-cpu-period",
    "cpu_shares": "io.kubernetes.cri.sandbox-cpu-shares",
}
FIELDS = {
    "memory_bytes": ("memory", "limit"),
    "cpu_quota_us": ("cpu", "quota"),
    "cpu_period_us": ("cpu", "period"),
    "cpu_shares": ("cpu", "shares"),
}
"""Where linux.resources has them."""
PERIOD_US = 100_000
"""The kernel's, where none is said."""
LEAST_QUOTA_US = 1000
"""sched-bwc.rst: no quota is below a millisecond."""
LEAST_SHARES = 2
"""What a kubelet gives a container that asks for no CPU; fewer are none."""


@record
class Limits:
    """A container's limits, or a pod's totals; 0 is none."""

    memory_bytes: int = 0
    cpu_quota_us: int = 0
    cpu_period_us: int = 0
    cpu_shares: int = 0


NONE = Limits()


@record
class Member:
    """A container as part of its pod."""

    pod: str = ""
    """The pod's id, which is its pause container's; "" outside pods."""
    limits: Limits = NONE
    totals: Limits | None = None
    """The pod's, on its pause container; else None."""


def member(document: Any) -> Member:
    """What config.json's JSON value says of it; what makes no sense is not there: the runtime will
    complain."""
    try:
        annotations = document.get("annotations") or {}
        limits = changed(NONE, _member(document.get("linux"), "resources"))
        pod = str(annotations.get(POD, ""))
        if annotations.get(TYPE) != "sandbox":
            return Member(pod=pod, limits=limits)
        said = {field: annotations.get(name, "") for field, name in TOTALS.items()}
    except (AttributeError, TypeError):
        return Member()
    totals = {field: int(text) for field, text in said.items() if _is_number(text)}
    return Member(pod=pod, limits=limits, totals=Limits(**totals))


def parsed(data: bytes) -> Any:
    """The value of JSON text, None where it is none."""
    try:
        return loads(data.decode())
    except ValueError:
        return None


def changed(limits: Limits, resources: Any) -> Limits:
    """Limits after an update by a linux.resources object: what it does not say stays."""
    said = {}
    for field, (section, key) in FIELDS.items():
        value = _member(_member(resources, section), key)
        if isinstance(value, int) and value:
            said[field] = max(value, 0)
    return replace(limits, **said)


def granted(newcomer: Member, members: Iterable[Member]) -> Limits:
    """What a container's pod, among these members of several, has left for it."""
    pod = [item for item in members if item.pod == newcomer.pod]
    totals = next((item.totals for item in pod if item.totals), None)
    if not totals or newcomer.totals:
        return NONE
    return left(totals, newcomer.limits, (item.limits for item in pod if not item.totals))


def left(totals: Limits, own: Limits, others: Iterable[Limits]) -> Limits:
    """What is left of a pod's totals by the others, of each thing that a container has no limit of
    its own for."""
    others = tuple(others)
    found: dict[str, int] = {}
    if totals.memory_bytes and not own.memory_bytes:
        memory = totals.memory_bytes - sum(item.memory_bytes for item in others)
        found["memory_bytes"] = max(memory, 0)
    if totals.cpu_quota_us and not own.cpu_quota_us:
        period = totals.cpu_period_us or PERIOD_US
        used = sum(item.cpu_quota_us * period // (item.cpu_period_us or PERIOD_US)
                   for item in others)  # fmt: skip
        quota = totals.cpu_quota_us - used
        if quota >= LEAST_QUOTA_US:
            found |= {"cpu_quota_us": quota, "cpu_period_us": period}
    if own.cpu_shares <= LEAST_SHARES:
        shares = totals.cpu_shares - sum(item.cpu_shares for item in others)
        found["cpu_shares"] = shares if shares > LEAST_SHARES else 0
    return Limits(**found)


def option(bundle: str, limits: Limits) -> list[str]:
    """What says them to `create`, by a file in the bundle."""
    if limits == NONE:
        return []
    file = f"{bundle}/.urunc-pod.json"
    write_whole(file, dumps(resources(limits)).encode())
    return ["--pod-resources", file]


def resources(limits: Limits) -> dict[str, dict[str, int]]:
    """Limits as a linux.resources object."""
    made: dict[str, dict[str, int]] = {}
    for field, (section, key) in FIELDS.items():
        if value := getattr(limits, field):
            made.setdefault(section, {})[key] = value
    return made


def _member(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _is_number(text: object) -> bool:
    return isinstance(text, str) and text.isdecimal() and len(text) < 20
