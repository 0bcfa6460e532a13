# SPDX-License-Identifier: Apache-2.0
"""A forked worker for each operation that can take time, so that the shim's loop never waits.

A worker is the runtime: it runs a verb of urunc's command line within the shim's own loaded code,
in a process of its own. For a unikernel that is all, no program is executed; an ordinary one's
verb becomes the ordinary runtime by execve, as on the command line. What it starts becomes the
shim's child when the worker ends (PR_SET_CHILD_SUBREAPER).
"""

from __future__ import annotations

import gc
import posix
import sys

from urunc import logs
from urunc.errors import Error
from urunc.jsontext import loads
from urunc.linux import _linux
from urunc.linux.files import read_text, unlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

LOG_LIMIT_BYTES = 1 << 20
FIRST = ("cli.create", "lifecycle.create", "shim.rootfs")
"""What a shim's first worker runs: `create`. It is waited for."""
REST = (
    "cli.start", "cli.kill", "cli.delete", "lifecycle.events", "net.connect", "net.look",
    "net.resources", "ordinary", "shim.metrics",
)  # fmt: skip
"""What later ones run, and the shim itself: loaded while the first is at work."""


class Worker:
    """A process that does one thing; `done(code)` is called by the shim when it has ended."""

    def __init__(self, pid: int, log: str, done: Callable[[int, str], None]) -> None:
        self.pid = pid
        self.log = log
        self._done = done

    def finish(self, status: int) -> None:
        """It has ended: hear what it says in its log, and go on."""
        code = posix.waitstatus_to_exitcode(status)
        message = ""
        lines = _lines(self.log)
        for entry in lines:
            if entry.get("level") == "warning":  # to containerd's log
                posix.write(2, f"urunc: warning: {entry.get('msg')}\n".encode())
        if code:
            errors = [entry for entry in lines if entry.get("level") in ("error", "fatal")]
            message = str(errors[-1].get("msg")) if errors else f"the runtime ended with {code}"
        unlink(self.log)
        self._done(code, message)


def preload(names: tuple[str, ...]) -> None:
    """Load modules of urunc's once for all workers; what stays is the same in each.

    The collector only gets in the way while code is loaded: there is no garbage in it.
    """
    gc.disable()
    for name in names:
        __import__(f"urunc.{name}")
    gc.freeze()
    gc.enable()


def start(
    work: Callable[[], int],
    log: str,
    done: Callable[[int, str], None],
    *,
    streams: tuple[int, int, int] = (-1, -1, -1),
    directory: str = "",
    before: Callable[[], None] | None = None,
) -> Worker:
    """Fork a worker: `work` in `directory` with these descriptors as its standard streams (-1:
    /dev/null), errors to a log file of its own; `before` it has all of the shim's."""
    unlink(log)
    pid = posix.fork()
    if not pid:
        _become(work, log, streams, directory, before)
    return Worker(pid, log, done)


def _become(
    work: Callable[[], int],
    log: str,
    streams: tuple[int, int, int],
    directory: str,
    before: Callable[[], None] | None,
) -> NoReturn:
    code = 1
    try:
        gc.disable()  # it ends before that is worth anything
        _linux.set_name("urunc")
        _linux.default_signals()
        logs.path, logs.json_format = log, True
        if before:
            before()
        null = posix.open("/dev/null", posix.O_RDWR)
        for number, fd in enumerate(streams):
            posix.dup2(fd if fd >= 0 else null, number)
        _linux.close_range(3, 0xFFFFFFFF, 0)
        if directory:
            posix.chdir(directory)
        code = work()
    except Error as error:
        logs.error(str(error))
        code = error.exit_code
    except OSError as error:
        named = f" '{error.filename}'" if error.filename else ""
        logs.error(f"{error.strerror or error}{named}")
    except BaseException as error:  # a defect of ours: the client must hear of it all the same
        logs.error(f"internal error: {type(error).__name__}: {error}")
    finally:
        posix._exit(code)


def verb(words: list[str], log: str, runtime: str = "") -> int:
    """Run a verb of urunc's command line; an ordinary container's never returns, and is that
    runtime's, if one is named."""
    from urunc import ordinary
    from urunc.__main__ import run

    ordinary.preferred = runtime
    argv = ["--log", log, "--log-format", "json", *words]
    sys.argv[1:] = argv
    return run(argv)


def _lines(log: str) -> list[dict[str, Any]]:
    """What a runtime wrote into its log, as containerd reads it."""
    try:
        lines = read_text(log, LOG_LIMIT_BYTES).splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            entry = loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found
