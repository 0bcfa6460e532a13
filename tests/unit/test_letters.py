# SPDX-License-Identifier: Apache-2.0
"""What the processes of a container tell each other arrives as it was said; between versions,
too."""

from __future__ import annotations

import json
import os

import pytest

from urunc.init import letters
from urunc.init.letters import Channel, MonitorExec, Prepare, Problem, Start
from urunc.init.steps import HostName, pack, unpack
from urunc.monitors import Launch

EXEC = MonitorExec(
    argv=("/q", "-M"), files={"/run/a": "é\n"}, claims=("/dev/a",), held=(), streams=True
)
STEPS = [HostName(hostname="a", domainname=""), HostName(hostname="b", domainname="c")]
SAID = [
    letters.MapIds(),
    letters.Proceed(),
    letters.Forked(pid=7),
    letters.RunHooks(state='{"id": "a"}'),
    Prepare(unshare=1, steps=pack([*STEPS]), launch=EXEC, filters=((0, "00ff"), (1, ""))),
    letters.Done(),
    Problem(error="no\nway", hint="none"),
]


def test_lines() -> None:
    """All kinds of letters, several in one read."""
    assert {type(letter).__name__ for letter in SAID} == set(letters.LETTERS)
    read_fd, write_fd = os.pipe()
    channel = Channel(read_fd, write_fd)
    for letter in SAID:
        channel.send(letter)
    assert [channel.receive() for _ in SAID] == SAID
    with pytest.raises(TimeoutError):
        channel.receive(0.01)
    os.close(channel.write_fd)
    assert channel.receive() is None
    os.close(channel.read_fd)


def test_steps() -> None:
    prepare = letters.from_line(letters.line(SAID[4]))
    assert unpack(prepare.steps) == STEPS


def test_what_init_needs_of_a_launch() -> None:
    launch = Launch(
        argv=EXEC.argv, files=EXEC.files, devices=("/dev/kvm",), seccomp="own",
        claims=EXEC.claims, held=EXEC.held, streams=True,
    )  # fmt: skip
    assert letters.monitor_exec(launch) == EXEC


@pytest.mark.parametrize("launch", [None, EXEC])
def test_start(launch: MonitorExec | None) -> None:
    start = Start(launch=launch, state="{}")
    assert letters.start_of(letters.whole(start)) == start


def test_between_versions() -> None:
    """A container that another version has created, or starts: urunc 0.1.0 had these objects."""
    assert letters.start_of(b'{"launch": {}, "state": "{}"}') == Start(launch=None, state="{}")
    assert letters.problem_of(b'{"error": "no"}\n') == Problem(error="no")
    said = json.loads(letters.whole(Start(launch=EXEC, state="{}")))
    assert said["launch"].keys() == {"argv", "files", "claims", "held", "streams"}
    assert not json.loads(letters.whole(Start(launch=None, state="{}")))["launch"]
    said = json.loads(letters.whole(Problem(error="no", hint="so")))
    assert said == {"error": "no", "hint": "so"}
