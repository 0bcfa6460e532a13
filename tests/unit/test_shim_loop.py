# SPDX-License-Identifier: Apache-2.0
"""The order of what the shim says: answers, ends, its own end."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from urunc.shim import attendance
from urunc.shim.attendance import Attendance
from urunc.shim.calls import SERVICES
from urunc.shim.loop import Loop
from urunc.shim.memory import give_back
from urunc.shim.service import Service
from urunc.shim.tables import METHODS, RUNNING, STOPPED
from urunc.shim.tasks import Task, TaskProcess, Tasks
from urunc.shim.ttrpc import NOT_FOUND, UNIMPLEMENTED, UNKNOWN
from urunc.shim.worker import Answer, start


class Publisher:
    """One that writes down what it shall tell."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def publish(self, kind: str, **_values: object) -> None:
        self.said.append(kind)


class Verbs:
    """Verbs that are done with when the test calls what is in `pending`."""

    def __init__(self) -> None:
        self.pending: list[Callable[[Answer], None]] = []

    def run(self, _task: Task, _words: list[str], done: Callable[[Answer], None]) -> None:
        self.pending.append(done)

    def create(
        self, _task: Task, _words: list[str], done: Callable[[Answer], None], **_more: object
    ) -> None:
        self.pending.append(done)


class Call:
    """A call that writes down its answers."""

    process_name = "one"
    method = "Start"

    def __init__(self, said: list[str], **values: object) -> None:
        self.said = said
        self.values = values
        self.codes: list[int] = []

    def answer(self, **_values: object) -> None:
        self.said.append("answer")

    def refuse(self, code: int, _message: str) -> None:
        self.said.append("refusal")
        self.codes.append(code)


class Shim:
    """A service whose verbs and events are the test's, and a guest of its that runs."""

    def __init__(self, loop: Loop, directory: pathlib.Path) -> None:
        publisher: Any = Publisher()
        verbs: Any = Verbs()
        self.said: list[str] = publisher.said
        self.pending: list[Callable[[Answer], None]] = verbs.pending
        self.service = Service(loop, publisher, verbs, "tests", str(directory / "socket"))
        streams: Any = SimpleNamespace(release=lambda: None)
        self.task = Task("one", str(directory), "", TaskProcess("", {}, streams, None))
        self.task.guest = self.task.made = True
        self.task.init.pid = 1
        self.task.init.status = RUNNING
        self.service.tasks.add(self.task)

    def call(self, **values: object) -> Any:
        """A call about the guest."""
        return Call(self.said, id="one", **values)

    def end(self, status: int) -> None:
        """The guest's monitor ends."""
        self.service.lives.ended(self.task, self.task.init, status)


@pytest.fixture
def loop(tmp_path: pathlib.Path) -> Iterator[Loop]:
    before = signal.getsignal(signal.SIGCHLD)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        yield Loop(listener, SERVICES)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, before)


@pytest.fixture
def shim(loop: Loop, tmp_path: pathlib.Path) -> Shim:
    return Shim(loop, tmp_path)


def test_every_method_has_its_call(shim: Shim) -> None:
    assert set(shim.service.calls) == set(METHODS)
    assert len(set(shim.service.calls.values())) == len(METHODS)


@pytest.mark.parametrize(("code", "answer"), [(0, "answer"), (1, "refusal")])
def test_an_end_is_told_after_the_answers_to_who_killed(shim: Shim, code: int, answer: str) -> None:
    """containerd closes its connection once it has heard of the end and deleted the container."""
    for _ in range(2):
        shim.service.kill(shim.call(signal=9, all=False))
    shim.end(9)
    shim.service.wait(shim.call())
    assert shim.task.init.status == STOPPED
    shim.pending[0](Answer(code=code))
    assert shim.said == [answer]
    shim.pending[1](Answer(code=code))
    assert shim.said == [answer, answer, "answer", "TaskExit"]


def test_why_is_no_longer_known(
    shim: Shim, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Modules that have gone, as where urunc was installed anew, do not end the shim."""
    monkeypatch.delattr("urunc.monitors", raising=False)
    monkeypatch.setitem(sys.modules, "urunc.monitors", None)
    shim.end(9)
    assert shim.said == ["TaskExit"]
    assert "why 'one' ended with 137: " in capfd.readouterr().err


def test_an_end_that_nobody_brought_about(shim: Shim) -> None:
    shim.service.kill(shim.call(signal=1, all=False))
    shim.pending[0](Answer(code=0))
    shim.end(0)
    assert shim.said == ["answer", "TaskExit"]


@pytest.mark.parametrize(
    ("method", "kind", "code"),
    [
        ("Kill", "missing", NOT_FOUND),
        ("Kill", "wrong status", NOT_FOUND),
        ("Kill", "", UNKNOWN),
        ("Pause", "wrong status", NOT_FOUND),
        ("Resume", "wrong status", UNKNOWN),
        ("Resume", "missing", NOT_FOUND),
        ("Pause", "refused", UNIMPLEMENTED),
    ],
)
def test_codes(shim: Shim, method: str, kind: Any, code: int) -> None:
    """By an error's kind, whatever its words are."""
    call = shim.call(signal=9, all=False)
    shim.service.calls[method](call)
    shim.pending[0](Answer(code=1, message="container not running: not found", kind=kind))
    assert call.codes == [code]


def test_it_waits_for_its_workers(loop: Loop) -> None:
    """Who asked for what they do gets an answer, also if containerd has no more containers
    meanwhile: a `kill` is not over yet when the end that it brings about is."""
    answered: list[Answer] = []

    def work() -> int:
        time.sleep(0.2)
        return 0

    loop.await_worker(start(work, answered.append))
    loop.leave()
    loop.run(lambda _connection, _called: None, ())
    assert answered == [Answer(code=0)]


def test_ends_of_children(loop: Loop) -> None:
    """Told once: of who ends after it is known, and of who has ended before."""
    told: list[tuple[str, int]] = []
    read, write = os.pipe()
    early = os.fork()
    if not early:
        os._exit(3)
    os.waitid(os.P_PID, early, os.WEXITED | os.WNOWAIT)
    late = os.fork()
    if not late:
        os.read(read, 1)
        os._exit(4)

    def done(_answer: Answer) -> None:
        loop.adopt(early, lambda status: told.append(("early", status)))
        loop.adopt(late, lambda status: told.append(("late", status)))
        loop.leave()
        os.write(write, b"x")

    class Waiting:
        """A source that is busy until both have ended."""

        @property
        def busy(self) -> bool:
            return len(told) < 2

        def descriptors(self) -> tuple[()]:
            return ()

        def timeout_s(self) -> None:
            return None

        def advance(self) -> None:
            pass

    def work() -> int:
        time.sleep(0.2)
        return 0

    loop.await_worker(start(work, done))
    loop.run(lambda _connection, _called: None, (Waiting(),))
    os.close(read)
    os.close(write)
    assert told == [("early", 3 << 8), ("late", 4 << 8)]


def test_a_failure_after_an_end(loop: Loop, capfd: pytest.CaptureFixture[str]) -> None:
    """It is in the log, and the others' ends are told all the same, also of those who ended before
    the loop's first turn."""
    told: list[Answer] = []

    def fail(_answer: Answer) -> None:
        raise OSError(28, "No space left on device")

    workers = start(lambda: 0, fail), start(lambda: 0, told.append)
    for made in workers:
        loop.await_worker(made)
        os.waitid(os.P_PID, made.pid, os.WEXITED | os.WNOWAIT)
    loop.leave()
    loop.run(lambda _connection, _called: None, ())
    assert told == [Answer(code=0)]
    assert "OSError: [Errno 28] No space left on device" in capfd.readouterr().err


def test_a_stranger_is_not_remembered(loop: Loop) -> None:
    """A child that nobody has made for a container: its pid may be another's by and by."""
    stranger = os.fork()
    if not stranger:
        os._exit(3)
    os.waitid(os.P_PID, stranger, os.WEXITED | os.WNOWAIT)
    told: list[int] = []

    class Turn:
        """A source that is busy until the child is reaped."""

        @property
        def busy(self) -> bool:
            return os.path.exists(f"/proc/{stranger}")

        def descriptors(self) -> tuple[()]:
            return ()

        def timeout_s(self) -> float:
            return 0.01

        def advance(self) -> None:
            os.kill(os.getpid(), signal.SIGCHLD)

    loop.leave()
    loop.run(lambda _connection, _called: None, (Turn(),))
    loop.adopt(stranger, told.append)
    assert told == []


@pytest.fixture
def create(shim: Shim, tmp_path: pathlib.Path) -> Call:
    """A call for another container."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b/config.json").write_text("{}")
    values: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr", "checkpoint"), "") | {
        "id": "two",
        "bundle": str(tmp_path / "b"),
        "rootfs": [],
        "terminal": False,
    }
    values["options"] = {"type_url": "", "value": b""}
    return Call(shim.said, **values)


def test_a_create_that_fails_in_the_shim(
    shim: Shim, create: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id is free again."""

    def fail(*_given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("urunc.shim.lives.write_whole", fail)
    with pytest.raises(OSError, match="No space left"):
        shim.service.lives.create(create)  # type: ignore[arg-type]  # a double
    assert shim.service.tasks.get("two") is None


def test_a_container_that_is_made_and_not_found(shim: Shim, create: Call) -> None:
    """Who called hears of it, and it is deleted: nobody else would."""
    shim.service.lives.create(create)  # type: ignore[arg-type]  # a double
    shim.pending.pop()(Answer(code=0))  # it has left no init.pid
    assert (shim.said, create.codes) == (["refusal"], [UNKNOWN])
    shim.pending.pop()(Answer(code=0))
    assert shim.service.tasks.get("two") is None


def resident_kib() -> int:
    text = pathlib.Path("/proc/self/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Rss:"))


def test_memory_is_given_back() -> None:
    """Of pages that no other copy is needed of; everything works on."""
    before = resident_kib()
    give_back()
    assert resident_kib() < before - 1024


@pytest.fixture
def attended(loop: Loop, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Attendance:
    """Of a shim without containers, which is patient for an eighth of a second."""
    monkeypatch.setattr(attendance, "ALONE_S", 0.125)
    return Attendance(loop, Tasks(), str(tmp_path / "socket"))


def test_a_shim_that_nobody_asks_ends(loop: Loop, attended: Attendance) -> None:
    """The answer to its `start` was refused: nobody calls Shutdown, nor `delete`."""
    loop.run(lambda *_: None, [attended])
    assert not os.path.exists(loop_path(loop))


def loop_path(loop: Loop) -> str:
    return str(loop._listener.getsockname())


def test_a_client_keeps_it(loop: Loop, attended: Attendance) -> None:
    """As long as it is connected, and as long again."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(loop_path(loop))
        loop._wake = os.open("/dev/null", os.O_RDONLY)
        loop._turn(lambda *_: None, [attended])
        assert loop.connected
        assert attended.timeout_s() is None
        time.sleep(0.2)
        attended.advance()
        assert not loop.leaving
    loop._turn(lambda *_: None, [attended])
    assert not loop.connected
    attended.advance()
    assert not loop.leaving
    wait_s = attended.timeout_s()
    assert wait_s is not None and 0 < wait_s <= 0.125
    time.sleep(0.2)
    attended.advance()
    assert loop.leaving


def test_a_container_keeps_it(
    loop: Loop, shim: Shim, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """containerd may be away for long: it comes back for its containers."""
    monkeypatch.setattr(attendance, "ALONE_S", 0.0)
    attended = Attendance(loop, shim.service.tasks, str(tmp_path / "socket"))
    attended.advance()
    assert attended.timeout_s() is None
    assert not loop.leaving
