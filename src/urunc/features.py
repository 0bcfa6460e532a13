# SPDX-License-Identifier: Apache-2.0
"""The features object of the OCI runtime specification (features.md), for `urunc features` and for
containerd through the shim.

What depends on the machine is probed. An engine asks once for guests and ordinary containers: a
feature that both urunc and the ordinary runtime have to implement (memory policies, network
devices) is there if both do. What concerns ordinary containers only (mount options and extensions,
libseccomp's architectures) is their runtime's answer.
"""

from __future__ import annotations

import posix

from urunc import OCI_VERSION, __version__, ordinary
from urunc.bundle.pods import PREFIX
from urunc.bundle.rare_keys import MEMORY_FLAGS, MEMORY_MODES
from urunc.bundle.spec import HOOKS
from urunc.cgroup.systemd import ANNOTATION
from urunc.errors import HostError
from urunc.filters import ACTIONS, ARCHITECTURES, FLAGS, OPERATORS
from urunc.guests import BUILT_IN as GUESTS
from urunc.jsontext import loads
from urunc.linux import capabilities, cgroups, namespaces
from urunc.linux.files import exists, read_text
from urunc.monitors import BUILT_IN as MONITORS
from urunc.programs import capture
from urunc.storage.options import ALL as MOUNT_OPTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urunc.config import Config

IDMAPPED = (5, 12)
"""The first version of Linux with MOUNT_ATTR_IDMAP (mount_setattr(2))."""


def features(config: Config, runtime: str = "") -> dict[str, Any]:
    """The features document; `runtime` is the ordinary one that a container's options name."""
    return document(_ordinary(config, runtime))


def document(theirs: dict[str, Any]) -> dict[str, Any]:
    """The features object of urunc beside an ordinary runtime whose object is `theirs`; {} if there
    is no such runtime."""
    their_linux = theirs.get("linux", {})
    linux = {
        "namespaces": sorted(
            kind for kind, (_, file) in namespaces.KINDS.items() if exists(f"/proc/self/ns/{file}")
        ),
        "capabilities": _capabilities(),
        "cgroup": _cgroup(),
        "seccomp": _seccomp(their_linux.get("seccomp", {})),
        "apparmor": {"enabled": _says("/sys/module/apparmor/parameters/enabled", "Y")},
        "selinux": {"enabled": exists("/sys/fs/selinux/enforce")},
        "intelRdt": {"enabled": False, "schemata": False, "monitoring": False},
        "memoryPolicy": _memory_policy(theirs),
        "netDevices": {
            "enabled": not theirs or bool(their_linux.get("netDevices", {}).get("enabled"))
        },
        "mountExtensions": _mount_extensions(theirs),
    }
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": list(HOOKS),
        "mountOptions": theirs.get("mountOptions") or sorted(MOUNT_OPTIONS),
        "linux": linux,
        "annotations": {
            **theirs.get("annotations", {}),
            "com.urunc.version": __version__,
            "com.urunc.guests": ",".join(GUESTS),
            "com.urunc.monitors": ",".join(MONITORS),
        },
        "potentiallyUnsafeConfigAnnotations": sorted(
            {PREFIX, ANNOTATION, *theirs.get("potentiallyUnsafeConfigAnnotations", [])}
        ),
    }


def _ordinary(config: Config, runtime: str) -> dict[str, Any]:
    """The ordinary runtime's own features object; {} if there is no runtime, or it prints none."""
    try:
        code, text = capture([ordinary.find(config, runtime), "features"])
        document = loads(text) if code == 0 else {}
    except (HostError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _capabilities() -> list[str]:
    last = int(read_text("/proc/sys/kernel/cap_last_cap"))
    return [f"CAP_{name}" for name in capabilities.NAMES[: last + 1]]


def _cgroup() -> dict[str, bool]:
    found = cgroups.hierarchies()
    systemd = exists("/run/systemd/system")
    return {
        "v1": any(name not in ("", "systemd") for name in found),
        "v2": cgroups.UNIFIED in found,
        "systemd": systemd,
        "systemdUser": systemd and cgroups.UNIFIED in found,
        "rdma": "rdma" in found
        or (cgroups.UNIFIED in found and "rdma" in _controllers(found[cgroups.UNIFIED][0])),
    }


def _controllers(mount_point: str) -> list[str]:
    return read_text(f"{mount_point}/cgroup.controllers").split()


def _mount_extensions(theirs: dict[str, Any]) -> dict[str, Any]:
    """Id-mapped mounts: a guest has them where the kernel does, as an ordinary container of a
    runtime that does."""
    found = dict(theirs.get("linux", {}).get("mountExtensions", {}))
    known = not theirs or bool(found.get("idmap", {}).get("enabled"))
    major, minor = posix.uname().release.replace("-", ".").split(".")[:2]
    found["idmap"] = {"enabled": known and (int(major), int(minor)) >= IDMAPPED}
    return found


def _seccomp(theirs: dict[str, Any]) -> dict[str, Any]:
    from urunc.linux.seccomp import ALLOW, compile_rules

    try:
        compile_rules(ALLOW, ())
        enabled = exists("/proc/sys/kernel/seccomp")
    except (ImportError, OSError):
        enabled = False
    found: dict[str, Any] = {"enabled": enabled}
    if enabled:
        found["actions"] = sorted(ACTIONS)
        found["operators"] = list(OPERATORS[1:])
        found["archs"] = theirs.get("archs") or list(ARCHITECTURES)
        for key in ("knownFlags", "supportedFlags"):
            found[key] = theirs.get(key) or list(FLAGS)
    return found


def _memory_policy(theirs: dict[str, Any]) -> dict[str, list[str]]:
    ours = {"modes": list(MEMORY_MODES), "flags": list(MEMORY_FLAGS)}
    if not theirs:
        return ours
    known = theirs.get("linux", {}).get("memoryPolicy", {})
    return {key: [name for name in ours[key] if name in known.get(key, ())] for key in ours}


def _says(path: str, wanted: str) -> bool:
    try:
        return read_text(path).strip() == wanted
    except OSError:
        return False
