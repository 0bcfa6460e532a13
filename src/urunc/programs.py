# SPDX-License-Identifier: Apache-2.0
"""Where urunc's own compiled programs are: `guest-init`, the first program of a Linux guest,
`supervisor`, which runs a monitor (both in guest-init/), and `urunc-door`, a copy of the door for
the shim (door/). It only looks for them."""

from __future__ import annotations

import posix

from urunc.errors import HostError, reason
from urunc.jsontext import dumps, loads
from urunc.linux.files import make_directories, read_text, write_whole
from urunc.places import runtime_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any


COMMON = "urunc.d"
"""The part of the runtime directory that all containers share, whatever their --root: reserved user
ids, facts about programs."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def path(name: str) -> str:
    """The path of one of urunc's own programs: `make install` puts it beside the package, a wheel
    into it. Raises HostError."""
    package = __file__.rpartition("/")[0]
    for directory in (package.rpartition("/")[0], package):
        file = f"{directory}/{name}"
        if posix.access(file, posix.R_OK):
            return file
    raise HostError(f"program {name!r}: not installed with urunc", "run make install")


def find_program(name: str, path: str = "") -> str:
    """The path of a program on PATH (or on this one), "" if it is not there."""
    path = (
        path or posix.environ.get(b"PATH", b"").decode("utf-8", "surrogateescape") or DEFAULT_PATH
    )
    for directory in path.split(":"):
        candidate = f"{directory}/{name}"
        if directory.startswith("/") and posix.access(candidate, posix.X_OK):
            return candidate
    return ""


def remembered(
    name: str, path: str, find_out: Callable[[], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Facts about a program: first the cached ones, if the program has not changed since; then, if
    the caller asks for more, those that `find_out` returns, which are cached."""
    facts = posix.stat(path)
    identity = f"{path} {facts.st_dev} {facts.st_ino} {facts.st_size} {facts.st_mtime_ns}"
    directory = f"{runtime_directory()}/{COMMON}/programs"
    cache = f"{directory}/{name}.json"
    try:
        known = loads(read_text(cache))
        if known["identity"] == identity:
            yield known
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no cache, or not in this form
    found = find_out()
    try:
        make_directories(directory, 0o700)
        write_whole(cache, dumps({"identity": identity, **found}).encode())
    except OSError:
        pass  # a plan made without root has no cache to write to
    yield found


def version_of(path: str) -> str:
    """The first dotted number that a program's `--version` prints, without what a distribution adds
    to it; "" where it prints none."""
    for word in capture([path, "--version"])[1].split():
        number = word.removeprefix("v").rstrip(",")
        for sign in "-+~":
            number = number.partition(sign)[0]
        if "." in number and number.replace(".", "").isdigit():
            return number
    return ""


def capture(argv: list[str]) -> tuple[int, str]:
    """Run a program; (exit code, output of both streams). Raises HostError."""
    out, into = posix.pipe()
    actions = [(posix.POSIX_SPAWN_DUP2, into, 1), (posix.POSIX_SPAWN_DUP2, into, 2)]
    try:
        pid = posix.posix_spawn(
            argv[0],
            argv,
            {b"PATH": DEFAULT_PATH.encode(), b"LC_ALL": b"C"},
            file_actions=actions,
            setsigdef=(13, 25),  # SIGPIPE and SIGXFSZ, which CPython ignores
        )
    except OSError as error:
        posix.close(out)
        raise HostError(f"run '{argv[0]}': {reason(error)}") from None
    finally:
        posix.close(into)
    parts = []
    while part := posix.read(out, 65536):
        parts.append(part)
    posix.close(out)
    code = posix.waitstatus_to_exitcode(posix.waitpid(pid, 0)[1])
    return code, b"".join(parts).decode("utf-8", "replace")
