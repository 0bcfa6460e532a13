# SPDX-License-Identifier: Apache-2.0
"""The command lines that save a container and bring it back, the same for guests and for the
ordinary runtime; pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urunc.shim.tasks import Task

FLAG_FIELDS = {
    "open_tcp": "--tcp-established",
    "external_unix_sockets": "--ext-unix-sk",
    "terminal": "--shell-job",
    "file_locks": "--file-locks",
}
VALUE_FIELDS = {"parent_path": "--parent-path", "cgroups_mode": "--manage-cgroups-mode"}
"""Fields of CheckpointOptions → the runtime's options."""


def checkpoint_words(task: Task, path: str, options: dict[str, Any]) -> list[str]:
    """Save a container into a directory; it goes on, unless `exit` is among the options."""
    words = ["checkpoint", "--image-path", options.get("image_path") or path]
    words += ["--work-path", options.get("work_path") or _work_path(task)]
    words += [] if options.get("exit") else ["--leave-running"]
    words += [option for name, option in FLAG_FIELDS.items() if options.get(name)]
    for name, option in VALUE_FIELDS.items():
        words += [option, options[name]] if options.get(name) else []
    for kind in options.get("empty_namespaces", ()):
        words += ["--empty-ns", kind]
    return [*words, task.id]


def restore_words(task: Task, pod: list[str]) -> list[str]:
    """Make a container from what was saved, with what its pod grants it (pod.option), and start it.
    Where images build on parent ones, they lead to them themselves."""
    words = ["restore", "--detach", *task.making(), *pod, "--image-path", task.checkpoint]
    return [*words, "--work-path", _work_path(task), task.id]


def _work_path(task: Task) -> str:
    """Where CRIU writes its logs, which its errors name."""
    return task.options.get("criu_work_path") or f"{task.bundle}/criu-work"
