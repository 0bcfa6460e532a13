# SPDX-License-Identifier: Apache-2.0
"""A forked worker for each operation that can take time, so that the shim's loop never waits.

A worker is the runtime: it runs a verb of urunc's command line within the shim's own loaded code,
in a process of its own. For a unikernel that is all, no program is executed, and how it went comes
back as an Answer, in an anonymous file that the two share: nothing waits for a reader, and nothing
is cut. An ordinary one's verb becomes the ordinary runtime by execve, as on the command line; that
program is a stranger, which is understood by its log (RuntimeLog, and nowhere else). What
a worker starts becomes the shim's child when it ends (PR_SET_CHILD_SUBREAPER).
"""

from __future__ import annotations

import gc
import posix
from _signal import SIG_IGN, SIGPIPE, SIGXFSZ, signal

from urunc import logs
from urunc.errors import Error, NotFoundError, RefusedError, WrongStatusError
from urunc.jsontext import dumps, loads, objects
from urunc.linux import _linux
from urunc.linux.files import read_text, unlink, write_all
from urunc.record import plain, rebuild, record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Literal, NoReturn

    Kind = Literal["", "missing", "refused", "wrong status"]

NO_STREAMS = (-1, -1, -1)
ANSWER_LIMIT_BYTES = LOG_LIMIT_BYTES = 1 << 20
ANSWER_FD = 3
"""Where a worker has the file of its answer; closed by execve."""
KINDS: tuple[tuple[type[Error], Kind], ...] = (
    (NotFoundError, "missing"),
    (RefusedError, "refused"),
    (WrongStatusError, "wrong status"),
)
"""What an error is to a client; others are "" (of no kind)."""
STRANGERS_MISSING = (
    *("does not exist", "not running", "already finished", "no such process", "not found"),
)
"""In an ordinary runtime's message: there is no such container or process (any more)."""


@record
class Answer:
    """How a worker has ended."""

    code: int
    """Its exit code, 0 for success; -N: ended by signal N."""
    message: str = ""
    """What went wrong, "" on success."""
    hint: str = ""
    kind: Kind = ""
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The message with its hint."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class _Answering:
    """A worker's end of its answer: a JSON object a line, each warning when it comes, for the
    worker may become another program; the answer is the last."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pid = posix.getpid()

    def warn(self, text: str) -> None:
        """Add a warning."""
        self._write({"warning": text})

    def end(self, answer: Answer) -> None:
        """The last word, of a worker that has failed."""
        self._write({"answer": plain(answer)})

    def _write(self, value: dict[str, Any]) -> None:
        if posix.getpid() == self._pid:  # a child of a verb's may have another file of that number
            write_all(self._fd, dumps(value).encode() + b"\n")


class Worker:
    """A process that does one thing; `done` is called by `finish`."""

    def __init__(
        self, pid: int, fd: int, done: Callable[[Answer], None], log: RuntimeLog | None
    ) -> None:
        self.pid = pid
        self._fd = fd
        self._log = log
        self._done = done

    def finish(self, status: int) -> None:
        """It has ended, with this status of wait(2): hear what it says, and go on."""
        code = posix.waitstatus_to_exitcode(status)
        warnings, answer = _read(self._fd)
        if not answer:
            answer = self._log.answer(code) if self._log else Answer(code=code)
        if answer.code and not answer.message:
            answer = replace(answer, message=f"the runtime ended with {answer.code}")
        if warnings:
            answer = replace(answer, warnings=(*warnings, *answer.warnings))
        for text in answer.warnings:  # to containerd's log
            posix.write(2, f"urunc: warning: {text}\n".encode("utf-8", "backslashreplace"))
        if self._log:
            unlink(self._log.path)
        self._done(answer)


def _read(fd: int) -> tuple[list[str], Answer | None]:
    """(warnings, answer) in a worker's file, which is closed; no answer of one that has done what
    it should, was killed, or has become another program."""
    try:
        size = min(posix.fstat(fd).st_size, ANSWER_LIMIT_BYTES)
        lines = posix.pread(fd, size, 0).decode().splitlines() if size else []
    finally:
        posix.close(fd)
    warnings, answer = [], None
    for line in lines:
        try:
            value = loads(line)
        except ValueError:
            break  # the last, of one that was killed while it wrote
        if "answer" in value:
            answer = rebuild(Answer, value["answer"])
        else:
            warnings.append(value["warning"])
    return warnings, answer


class RuntimeLog:
    """The log of an ordinary runtime: JSON objects, each on a line of its own by runc, and on
    several by crun from 1.28 on."""

    def __init__(self, path: str, *, making: bool = False) -> None:
        self.path = path
        self._making = making

    @property
    def options(self) -> tuple[str, ...]:
        """What has the ordinary runtime write it."""
        return ("--log", self.path, "--log-format", "json")

    def answer(self, code: int) -> Answer:
        """What a runtime that ended with this code has written."""
        try:
            entries = tuple(objects(read_text(self.path, LOG_LIMIT_BYTES)))
        except OSError:
            return Answer(code=code)
        warnings = tuple(str(item.get("msg")) for item in entries if item.get("level") == "warning")
        errors = [
            str(item.get("msg")) for item in entries if item.get("level") in ("error", "fatal")
        ]
        if not code or not errors:
            return Answer(code=code, warnings=warnings)
        text = errors[-1].lower()
        missing = not self._making and any(words in text for words in STRANGERS_MISSING)
        return Answer(
            code=code, message=errors[-1], kind="missing" if missing else "", warnings=warnings
        )


def start(
    work: Callable[[], int],
    done: Callable[[Answer], None],
    *,
    log: RuntimeLog | None = None,
    streams: tuple[int, int, int] = NO_STREAMS,
    directory: str = "",
    before: Callable[[], None] | None = None,
) -> Worker:
    """Fork a worker: `work` in `directory` with these descriptors as its standard streams (-1:
    /dev/null); `before` it has all of the shim's. `log` is that of the program that it may
    become."""
    if log:
        unlink(log.path)
    fd = posix.memfd_create("answer")
    try:
        pid = posix.fork()
    except OSError:
        posix.close(fd)
        raise
    if not pid:
        become(work, fd, streams, directory, before)
    return Worker(pid, fd, done, log)


def become(
    work: Callable[[], int],
    fd: int,
    streams: tuple[int, int, int],
    directory: str,
    before: Callable[[], None] | None,
) -> NoReturn:
    """What a worker is from its fork on; `fd` is the file of its answer."""
    answer, kind = Answer(code=1), "internal"
    answering = _Answering(fd)
    try:
        gc.disable()  # it ends before that is worth anything
        _linux.set_name("urunc")
        _linux.default_signals()
        for number in (SIGPIPE, SIGXFSZ):  # as on the command line: errors that are taken back
            signal(number, SIG_IGN)
        logs.take_warning = answering.warn
        if before:
            before()
        null = posix.open("/dev/null", posix.O_RDWR)
        for number, stream in enumerate(streams):
            posix.dup2(stream if stream >= 0 else null, number)
        if fd != ANSWER_FD:  # dup3(2) takes two different ones
            posix.dup2(fd, ANSWER_FD, False)
        answering = _Answering(ANSWER_FD)
        logs.take_warning = answering.warn
        _linux.close_range(ANSWER_FD + 1, 0xFFFFFFFF, 0)
        if directory:
            posix.chdir(directory)
        answer = Answer(code=work())
    except Error as error:
        answer, kind = _refusal(error), error.kind
    except OSError as error:
        named = f" '{error.filename}'" if error.filename else ""
        answer = Answer(code=1, message=f"{error.strerror or error}{named}")
    except BaseException as error:  # a defect of ours: the client must hear of it all the same
        answer = Answer(code=1, message=f"internal error: {type(error).__name__}: {error}")
    finally:
        try:
            if answer.message:
                logs.error(answer.text, kind)
            if answer.code:  # success needs no words, each of which costs copied pages
                answering.end(answer)
        finally:
            posix._exit(answer.code)


def _refusal(error: Error) -> Answer:
    kind: Kind = next((kind for cls, kind in KINDS if isinstance(error, cls)), "")
    return Answer(code=error.exit_code, message=error.message, hint=error.hint, kind=kind)


def verb(words: list[str], log: RuntimeLog, runtime: str = "", document: Any = None) -> int:
    """Run a verb of urunc's command line. An ordinary container's never returns: it becomes the
    ordinary runtime, this one if one is named. `document` is the bundle's config.json for `create`,
    where it has been read."""
    from urunc.__main__ import run

    return run(words, document=document, runtime=runtime, runtime_words=log.options)


def mount(mounts: Sequence[Mapping[str, Any]], rootfs: str) -> None:
    """Mount a container's root filesystem, where containerd leaves that to the shim."""
    if mounts:
        from urunc.shim.rootfs import mount_all

        mount_all(mounts, rootfs)
