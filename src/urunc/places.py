# SPDX-License-Identifier: Apache-2.0
"""Where urunc keeps what does not outlive the machine, and so containers for whom no --root is
given: by the caller's environment, as runc has it, and where that environment may have been another
for `create`. Looks only."""

from __future__ import annotations

import posix

from urunc.linux.files import is_directory, read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def runtime_directory() -> str:
    """Where what does not outlive the machine is kept: /run, or an ordinary user's own directory
    (XDG base directories), which is that user's, too, as root of a user namespace (as runc has
    it)."""
    directory = posix.environ.get(b"XDG_RUNTIME_DIR", b"").decode("utf-8", "surrogateescape")
    if posix.geteuid() == 0:
        if not directory or posix.environ.get(b"USER") == b"root":
            return "/run"
        return directory if _in_user_namespace() else "/run"
    return directory or f"/tmp/urunc-{posix.geteuid()}"


def root_of(words: Sequence[str]) -> str:
    """--root where none is given. With words, the one that has a container of such a name: engines
    give later verbs less of their environment than `create` (Podman no USER)."""
    root = f"{runtime_directory()}/urunc"
    names = [word for word in words if word and "/" not in word and word not in (".", "..")]
    if not names or _has(root, names):
        return root
    for directory in _others():
        other = f"{directory}/urunc"
        if _has(other, names) and posix.stat(other).st_uid == posix.geteuid():
            return other
    return root


def _has(root: str, names: Sequence[str]) -> bool:
    return any(is_directory(f"{root}/{name}") for name in names)


def _others() -> tuple[str, ...]:
    """What else may have been `runtime_directory`; /tmp is anyone's, so whose it is matters."""
    uid = posix.geteuid()
    if not uid:
        if not _in_user_namespace():
            return ()
        uid = _outside(uid)
    given = posix.environ.get(b"XDG_RUNTIME_DIR", b"").decode("utf-8", "surrogateescape")
    return ("/run", *([given] if given else []), f"/run/user/{uid}", f"/tmp/urunc-{uid}")


def _outside(uid: int) -> int:
    """A user id of this user namespace in the one around it (user_namespaces(7), uid_map)."""
    for line in read_text("/proc/self/uid_map").splitlines():
        first, outside, count = map(int, line.split())
        if first <= uid < first + count:
            return outside + uid - first
    return uid


def _in_user_namespace() -> bool:
    from urunc.linux.cgroups import in_user_namespace

    return in_user_namespace()
