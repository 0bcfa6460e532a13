# SPDX-License-Identifier: Apache-2.0
"""The processes that the shim forks: what they find loaded, and how they answer."""

from __future__ import annotations

import json
import os
import pathlib
import signal
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from urunc import logs
from urunc.errors import HostError, NotFoundError, RefusedError, WrongStatusError
from urunc.shim import worker
from urunc.shim.worker import Answer, RuntimeLog


def answer_of(work: Callable[[], int], **options: Any) -> Answer:
    """What comes back of a worker."""
    answers: list[Answer] = []
    started = worker.start(work, answers.append, **options)
    started.finish(os.waitpid(started.pid, 0)[1])
    (answer,) = answers
    return answer


def raising(error: BaseException) -> Callable[[], int]:
    def work() -> NoReturn:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotFoundError("a"), Answer(code=1, message="a", kind="missing")),
        (WrongStatusError("a", "b"), Answer(code=1, message="a", hint="b", kind="wrong status")),
        (RefusedError("a"), Answer(code=255, message="a", kind="refused")),
        (HostError("'x': not found"), Answer(code=1, message="'x': not found")),
        (FileNotFoundError(2, "No", "/a"), Answer(code=1, message="No '/a'")),
        (KeyError("a"), Answer(code=1, message="internal error: KeyError: 'a'")),
        (SystemExit(0), Answer(code=1, message="internal error: SystemExit: 0")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors(error: BaseException, expected: Answer) -> None:
    """A kind is a class's, never its words'."""
    assert answer_of(raising(error)) == expected
    assert answer_of(lambda: 0, before=raising(error)) == expected


def test_codes() -> None:
    assert answer_of(lambda: 0) == Answer(code=0)
    assert answer_of(lambda: 7) == Answer(code=7, message="the runtime ended with 7")


def test_one_that_is_killed() -> None:
    def work() -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert answer_of(work) == Answer(code=-9, message="the runtime ended with -9")


def test_one_whose_peer_has_gone() -> None:
    """It hears of that, and takes back what it did: an init may end while it is told something."""

    def work() -> int:
        read, write = os.pipe()
        os.close(read)
        return os.write(write, b"x")

    assert answer_of(work) == Answer(code=1, message="Broken pipe")


def test_an_answer_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker ends all the same, and never goes on as a second shim."""

    def full(_fd: int, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker, "write_all", full)
    assert answer_of(lambda: 5) == Answer(code=5, message="the runtime ended with 5")


def test_warnings(capfd: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    """Each is said, however long and in whatever letters; a child's has no place."""
    texts = ("one", "two\nlines \udcff", "x" * 200_000)

    def work() -> int:
        for text in texts:
            logs.warn(text)
        pid = os.fork()
        if not pid:
            logs.warn("a child's")
            os._exit(0)
        os.waitpid(pid, 0)
        raise HostError("no")

    answer = answer_of(work)
    assert (answer.warnings, answer.message) == (texts, "no")
    lines = capfd.readouterr().err
    assert lines == "".join(f"urunc: warning: {text}\n" for text in texts).replace(
        "\udcff", r"\udcff"
    )


def test_the_administrators_log(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has warnings and errors, too, and nothing else of a worker."""
    file = tmp_path / "log"
    monkeypatch.setattr(logs, "file", str(file))

    def work() -> int:
        logs.warn("a warning")
        logs.info("an information")
        raise HostError("an error", "a hint")

    assert answer_of(work) == Answer(
        code=1, message="an error", hint="a hint", warnings=("a warning",)
    )
    said = [line.split(" ", 1)[1] for line in file.read_text().splitlines()]
    assert said == [
        'level=warning msg="a warning"',
        'level=error msg="an error (a hint)" kind=host',
    ]


def become(
    *lines: dict[str, str], log: RuntimeLog, code: int = 1, indent: int | None = None
) -> Callable[[], int]:
    """Work that becomes a runtime which writes this log."""
    text = "".join(f"{json.dumps(line, indent=indent)}\n" for line in lines)

    def work() -> int:
        logs.warn("ours")
        os.execv("/bin/sh", ["sh", "-c", 'printf %s "$1" >"$2"; exit "$3"', "sh", text, log.path,
                             str(code)])  # fmt: skip

    return work


ERROR = {"level": "error", "msg": "container does not exist"}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    ("making", "code", "lines", "expected"),
    [
        (False, 1, [ERROR], Answer(code=1, message=ERROR["msg"], kind="missing")),
        (True, 1, [ERROR], Answer(code=1, message=ERROR["msg"])),
        (False, 0, [ERROR], Answer(code=0)),
        (False, 3, [], Answer(code=3, message="the runtime ended with 3")),
        (False, 1, [ERROR, {"level": "fatal", "msg": "b"}], Answer(code=1, message="b")),
        (False, 0, [{"level": "warning", "msg": "w"}], Answer(code=0, warnings=("w",))),
    ],
)
def test_another_program(
    tmp_path: pathlib.Path, making: bool, code: int, lines: list[dict[str, str]],
    expected: Answer, indent: int | None,
) -> None:  # fmt: skip
    """What it becomes is understood by its log, be an entry on a line or on several, which is
    removed; our warnings are heard."""
    log = RuntimeLog(str(tmp_path / "log"), making=making)
    answer = answer_of(become(*lines, log=log, code=code, indent=indent), log=log)
    assert answer.warnings == ("ours", *expected.warnings)
    assert (answer.code, answer.message, answer.kind) == (
        expected.code, expected.message, expected.kind,
    )  # fmt: skip
    assert not (tmp_path / "log").exists()


def test_a_log_that_is_none(tmp_path: pathlib.Path) -> None:
    log = RuntimeLog(str(tmp_path / "log"))
    (tmp_path / "log").write_text('no JSON\n[]\n{"level": "error", "msg": "a"}\n{"lev')
    assert log.answer(1) == Answer(code=1, message="a")


def test_what_a_verb_is_given(tmp_path: pathlib.Path) -> None:
    """config.json as it was read (here is no file), the runtime that the options name, and a log
    for that runtime alone."""
    runtime, said = tmp_path / "runtime", tmp_path / "said"
    runtime.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{said}\n')
    runtime.chmod(0o755)
    log = RuntimeLog(str(tmp_path / "log"))
    words = ["--root", str(tmp_path / "root"), "create", "--bundle", str(tmp_path), "one"]
    document = {"root": {"path": "none"}}
    answer = answer_of(lambda: worker.verb(words, log, str(runtime), document), log=log)
    assert answer == Answer(code=0)
    assert said.read_text().split() == [*log.options, *words]
    answer = answer_of(lambda: worker.verb(words, log, str(runtime)), log=log)
    assert answer.message == f"read '{tmp_path}/config.json': no such file or directory"
    assert answer.code == 1 and answer.hint
