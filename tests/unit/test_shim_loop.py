# SPDX-License-Identifier: Apache-2.0
"""The order of what the shim says: answers, ends, its own end."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from urunc.shim.memory import give_back
from urunc.shim.service import Shim
from urunc.shim.tables import RUNNING, STOPPED
from urunc.shim.tasks import Task, TaskProcess
from urunc.shim.worker import Worker


class Publisher:
    """One that writes down what it shall tell."""

    empty = True

    def __init__(self) -> None:
        self.said: list[str] = []

    def publish(self, kind: str, **_values: object) -> None:
        self.said.append(kind)

    def descriptors(self) -> tuple[tuple[int, int], ...]:
        return ()

    def advance(self) -> None:
        pass

    def timeout_s(self) -> None:
        return None


def said_of(shim: Shim) -> list[str]:
    """What its publisher, one of these, has written down."""
    publisher: Any = shim.publisher
    said: list[str] = publisher.said
    return said


class Request:
    """A request that writes down its answers."""

    def __init__(self, said: list[str], **values: object) -> None:
        self.said = said
        self.values = values

    def answer(self, **_values: object) -> None:
        self.said.append("answer")

    def refuse(self, _code: int, _message: str) -> None:
        self.said.append("refusal")


@pytest.fixture
def shim(tmp_path: pathlib.Path) -> Iterator[Shim]:
    publisher: Any = Publisher()
    before = signal.getsignal(signal.SIGCHLD)
    with socket.socket(socket.AF_UNIX) as listener:
        path = str(tmp_path / "socket")
        listener.bind(path)
        listener.listen()
        yield Shim(listener, path, "tests", publisher)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, before)


@pytest.fixture
def task(shim: Shim, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """A guest that runs; `kill` is done with when the test calls what is in `pending`."""
    streams: Any = SimpleNamespace(release=lambda: None)
    made = Task("one", str(tmp_path), "", TaskProcess("", {}, streams, None))
    made.guest = made.made = True
    made.init.pid = 1
    made.init.status = RUNNING
    shim.tasks["one"] = made
    monkeypatch.setattr(shim, "_verb", lambda _task, _words, done: pending.append(done))
    pending.clear()
    return made


pending: list[Callable[[int, str], None]] = []


@pytest.mark.parametrize(("code", "answer"), [(0, "answer"), (1, "refusal")])
def test_an_end_is_told_after_the_answers_to_who_killed(
    shim: Shim, task: Task, code: int, answer: str
) -> None:
    """containerd closes its connection once it has heard of the end and deleted the container."""
    said = said_of(shim)
    requests: Any = [Request(said, id="one", signal=9, all=False) for _ in range(2)]
    wait: Any = Request(said, id="one")
    for request in requests:
        shim.do_kill(request)
    shim.ended(task, task.init, 9)
    shim.do_wait(wait)
    assert task.init.status == STOPPED
    pending[0](code, "")
    assert said == [answer]
    pending[1](code, "")
    assert said == [answer, answer, "answer", "TaskExit"]


def test_an_end_that_nobody_brought_about(shim: Shim, task: Task) -> None:
    said = said_of(shim)
    request: Any = Request(said, id="one", signal=1, all=False)
    shim.do_kill(request)
    pending[0](0, "")
    shim.ended(task, task.init, 0)
    assert said == ["answer", "TaskExit"]


def test_it_waits_for_its_workers(shim: Shim, tmp_path: pathlib.Path) -> None:
    """Who asked for what they do gets an answer, also if containerd has no more containers
    meanwhile: a `kill` is not over yet when the end that it brings about is."""
    answered = []
    pid = os.fork()
    if not pid:
        time.sleep(0.2)
        os._exit(0)
    shim.workers[pid] = Worker(pid, str(tmp_path / "log"), lambda *end: answered.append(end))
    shim.leaving = True
    shim.run()
    assert answered == [(0, "")]


def resident_kib() -> int:
    text = pathlib.Path("/proc/self/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Rss:"))


def test_memory_is_given_back() -> None:
    """Of pages that no other copy is needed of; everything works on."""
    before = resident_kib()
    give_back()
    assert resident_kib() < before - 1024
