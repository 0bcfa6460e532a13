# SPDX-License-Identifier: Apache-2.0
"""`decide` on a machine that does not exist, of a guest and a monitor that tests name."""

from __future__ import annotations

from typing import Any

import pytest

from lib.made import (
    config,
    document,
    host,
    image,
    node,
    solo5,
)
from urunc import guests, monitors
from urunc.bundle import spec
from urunc.bundle.image import UnikernelImage
from urunc.config import Config
from urunc.errors import Error
from urunc.plan.decide import decide
from urunc.plan.model import HostFacts, Plan

NO_KVM = {"kvm": node("/dev/kvm", problem="no such file or directory", mode=0, gid=0)}

IMAGES = {
    "rumprun": {"binary": solo5("hvt", ("tap", "net"))},
    "mirage": {"binary": solo5("spt", ("service", "net"))},
}


def planned(
    guest: str,
    monitor: str,
    *,
    facts: HostFacts | None = None,
    given: Config | None = None,
    configuration: dict[str, Any] | None = None,
    **changes: Any,
) -> Plan:
    found: UnikernelImage = image(guest, monitor, **{**IMAGES.get(guest, {}), **changes})
    given = given or config()
    return decide(
        "box",
        spec.parse(configuration or document(), "/bundle"),
        found,
        guests.load(guest, given),
        monitors.load(monitor, given),
        facts or host(),
        given,
    )


def refused(kind: type[Error], guest: str, monitor: str, **changes: Any) -> Error:
    with pytest.raises(kind) as caught:
        planned(guest, monitor, **changes)
    assert type(caught.value) is kind
    return caught.value


def resources(**members: Any) -> dict[str, Any]:
    return document(
        linux={"resources": members, "namespaces": [{"type": "network"}, {"type": "pid"}]}
    )


def process(**members: Any) -> dict[str, Any]:
    return document(process={"args": ["app"], "cwd": "/", **members})
