# SPDX-License-Identifier: Apache-2.0
"""Docker's configuration: daemon.json, which dockerd reads again on SIGHUP, its runtimes with it.

JSON has no comments in which to mark what is ours: a runtime `urunc` that has nothing but the path
of a program of that name, or the name of urunc's shim, is.
"""

from __future__ import annotations

import functools
import json
import posixpath
from typing import Any

from urunc.installer import engine_view, json_text, units
from urunc.installer.host import Failure, Host, started_with
from urunc.installer.node import BACKUP, HANDLER, SHIM_TYPE, Changes, Node, Runtime

CONFIG, SOCKET = "/etc/docker/daemon.json", "/run/docker.sock"
WHERE = ("runtimes", HANDLER)
VALIDATES = (23,)
"""From which version on dockerd has --validate, and takes the name of a shim."""


class DockerNode(Node):
    """A dockerd."""

    @property
    def reloads(self) -> bool:
        return True

    @property
    def use(self) -> str:
        return f"docker run --rm --runtime {HANDLER} IMAGE"

    def view(self, changed: Changes) -> engine_view.Parsed:
        text = changed[self.config] if self.config in changed else self.host.read(self.config)
        if text is None:
            return {}
        parsed = json_text.parse(text, self.config)
        if text.strip() and self.version >= VALIDATES:
            self._validate(text)
        return parsed

    def _validate(self, text: str) -> None:
        with engine_view.staged(self.host) as directory:
            copy = f"{directory}/daemon.json"
            self.host.path(copy).write_text(text)
            try:
                self.host.run(self.program, "--validate", "--config-file", copy)
            except Failure as error:
                reason = str(error).replace(copy, self.config)
                raise Failure(
                    f"{self.config} is not a configuration that dockerd takes: {reason}"
                ) from None

    def runtimes(self, parsed: engine_view.Parsed) -> dict[str, Any]:
        found = parsed.get("runtimes") or {}
        if not isinstance(found, dict):
            raise Failure(f"{self.config}: 'runtimes' is not an object")
        return found

    def clean(self) -> Changes:
        text = self.host.read(self.config)
        if text is None:
            return {}
        found = self.runtimes(json_text.parse(text, self.config)).get(HANDLER)
        if found is None or not _is_ours(found):
            return {}
        rest = json_text.without_member(text, WHERE)
        parsed = json_text.parse(rest, self.config)
        before = self.host.read(self.config + BACKUP)
        if before is not None and _without_empty(before) == _without_empty(rest):
            return {self.config: before}  # to the byte
        return {self.config: rest if parsed or before is not None else None}

    def wanted(
        self, runtime: Runtime, before: engine_view.Parsed, clean: Changes
    ) -> tuple[Changes, Changes | None]:
        flags = [word for word in self.words if word.startswith("--add-runtime")]
        if flags:
            raise Failure(
                f"dockerd is started with {flags[0]}, and then takes no runtimes from "
                f"{self.config}: please add --add-runtime {HANDLER}={runtime.program} beside it"
            )
        if runtime.shim and self.version < VALIDATES:
            raise Failure(f"Docker {'.'.join(map(str, self.version))} takes no shim of urunc's own")
        value = {"runtimeType": SHIM_TYPE} if runtime.shim else {"path": runtime.program}
        now = self.host.read(self.config) or ""
        if self.runtimes(json_text.parse(now, self.config)).get(HANDLER) == value:
            return {self.config: now}, None
        text = clean.get(self.config, now) or ""
        return {self.config: json_text.with_member(text, WHERE, value)}, None

    def has_runtime(self) -> bool:
        """The daemon's own word, where it runs."""
        if self.host.listener(self.socket):
            return HANDLER in (_info(self.host, self.socket).get("Runtimes") or {})
        return super().has_runtime()

    @functools.cached_property
    def words(self) -> list[str]:
        """The daemon's command line, or the one that its service would have."""
        return _words(self.host, self.socket)


def _is_ours(runtime: Any) -> bool:
    if runtime == {"runtimeType": SHIM_TYPE}:
        return True
    return (
        isinstance(runtime, dict)
        and runtime.keys() == {"path"}
        and isinstance(runtime["path"], str)
        and runtime["path"].endswith(f"/bin/{HANDLER}")
    )


def _without_empty(text: str) -> dict[str, Any]:
    """A file's object without a table of runtimes that has none; what is none is an empty one."""
    try:
        found = json_text.parse(text, "")
    except Failure:
        return {}
    return {name: value for name, value in found.items() if (name, value) != (WHERE[0], {})}


def _words(host: Host, socket: str) -> list[str]:
    pid = host.listener(socket)
    if pid > 0:
        try:
            words = started_with(pid, "cmdline")
        except OSError:
            words = []
        if words and posixpath.basename(words[0]) == "dockerd":
            return words
        if words:
            raise Failure(f"{posixpath.basename(words[0])} listens at {socket}, not dockerd")
    return units.command(host, "docker.service")


def _info(host: Host, socket: str) -> dict[str, Any]:
    """What the daemon says of itself (Docker Engine API, SystemInfo)."""
    try:
        with host.connected(socket, 20) as client:
            client.sendall(b"GET /info HTTP/1.0\r\nHost: docker\r\n\r\n")
            with client.makefile("rb") as answer:
                _, _, body = answer.read().partition(b"\r\n\r\n")
        found = json.loads(body)
    except (OSError, ValueError) as error:
        raise Failure(f"{socket}: no answer of dockerd's: {error}") from None
    return found if isinstance(found, dict) else {}


def find_docker(host: Host, config: str = "", socket: str = "") -> Node | None:
    """The machine's dockerd, with the file that it reads."""
    program = host.program("dockerd")
    if not program:
        return None
    socket = socket or SOCKET
    words = _words(host, socket)
    if not config:
        for place, word in enumerate(words):
            name, equals, value = word.partition("=")
            if name == "--config-file":
                config = value if equals else "".join(words[place + 1 : place + 2])
    return DockerNode(host, "docker", program, config or CONFIG, socket, ("docker.service",))
