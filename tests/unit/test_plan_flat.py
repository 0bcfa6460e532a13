# SPDX-License-Identifier: Apache-2.0
"""A plan as container.json and `urunc plan` have it: one object without groups, read by another
version of urunc."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lib.made import config, document, found, host, image, source
from urunc import guests, monitors, state
from urunc.bundle import spec
from urunc.plan.decide import decide
from urunc.plan.model import MonitorUser, Plan, as_planned, flatten, unflatten
from urunc.record import replace
from urunc.storage.facts import FILE

KEYS = {
    *("accelerator", "accelerator_reason", "architecture", "args", "arguments", "channel"),
    *("disk_mount_points", "disk_names", "disks", "env", "filesystems", "firmware", "gid"),
    *("groups", "guest", "host", "hostname", "id", "initrd", "kernel", "kernel_bytes"),
    *("kernel_modules", "max_nics", "memory_bytes", "monitor", "need", "net_names", "network"),
    *("network_reason", "other_ports", "overhead_bytes", "parameters", "ports", "process"),
    *("queues", "root", "root_way", "seccomp", "shared_subnets", "stop_order", "stop_signal"),
    *("stream_descriptors", "streams", "supervisor", "tasks", "tells_resets", "terminal", "uid"),
    *("vcpus", "version", "virtiofsd", "virtiofsd_rust", "volumes", "warnings"),
}
"""Of schema 4."""


def planned(guest: str, monitor: str, **changes: Any) -> Plan:
    given = config()
    return decide(
        "box",
        spec.parse(document(), "/bundle"),
        image(guest, monitor, **changes),
        guests.load(guest, given),
        monitors.load(monitor, given),
        host(),
        given,
        found(source("/data", read_only=True), source("/etc/app", FILE, read_only=True))
        if changes
        else None,
    )


PLANS = [
    ("unikraft", "qemu", {}),
    ("linux", "firecracker", {"mount_rootfs": True}),
    ("linux", "qemu", {"mount_rootfs": True}),
]


@pytest.mark.parametrize(("guest", "monitor", "changes"), PLANS)
def test_the_keys(guest: str, monitor: str, changes: dict[str, Any]) -> None:
    flat = flatten(planned(guest, monitor, **changes))
    assert set(flat) == KEYS


@pytest.mark.parametrize(("guest", "monitor", "changes"), PLANS)
def test_there_and_back(guest: str, monitor: str, changes: dict[str, Any]) -> None:
    plan = planned(guest, monitor, **changes)
    stored = json.loads(json.dumps(flatten(plan)))
    assert unflatten(stored) == (plan, as_planned(plan))


def test_what_was_chosen_is_in_place_of_what_was_planned() -> None:
    plan = planned("linux", "qemu", mount_rootfs=True, overrides={"rootfs": "erofs"})
    assert plan.storage.root_way
    chosen = replace(
        as_planned(plan, MonitorUser(uid=1, gid=2, groups=(3,))),
        streams=("file", "socket", "file"),
        stream_descriptors=(7, 8),
        no_input=True,
        root_way=replace(plan.storage.root_way, form="squashfs"),
    )
    flat = json.loads(json.dumps(flatten(plan, chosen)))
    assert (flat["uid"], flat["gid"], flat["groups"]) == (1, 2, [3])
    assert (flat["streams"], flat["stream_descriptors"]) == (["file", "socket", "file"], [7, 8])
    assert flat["process"]["no_input"] is True
    assert flat["root_way"]["form"] == "squashfs"
    assert "squashfs" in flat["filesystems"] and "erofs" not in flat["filesystems"]
    before = json.loads(json.dumps(flatten(plan)))
    changed = {key for key, value in flat.items() if value != before[key]}
    assert changed == {
        *("uid", "gid", "groups", "streams", "stream_descriptors"),
        *("process", "root_way", "filesystems"),
    }
    assert unflatten(flat)[1] == chosen
    assert plan == planned("linux", "qemu", mount_rootfs=True, overrides={"rootfs": "erofs"})


def test_the_order_that_goes_by_the_channel() -> None:
    """Two names, for what decides does not import what reads files."""
    assert planned("linux", "qemu", mount_rootfs=True).ending.stop_order == state.CHANNEL


def test_keys_of_another_version() -> None:
    flat = flatten(planned("unikraft", "qemu"))
    with pytest.raises(TypeError, match="colour"):
        unflatten({**flat, "colour": "green"})
    with pytest.raises(TypeError, match="uid"):
        unflatten({key: value for key, value in flat.items() if key != "uid"})
