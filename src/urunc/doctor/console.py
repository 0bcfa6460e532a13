# SPDX-License-Identifier: Apache-2.0
"""Where a container's output is kept: the file that its standard output is, or the log that its
engine writes. Looks only."""

from __future__ import annotations

import glob
import json
import os

from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

LOGS = (
    "/var/lib/docker/containers/{id}/{id}-json.log",
    "/var/lib/containers/storage/overlay-containers/{id}/userdata/ctr.log",
    "/var/lib/containers/storage/vfs-containers/{id}/userdata/ctr.log",
    "{home}/.local/share/containers/storage/*-containers/{id}/userdata/ctr.log",
    "/var/log/pods/{namespace}_{pod}_{uid}/{name}/*.log",
)
"""Those of Docker (json-file), Podman (k8s-file) and a kubelet's engine."""
CRI = ("io.kubernetes.cri.", "io.kubernetes.")
CRIO_LOG = "io.kubernetes.cri-o.LogPath"
TAIL_BYTES = 1 << 16


@record
class Console:
    """The end of what a container has printed."""

    where: str
    """The file, or why there is none."""
    text: str | None
    """None: nobody here has it."""


def find(identifier: str, pid: int, annotations: Mapping[str, str], given: str = "") -> Console:
    """The console of a container, whose monitor has this pid (0: none). `given` is a file that the
    user names. Raises OSError for that one alone."""
    if given:
        return Console(where=given, text=_plain(_tail(given)))
    for path in (*_own(pid), *_logs(identifier, annotations)):
        try:
            return Console(where=path, text=_plain(_tail(path)))
        except OSError:
            continue
    return Console(where="its engine has it: docker logs, podman logs, kubectl logs", text=None)


def _own(pid: int) -> list[str]:
    """The regular files among the standard output and error of a process, or of its children, of
    which one may be the monitor's."""
    found: list[str] = []
    for fd in (1, 2):
        link = f"/proc/{pid}/fd/{fd}"
        try:
            path = os.readlink(link)
            if pid and os.path.isfile(path) and path not in found:
                found.append(path)
        except OSError:
            continue
    return found


def _logs(identifier: str, annotations: Mapping[str, str]) -> list[str]:
    words = {"id": identifier, "home": os.path.expanduser("~")}
    for key, name in (
        ("sandbox-namespace", "namespace"),
        ("sandbox-name", "pod"),
        ("sandbox-uid", "uid"),
        ("container-name", "name"),
    ):
        words[name] = annotations.get(f"{CRI[0]}{key}", "")
    patterns = [annotations[CRIO_LOG]] if annotations.get(CRIO_LOG) else []
    for pattern in LOGS:
        if "{pod}" not in pattern or words["pod"]:
            safe = {name: glob.escape(word) for name, word in words.items()}
            patterns.append(pattern.format(**safe))
    return [path for pattern in patterns for path in sorted(glob.glob(pattern))[-1:]]


def _tail(path: str) -> str:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        return file.read(TAIL_BYTES).decode("utf-8", "replace")


def _plain(text: str) -> str:
    """Without what an engine writes around each line: Docker's JSON, or CRI's time, stream and
    tag."""
    lines = []
    for line in text.splitlines():
        if line.startswith('{"log":'):
            try:
                line = str(json.loads(line)["log"]).rstrip("\n")
            except (ValueError, KeyError):
                pass
        else:
            words = line.split(" ", 3)
            if len(words) == 4 and words[1] in ("stdout", "stderr") and words[2] in ("F", "P"):
                line = words[3]
        lines.append(line)
    return "\n".join(lines)
