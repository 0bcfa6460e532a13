# SPDX-License-Identifier: Apache-2.0
"""A container's control groups: locates them, makes them, and writes limits into them.

cgroup v1, v2, both (hybrid) or none. The groups are made here (cgroupfs) or by systemd, as a scope
that is requested over D-Bus. Runs in the runtime, with the host's privilege. cgroup/limits.py says
which files a limit goes to.
"""

from __future__ import annotations

import posix

from urunc import logs
from urunc.cgroup import limits
from urunc.errors import HostError, SpecError, reason
from urunc.journaled import ControlGroups, SystemdUnit
from urunc.linux import cgroups
from urunc.linux.cgroups import UNIFIED
from urunc.linux.files import exists, read_text, write_bytes, write_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from urunc.bundle.resources import Resources
    from urunc.bundle.spec import Spec
    from urunc.cgroup.devices import DeviceRule
    from urunc.journal import Journal
    from urunc.state import State

REFUSED = (1, 13, 30)
"""EPERM, EACCES, EROFS: control groups that this process may not use."""


class Groups:
    """The groups of one container: controller → path (UNIFIED for v2), and systemd's unit, "" for
    none."""

    def __init__(self, paths: Mapping[str, str], unit: str = "") -> None:
        self.paths = dict(paths)
        self.unit = unit

    @property
    def directories(self) -> list[str]:
        """Every group's directory, each once, v2's last."""
        return list(dict.fromkeys(self.paths[name] for name in sorted(self.paths, reverse=True)))

    def directory(self, controller: str) -> str:
        """The directory with a controller's files, "" for none."""
        return self.paths.get(controller) or self.paths.get(UNIFIED, "")

    def apply(self, resources: Resources) -> None:
        """Write every limit; raises HostError or SpecError."""
        for text in limits.passed_over(resources, self.paths):
            logs.warn(text)
        settings = limits.lines(resources, self.paths)
        if settings and not self.paths:
            raise HostError(
                "linux.resources: this machine has no control groups to enforce limits with"
            )
        if not settings:
            return
        settings = self._in_order(settings)
        for controller, choices in settings:
            directory = self.directory(controller)
            for file, value in choices:
                if file and (len(choices) == 1 or exists(f"{directory}/{file}")):
                    self._write(directory, file, value)
                    break
            else:
                if choices[-1][0]:
                    names = " or ".join(file for file, _ in choices)
                    raise HostError(f"limit '{names}': this machine's kernel has none")

    def _in_order(self, settings: list[tuple[str, limits.Line]]) -> list[tuple[str, limits.Line]]:
        """The settings in an order that v1 accepts: it never lets memory plus swap be below memory,
        so when both rise, the sum goes first."""
        names = [choices[0][0] for _, choices in settings]
        low, both = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
        if low in names and both in names:
            first, second = names.index(low), names.index(both)
            wanted = int(settings[first][1][0][1])
            now = self.number("memory", both)
            if now is not None and (wanted < 0 or wanted > now):
                settings[first], settings[second] = settings[second], settings[first]
        return settings

    def _write(self, directory: str, file: str, value: str) -> None:
        try:
            write_bytes(f"{directory}/{file}", value.encode())
        except OSError as error:
            hint = ""
            if not exists(f"{directory}/{file}"):
                hint = f"this machine's control groups have no such file in {directory}"
            raise HostError(f"limit '{file}' to '{value}': {reason(error)}", hint) from None

    def number(self, controller: str, file: str) -> int | None:
        """The number in a file; None for `max`, and if there is no such file."""
        try:
            return int(read_text(f"{self.directory(controller)}/{file}"))
        except (OSError, ValueError):
            return None

    def text(self, controller: str, file: str) -> str:
        """A file's content, "" if there is no such file."""
        try:
            return read_text(f"{self.directory(controller)}/{file}")
        except OSError:
            return ""

    def pairs(self, controller: str, file: str) -> dict[str, int]:
        """A flat keyed file, with lines of `NAME NUMBER`."""
        found = {}
        for line in self.text(controller, file).splitlines():
            name, _, value = line.partition(" ")
            if value.isdecimal():
                found[name] = int(value)
        return found

    def allow_devices(self, rules: tuple[DeviceRule, ...]) -> None:
        """Allow the processes to use these devices only; raises HostError.

        In a user namespace that may not be permitted; as with runc, the devices are then whatever
        nodes the host has provided.
        """
        from urunc.cgroup import devices

        v1 = self.paths.get("devices")
        try:
            if v1:
                write_bytes(f"{v1}/devices.deny", b"a")
                write_lines(f"{v1}/devices.allow", map(devices.line, rules))
            elif UNIFIED in self.paths:
                from urunc.linux import device_program

                device_program.attach(self.paths[UNIFIED], devices.program(rules))
        except OSError as error:
            if error.errno in REFUSED and cgroups.in_user_namespace():
                return
            raise HostError(f"device control group: {reason(error)}") from None

    def pids(self) -> list[int]:
        """Every process of the container, in the runtime's pid namespace."""
        return cgroups.pids(self.directories[-1]) if self.paths else []


def of(state: State) -> Groups:
    """The groups that are recorded of a container; none before `create` is through."""
    return Groups(state.group_paths, state.unit)


def locate(identifier: str, asked: str) -> Groups:
    """The container's groups in cgroupfs; `asked` is linux.cgroupsPath. Raises SpecError."""
    parts = asked.split("/")
    if asked and (".." in parts or not asked.strip("/")):
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
