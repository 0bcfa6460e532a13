# SPDX-License-Identifier: Apache-2.0
"""Messages go to the file of `--log`, in one of runc's two formats, or else to standard error; and
always to the administrator's file (`log.file`), since engines read theirs only after a failure and
then delete it.

containerd, Docker and Podman read the last error in `--log`. Each line is appended by one write(2);
a log that cannot be written does not fail the container.
"""

from __future__ import annotations

import posix
from time import gmtime, strftime

from urunc.jsontext import dumps
from urunc.linux.files import open_log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

path = ""
file = ""
"""The administrator's file (`log.file`), always in the text format."""
container = ""
"""The container's id, which that file's lines end with."""
json_format = False
debug = False
take_warning: Callable[[str], None] | None = None
"""Who takes warnings instead of `path` and standard error: whoever forked this process."""
later = ""
"""A warning from before it was known where to (launcher/another.py), for the next `greet`."""
KIND = "kind="
_seen: set[str] = set()


def warn(message: str, *, aloud: bool = False) -> None:
    """Warn the user; the same message once per process. `aloud`, on standard error in any case:
    `create` has the container's there, which its user reads and no engine throws away."""
    if message not in _seen:
        _seen.add(message)
        if not _emit("warning", message) and aloud:
            _say("warning", message)


def greet() -> None:
    """Give the warning that has waited."""
    if later:
        warn(later)


def info(message: str) -> None:
    """Log an event, to the files only and not to a terminal."""
    if path or file:
        _emit("info", message)


def error(message: str, kind: str = "") -> None:
    """Report the error that ends this process; only `__main__` and the shim's workers call it.
    `kind` is for the administrator's file (errors.Error.kind)."""
    _emit("error", message, kind)


def detail(message: str) -> None:
    """Log a message for `--debug`."""
    if debug:
        _emit("debug", message)


def _emit(level: str, message: str, kind: str = "") -> bool:
    """Whether it was said on standard error."""
    written = False
    if path or file:
        now = strftime("%Y-%m-%dT%H:%M:%SZ", gmtime())
        line = f'time="{now}" level={level} msg={dumps(message)}'
        alone = not path and not take_warning
        if file and file != path and (alone or level in ("warning", "error")):
            of = f" {KIND}{kind}" if kind else ""
            of += f" container={dumps(container)}" if container else ""
            written = _append(file, line + of)
        if path:
            if json_format:
                line = dumps({"level": level, "msg": message, "time": now})
            written = _append(path, line)
    if take_warning:
        written = True
        if level == "warning":
            take_warning(message)
    if written and level != "error":
        return False
    _say(level, message)
    return True


def _say(level: str, message: str) -> None:
    try:
        posix.write(
            2, f"urunc: {level}: {printable(message)}\n".encode("utf-8", "backslashreplace")
        )
    except OSError:
        pass


def _append(name: str, line: str) -> bool:
    """Append a line; whether the file could be opened. Does not wait for a FIFO's reader."""
    try:
        fd = open_log(name, posix.O_NONBLOCK)
    except OSError:
        return False
    try:
        posix.write(fd, line.encode() + b"\n")
    except OSError:
        pass  # a full disk
    finally:
        posix.close(fd)
    return True


def printable(text: str) -> str:
    """A text with its control characters and line feeds escaped, safe to print on a terminal."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
