# SPDX-License-Identifier: Apache-2.0
"""linux.namespaces of config.json, and what belongs to namespaces: the id mappings of a user
namespace, kernel parameters that a namespace holds (config-linux.md, Namespaces, User namespace
mappings, Sysctl).

Touches nothing. A namespace that is given by a path is looked at by joined_namespaces.py.
"""

from __future__ import annotations

from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.bundle.document import Object

NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")
IPC_SYSCTLS = frozenset(
    f"kernel/{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni",
                 "shm_rmid_forced")
)  # fmt: skip
"""The kernel parameters that an IPC namespace holds, beside fs/mqueue (ipc_namespaces(7))."""
LAST_ID = 0xFFFFFFFE
"""The largest user or group id; the one above means none (user_namespaces(7))."""


@record
class IdMapping:
    """A range of ids: `size` from `container` on are `host` and on outside (user_namespaces(7))."""

    container: int
    host: int
    size: int


def parse_namespaces(linux: Object) -> dict[str, str]:
    """linux.namespaces: kind → path of the namespace to join, "" for a new one; raises
    SpecError."""
    found: dict[str, str] = {}
    for item in linux.objects("namespaces"):
        kind = item.text("type", required=True)
        path = item.text("path")
        if kind not in NAMESPACES:
            known = ", ".join(NAMESPACES)
            raise item.wrong("type", f"unknown namespace '{kind}'", f"known: {known}")
        if kind in found:
            raise item.wrong("type", f"a second '{kind}' namespace")
        if path and not path.startswith("/"):
            raise item.wrong("path", f"'{path}' is not an absolute path")
        if path and kind == "mount":
            raise item.wrong(
                "path", "a monitor's mount namespace is always its own", "leave it out"
            )
        found[kind] = path
    return found


def parse_mappings(linux: Object, key: str, namespaces: dict[str, str]) -> tuple[IdMapping, ...]:
    """linux.uidMappings or linux.gidMappings (`key`); raises SpecError where they do not fit the
    user namespace."""
    found = parse_ranges(linux, key)
    if found and "user" not in namespaces:
        raise linux.wrong(key, "id mappings without a user namespace", "add it to namespaces")
    if namespaces.get("user") == "" and not any(item.container == 0 for item in found):
        raise linux.wrong(key, "the new user namespace has no mapping for its id 0")
    return found


def parse_ranges(holder: Object, key: str) -> tuple[IdMapping, ...]:
    """A list of id mappings, of a user namespace or of one mount; raises SpecError."""
    found = []
    for item in holder.objects(key):
        size = item.number("size", maximum=0xFFFFFFFF) or 0
        if not size:
            raise item.wrong("size", "0 ids are no range")
        mapping = IdMapping(
            container=item.number("containerID", maximum=LAST_ID) or 0,
            host=item.number("hostID", maximum=LAST_ID) or 0,
            size=size,
        )
        for name, start in (("containerID", mapping.container), ("hostID", mapping.host)):
            if start + size - 1 > LAST_ID:
                raise item.wrong(name, f"{size} ids from {start} on go beyond {LAST_ID}")
        found.append(mapping)
    return tuple(found)


def parse_sysctls(linux: Object, namespaces: dict[str, str]) -> dict[str, str]:
    """linux.sysctl: path below /proc/sys → value. Raises SpecError, also for a parameter that no
    namespace of the container's own holds."""
    found = {}
    for name, value in linux.text_map("sysctl").items():
        # sysctl(8): either separator, the first one tells which; the other one is then a name's
        dot, slash = name.find("."), name.find("/")
        if slash < 0 or 0 <= dot < slash:
            path = name.translate({ord("."): "/", ord("/"): "."})
        else:
            path = name
        if not path or ".." in path.split("/") or path.startswith("/") or "\0" in path:
            raise linux.wrong("sysctl", f"{name!r} is no kernel parameter")
        if "\0" in value:
            raise linux.wrong(f"sysctl[{name!r}]", "holds a NUL character")
        kind = namespace_of(path)
        if not kind or kind not in namespaces:
            raise linux.wrong(
                "sysctl",
                f"'{name}' is not in a namespace of the container's own",
                f"it belongs to the {kind} namespace" if kind else "it is the whole machine's",
            )
        found[path] = value
    return found


def namespace_of(path: str) -> str:
    """The kind of namespace that holds a kernel parameter, "" for none."""
    if path.startswith("net/"):
        return "network"
    if path in IPC_SYSCTLS or path.startswith("fs/mqueue/"):
        return "ipc"
    if path.startswith("user/"):
        return "user"
    return "uts" if path == "kernel/domainname" else ""
