# SPDX-License-Identifier: Apache-2.0
"""What a configuration means: asked of the program that reads it, with copies in a directory of
their own, before anything is put in place.
"""

from __future__ import annotations

import posixpath
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from urunc.installer import config_text
from urunc.installer.host import Failure, Host

Parsed = dict[str, Any]
COPIES = "urunc-installer-"
PLUGIN = {1: "cri", 2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}
"""The plugin whose table has the runtimes, by the configuration's version (4 has it as 3 has)."""
SERVER = "io.containerd.server.v1.grpc"
"""The plugin whose table has the socket, from version 4 on."""


def plugin(version: int) -> str:
    """The plugin's name in a file of this version."""
    return PLUGIN[min(max(version, 1), 3)]


def table(parsed: Parsed, *names: str) -> dict[str, Any]:
    """The table that these names lead to, {} where there is none."""
    found: Any = parsed
    for name in names:
        found = found.get(name, {}) if isinstance(found, dict) else {}
    return found if isinstance(found, dict) else {}


def runtimes(parsed: Parsed) -> dict[str, Any]:
    """The runtimes of a configuration, as the version it is written in has them."""
    return table(parsed, "plugins", plugin(parsed.get("version", 1)), "containerd", "runtimes")


def default_runtime(parsed: Parsed) -> str:
    """The runtime of pods that name none."""
    name = plugin(parsed.get("version", 1))
    found = parsed.get("plugins", {}).get(name, {}).get("containerd", {})
    return str(found.get("default_runtime_name", "runc"))


def address(host: Host, program: str, main: str) -> str:
    """The socket of a containerd that is started without --address; "" for the default one.

    It is asked of the program, or where that does not take the file (another version reads it), of
    the file itself. Version 4 has the key at a plugin's table."""
    parsed: Parsed = {}
    content = host.read(main)
    if content is None:
        return ""
    with suppress(Failure):
        parsed = config_text.parse(content, main)
        parsed = containerd(host, program, main, {}, beside=True)
    server = parsed.get("plugins", {}).get(SERVER, {})
    found = server.get("address") or parsed.get("grpc", {}).get("address")
    return found if isinstance(found, str) and found.startswith("/") else ""


def listen(host: Host, program: str, directory: str) -> str:
    """The socket of a CRI-O; "" for the default one, which it need not say."""
    try:
        parsed = crio(host, program, directory, {})
    except Failure:
        return ""
    found = parsed.get("crio", {}).get("api", {}).get("listen", "")
    return found if isinstance(found, str) and found.startswith("/") else ""


@contextmanager
def staged(host: Host) -> Iterator[str]:
    """A directory of the node's for copies."""
    parent = "/run" if host.exists("/run") else "/tmp"
    for stale in host.matching(f"{parent}/{COPIES}*"):  # of a run that was killed
        shutil.rmtree(host.path(stale), ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(prefix=COPIES, dir=host.path(parent)) as real:
            yield f"{parent}/{posixpath.basename(real)}"
    except OSError as error:
        raise Failure(f"{parent}: {error.strerror}") from error


def imported(
    host: Host, main: str, content: str, changed: Mapping[str, str | None], *, beside: bool
) -> list[str]:
    """The files that a configuration imports, in containerd's order, as they would be found with
    these changed. `beside`: a relative pattern, like a relative path, starts at the file's own
    directory; in older versions (nodes.BESIDE) where containerd does: at /, as systemd runs it."""
    found: list[str] = []
    for item in config_text.imports_of(content, main):
        directory = posixpath.dirname(main) if beside or "*" not in item else "/"
        path = posixpath.normpath(posixpath.join(directory, item))
        if "*" not in path:
            found.append(path)
            continue
        directory, _, pattern = path.rpartition("/")
        names = set(host.matching(path))
        for other, new in changed.items():
            if other.rpartition("/")[0] == directory and _matches(other, pattern):
                names.add(other) if new is not None else names.discard(other)
        found += sorted(names)
    return list(dict.fromkeys(found))


def _matches(path: str, pattern: str) -> bool:
    from fnmatch import fnmatchcase

    return fnmatchcase(path.rpartition("/")[2], pattern)


def containerd(
    host: Host, program: str, main: str, changed: Mapping[str, str | None], *, beside: bool
) -> Parsed:
    """What containerd makes of its configuration with these files changed (None: removed)."""
    content = changed[main] if main in changed else host.read(main)
    if content is None:
        return config_text.parse(host.run(program, "config", "default").stdout, program)
    with staged(host) as directory:
        imports = imported(host, main, content, changed, beside=beside)
        for number, path in enumerate(imports):
            new = changed.get(path)
            if new is not None:
                imports[number] = f"{directory}/{number}.toml"
                host.path(imports[number]).write_text(new)
        copy = f"{directory}/config.toml"
        if imports or config_text.imports_of(content, main):
            content = config_text.set_imports(content, main, imports)
        host.path(copy).write_text(content)
        try:
            said = host.run(program, "--config", copy, "config", "dump").stdout
        except Failure as error:
            reason = str(error).replace(copy, main)
            raise Failure(
                f"{main} is not a configuration that containerd takes: {reason}"
            ) from None
    return config_text.parse(said, f"containerd's view of {main}")


def crio(host: Host, program: str, directory: str, changed: Mapping[str, str | None]) -> Parsed:
    """What CRI-O makes of its configuration with these drop-ins changed."""
    with staged(host) as copies:
        for path in host.matching(f"{directory}/*"):
            content = host.read(path)
            if path not in changed and content is not None:
                host.path(copies).joinpath(posixpath.basename(path)).write_text(content)
        for path, new in changed.items():
            if new is not None:
                host.path(copies).joinpath(posixpath.basename(path)).write_text(new)
        main = posixpath.dirname(directory) + "/crio.conf"
        words = ["--config", main] if host.exists(main) else []
        said = host.run(program, *words, "--config-dir", copies, "config").stdout
    return config_text.parse(said, "CRI-O's view of its configuration")


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """What is not the same in two configurations, by name."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for name in sorted({*before, *after}):
            inner = f"{path}.{name}" if path else name
            if name not in after:
                found += [f"{inner} is gone"] if before[name] != {} else []
            elif name not in before:
                found += differences({}, after[name], inner) if after[name] != {} else []
            else:
                found += differences(before[name], after[name], inner)
        return found
    if before == {}:
        return [f"{path} is new"]
    return [] if before == after else [f"{path}: {before!r} became {after!r}"]
