# SPDX-License-Identifier: Apache-2.0
"""Makes a container's control groups, here (cgroupfs) or by systemd, as a scope that is requested
over D-Bus; and where they are to be. For `create` alone.

Runs in the runtime, with the host's privilege; what is made is in the journal first.
"""

from __future__ import annotations

import posix

from urunc import logs
from urunc.cgroup import limits
from urunc.cgroup.groups import REFUSED, Groups
from urunc.errors import HostError, SpecError, reason
from urunc.journaled import ControlGroups, SystemdUnit
from urunc.linux import cgroups
from urunc.linux.cgroups import UNIFIED
from urunc.linux.files import exists

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.bundle.resources import Resources
    from urunc.bundle.spec import Spec
    from urunc.cgroup.devices import DeviceRule
    from urunc.journal import Journal


def locate(identifier: str, asked: str) -> Groups:
    """The container's groups in cgroupfs; `asked` is linux.cgroupsPath. Raises SpecError."""
    parts = asked.split("/")
    if asked and (".." in parts or "." in parts or not asked.strip("/")):
        raise SpecError(
            f"config.json: linux.cgroupsPath: '{asked}' does not name a group of its own"
        )
    if ":" in asked and not asked.startswith("/"):
        raise SpecError(
            f"config.json: linux.cgroupsPath: '{asked}' is for systemd's groups",
            "--systemd-cgroup makes them",
        )
    paths = {}
    for name, (mount_point, own) in cgroups.hierarchies().items():
        if not asked:
            paths[name] = f"{mount_point}/urunc-{identifier}"
        elif asked.startswith("/"):
            paths[name] = mount_point + asked.rstrip("/")
        else:
            paths[name] = f"{mount_point}{own.rstrip('/')}/{asked.rstrip('/')}"
    return Groups(paths)


def make(groups: Groups, resources: Resources, journal: Journal, member: int = 0) -> Groups:
    """Make the groups and write their limits; `member` is a process that may be in them already, 0
    for none. Raises HostError and SpecError.

    If this process may not use control groups (another user's, a read-only mount) and there are no
    limits, the container gets none.
    """
    if not groups.paths:
        groups.apply(resources)
        return groups
    if cgroups.frozen(groups.paths):
        raise HostError(
            f"make control group: {groups.directories[0]}: it is there already, and frozen",
            "it may belong to a paused container: thaw or remove it, or choose another "
            "linux.cgroupsPath",
        )
    resource = ControlGroups(
        paths=groups.directories,
        parents=[path for directory in groups.directories for path in _missing_parents(directory)],
        member=member,
    )
    try:
        journal.make(resource)
    except OSError as error:
        if error.errno in REFUSED and not limits.lines(resources, groups.paths):
            logs.detail(f"control groups: {reason(error)}: the container does without")
            return Groups({})
        hint = "" if error.filename else "choose another linux.cgroupsPath"
        raise HostError(
            f"make control group: {reason(error)}: {error.filename or groups.directories[0]}", hint
        ) from None
    _hand_down(groups, resource.parents)
    groups.apply(resources)
    return groups


def _hand_down(groups: Groups, made: list[str]) -> None:
    """On v2, enable the controllers in the groups above."""
    directory = groups.paths.get(UNIFIED)
    if not directory:
        return
    mount_point = cgroups.hierarchies()[UNIFIED][0]
    above = [path for path in made if path.startswith(f"{mount_point}/")]
    first = (above[0] if above else directory).rpartition("/")[0]
    for path in (*cgroups.parents(first, mount_point), *above):
        cgroups.enable_controllers(path)


def _missing_parents(directory: str) -> list[str]:
    missing: list[str] = []
    parent = directory.rpartition("/")[0]
    while parent and not exists(parent):
        missing.insert(0, parent)
        parent = parent.rpartition("/")[0]
    return missing


def make_by_systemd(
    identifier: str, spec: Spec, pid: int, rules: tuple[DeviceRule, ...], journal: Journal
) -> Groups:
    """Have systemd make a scope (or slice) for a process, then make the groups in hierarchies that
    it does not manage; raises HostError and SpecError."""
    from urunc.cgroup import systemd

    slice_name, unit = unit_name(identifier, spec.cgroups_path)
    hierarchies = cgroups.hierarchies()
    if not hierarchies:
        raise HostError("--systemd-cgroup: this machine has no control groups")
    bus = systemd.Bus(user=systemd.is_user())
    try:
        journal.make(SystemdUnit(name=unit, user=systemd.is_user()))
        properties = systemd.properties(spec.resources, hierarchies)
        properties += systemd.device_properties(rules)
        properties += systemd.annotated(spec.annotations)
        bus.start_unit(unit, slice_name, pid, properties)
        own = bus.control_group(unit)
    finally:
        bus.close()
    paths = {name: mount_point + own for name, (mount_point, _) in hierarchies.items()}
    groups = Groups(paths, unit)
    return make(groups, spec.resources, journal, pid)


def unit_name(identifier: str, asked: str) -> tuple[str, str]:
    """(slice, unit) of linux.cgroupsPath in systemd's form, `slice:prefix:name`; for "", the
    default slice and `urunc-ID.scope`. Raises SpecError."""
    parts = asked.split(":") if asked else ["", "urunc", identifier]
    if len(parts) != 3 or not parts[2]:
        raise SpecError(
            f"config.json: linux.cgroupsPath: '{asked}' is not of the form slice:prefix:name",
            "with --systemd-cgroup it names a systemd slice and scope",
        )
    slice_name, prefix, name = parts
    slice_name = slice_name or ("system.slice" if posix.geteuid() == 0 else "user.slice")
    if name.endswith(".slice"):
        return slice_name, name
    return slice_name, f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
