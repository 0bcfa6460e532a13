# SPDX-License-Identifier: Apache-2.0
"""What a container says about its start: whether from a snapshot, and how it is known to be ready.
Pure."""

from __future__ import annotations

from urunc.errors import ImageError
from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

LINE, PORT, INIT, AFTER = "line", "port", "init", "after"
FORMS = f"{LINE}:TEXT, {PORT}:NUMBER, {INIT} or {AFTER}:SECONDS"
MOST_LINE = 256
MOST_S = 3600
BOOT, SNAPSHOT = "boot", "snapshot"
SAME_RANDOM, SAME_HOSTNAME = "same-random", "same-hostname"
ACCEPTED = (SAME_RANDOM, SAME_HOSTNAME)


@record
class Mark:
    """How a guest is known to be ready."""

    kind: str
    """LINE: it prints a line with this text; PORT: a TCP port of its answers; INIT: urunc's init
    has started the application; AFTER: so many seconds after its start."""
    text: str = ""
    number: int = 0


@record
class Wish:
    """A start from a snapshot, as it is asked for."""

    mark: Mark
    same_random: bool = False
    """Whether a guest may have the random state that another one has."""
    same_hostname: bool = False
    """Whether its environment may name another container (HOSTNAME)."""


def mark_of(text: str) -> Mark:
    """The mark that a text names; raises ValueError."""
    kind, colon, value = text.partition(":")
    if kind == INIT and not colon:
        return Mark(kind=INIT)
    if kind == LINE and colon:
        if not 0 < len(value) <= MOST_LINE or not value.isprintable():
            raise ValueError(f"'{LINE}:' takes 1 to {MOST_LINE} printable characters")
        return Mark(kind=LINE, text=value)
    most = {PORT: 65535, AFTER: MOST_S}.get(kind)
    if most is None or not colon:
        raise ValueError(f"'{text}' is no ready mark: {FORMS}")
    if not (value.isascii() and value.isdecimal() and len(value) < 6 and 0 < int(value) <= most):
        raise ValueError(f"'{kind}:' takes a whole number from 1 to {most}")
    return Mark(kind=kind, number=int(value))


def problem_of(text: str) -> str:
    """Why a text is no mark, "" where it is one."""
    try:
        mark_of(text)
    except ValueError as error:
        return str(error)
    return ""


def check(overrides: Mapping[str, str]) -> None:
    """Raise ImageError where the annotations `start` or `ready` mean nothing."""
    words = overrides.get("start", SNAPSHOT).split()
    unknown = [word for word in words[1:] if word not in ACCEPTED]
    if words[:1] not in ([BOOT], [SNAPSHOT]) or unknown or (words[0] == BOOT and words[1:]):
        raise ImageError(
            f"annotation 'start': '{overrides['start']}'",
            f"{BOOT}, or {SNAPSHOT} with what is accepted: {', '.join(ACCEPTED)}",
        )
    problem = problem_of(overrides["ready"]) if "ready" in overrides else ""
    if problem:
        raise ImageError(f"annotation 'ready': {problem}")


def wish_of(
    overrides: Mapping[str, str], snapshots: str, default_mark: str
) -> tuple[Wish | None, str]:
    """What is asked for (None to boot), and the reason where it was asked for in vain; `snapshots`
    and `default_mark` are the configuration's start.snapshots and start.ready."""
    words = overrides.get("start", SNAPSHOT if snapshots == "always" else BOOT).split()
    if words[:1] != [SNAPSHOT]:
        return None, ""
    if snapshots == "never":
        return None, "start.snapshots in the configuration is 'never'"
    text = overrides.get("ready", default_mark)
    if not text:
        return None, "nothing says when the guest is ready (annotation 'ready')"
    accepted = {word.replace("-", "_"): True for word in words[1:]}
    return Wish(mark=mark_of(text), **accepted), ""
