# SPDX-License-Identifier: Apache-2.0
"""What of a configuration a guest cannot do: what `plan` and `create` say of it."""

from __future__ import annotations

from typing import Any

import pytest

from lib.made import config, document, host, image, image_file, solo5
from urunc import guests, monitors
from urunc.bundle import spec
from urunc.errors import SpecError
from urunc.plan.decide import decide
from urunc.plan.model import Plan


def planned(guest: str, monitor: str, changes: dict[str, Any], **members: Any) -> Plan:
    """The plan of a configuration with these members, for an image with these changes."""
    given = config()
    if guest in ("rumprun", "mirage"):
        changes = {"binary": solo5("spt", ("net", "net"), ("disk", "block")), **changes}
        changes.setdefault("blocks", (image_file("/disk"),))
    return decide(
        "box",
        spec.parse(document(**members), "/bundle"),
        image(guest, monitor, **changes),
        guests.load(guest, given),
        monitors.load(monitor, given),
        host(),
        given,
    )


@pytest.mark.parametrize(
    ("guest", "monitor", "changes", "members", "warning"),
    [
        ("mirage", "spt", {}, {"hostname": "a"}, "hostname: mirage is not told 'a'"),
        (
            "mirage", "spt", {},
            {"process": {"args": ["app"], "env": ["PATH=/", "A=1", "B=2"], "cwd": "/"}},
            "process.env: mirage is told no variables: A, B",
        ),
        (
            "mewz", "qemu", {}, {"process": {"args": ["app", "-x"], "cwd": "/"}},
            "process.args: mewz is told none of its 1 words",
        ),
        ("mewz", "qemu", {}, {"domainname": "a"}, "domainname: mewz is not told 'a'"),
        (
            "mewz", "qemu", {}, {"process": {"args": ["app"], "cwd": "/srv"}},
            "process.cwd: mewz is not told '/srv'",
        ),
        (
            "mirage", "spt", {}, {"process": {"args": ["app", "two words"], "cwd": "/"}},
            "process.args: 'two words' reaches mirage as other words: no quoting",
        ),
        (
            "rumprun", "spt", {}, {"process": {"args": ["app", ""], "cwd": "/"}},
            "process.args: '' reaches rumprun as other words: no quoting",
        ),
        (
            "unikraft", "qemu", {"block_mount_points": ("/data",)}, {},
            "annotation 'blkMntPoint': without effect: unikraft is not told of it",
        ),
        (
            "rumprun", "spt", {}, {"root": {"path": "rootfs", "readonly": True}},
            "root.readonly: spt has no disk that is only read: the guest writes to it",
        ),
        (
            "linux", "firecracker",
            {"blocks": (image_file("/a"), image_file("/b", size_bytes=4097))}, {},
            "disk '/b': the guest lacks the last 1 of its 4097 bytes, since firecracker shows "
            "whole sectors of 512 bytes",
        ),
        (
            "unikraft", "qemu", {"overrides": {"ports": "80:8080"}}, {},
            "annotation 'ports': for network 'pod' and 'shared', without effect in 'dynamic'",
        ),
    ],
)  # fmt: skip
def test_a_remark(
    guest: str, monitor: str, changes: dict[str, Any], members: dict[str, Any], warning: str
) -> None:
    assert planned(guest, monitor, changes, **members).warnings == (warning,)


def test_nothing_to_remark() -> None:
    """What every engine adds, and what a unikernel has no use for."""
    process = {
        "args": ["app --and the whole line"],
        "cwd": "/",
        "env": ["PATH=/bin", "HOSTNAME=a", "HOME=/root", "TERM=xterm"],
        "noNewPrivileges": True,
        "capabilities": {"bounding": ["CAP_KILL"]},
    }
    linux = {
        "namespaces": [{"type": kind} for kind in ("pid", "network", "mount")],
        "sysctl": {"net.ipv4.ping_group_range": "0 2147483647"},
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
        "maskedPaths": ["/proc/kcore"],
    }
    assert planned("mirage", "spt", {}, process=process, linux=linux).warnings == ()


def test_refusals() -> None:
    for changes in (
        {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/a"}},
        {"personality": {"domain": "LINUX32"}},
    ):
        linux = {"namespaces": [{"type": "network"}], **changes}
        with pytest.raises(SpecError, match=next(iter(changes))):
            planned("unikraft", "qemu", {}, linux=linux)
    with pytest.raises(SpecError, match=r"vm\.kernel\.parameters"):
        planned("unikraft", "qemu", {}, vm={"kernel": {"parameters": ["quiet"]}})
