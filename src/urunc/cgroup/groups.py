# SPDX-License-Identifier: Apache-2.0
"""A container's control groups once they are there: where they are, what is in their files, limits
written into them.

cgroup v1, v2, both (hybrid) or none. Runs in the runtime, with the host's privilege, and stays in
containerd's shim, so what only a change needs is imported there. cgroup/making.py makes them,
cgroup/limits.py says which files a limit goes to.
"""

from __future__ import annotations

from urunc import logs
from urunc.errors import HostError, reason
from urunc.linux import cgroups
from urunc.linux.cgroups import UNIFIED
from urunc.linux.files import exists, read_text, write_bytes, write_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from urunc.bundle.resources import Resources
    from urunc.cgroup import limits
    from urunc.cgroup.devices import DeviceRule
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
        from urunc.cgroup import limits

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
