# SPDX-License-Identifier: Apache-2.0
"""Containers that are not unikernels: handed to an ordinary OCI runtime, whole, by execve.

The rule, here and nowhere else. `create`, `run` and `plan` look at the bundle: without unikernel
annotations and without urunc.json it is ordinary. Every other verb looks at --root: ROOT/ID with a
`journal` in it is urunc's; any other ROOT/ID is the ordinary runtime's; no ROOT/ID is nobody's.
Both keep their containers in the same --root, each in directories of its own, so an id is taken for
both.

The runtime is the caller's (the shim's BinaryName), else `ordinary.runtime` of the configuration,
else runc, else crun, by PATH; without PATH, as in the last call that had one, since Podman gives it
to `create` alone. It gets the very arguments that urunc got, so output and exit codes are its own.
Which one it was is noted, for the door (door/ordinary.c): start, state, kill and delete of such a
container need no Python.
"""

from __future__ import annotations

import posix

from urunc.errors import HostError, reason
from urunc.linux import _linux
from urunc.linux.files import (
    is_directory,
    make_directories,
    read_bytes,
    read_text,
    stamp,
    unlink,
    write_whole,
)
from urunc.places import runtime_directory
from urunc.programs import COMMON, DEFAULT_PATH, find_program
from urunc.state import is_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

    from urunc.config import Config

RUNTIMES = ("runc", "crun")
RECIPES = ("ordinary.recipe", "ordinary-without-path.recipe")
"""For the door (door/ordinary.c): what `find` found, and all that it looked at."""
FIRST = "urunc ordinary 1"
MARKS = (b"\n# An installed program of urunc:", b"urunc-launcher:/")
"""What urunc's own installed programs hold: the script (launcher/urunc.in), and the compiled one
that hands over to it (door/launcher.c)."""
MARKED_BYTES = 1 << 17
"""More than these programs have."""
FOREIGN_OPTIONS = ("--config", "--pod-resources")
"""Options of ours that an ordinary runtime does not know."""
VALUE_OPTIONS = frozenset(
    "--additional-gids -g --apparmor --blkio-weight --bundle -b --cap -c --cgroup --console-socket "  # noqa: SIM905 (a long list of words)
    "--cpu-burst --cpu-idle --cpu-period --cpu-quota --cpu-rt-period --cpu-rt-runtime --cpu-share "
    "--cpuset-cpus --cpuset-mems --cwd --empty-ns --env -e --format -f --image-path --interval "
    "--kernel-memory --kernel-memory-tcp --l3-cache-schema --lsm-profile "
    "--lsm-mount-context --manage-cgroups-mode --mem-bw-schema --memory -m --memory-reservation "
    "--memory-swap --page-server --parent-path --pid-file --pids-limit --preserve-fds --process -p "
    "--process-label --resources -r --status-fd --user -u --work-path".split()
)
"""Options of the verbs that only runc's table knows all of, that take a word of their own."""


def find(config: Config, preferred: str = "") -> str:
    """The path of the ordinary runtime's program: `preferred`, a name or a path, where it is not
    urunc itself; raises HostError."""
    if preferred:
        path = _program(preferred, "its options (BinaryName)")
        if not _is_urunc(path):  # as where urunc was named for runc's shim
            return path
    asked: str = config.get("ordinary.runtime")
    if asked:
        source = config.source("ordinary.runtime")
        path = _program(asked, source)
        if _is_urunc(path):
            raise HostError(f"ordinary runtime '{asked}': is urunc itself", f"set in {source}")
        return path
    if path := _by_path():
        return path
    raise HostError(
        "the container is not a unikernel, and no ordinary runtime is installed",
        "install runc or crun, or set ordinary.runtime; a unikernel has the annotation "
        "com.urunc.unikernel.unikernelType or a urunc.json in its root filesystem",
    )


def note(config: Config, program: str) -> None:
    """Note that `find` came to this program without a preferred one, for the door, which has no
    other directory to look for it than root's."""
    directory = f"{runtime_directory()}/{COMMON}/programs"
    if posix.geteuid() or not directory.startswith("/run/urunc.d/"):
        return
    path = posix.environ.get(b"PATH", b"").decode("utf-8", "surrogateescape")
    looked_at = [*config.files(), f"{directory}/ordinary"]
    asked = config.get("ordinary.runtime")
    if not asked.startswith("/"):
        for where in (path, DEFAULT_PATH):
            looked_at += _candidates((asked,) if asked else RUNTIMES, where)
    looked_at = list(dict.fromkeys((*looked_at, program)))
    stamps = (text for file in looked_at for text in (file, stamp(file)))
    fields = (FIRST, config.path, path, str(len(looked_at)), *stamps, program)
    content = "".join(f"{field}\0" for field in fields).encode("utf-8", "surrogateescape")
    file = f"{directory}/{RECIPES[not path]}"
    try:
        if read_bytes(file, len(content) + 1) == content:
            return
    except OSError:
        pass
    try:
        make_directories(directory, 0o700)
        write_whole(file, content)
    except OSError:
        pass  # the verbs do without


def _candidates(names: tuple[str, ...], where: str) -> Iterator[str]:
    """What is tried of these names on this PATH, up to the first that is there."""
    for name in names:
        for directory in where.split(":"):
            if directory.startswith("/"):
                yield f"{directory}/{name}"
                if posix.access(f"{directory}/{name}", posix.X_OK):
                    return


def _by_path() -> str:
    """The first of RUNTIMES on PATH, "" for none. Where it is another than without PATH, that is
    noted: verbs on its containers may come without one."""
    noted_at = f"{runtime_directory()}/{COMMON}/programs/ordinary"
    standard = next(filter(None, (find_program(name, DEFAULT_PATH) for name in RUNTIMES)), "")
    if not posix.environ.get(b"PATH"):
        try:
            noted = read_text(noted_at)
        except OSError:
            return standard
        return noted if posix.access(noted, posix.X_OK) else standard
    path = next(filter(None, map(find_program, RUNTIMES)), "")
    try:
        if path == standard:
            unlink(noted_at)
        elif path:
            make_directories(noted_at.rpartition("/")[0], 0o700)
            write_whole(noted_at, path.encode())
    except OSError:
        pass  # not root: nothing to note it in
    return path


def _program(asked: str, source: str) -> str:
    path = asked if asked.startswith("/") else find_program(asked)
    if not path or not posix.access(path, posix.X_OK):
        raise HostError(f"ordinary runtime '{asked}': no such program", f"set in {source}")
    return path


def _is_urunc(path: str) -> bool:
    try:
        content = read_bytes(path, MARKED_BYTES)
    except OSError:  # a program may be executable and not readable
        return False
    return any(mark in content for mark in MARKS)


def is_ordinary(root: str, identifier: str) -> bool:
    """Whether an id belongs to the ordinary runtime."""
    return is_directory(f"{root}/{identifier}") and not is_ours(root, identifier)


def named(words: list[str], root: str) -> str:
    """The id of the container below --root that a verb's words name, "" for none."""
    for word in _identifiers(words):
        if word and "/" not in word and word not in (".", "..") and is_directory(f"{root}/{word}"):
            return word
    return ""


def _identifiers(words: list[str]) -> list[str]:
    """The words that may be the verb's container: the first that is neither an option nor an
    option's value, as far as runc's options are known here; then any, for those that are not."""
    value = False
    for word in words:
        if value:
            value = False
        elif not word.startswith("-"):
            return [word, *words]
        else:
            value = word in VALUE_OPTIONS
    return words


def become(path: str, argv: list[str], root: str) -> NoReturn:
    """Become this ordinary runtime with our own arguments (without the program's name); raises
    HostError."""
    arguments = []
    skip = False
    for word in argv:
        if skip:
            skip = False
        elif word in FOREIGN_OPTIONS:
            skip = True
        elif not word.startswith(tuple(f"{option}=" for option in FOREIGN_OPTIONS)):
            arguments.append(word)
    if root and not any(word == "--root" or word.startswith("--root=") for word in arguments):
        arguments = ["--root", root, *arguments]
    _linux.default_signals()
    try:
        posix.execve(path, [path.rpartition("/")[2], *arguments], posix.environ)
    except OSError as error:
        raise HostError(f"exec ordinary runtime '{path}': {reason(error)}") from None
