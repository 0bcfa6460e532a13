# SPDX-License-Identifier: Apache-2.0
"""What systemd would start, by the units' files: it may not run, or not be the node's."""

from __future__ import annotations

import posixpath
import re
import shlex

from urunc.installer.host import Host

UNIT_DIRECTORIES = ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system",
                "/usr/lib/systemd/system", "/lib/systemd/system")  # fmt: skip
"""systemd.unit(5), the strongest first."""


def command(host: Host, name: str) -> list[str]:
    """The command line of a service; empty where there is none."""
    found = ""
    for path in _files(host, name):
        for line in re.sub(r"\\\n", " ", host.read(path) or "").splitlines():
            key, equals, value = line.partition("=")
            if equals and key.strip() == "ExecStart":
                found = value.strip()
    try:
        words = shlex.split(found.lstrip("@-:+!|"))
    except ValueError:
        return []
    if words and not words[0].startswith("/"):  # systemd.service(5): of a fixed list of directories
        words[0] = host.program(words[0])
    return words


def _files(host: Host, name: str) -> list[str]:
    """The unit's file and its drop-ins, in the order in which they count."""
    main = next(
        (
            f"{directory}/{name}"
            for directory in UNIT_DIRECTORIES
            if host.exists(f"{directory}/{name}")
        ),
        "",
    )
    drop_ins: dict[str, str] = {}
    for directory in reversed(UNIT_DIRECTORIES):
        for path in host.matching(f"{directory}/{name}.d/*.conf"):
            drop_ins[posixpath.basename(path)] = path
    return [*([main] if main else []), *(drop_ins[key] for key in sorted(drop_ins))]
