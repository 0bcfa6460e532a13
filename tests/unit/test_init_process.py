# SPDX-License-Identifier: Apache-2.0
"""What `create` hears of its init, which works while it goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from urunc.errors import InitError
from urunc.init.letters import Channel, Done, MonitorExec, Prepare, Problem, line
from urunc.lifecycle.init_process import InitProcess

PREPARE = Prepare(
    unshare=0,
    steps=(),
    launch=MonitorExec(argv=("/monitor",), files={}, claims=(), held=(), streams=False),
    filters=(),
)


class Init:
    """The other end of the talk."""

    def __init__(self) -> None:
        self.hears, to_init = os.pipe()
        from_init, self.says = os.pipe()
        self.process = InitProcess(timeout_s=1)
        self.process.begin(Channel(from_init, to_init))

    def say(self, letter: object) -> None:
        os.write(self.says, line(letter))

    def end(self) -> None:
        os.close(self.hears)
        os.close(self.says)


@pytest.fixture
def init() -> Iterator[Init]:
    yield Init()


def test_told_before_it_is_in_its_place(init: Init) -> None:
    init.process.say(PREPARE)
    init.say(Done())
    init.say(Done())
    init.process.hear()
    assert b"Prepare" in os.read(init.hears, 1 << 16)
    init.end()
    init.process.hear()  # nothing is left to be heard


def test_each_answer_is_waited_for(init: Init) -> None:
    init.process.say(PREPARE)
    init.say(Done())
    with pytest.raises(InitError, match="init did not answer within 1 s"):
        init.process.hear()


@pytest.mark.parametrize("told", [False, True])
def test_a_problem_on_the_way_to_its_place(init: Init, *, told: bool) -> None:
    """Whoever hears next, or tells it something, has what it reported."""
    if told:
        init.process.say(PREPARE)
    init.say(Problem(error="join control group", hint="look"))
    init.end()
    with pytest.raises(InitError, match="join control group"):
        if told:
            init.process.hear()
        else:
            init.process.say(PREPARE)


def test_a_problem_with_its_steps(init: Init) -> None:
    init.process.say(PREPARE)
    init.say(Done())
    init.say(Problem(error="bind"))
    init.end()
    with pytest.raises(InitError, match="bind"):
        init.process.hear()


def test_it_ends_without_a_word(init: Init) -> None:
    init.say(Done())
    init.process.hear()
    init.end()
    with pytest.raises(InitError, match="init died while it was set up"):
        init.process.say(PREPARE)
