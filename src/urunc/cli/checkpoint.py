# SPDX-License-Identifier: Apache-2.0
"""`urunc checkpoint`: saves a container's guest into a directory.

The options are runc's, which are CRIU's. What a saved guest has anyway (its connections, its locks,
its terminal are in its memory) is accepted; what it cannot have is refused.
"""

from __future__ import annotations

from urunc.cli.create import absolute
from urunc.cli.options import FLAG, VALUE, Arguments
from urunc.cli.verb import ours
from urunc.errors import UsageError

IMAGE = {
    "--image-path": (VALUE, "directory of the saved guest (default: ./checkpoint)"),
    "--work-path": (VALUE, "directory for logs; a guest needs none"),
}
INHERENT = {
    "--tcp-established": (FLAG, "accepted: a guest's connections are in its memory"),
    "--ext-unix-sk": (FLAG, "accepted: a guest has no sockets of the host's"),
    "--shell-job": (FLAG, "accepted: a guest's terminal is its own"),
    "--file-locks": (FLAG, "accepted: a guest's locks are in its memory"),
    "--manage-cgroups-mode": (VALUE, "accepted: control groups are made as config.json says"),
    "--empty-ns": (VALUE, "network: accepted, for a network is never saved; others: refused"),
}
"""Of both verbs."""
REFUSED = {
    "--auto-dedup": (FLAG, "refused: each saved guest is whole"),
    "--lazy-pages": (FLAG, "refused: the memory is a file"),
}
"""Of both verbs."""
OWN_REFUSED = {
    "--parent-path": (VALUE, "refused: each saved guest is whole"),
    "--pre-dump": (FLAG, "refused: each saved guest is whole"),
    "--page-server": (VALUE, "refused: the memory is a file"),
    "--status-fd": (VALUE, "refused: it is for --lazy-pages"),
}
OPTIONS = (
    IMAGE
    | {"--leave-running": (FLAG, "let the guest go on; else the container is deleted")}
    | INHERENT
    | REFUSED
    | OWN_REFUSED
)
USAGE = "[OPTION...] ID"
SUMMARY = "Save a running container."
CGROUP_MODES = ("soft", "full", "strict", "ignore")


def main(arguments: Arguments) -> int:
    identifier = ours(arguments)
    refuse(arguments, REFUSED | OWN_REFUSED)
    from urunc.lifecycle import checkpoint

    checkpoint.checkpoint(
        arguments.root,
        identifier,
        arguments.config(),
        image_path(arguments),
        leave_running=arguments.has("--leave-running"),
    )
    return 0


def image_path(arguments: Arguments) -> str:
    """The directory of the saved guest, runc's default without the option."""
    path = absolute(arguments.get("--image-path") or "checkpoint")
    return path.rstrip("/") or "/"


def refuse(arguments: Arguments, table: dict[str, tuple[str, str]]) -> None:
    """Raise UsageError for an option of `table`, or a value of INHERENT's, that cannot be had."""
    for name, (_, text) in table.items():
        if arguments.get(name) not in ("", "false"):
            raise UsageError(f"option '{name}': a unikernel cannot have it", text)
    if arguments.get("--empty-ns") not in ("", "network"):
        raise UsageError(f"option '--empty-ns': '{arguments.get('--empty-ns')}' is not network")
    mode = arguments.get("--manage-cgroups-mode")
    if mode and mode not in CGROUP_MODES:
        raise UsageError(
            f"option '--manage-cgroups-mode': '{mode}' is none of {', '.join(CGROUP_MODES)}"
        )
