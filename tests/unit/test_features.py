# SPDX-License-Identifier: Apache-2.0
"""What `features` promises is what the table of keys.py says, and no more than the ordinary runtime
beside urunc can keep."""

from __future__ import annotations

from typing import Any

from lib import key_samples, keys
from urunc.features import document

FATES = {key: row.fate for row in keys.ROWS for key in keys.spread(row.keys)}


def has_effect(section: str) -> bool:
    """Whether any key of a section has."""
    return any(fate == "effect" for key, fate in FATES.items() if key.startswith(f"{section}."))


def test_what_the_table_says() -> None:
    """Where urunc is alone."""
    found = document({})
    linux = found["linux"]
    assert found["ociVersionMax"] == key_samples.FULL["ociVersion"]
    assert found["hooks"] == list(key_samples.FULL["hooks"])
    assert linux["netDevices"]["enabled"] == has_effect("linux.netDevices")
    assert linux["intelRdt"] == {
        "enabled": has_effect("linux.intelRdt"),
        "schemata": FATES["linux.intelRdt.schemata"] == "effect",
        "monitoring": FATES["linux.intelRdt.enableMonitoring"] == "effect",
    }
    policy = key_samples.FULL["linux"]["memoryPolicy"]
    assert policy["mode"] in linux["memoryPolicy"]["modes"]
    assert set(policy["flags"]) < set(linux["memoryPolicy"]["flags"])
    notified = FATES["linux.seccomp.listenerPath"] == "effect"
    assert ("SCMP_ACT_NOTIFY" in linux["seccomp"]["actions"]) == notified
    profile = key_samples.FULL["linux"]["seccomp"]
    assert set(profile["flags"]) <= set(linux["seccomp"]["supportedFlags"])
    assert set(profile["architectures"]) <= set(linux["seccomp"]["archs"])
    assert {item["op"] for call in profile["syscalls"] for item in call["args"]} <= set(
        linux["seccomp"]["operators"]
    )
    kinds = {item["type"] for item in key_samples.FULL["linux"]["namespaces"]}
    assert set(linux["namespaces"]) == kinds
    words = {
        word for mount in key_samples.FULL["mounts"] for word in mount["options"] if "=" not in word
    }
    assert words <= set(found["mountOptions"])
    unsafe = found["potentiallyUnsafeConfigAnnotations"]
    assert {"com.urunc.unikernel.", "org.systemd.property."} <= set(unsafe)


def test_beside_an_ordinary_runtime() -> None:
    """An engine asks once for both kinds of containers: one that would be ignored in the other is
    not promised."""
    older: dict[str, Any] = {"ociVersionMax": "1.2.0", "mountOptions": ["rbind"], "linux": {}}
    linux = document(older)["linux"]
    assert linux["netDevices"] == linux["mountExtensions"]["idmap"] == {"enabled": False}
    assert linux["memoryPolicy"] == {"modes": [], "flags": []}
    assert linux["mountExtensions"] == {"idmap": {"enabled": False}}
    assert document(older)["mountOptions"] == ["rbind"]
    newer = {
        **older,
        "linux": {
            "netDevices": {"enabled": True},
            "memoryPolicy": {"modes": ["MPOL_BIND", "MPOL_NEW"], "flags": []},
            "intelRdt": {"enabled": True},
        },
    }
    linux = document(newer)["linux"]
    assert linux["netDevices"] == {"enabled": True}
    assert linux["memoryPolicy"] == {"modes": ["MPOL_BIND"], "flags": []}
    assert linux["intelRdt"]["enabled"] is False
