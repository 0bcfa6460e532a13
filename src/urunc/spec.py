# SPDX-License-Identifier: Apache-2.0
"""config.json → Spec: the OCI runtime specification's configuration with every shape check.

Reads one file and touches nothing. Each message names the place as a JSON path (`process.args[0]`).
What urunc has no use for is not copied; what it does not support yet and must not ignore is refused
here.
"""

from __future__ import annotations

from urunc.errors import SpecError, reason
from urunc.jsontext import loads
from urunc.linux.files import read_bytes
from urunc.linux.process import RLIMITS
from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

CONFIG_LIMIT_BYTES = 16 << 20
NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")
HOOKS = (
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
)


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


@record
class Rlimit:
    """A resource limit by its POSIX name (`RLIMIT_NOFILE`)."""

    type: str
    soft: int
    hard: int


@record
class Resources:
    """What of linux.resources limits the monitor; None where the configuration says nothing."""

    memory_limit_bytes: int | None
    cpu_shares: int | None
    cpu_quota_us: int | None
    cpu_period_us: int | None
    cpuset_cpus: str
    cpuset_mems: str
    pids_limit: int | None


@record
class Spec:
    """A container's configuration: paths are absolute, what is absent is empty."""

    oci_version: str
    bundle: str
    root: str
    hostname: str
    domainname: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    terminal: bool
    uid: int
    gid: int
    rlimits: tuple[Rlimit, ...]
    oom_score_adj: int | None
    annotations: Mapping[str, str]
    mounts: tuple[Mount, ...]
    hooks: Mapping[str, tuple[Hook, ...]]
    namespaces: Mapping[str, str]
    cgroups_path: str
    resources: Resources


def load(bundle: str) -> Spec:
    """Read and check `bundle`/config.json; raises SpecError."""
    return parse(read_document(bundle), bundle)


def read_document(bundle: str) -> Any:
    """The JSON value of a bundle's config.json, unchecked but for being JSON."""
    path = f"{bundle}/config.json"
    try:
        content = read_bytes(path, CONFIG_LIMIT_BYTES)
    except OSError as error:
        hint = (
            "a bundle is a folder with a config.json and a root filesystem; `urunc spec` writes one"
        )
        raise SpecError(f"read '{path}': {reason(error)}", hint) from None
    if len(content) > CONFIG_LIMIT_BYTES:
        raise SpecError(f"read '{path}': larger than {CONFIG_LIMIT_BYTES} bytes")
    try:
        return loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise SpecError(f"parse '{path}': not UTF-8 at byte {error.start}") from None
    except ValueError as error:
        raise SpecError(f"parse '{path}': not JSON: {error}") from None


def parse(document: Any, bundle: str) -> Spec:
    """The Spec of a configuration's JSON value; `bundle` is the absolute folder it came from."""
    top = _Object(document, "")
    root = top.object("root", required=True)
    process = top.object("process", required=True)
    user = process.object("user")
    linux = top.object("linux")
    oci_version = top.text("ociVersion", required=True)
    if oci_version.split(".")[0] != "1":
        raise _wrong("ociVersion", f"'{oci_version}' is not a version 1 of the specification")
    root_path = root.text("path", required=True)
    args = process.texts("args")
    env = _variables(process)
    cwd = process.text("cwd") or "/"
    if not cwd.startswith("/"):
        raise _wrong("process.cwd", f"'{cwd}' is not an absolute path")
    return Spec(
        oci_version=oci_version,
        bundle=bundle,
        root=root_path if root_path.startswith("/") else f"{bundle}/{root_path}",
        hostname=top.text("hostname"),
        domainname=top.text("domainname"),
        args=args,
        env=env,
        cwd=cwd,
        terminal=process.boolean("terminal"),
        uid=user.number("uid", maximum=0xFFFFFFFE) or 0,
        gid=user.number("gid", maximum=0xFFFFFFFE) or 0,
        rlimits=_rlimits(process),
        oom_score_adj=process.number("oomScoreAdj", minimum=-1000, maximum=1000),
        annotations=top.text_map("annotations"),
        mounts=tuple(_mount(item) for item in top.objects("mounts")),
        hooks=_hooks(top.object("hooks")),
        namespaces=_namespaces(linux),
        cgroups_path=linux.text("cgroupsPath"),
        resources=_resources(linux.object("resources")),
    )


def _wrong(where: str, what: str, hint: str = "") -> SpecError:
    return SpecError(f"config.json: {where}: {what}", hint)


_WORDS = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
}


def _check_text(value: str, where: str) -> None:
    if "\0" in value:
        raise _wrong(where, "holds a NUL character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON's \ud800 alone: no file, argument or message can hold it
            raise _wrong(where, "holds half of a surrogate pair") from None


class _Object:
    """A JSON object with the path that leads to it; null and absent are the same, as in Go's
    decoder."""

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise _wrong(path or "the document", f"expected an object, found {_WORDS[type(value)]}")
        self.value = value
        self.path = path

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def get(self, key: str, kind: type, *, required: bool = False) -> Any:
        value = self.value.get(key)
        if value is None:
            if required:
                raise _wrong(self.at(key), "missing")
            return None
        if type(value) is not kind:
            raise _wrong(self.at(key), f"expected {_WORDS[kind]}, found {_WORDS[type(value)]}")
        return value

    def object(self, key: str, *, required: bool = False) -> _Object:
        return _Object(self.get(key, dict, required=required) or {}, self.at(key))

    def objects(self, key: str) -> list[_Object]:
        items = self.get(key, list) or []
        return [_Object(item, f"{self.at(key)}[{index}]") for index, item in enumerate(items)]

    def text(self, key: str, *, required: bool = False) -> str:
        value: str = self.get(key, str, required=required) or ""
        if required and not value:
            raise _wrong(self.at(key), "empty")
        _check_text(value, self.at(key))
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        items = self.get(key, list) or []
        for index, item in enumerate(items):
            if type(item) is not str:
                raise _wrong(
                    f"{self.at(key)}[{index}]", f"expected a string, found {_WORDS[type(item)]}"
                )
            _check_text(item, f"{self.at(key)}[{index}]")
        return tuple(items)

    def text_map(self, key: str) -> dict[str, str]:
        items = self.get(key, dict) or {}
        for name, item in items.items():
            if type(item) is not str:
                where = f"{self.at(key)}[{name!r}]"
                raise _wrong(where, f"expected a string, found {_WORDS[type(item)]}")
            if not item.isascii():  # a NUL may be in an annotation that is not for us
                _check_text(item.replace("\0", ""), f"{self.at(key)}[{name!r}]")
        return dict(items)

    def boolean(self, key: str) -> bool:
        return bool(self.get(key, bool))

    def number(self, key: str, minimum: int = 0, maximum: int = 1 << 63) -> int | None:
        value: int | None = self.get(key, int)
        if value is not None and not minimum <= value <= maximum:
            raise _wrong(self.at(key), f"{value} is not between {minimum} and {maximum}")
        return value


def _variables(holder: _Object) -> tuple[str, ...]:
    env = holder.texts("env")
    for index, word in enumerate(env):
        if "=" not in word.lstrip("="):
            raise _wrong(f"{holder.at('env')}[{index}]", f"'{word}' is not NAME=VALUE")
    return env


def _mount(item: _Object) -> Mount:
    return Mount(
        destination=item.text("destination", required=True),
        source=item.text("source"),
        type=item.text("type"),
        options=item.texts("options"),
    )


def _rlimits(process: _Object) -> tuple[Rlimit, ...]:
    found: dict[str, Rlimit] = {}
    for item in process.objects("rlimits"):
        limit = _rlimit(item)
        if limit.type in found:
            raise _wrong(item.at("type"), f"a second '{limit.type}'")
        found[limit.type] = limit
    return tuple(found.values())


def _rlimit(item: _Object) -> Rlimit:
    limit = Rlimit(
        type=item.text("type", required=True),
        soft=item.number("soft", maximum=(1 << 64) - 1) or 0,
        hard=item.number("hard", maximum=(1 << 64) - 1) or 0,
    )
    if not limit.type.startswith("RLIMIT_") or limit.type[7:] not in RLIMITS:
        raise _wrong(item.at("type"), f"unknown limit '{limit.type}'")
    if limit.soft > limit.hard:
        raise _wrong(item.at("soft"), f"{limit.soft} is above the hard limit {limit.hard}")
    return limit


def _hooks(hooks: _Object) -> dict[str, tuple[Hook, ...]]:
    found = {}
    for name in HOOKS:
        programs = []
        for item in hooks.objects(name):
            path = item.text("path", required=True)
            if not path.startswith("/"):
                raise _wrong(item.at("path"), f"'{path}' is not an absolute path")
            timeout_s = item.number("timeout")
            if timeout_s == 0:
                raise _wrong(item.at("timeout"), "0 is not above zero")
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


def _namespaces(linux: _Object) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in linux.objects("namespaces"):
        kind = item.text("type", required=True)
        path = item.text("path")
        if kind not in NAMESPACES:
            known = ", ".join(NAMESPACES)
            raise _wrong(item.at("type"), f"unknown namespace '{kind}'", f"known: {known}")
        if kind in found:
            raise _wrong(item.at("type"), f"a second '{kind}' namespace")
        if kind in ("user", "time"):
            raise _wrong(
                item.at("type"), f"'{kind}' namespaces are not supported by this version of urunc"
            )
        if path and not path.startswith("/"):
            raise _wrong(item.at("path"), f"'{path}' is not an absolute path")
        if path and kind == "mount":
            raise _wrong(
                item.at("path"), "a monitor's mount namespace is always its own", "leave it out"
            )
        found[kind] = path
    return found


def _resources(resources: _Object) -> Resources:
    memory = resources.object("memory")
    cpu = resources.object("cpu")
    pids = resources.object("pids")
    limit = memory.number("limit", minimum=-1)
    quota = cpu.number("quota", minimum=-1)
    pids_limit = pids.number("limit", minimum=-1)
    return Resources(
        memory_limit_bytes=limit if limit and limit > 0 else None,
        cpu_shares=cpu.number("shares") or None,
        cpu_quota_us=quota if quota and quota > 0 else None,
        cpu_period_us=cpu.number("period", maximum=1_000_000) or None,
        cpuset_cpus=cpu.text("cpus"),
        cpuset_mems=cpu.text("mems"),
        pids_limit=pids_limit if pids_limit and pids_limit > 0 else None,
    )
