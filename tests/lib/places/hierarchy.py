# SPDX-License-Identifier: Apache-2.0
"""Another /sys/fs/cgroup than the host's: v2 alone, v1 alone, none at all, or one that cannot be
written.

It is a mount namespace that a waiting process holds, and nothing else: the hierarchies are the
kernel's, so a group that is made here is the host's too, and /proc/PID/cgroup names those that are
not mounted here as well. On a host with v1 the v2 tree has few controllers or none.
"""

from __future__ import annotations

import contextlib
import os

from lib.places import Place, hold

KINDS = {
    "v2": """
        umount -R /sys/fs/cgroup
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
    """,
    "v1": """
        umount /sys/fs/cgroup/unified
    """,
    "none": """
        umount -R /sys/fs/cgroup
        mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    """,
    "read-only": """
        for mounted in $(cut -d' ' -f5 /proc/self/mountinfo | grep '^/sys/fs/cgroup'); do
            mount -o remount,bind,ro "$mounted"
        done
    """,
}


class Hierarchy(Place):
    """The place: `with Hierarchy("v2") as place: place.run("cat", "/sys/fs/cgroup/cgroup.procs")`.

    `kind` is a key of KINDS; "v1" needs a hybrid host.
    """

    def __init__(self, kind: str) -> None:
        self._script = f"set -eu\n{KINDS[kind]}\necho ready\nread -r _"

    def boot(self, undo: contextlib.ExitStack) -> None:
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", self._script]
        self._holder = hold(undo, command, "such hierarchy")

    @property
    def prefix(self) -> list[str]:
        script = 'cd "$0" 2>/dev/null || cd /; exec "$@"'
        enter = ["nsenter", "-t", str(self._holder.pid), "-m"]
        return [*enter, "sh", "-c", script, os.getcwd()]
