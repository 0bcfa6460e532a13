# SPDX-License-Identifier: Apache-2.0
"""The files that engines mount into every container for its hostname and its network."""

from __future__ import annotations

from urunc.linux.files import read_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.bundle.spec import Spec

FILE_LIMIT_BYTES = 1 << 16
"""More of a file is not read."""

NETWORK_FILES = {"resolver": "/etc/resolv.conf", "hosts": "/etc/hosts"}
"""Files that engines mount into every container, which say something of its network."""
HOSTNAME = "/etc/hostname"


def network_files(spec: Spec) -> dict[str, str]:
    """The host's paths of the container's NETWORK_FILES, "" for one that it lacks."""
    return {name: _source(spec, path) for name, path in NETWORK_FILES.items()}


def hostname(spec: Spec) -> str:
    """The container's hostname, "" for none. In a pod only the pause container has it in
    config.json; for the others it is in the HOSTNAME file that the engine mounts."""
    path = "" if spec.hostname else _source(spec, HOSTNAME)
    return read_hostname(path) if path else spec.hostname


def _source(spec: Spec, destination: str) -> str:
    """The host's path of what is mounted at `destination`, "" for nothing."""
    sources = {mount.destination: mount.source for mount in spec.mounts}
    path = sources.get(destination, "")
    return path if path.startswith("/") else ""


def read_hostname(path: str) -> str:
    """The name in a hostname(5) file, "" for none."""
    words = next(iter(lines_of(path, "#")), [])
    return words[0] if len(words) == 1 and is_name(words[0]) else ""


def is_name(text: str) -> bool:
    """Whether a text can be a host's name (hostname(7))."""
    return all(letter.isalnum() or letter in "-_." for letter in text) and text.isascii()


def lines_of(path: str, comments: str) -> list[list[str]]:
    """The words of each line that is not blank, without comments, which begin with one of the
    letters of `comments`. Empty for a file that cannot be read; stops at FILE_LIMIT_BYTES."""
    try:
        text = read_regular(path, FILE_LIMIT_BYTES)
    except OSError:
        return []
    lines = []
    for line in text.splitlines():
        for letter in comments:
            line = line.partition(letter)[0]
        if line.split():
            lines.append(line.split())
    return lines
