# SPDX-License-Identifier: Apache-2.0
"""The bundle's config.json for what is tried. Pure but for the image's own user database."""

from __future__ import annotations

import os
import re

from urunc import OCI_VERSION
from urunc.bundle.pods import PREFIX
from urunc.errors import ImageError, UsageError
from urunc.linux.files import open_in_root
from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urunc.trial.subject import Subject

SEARCH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
LIMIT_BYTES = 1 << 20
RESOLVERS = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
LOOPBACK = re.compile(r"nameserver\s+(127\.|::1)")


@record
class Machine:
    """What the user says of the container; "" for what is left to urunc."""

    memory: str = ""
    cpus: str = ""
    accelerator: str = ""
    volumes: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    terminal: bool = False


def document(
    subject: Subject, machine: Machine, root: str, namespace: str, resolver: str
) -> dict[str, Any]:
    """config.json for a root filesystem. `namespace` is the path of the network namespace, "" for
    an empty one of its own; `resolver` is a file for /etc/resolv.conf, "" for none. Raises
    UsageError, ImageError."""
    annotations = dict(subject.annotations)
    if machine.memory:
        annotations["memory"] = f"{mebibytes(machine.memory)}Mi"
    if machine.cpus:
        if not machine.cpus.isdecimal() or not int(machine.cpus):
            raise UsageError(f"option '--cpus': '{machine.cpus}' is no number above zero")
        annotations["vcpus"] = machine.cpus
    if machine.accelerator:
        annotations["accelerator"] = machine.accelerator
    for text in machine.environment:
        name, equals, _ = text.partition("=")
        if not name or not equals:
            raise UsageError(f"option '--env': '{text}' is not NAME=VALUE")
    inherited = subject.environment
    if machine.terminal:
        inherited = (*inherited, f"TERM={os.environ.get('TERM') or 'xterm'}")
    if "mountRootfs" in annotations and not any(text.startswith("PATH=") for text in inherited):
        inherited = (SEARCH, *inherited)
    uid, gid = owner(subject.user, root)
    mounts = [mount(text) for text in machine.volumes]
    if resolver:
        mounts.append(_bind("/etc/resolv.conf", resolver, "ro"))
    network = {"type": "network", **({"path": namespace} if namespace else {})}
    return {
        "ociVersion": OCI_VERSION,
        "root": {"path": root, "readonly": False},
        "process": {
            "terminal": machine.terminal,
            "user": {"uid": uid, "gid": gid},
            "args": list(subject.command),
            "env": list(_environment(inherited, machine.environment)),
            "cwd": subject.directory,
            "noNewPrivileges": True,
        },
        **({"hostname": "try"} if annotations["unikernelType"] == "linux" else {}),
        "mounts": mounts,
        "annotations": {PREFIX + key: value for key, value in annotations.items()},
        "linux": {
            "namespaces": [network, *({"type": kind} for kind in ("pid", "mount", "ipc", "uts"))]
        },
    }


def resolver(directory: str) -> str:
    """Write a resolv.conf for the guest there: this machine's name servers, without those on
    loopback, which are not the guest's; its path, "" if there are none."""
    for source in RESOLVERS:
        try:
            with open(source) as file:
                lines = file.read(LIMIT_BYTES).splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        kept = [line for line in lines if not LOOPBACK.match(line)]
        if any(line.startswith("nameserver") for line in kept):
            path = f"{directory}/resolv.conf"
            with open(path, "w") as out:
                out.write("\n".join(kept) + "\n")
            return path
    return ""


def _environment(inherited: tuple[str, ...], given: tuple[str, ...]) -> tuple[str, ...]:
    """The later value of a name counts."""
    found = {text.partition("=")[0]: text for text in (*inherited, *given)}
    return tuple(found.values())


def mebibytes(text: str) -> int:
    """`64m`, `1g`, with or without `iB`; raises UsageError."""
    short = text.lower().removesuffix("b").removesuffix("i")
    number, unit = short[:-1], short[-1:]
    if unit not in UNITS or not number.isdecimal() or len(number) > 12:
        raise UsageError(f"option '--memory': '{text}' is no size", "for example 64m or 1g")
    size = int(number) * UNITS[unit]
    if not size or size % (1 << 20):
        raise UsageError(f"option '--memory': '{text}': a guest's memory is whole MiB", "say 64m")
    return size >> 20


def mount(text: str) -> dict[str, Any]:
    """A value of `-v HOST:GUEST[:ro|:rw]`; raises UsageError."""
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    hint = "HOST:GUEST or HOST:GUEST:ro, for example ./data:/data:ro"
    if not source or not target.startswith("/") or mode not in ("", "ro", "rw"):
        raise UsageError(f"option '--volume': '{text}' is not HOST:GUEST", hint)
    source = os.path.abspath(source)
    if not os.path.exists(source):
        raise UsageError(f"option '--volume': '{source}': no such file or directory", hint)
    return _bind(target, source, mode or "rw")


def _bind(target: str, source: str, mode: str) -> dict[str, Any]:
    return {"destination": target, "type": "bind", "source": source, "options": ["rbind", mode]}


def owner(user: str, root: str) -> tuple[int, int]:
    """The ids of an image's USER: numbers, or names in its own /etc/passwd and /etc/group; raises
    ImageError."""
    name, _, group = user.partition(":")
    uid, gid = 0, 0
    if name.isdecimal():
        uid = int(name)
    elif name:
        fields = _line(root, "/etc/passwd", name)
        uid, gid = int(fields[2]), int(fields[3])
    if group.isdecimal():
        gid = int(group)
    elif group:
        gid = int(_line(root, "/etc/group", group)[2])
    return uid, gid


def _line(root: str, file: str, name: str) -> list[str]:
    try:
        with os.fdopen(open_in_root(root, file), errors="replace") as content:
            for line in content.read(LIMIT_BYTES).splitlines():
                fields = line.split(":")
                if fields[0] == name and len(fields) > 3 and fields[2].isdecimal():
                    return fields if fields[3].isdecimal() else [*fields[:3], "0"]
    except OSError:
        pass
    raise ImageError(f"image: its user '{name}' is not in its {file}", "name it by its number")
