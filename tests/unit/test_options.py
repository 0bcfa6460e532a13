# SPDX-License-Identifier: Apache-2.0
"""The command line's parser: options before and after the id, both forms, and what it refuses."""

from __future__ import annotations

import pytest

from urunc.cli.events import seconds
from urunc.cli.help import describe
from urunc.cli.kill import signal_number
from urunc.cli.options import CREATE, FLAG, GLOBAL, VALUE, Arguments, parse
from urunc.errors import UsageError

TABLE = {**CREATE, "--force": (FLAG, "force"), "--all": (FLAG, "all"), "--format": (VALUE, "form")}


def parsed(*words: str) -> Arguments:
    arguments = Arguments(list(words))
    assert parse(list(words), TABLE, arguments, stop=False) == len(words)
    return arguments


@pytest.mark.parametrize(
    "words",
    [
        ["--bundle", "/b", "--force", "box"],
        ["box", "--bundle", "/b", "--force"],
        ["--bundle=/b", "box", "--force=true"],
        ["-b", "/b", "-f", "box"],
        ["-b=/b", "box", "-f"],
        ["--bundle", "/x", "--bundle", "/b", "--force=false", "--force", "box"],
        ["--bundle=/b", "--force", "--", "box"],
    ],
)
def test_forms(words: list[str]) -> None:
    arguments = parsed(*words)
    assert arguments.words == ["box"]
    assert arguments.get("--bundle") == "/b"
    assert arguments.has("--force")
    assert not arguments.has("--all")


def test_values_are_taken_as_they_stand() -> None:
    arguments = parsed("--bundle", "--force", "--pid-file", "", "--format=a=b")
    assert arguments.options == {"--bundle": "--force", "--pid-file": "", "--format": "a=b"}
    assert arguments.get("--pid-file", "default") == ""
    assert arguments.get("--console-socket", "default") == "default"


def test_words() -> None:
    assert parsed("--", "--force", "-x", "--").words == ["--force", "-x", "--"]
    assert parsed("-", "a").words == ["-", "a"]
    assert not parsed("--force=false").has("--force")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--colour"], "unknown option '--colour'"),
        (["--colour=red"], "unknown option '--colour'"),
        (["-x"], "unknown option '-x'"),
        (["box", "--bundle"], "option '--bundle': value missing"),
        (["-b"], "option '--bundle': value missing"),
        (["--force=maybe"], "option '--force': 'maybe' is neither true nor false"),
        (["--forc"], "unknown option '--forc'"),
    ],
)
def test_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed(*words)
    assert caught.value.message == message


def test_global_options_stop_at_the_verb() -> None:
    words = ["--root", "/r", "--debug", "create", "--bundle", "/b", "box"]
    arguments = Arguments(words)
    assert parse(words, GLOBAL, arguments, stop=True) == 3
    assert (arguments.get("--root"), arguments.has("--debug"), arguments.words) == ("/r", True, [])


def test_only() -> None:
    assert parsed("box", "TERM").only("container id", "signal") == ["box", "TERM"]
    with pytest.raises(UsageError, match="container id missing"):
        parsed().only("container id")
    with pytest.raises(UsageError, match="signal missing"):
        parsed("box").only("container id", "signal")
    with pytest.raises(UsageError, match="unexpected argument 'more'"):
        parsed("box", "more").only("container id")


def test_describe() -> None:
    assert describe({"--a": (FLAG, "one"), "--file": (VALUE, "two")}) == (
        "  --a           one\n  --file VALUE  two\n"
    )
    assert describe({}) == ""


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", 15), ("SIGTERM", 15), ("sigterm", 15), ("15", 15), ("0", 0), ("KILL", 9),
        ("WINCH", 28), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("RTMAX", 64), ("RTMAX-1", 63),
    ],
)  # fmt: skip
def test_signals(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "NOPE", "65", "-9", "SIG", "_DFL", "RTMIN-1", "RTMAX+1", "RTMIN+x", "RTMIN+"]
)
def test_no_signals(text: str) -> None:
    with pytest.raises(UsageError, match="unknown"):
        signal_number(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("5s", 5), ("100ms", 0.1), ("1m30s", 90), ("1.5h", 5400), ("1us", 1e-6)]
)
def test_times(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "5", "s", "5x", "1..5s", "0s", "-1s", ".s"])
def test_no_times(text: str) -> None:
    with pytest.raises(UsageError, match="--interval"):
        seconds(text)
