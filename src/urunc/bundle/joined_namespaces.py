# SPDX-License-Identifier: Apache-2.0
"""Namespaces that config.json gives by a path: are they of their kind, and whose are they?

A path may lead to the host's: CRI says `hostNetwork`, `hostPID` and `hostIPC` by the path of a
process that shares them with the node. Such a one is the host's all the same, and is treated as
one that config.json does not name. Looks, changes nothing, needs no root; what this user may not
see (another's process in /proc takes CAP_SYS_PTRACE) is left to whoever joins it.
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
    """The specification with the `host_namespaces` known. One that is the runtime's own is not
    joined but inherited (for user, the kernel refuses to join it). Raises SpecError for a path to
    no namespace of the kind, for a sysctl that would be the host's, for ids that are its own."""
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
            "namespace, whose ids are what they are",
            "give the container a user namespace of its own, or leave the mappings out",
        )
    if spec.net_devices and "network" in host:
        raise SpecError(
            "config.json: linux.netDevices: the container's network namespace is the one that they "
            "are in, or the host's",
            "give it one of its own",
        )
    return replace(spec, namespaces=namespaces, host_namespaces=frozenset(host))


def _identity(kind: str, path: str) -> tuple[int, int] | None:
    """(device, inode) of the namespace at a path, None where this user may not look."""
    try:
        fd = posix.open(path, O_PATH | posix.O_CLOEXEC)
    except OSError as error:
        if error.errno in (EACCES, EPERM):
            return None
        raise SpecError(
            f"{PLACE}: {kind} namespace '{path}': {reason(error)}",
            "whoever made it has removed it; make the container again",
        ) from None
    try:
        facts = posix.fstat(fd)
        found = kind_of(fd)
    finally:
        posix.close(fd)
    if found != kind:
        raise SpecError(
            f"{PLACE}: {kind} namespace '{path}': "
            + (f"it is one of kind {found}" if found else "it is no namespace"),
            f"a path such as /proc/PID/ns/{KINDS[kind][1]}, or where one is bound",
        )
    return facts.st_dev, facts.st_ino
