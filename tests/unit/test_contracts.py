# SPDX-License-Identifier: Apache-2.0
"""urunc's own guests and monitors, held against their contracts by the kit that ships for others;
and that the kit finds what is wrong."""

from __future__ import annotations

import functools
import pathlib
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from lib.made import config
from urunc import guests, monitors, plugins
from urunc.errors import HostError
from urunc.guests import Guest, Request, Words, joined
from urunc.guests.template import Template
from urunc.monitors import Monitor
from urunc.testing import (
    Check,
    guest_checks,
    matches_golden,
    monitor_checks,
    problems,
    request,
    words_text,
)

LINE = (
    "net.ip={ip}/{prefix} gw={gateway} host={hostname} six={ipv6}/{ipv6_prefix} "
    "six-gw={ipv6_gateway} {env} -- {args}"
)
LIMITS = {"guests": 120, "monitors": 160}
"""Room → the most lines of a module there: what a new one may cost."""
LARGER = {
    "guests/linux_config.py": "the configuration of urunc's own init",
    "guests/linux_line.py": "the kernel's parser, for guests without urunc's init",
    "guests/unikraft.py": "eight dialects, by version",
    "monitors/firecracker.py": "its API and exit codes",
    "monitors/qemu.py": "two boards, its protocol, streams and shares",
    "monitors/qemu_snapshots.py": "how it saves a guest",
}
"""Those that may be larger, and why."""


def template() -> Guest:
    return Template("mykernel", LINE, ["initrd"])


def own_guests() -> list[Check]:
    made: list[Callable[[], Guest]] = [template]
    made += [functools.partial(guests.load, name, config()) for name in guests.BUILT_IN]
    return [check for make in made for check in guest_checks(make)]


def own_monitors() -> list[Check]:
    made = [functools.partial(monitors.load, name, config()) for name in monitors.BUILT_IN]
    return [check for make in made for check in monitor_checks(make)]


@pytest.mark.parametrize("check", [*own_guests(), *own_monitors()], ids=str)
def test_ours(check: Check) -> None:
    check()


@pytest.mark.parametrize("room", LIMITS)
def test_a_module_is_short(room: str) -> None:
    """One that is longer is known, with its reason; one that is not any more is struck off."""
    directory = pathlib.Path(guests.__file__).parents[1]
    for path in sorted((directory / room).glob("[!_]*.py")):
        name = str(path.relative_to(directory))
        longer = len(path.read_text().splitlines()) > LIMITS[room]
        assert longer == (name in LARGER), name


class Good(Guest):
    """A made-up guest."""

    contract = guests.CONTRACT
    name = "good"
    storage = frozenset(("initrd",))
    takes_environment = False
    max_addressed = 0

    def words(self, request: Request) -> Words:
        return Words(program="", words=(joined(request.args, "good"),))


def changed(**members: Any) -> type[Guest]:
    """The good guest, with other members."""
    return type("Bad", (Good,), {"__doc__": "A made-up guest.", **members})


def remembered(self: Good, request: Request) -> Words:
    vars(self).setdefault("seen", []).append(request)
    return Good.words(self, request)


def of_the_clock(_guest: Guest, request: Request) -> Words:
    return Words(program="", words=(str(time.monotonic_ns()), *request.args))


def from_a_file(_guest: Guest, request: Request) -> Words:
    return Words(program=pathlib.Path("/etc/hostname").parent.joinpath("hosts").read_text()[:0],
                 words=request.args)  # fmt: skip


WRONG: dict[str, tuple[type[Guest], str]] = {
    "a part is dropped": (
        changed(words=lambda _, asked: Words(program="", words=asked.args[:2])),
        "arguments: args",
    ),
    "what is dropped is said to be taken": (changed(takes_environment=True), "environment"),
    "a list in place of a tuple": (
        changed(words=lambda _, asked: Words(program="", words=list(asked.args))),  # type: ignore[arg-type]  # on purpose
        "a list, not a tuple",
    ),
    "another error": (
        changed(words=lambda _, asked: Words(program="", words=(asked.args[0],))),
        "raises IndexError",
    ),
    "no text": (changed(words=lambda _, asked: "words"), "returns a str, not Words"),
    "an omission of two lines": (
        changed(omissions=lambda _, asked: ["one\ntwo"]),
        "several lines",
    ),
    "a memory": (changed(words=remembered), "changes the guest"),
    "the clock": (changed(words=of_the_clock), "two calls with one request differ"),
    "a file": (changed(words=from_a_file), "not pure: open '/etc/hosts'"),
    "an attribute's type": (changed(max_addressed="1"), "attribute max_addressed"),
    "a name": (changed(name="Bad Name"), "attribute name"),
    "a way to stop": (changed(stops_on=frozenset(("a-bell",))), "'a-bell' is none of"),
}


def test_a_good_one() -> None:
    assert problems(guest_checks(Good)) == []


@pytest.mark.parametrize("case", WRONG)
def test_what_the_kit_finds(case: str) -> None:
    cls, words = WRONG[case]
    found = problems(guest_checks(cls))
    assert any(words in message for message in found), found


class Small(Monitor):
    """A made-up monitor."""

    contract = monitors.CONTRACT
    name = "small"


def test_what_it_finds_of_a_monitor() -> None:
    """Of one that nobody has written yet, each thing that is missing."""
    found = "\n".join(problems(monitor_checks(Small)))
    assert "small-attributes" in found and "small-launch" in found


def test_golden_files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "golden.json"
    text = words_text(Good().words(request(args=("app", "a"))))
    with pytest.raises(AssertionError, match="not there; write it with"):
        matches_golden(file, text)
    monkeypatch.setenv("URUNC_UPDATE_GOLDEN", "1")
    matches_golden(file, text)
    monkeypatch.delenv("URUNC_UPDATE_GOLDEN")
    matches_golden(file, text)
    with pytest.raises(AssertionError, match="not what comes out now"):
        matches_golden(file, text + " ")


class Point:
    """An entry point of somebody's package."""

    name, value, dist = "good", "package:Class", None

    def __init__(self, found: object) -> None:
        self.found = found

    def load(self) -> object:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


class Broken(Good):
    def __init__(self) -> None:
        raise ValueError("no such thing")


PLUGINS: dict[str, tuple[object, str]] = {
    "it does not load": (ImportError("no module 'x'"), "does not load: ImportError: no module"),
    "no class": (words_text, "is no subclass of urunc.guests.Guest"),
    "another class": (dict, "is no subclass of urunc.guests.Guest"),
    "no version": (changed(contract=0), "states no version of the contract"),
    "another version": (changed(contract=99), "is written for version 99 of the contract"),
    "another name": (changed(name="other"), "calls itself 'other'"),
    "it cannot be made": (Broken, "cannot be made: ValueError: no such thing"),
}


@pytest.mark.parametrize("case", PLUGINS)
def test_plugins_that_do_not_fit(case: str) -> None:
    """One error, of one line, that says whose it is and what to do."""
    found, words = PLUGINS[case]
    point: Any = Point(found)
    with pytest.raises(HostError, match=re.escape(words)) as caught:
        plugins.made("guest", point, Guest, guests.CONTRACT)
    assert "\n" not in str(caught.value) and caught.value.hint


def test_a_plugin_that_fits() -> None:
    point: Any = Point(Good)
    assert isinstance(plugins.made("guest", point, Guest, guests.CONTRACT), Good)
