# SPDX-License-Identifier: Apache-2.0
"""Where warnings and errors go: the file of `--log`, in runc's two formats, else standard error.

containerd, Docker and Podman read the last error of this file. Written with one `write` per line; a
log that cannot be written is no reason to fail a container.
"""

from __future__ import annotations

import posix
from time import gmtime, strftime

from urunc.jsontext import dumps

path = ""
json_format = False
debug = False
_seen: set[str] = set()


def warn(message: str) -> None:
    """A thing the user should know though it stops nothing; said once per process."""
    if message not in _seen:
        _seen.add(message)
        _emit("warning", message)


def info(message: str) -> None:
    """What happened, for the log file alone: nobody at a terminal wants it."""
    if path:
        _emit("info", message)


def error(message: str) -> None:
    """The one error that ends this process; for `__main__` alone."""
    _emit("error", message)


def detail(message: str) -> None:
    """What only `--debug` shows."""
    if debug:
        _emit("debug", message)


def _emit(level: str, message: str) -> None:
    if path:
        now = strftime("%Y-%m-%dT%H:%M:%SZ", gmtime())
        if json_format:
            line = dumps({"level": level, "msg": message, "time": now})
        else:
            line = f'time="{now}" level={level} msg={dumps(message)}'
        try:
            fd = posix.open(
                path, posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT | posix.O_CLOEXEC, 0o644
            )
        except OSError:
            pass
        else:
            posix.write(fd, line.encode() + b"\n")
            posix.close(fd)
            if level != "error":
                return
    if not message.isprintable():  # of an image or a file; a terminal would obey it
        message = "".join(
            letter if letter.isprintable() else repr(letter)[1:-1] for letter in message
        )
    try:
        posix.write(
            2,
            f"urunc: {level}: {message}\n".encode("utf-8", "backslashreplace"),
        )
    except OSError:
        pass
