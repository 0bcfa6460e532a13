# SPDX-License-Identifier: Apache-2.0
"""The application that urunc's init runs in a guest: what of config.json a process of the host's
would be. Pure."""

from __future__ import annotations

from urunc.bundle.resources import most_processes
from urunc.bundle.spec import CAPABILITY_SETS, Spec
from urunc.guests import Process
from urunc.linux.capabilities import mask
from urunc.storage.facts import NETWORK_FILES


def process_of(spec: Spec) -> Process:
    """The specification's process."""
    return Process(
        uid=spec.uid,
        gid=spec.gid,
        groups=spec.additional_gids,
        cwd=spec.cwd,
        umask=spec.umask,
        capabilities=tuple(mask(spec.capabilities[name]) for name in CAPABILITY_SETS)
        if spec.capabilities
        else (),
        no_new_privileges=spec.no_new_privileges,
        rlimits=tuple(f"{limit.type} {limit.soft} {limit.hard}" for limit in spec.rlimits),
        sysctls=spec.sysctls,
        masked_paths=spec.masked_paths,
        read_only_paths=spec.read_only_paths,
        domainname=spec.domainname,
        terminal=spec.terminal,
        personality=spec.personality,
        time_offsets=tuple(
            f"{offset.clock} {offset.seconds} {offset.nanoseconds}" for offset in spec.time_offsets
        ),
        own_pids=spec.namespaces.get("pid") == "",
        most_processes=max(most_processes(spec.resources), 0),
        files=tuple(
            mount.destination for mount in spec.mounts if mount.destination in NETWORK_FILES
        ),
    )


def without_init(spec: Spec, args: tuple[str, ...]) -> tuple[tuple[str, ...], list[str]]:
    """(the arguments without an engine's init, which is no guest's program, warnings)."""
    from urunc.plan.declared_disks import engines_init

    if not engines_init(spec):
        return args, []
    return args[2:], ["--init has no meaning for a guest: it is left out"]
