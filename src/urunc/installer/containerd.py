# SPDX-License-Identifier: Apache-2.0
"""Which containerd a node has: the one that runs, else the one that its service would start, else
the first where services look for programs.

Several may be there: a distribution's package for Docker, and another that the kubelet uses. What
is asked for its view of a configuration has to be the one that reads it.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass

from urunc.installer import engine_view, units
from urunc.installer.host import DIRECTORIES, Host, started_with

MORE_DIRECTORIES = ("/opt/containerd/bin", "/opt/bin", "/opt/local/bin")
CONFIG, SOCKET = "/etc/containerd/config.toml", "/run/containerd/containerd.sock"
OPTIONS = {"--config": "config", "-c": "config", "--address": "socket", "-a": "socket"}
DELETED = " (deleted)"


@dataclass
class Engine:
    """A containerd, by the node's paths, and how it was found."""

    program: str
    config: str = ""
    socket: str = ""
    why: str = ""


def find(host: Host, config: str = "", socket: str = "") -> Engine | None:
    """The node's containerd; None where there is none. `config` is the file that it reads and
    `socket` where it listens, "" for what it says itself."""
    first = _by_unit(host) or _on_path(host)
    if first:
        first.config = config or first.config or CONFIG
        first.socket = socket or first.socket or engine_view.address(
            host, first.program, first.config
        )  # fmt: skip
    own = first.socket if first else ""
    for place in dict.fromkeys((socket or own or SOCKET, socket or SOCKET)):
        listening = _by_socket(host, place)
        if listening:
            return listening
    return first


def _on_path(host: Host) -> Engine | None:
    directories = (*DIRECTORIES, *_own_path(host), *MORE_DIRECTORIES)
    program = host.program("containerd", directories=directories)
    return Engine(program, why="the first on PATH") if program else None


def places(host: Host, socket: str = "") -> str:
    """Where it was looked for, in words."""
    directories = (*DIRECTORIES, *_own_path(host), *MORE_DIRECTORIES)
    return (
        f"nobody listens at {socket or SOCKET}, no containerd.service starts one, and there is "
        f"none in {':'.join(dict.fromkeys(directories))}"
    )


def _own_path(host: Host) -> tuple[str, ...]:
    """Where the one who runs this has programs, on that machine itself."""
    if str(host.root) != "/":
        return ()
    found = os.environ.get("PATH", "").split(":")
    return tuple(directory for directory in found if directory.startswith("/"))


def _by_socket(host: Host, socket: str) -> Engine | None:
    """Who listens, if that is a containerd that can be seen from here."""
    pid = host.listener(socket)
    if pid <= 0:
        return None
    try:
        program = os.readlink(f"/proc/{pid}/exe").removesuffix(DELETED)
        root = os.readlink(f"/proc/{pid}/root")
        words = started_with(pid, "cmdline")
    except OSError:
        return None
    # as we see it: that process may have a root of its own
    for above in (root, str(host.root)):
        if above != "/" and program.startswith(above + "/"):
            program = program.removeprefix(above)
            break
    if posixpath.basename(program) != "containerd" or not _is_program(host, program):
        return None
    engine = _by_words(host, [program, *words[1:]])
    if engine:
        engine.socket = engine.socket or socket
        engine.why = f"process {pid}, which listens at {socket}"
    return engine


def _by_unit(host: Host) -> Engine | None:
    """What systemd would start."""
    words = units.command(host, "containerd.service")
    engine = _by_words(host, words) if words else None
    if engine:
        engine.why = "of containerd.service"
    return engine


def _by_words(host: Host, words: list[str]) -> Engine | None:
    """A command line's containerd, with the files that it names."""
    if posixpath.basename(words[0]) != "containerd" or not _is_program(host, words[0]):
        return None
    engine = Engine(words[0])
    rest = iter(words[1:])
    for word in rest:
        name, equals, value = word.partition("=")
        if name not in OPTIONS:
            continue
        value = value if equals else next(rest, "")
        if value.startswith("/"):
            setattr(engine, OPTIONS[name], value)
    return engine


def _is_program(host: Host, path: str) -> bool:
    here = host.path(path)
    return here.is_file() and os.access(here, os.X_OK)
