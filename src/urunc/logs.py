# SPDX-License-Identifier: Apache-2.0
"""Where warnings and errors go: the file of `--log`, in runc's two formats, else standard error;
and the administrator's file (`log.file`), whatever `--log` says: engines read theirs on failure
alone, and throw it away.

containerd, Docker and Podman read the last error of `--log`. Written with one `write` per line, at
the file's end; a log that cannot be written is no reason to fail a container.
"""

from __future__ import annotations

import posix
from time import gmtime, strftime

from urunc.jsontext import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

path = ""
file = ""
"""The administrator's, in text alone, whoever calls."""
container = ""
"""The id of the container that is spoken of, for that file."""
json_format = False
debug = False
take_warning: Callable[[str], None] | None = None
"""Who takes warnings instead of `path` and standard error: whoever forked this process."""
_seen: set[str] = set()


def warn(message: str) -> None:
    """A thing the user should know though it stops nothing; said once per process."""
    if message not in _seen:
        _seen.add(message)
        _emit("warning", message)


def info(message: str) -> None:
    """What happened, for the log file alone: nobody at a terminal wants it."""
    if path or file:
        _emit("info", message)


def error(message: str) -> None:
    """The one error that ends this process; for `__main__` alone."""
    _emit("error", message)


def detail(message: str) -> None:
    """What only `--debug` shows."""
    if debug:
        _emit("debug", message)


def _emit(level: str, message: str) -> None:
    written = False
    if path or file:
        now = strftime("%Y-%m-%dT%H:%M:%SZ", gmtime())
        line = f'time="{now}" level={level} msg={dumps(message)}'
        alone = not path and not take_warning
        if file and file != path and (alone or level in ("warning", "error")):
            of = f" container={dumps(container)}" if container else ""
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
        return
    try:
        posix.write(
            2, f"urunc: {level}: {printable(message)}\n".encode("utf-8", "backslashreplace")
        )
    except OSError:
        pass


def _append(name: str, line: str) -> bool:
    """Whether the file could be opened; not waiting for whoever reads a pipe of that name."""
    flags = posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT | posix.O_CLOEXEC | posix.O_NONBLOCK
    try:
        fd = posix.open(name, flags, 0o644)
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
    """One line that no terminal obeys, whatever an image or a file has put into it."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
