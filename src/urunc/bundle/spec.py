# SPDX-License-Identifier: Apache-2.0
"""config.json → Spec: the OCI runtime specification's configuration with every shape check.

Reads one file and touches nothing. Each message names the place as a JSON path (`process.args[0]`).
What urunc has no use for is not copied; what it does not support yet and must not ignore is refused
here.
"""

from __future__ import annotations

from urunc.bundle.document import Object
from urunc.bundle.namespaces import (
    IdMapping,
    parse_mappings,
    parse_namespaces,
    parse_ranges,
    parse_sysctls,
)
from urunc.bundle.resources import Resources
from urunc.bundle.resources import parse as parse_resources
from urunc.linux.process import RLIMITS
from urunc.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from urunc.bundle.rare_keys import MemoryPolicy, TimeOffset, VirtualMachine
    from urunc.bundle.scheduling import Scheduler

HOOKS = (
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
)
PROPAGATIONS = ("shared", "slave", "private", "unbindable")
CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
RARE = {
    "": ("vm", "windows", "solaris", "zos", "freebsd"),
    "process": ("commandLine", "execCPUAffinity", "ioPriority", "scheduler"),
    "process.user": ("username",),
    "linux": ("intelRdt", "memoryPolicy", "netDevices", "personality", "timeOffsets"),
    "linux.resources.memory": ("kernel", "useHierarchy"),
}
"""Object → its keys that bundle/rare_keys.py reads."""


@record
class Hook:
    """One hook program; `timeout_s` 0 is none (config.md, POSIX-platform Hooks)."""

    path: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    timeout_s: int


@record
class Mount:
    """One of the specification's mounts."""

    destination: str
    source: str
    type: str
    options: tuple[str, ...]
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    """Files' ids (`container`) and as which they are shown here (`host`), where they are others."""

    def is_bind(self) -> bool:
        """Whether it is a bind mount of a host's file or directory."""
        return self.type == "bind" or "bind" in self.options or "rbind" in self.options


@record
class Rlimit:
    """A resource limit by its POSIX name (`RLIMIT_NOFILE`)."""

    type: str
    soft: int
    hard: int


@record
class SpecDevice:
    """A device of linux.devices: `type` is one of c, b, u, p. The last matching rule of
    linux.resources.devices decides `read_only`."""

    path: str
    type: str
    major: int
    minor: int
    read_only: bool
    named: bool
    """Whether a rule names it exactly. For a privileged container engines list all of the host's
    devices, under one rule for all."""
    mode: int = 0o666
    uid: int = 0
    gid: int = 0


@record
class Spec:
    """A container's configuration: paths are absolute, what is absent is empty."""

    oci_version: str
    bundle: str
    root: str
    root_read_only: bool
    hostname: str
    domainname: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    terminal: bool
    console_size: tuple[int, ...]
    """(rows, columns) of the terminal, empty where not said."""
    uid: int
    gid: int
    additional_gids: tuple[int, ...]
    umask: int | None
    capabilities: Mapping[str, tuple[str, ...]]
    """Of each set of CAPABILITY_SETS; empty where the configuration says nothing of them."""
    no_new_privileges: bool
    rlimits: tuple[Rlimit, ...]
    oom_score_adj: int | None
    io_priority: tuple[int, ...] = ()
    """(class, level) of ioprio_set(2), empty where the configuration has none."""
    scheduler: Scheduler | None = None
    apparmor_profile: str
    selinux_label: str
    mount_label: str
    annotations: Mapping[str, str]
    mounts: tuple[Mount, ...]
    hooks: Mapping[str, tuple[Hook, ...]]
    namespaces: Mapping[str, str]
    """Of each kind, the path of the one to join, "" for a new one."""
    uid_mappings: tuple[IdMapping, ...]
    gid_mappings: tuple[IdMapping, ...]
    time_offsets: tuple[TimeOffset, ...] = ()
    sysctls: Mapping[str, str]
    rootfs_propagation: str
    masked_paths: tuple[str, ...]
    read_only_paths: tuple[str, ...]
    devices: tuple[SpecDevice, ...]
    """An application's: of these a guest can have block devices alone."""
    seccomp: Any
    """linux.seccomp as it stands, None where there is none."""
    cgroups_path: str
    resources: Resources
    memory_policy: MemoryPolicy | None = None
    net_devices: Mapping[str, str] = {}
    """Devices of the host's to move into the network namespace: name → name inside, which may hold
    a %d for a number."""
    personality: str = ""
    machine: VirtualMachine | None = None
    """`vm`, None if absent."""
    remarks: tuple[str, ...] = ()
    """Remarks for the user on what is ignored."""
    host_namespaces: frozenset[str] = frozenset()
    """The kinds of namespaces that the container shares with the host; filled in by
    bundle/joined_namespaces.py."""

    def has_own(self, kind: str) -> bool:
        """Whether the container has a namespace that is not the host's."""
        return kind in self.namespaces and kind not in self.host_namespaces


def parse(document: Any, bundle: str) -> Spec:
    """The Spec of a configuration's JSON value; `bundle` is the absolute directory it came from."""
    top = Object(document, "")
    root = top.object("root", required=True)
    process = top.object("process", required=True)
    user = process.object("user")
    linux = top.object("linux")
    oci_version = top.text("ociVersion", required=True)
    if oci_version.split(".")[0] != "1":
        raise top.wrong("ociVersion", f"'{oci_version}' is not a version 1 of the specification")
    root_path = root.text("path", required=True)
    args = process.texts("args")
    env = _variables(process)
    cwd = process.text("cwd") or "/"
    if not cwd.startswith("/"):
        raise process.wrong("cwd", f"'{cwd}' is not an absolute path")
    namespaces = parse_namespaces(linux)
    return Spec(
        oci_version=oci_version,
        bundle=bundle,
        root=root_path if root_path.startswith("/") else f"{bundle}/{root_path}",
        root_read_only=root.boolean("readonly"),
        hostname=top.text("hostname"),
        domainname=top.text("domainname"),
        args=args,
        env=env,
        cwd=cwd,
        terminal=process.boolean("terminal"),
        console_size=_console_size(process.object("consoleSize")),
        uid=user.number("uid", maximum=0xFFFFFFFE) or 0,
        gid=user.number("gid", maximum=0xFFFFFFFE) or 0,
        additional_gids=user.numbers("additionalGids", maximum=0xFFFFFFFE),
        umask=user.number("umask", maximum=0o7777),
        capabilities=_capabilities(process.object("capabilities")),
        no_new_privileges=process.boolean("noNewPrivileges"),
        rlimits=_rlimits(process),
        oom_score_adj=process.number("oomScoreAdj", minimum=-1000, maximum=1000),
        apparmor_profile=process.text("apparmorProfile"),
        selinux_label=process.text("selinuxLabel"),
        mount_label=linux.text("mountLabel"),
        annotations=top.text_map("annotations"),
        mounts=tuple(_mount(item, bundle) for item in top.objects("mounts")),
        hooks=_hooks(top.object("hooks")),
        namespaces=namespaces,
        uid_mappings=parse_mappings(linux, "uidMappings", namespaces),
        gid_mappings=parse_mappings(linux, "gidMappings", namespaces),
        sysctls=parse_sysctls(linux, namespaces),
        rootfs_propagation=linux.one_of("rootfsPropagation", PROPAGATIONS),
        masked_paths=linux.texts("maskedPaths"),
        read_only_paths=linux.texts("readonlyPaths"),
        devices=tuple(_device(item, linux) for item in linux.objects("devices")),
        seccomp=linux.get("seccomp", dict),
        cgroups_path=linux.text("cgroupsPath"),
        resources=parse_resources(linux.object("resources")),
        **_rare_parts(top, namespaces),
    )


def _rare_parts(top: Object, namespaces: dict[str, str]) -> dict[str, Any]:
    for path, keys in RARE.items():
        holder = top
        for key in path.split(".") if path else ():
            holder = holder.object(key)
        if not holder.value.keys().isdisjoint(keys):
            from urunc.bundle.rare_keys import parse as parse_rare

            return parse_rare(top, namespaces)
    return {}


def _variables(holder: Object) -> tuple[str, ...]:
    env = holder.texts("env")
    for index, word in enumerate(env):
        if "=" not in word.lstrip("="):
            raise holder.wrong(f"env[{index}]", f"'{word}' is not NAME=VALUE")
    return env


def _mount(item: Object, bundle: str) -> Mount:
    mount = Mount(
        destination=cleaned(item.text("destination", required=True)),
        source=item.text("source"),
        type=item.text("type"),
        options=item.texts("options"),
        uid_mappings=parse_ranges(item, "uidMappings"),
        gid_mappings=parse_ranges(item, "gidMappings"),
    )
    if bool(mount.uid_mappings) != bool(mount.gid_mappings):
        key = "gidMappings" if mount.uid_mappings else "uidMappings"
        raise item.wrong(key, "it has to be there where the other one is")
    if mount.uid_mappings and not mount.is_bind():
        raise item.wrong("uidMappings", "only a bind mount can show other ids")
    if mount.is_bind() and not mount.source:
        raise item.wrong("source", "a bind mount has to name a file or directory")
    if mount.is_bind() and not mount.source.startswith("/"):
        return replace(mount, source=f"{bundle}/{mount.source}")
    return mount


def cleaned(path: str) -> str:
    """A path in the container in its shortest form: absolute, without `.`, `..` and doubled
    slashes."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return f"/{'/'.join(parts)}"


def _rlimits(process: Object) -> tuple[Rlimit, ...]:
    found: dict[str, Rlimit] = {}
    for item in process.objects("rlimits"):
        limit = _rlimit(item)
        if limit.type in found:
            raise item.wrong("type", f"a second '{limit.type}'")
        found[limit.type] = limit
    return tuple(found.values())


def _rlimit(item: Object) -> Rlimit:
    limit = Rlimit(
        type=item.text("type", required=True),
        soft=item.number("soft", maximum=(1 << 64) - 1) or 0,
        hard=item.number("hard", maximum=(1 << 64) - 1) or 0,
    )
    if not limit.type.startswith("RLIMIT_") or limit.type[7:] not in RLIMITS:
        raise item.wrong("type", f"unknown limit '{limit.type}'")
    if limit.soft > limit.hard:
        raise item.wrong("soft", f"{limit.soft} is above the hard limit {limit.hard}")
    return limit


def _capabilities(item: Object) -> dict[str, tuple[str, ...]]:
    """Names as they stand: what this version does not know of the kernel's is ignored, as the
    specification has it."""
    return {name: item.texts(name) for name in CAPABILITY_SETS} if item.value else {}


def _hooks(hooks: Object) -> dict[str, tuple[Hook, ...]]:
    found = {}
    for name in HOOKS:
        programs = []
        for item in hooks.objects(name):
            path = item.text("path", required=True)
            if not path.startswith("/"):
                raise item.wrong("path", f"'{path}' is not an absolute path")
            timeout_s = item.number("timeout")
            if timeout_s == 0:
                raise item.wrong("timeout", "0 is not above zero")
            programs.append(
                Hook(
                    path=path,
                    args=item.texts("args") or (path,),
                    env=_variables(item),
                    timeout_s=timeout_s or 0,
                )
            )
        if programs:
            found[name] = tuple(programs)
    return found


def _console_size(size: Object) -> tuple[int, ...]:
    if not size.value:
        return ()
    return size.number("height", maximum=0xFFFF) or 0, size.number("width", maximum=0xFFFF) or 0


def _device(item: Object, linux: Object) -> SpecDevice:
    path = item.text("path", required=True)
    if not path.startswith("/"):
        raise item.wrong("path", f"'{path}' is not an absolute path")
    item.text("type", required=True)
    if item.value["type"] not in ("c", "b", "u", "p"):
        raise item.wrong("type", f"'{item.value['type']}' is none of c, b, u, p")
    kind: str = item.value["type"]
    numbers = [
        item.number(key, minimum=-1, maximum=(1 << 32) - 1) or 0 for key in ("major", "minor")
    ]
    return SpecDevice(
        path=path,
        type=kind,
        major=numbers[0],
        minor=numbers[1],
        mode=_default(item.number("fileMode"), 0o666),
        uid=item.number("uid", maximum=0xFFFFFFFE) or 0,
        gid=item.number("gid", maximum=0xFFFFFFFE) or 0,
        **_allowed(linux, kind, numbers),
    )


def _default(number: int | None, default: int) -> int:
    return default if number is None else number


def _allowed(linux: Object, kind: str, numbers: list[int]) -> dict[str, bool]:
    """The fields `read_only` and `named` of a device, from the rules of linux.resources.devices."""
    rules = linux.object("resources").objects("devices")
    writable, named = True, not rules
    for rule in rules:
        given = [rule.number(key, minimum=-1) for key in ("major", "minor")]
        named |= given == numbers and rule.boolean("allow")
        same = all(it in (None, -1, number) for it, number in zip(given, numbers, strict=True))
        if same and rule.text("type") in (kind, "a", ""):
            access = rule.text("access")
            if rule.boolean("allow"):
                writable = "w" in access if access else True
            elif not access or "w" in access:
                writable = False
    return {"read_only": not writable, "named": named}
