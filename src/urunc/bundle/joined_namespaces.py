# SPDX-License-Identifier: Apache-2.0
"""Checks the namespaces that config.json gives by a path: that they are of their kind, and whether
they are the host's.

CRI expresses `hostNetwork`, `hostPID` and `hostIPC` by the path of a process that shares the node's
namespaces. Such a namespace is treated as one that config.json does not name. Reads only and needs
no root; a namespace that this user may not inspect (CAP_SYS_PTRACE, proc(5)) is checked when it is
joined.
"""

from __future__ import annotations

import posix
from errno import EACCES, EPERM

from urunc.bundle.namespaces import namespace_of
from urunc.errors import SpecError, reason
from urunc.linux.files import O_PATH
from urunc.linux.namespaces import KINDS, identities_of_host, kind_of
from urunc.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.bundle.spec import Spec

PLACE = "config.json: linux.namespaces"


def settle(spec: Spec) -> Spec:
    """`spec` with `host_namespaces` filled in, and without paths to the runtime's own namespaces,
    which are inherited (the kernel refuses to join one's own user namespace). Raises SpecError for
    a path to something else, and for sysctls, id mappings and devices that would change the
    host."""
    namespaces = dict(spec.namespaces)
    host = {kind for kind in KINDS if kind not in namespaces}
    for kind, path in spec.namespaces.items():
        identity = _identity(kind, path) if path else None
        if identity is None:
            continue
        own, first = identities_of_host(KINDS[kind][1])
        if identity in (own, first):
            host.add(kind)
        if identity == own:
            del namespaces[kind]
    for name in spec.sysctls:
        kind = namespace_of(name)
        if kind in host:
            raise SpecError(
                f"config.json: linux.sysctl: '{name}' would change the host: "
                f"'{spec.namespaces[kind]}' leads to the host's {kind} namespace",
                f"give the container a {kind} namespace of its own, or leave the parameter out",
            )
    if "user" in host and (spec.uid_mappings or spec.gid_mappings):
        raise SpecError(
            f"config.json: linux.uidMappings: '{spec.namespaces['user']}' leads to the host's user "
            "namespace, whose ids cannot be mapped",
            "give the container a user namespace of its own, or leave the mappings out",
        )
    if spec.net_devices and "network" in host:
        raise SpecError(
            "config.json: linux.netDevices: the container's network namespace is the host's, where "
            "the devices are already",
            "give it one of its own",
        )
    return replace(spec, namespaces=namespaces, host_namespaces=frozenset(host))


def _identity(kind: str, path: str) -> tuple[int, int] | None:
    """(device, inode) of the namespace at a path, None if this user may not inspect it; raises
    SpecError."""
    try:
        fd = posix.open(path, O_PATH | posix.O_CLOEXEC)
    except OSError as error:
        if error.errno in (EACCES, EPERM):
            return None
        raise SpecError(
            f"{PLACE}: {kind} namespace '{path}': {reason(error)}",
            "it was removed from outside; delete the container and create it again",
        ) from None
    try:
        facts = posix.fstat(fd)
        found = kind_of(fd)
    finally:
        posix.close(fd)
    if found != kind:
        raise SpecError(
            f"{PLACE}: {kind} namespace '{path}': "
            + (f"it is a {found} namespace" if found else "it is not a namespace"),
            f"a path such as /proc/PID/ns/{KINDS[kind][1]}, or a bind mount of it",
        )
    return facts.st_dev, facts.st_ino
