# SPDX-License-Identifier: Apache-2.0
"""What checks are made of: a check itself, a watch over what a pure function must not do, and
comparisons."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, get_args, get_origin, get_type_hints

from urunc.errors import Error
from urunc.record import plain

IMPURE = ("os.", "socket.", "subprocess.", "shutil.", "tempfile.", "fcntl.", "ctypes.", "syslog.")
"""Beginnings of the audit events (sys.audit) that a pure function never raises, beside `open`."""
_listening: list[list[str]] = []
"""Where events go, the innermost `pure` last."""


class Check:
    """One check of one guest or monitor: called, it raises AssertionError; its text is its name."""

    def __init__(self, name: str, run: Callable[[], None]) -> None:
        self.name = name
        self.run = run

    def __call__(self) -> None:
        self.run()

    def __str__(self) -> str:
        return self.name


def checks_of(
    kind: str, make: Callable[[], Any], runs: Mapping[str, Callable[[Any], None]]
) -> list[Check]:
    """The checks of what `make` returns, a guest or a monitor (`kind`): each is called with
    `make`."""
    name = make().name or kind
    return [Check(f"{name}-{check}", partial(run, make)) for check, run in runs.items()]


def problems(checks: Iterable[Check]) -> list[str]:
    """Run all checks; the messages of those that fail, `NAME: MESSAGE`."""
    found = []
    for check in checks:
        try:
            check()
        except AssertionError as error:
            found.append(f"{check}: {error}")
        except Exception as error:
            found.append(f"{check}: raises {type(error).__name__} ({error})")
    return found


def wrong(what: str, why: str) -> AssertionError:
    """The error for an input (`what`) and what is wrong with its outcome."""
    return AssertionError(f"{what}: {why}")


def outcome(what: str, error: type[Error], call: Callable[[], Any]) -> Any:
    """A call's value, None where it raises `error` as it may, with a message of one line."""
    try:
        return call()
    except error as raised:
        one_line(what, raised.message)
        return None
    except Exception as raised:
        reason = f"raises {type(raised).__name__} ({raised}), not {error.__name__}"
        raise wrong(what, reason) from raised


def one_line(what: str, text: object) -> None:
    """Whether a message for the user is one: a line of text."""
    if not isinstance(text, str) or not text.strip():
        raise wrong(what, f"a message is {text!r}, not a line of text")
    if "\n" in text:
        raise wrong(what, f"a message has several lines: {text!r}")


def texts(what: str, values: object) -> None:
    """Whether a value is a tuple of texts that a program can be given: UTF-8 without a NUL."""
    if not isinstance(values, tuple):
        raise wrong(what, f"a {type(values).__name__}, not a tuple")
    for value in values:
        text(what, value)


def text(what: str, value: object) -> None:
    """Whether a value is such a text."""
    if not isinstance(value, str):
        raise wrong(what, f"{value!r} is no text")
    if "\0" in value:
        raise wrong(what, f"{value!r} holds a NUL, which no command line can")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise wrong(what, f"{value!r} is not UTF-8") from None


def all_differ(field: str, results: Iterable[tuple[str, Any]], told: str) -> None:
    """Whether inputs that differ have results that differ: else a part of them was dropped, and
    nobody told. None stands for an input that was refused."""
    seen: dict[Any, str] = {}
    for what, result in results:
        if result is None:
            continue
        if result in seen:
            raise wrong(
                f"{field} {what}", f"the outcome is that of {seen[result]}: {told} {result!r:.300}"
            )
        seen[result] = what


def repeatable(
    what: str, kind: str, make: Callable[[], Any], asked: Any, call: Callable[[Any], object]
) -> None:
    """Whether a call of a guest's or monitor's (`kind`) gives the same for the same request or
    machine (`asked`), of another instance, too, and changes nothing."""
    instance, given = make(), type(asked).__name__.lower()
    before, state, fixed = plain(asked), copy.deepcopy(vars(instance)), _fixed(instance)
    result = call(instance)
    if plain(asked) != before:
        raise wrong(what, f"changes its {given}")
    if vars(instance) != state or _fixed(instance) != fixed:
        raise wrong(what, f"changes the {kind}")
    if call(instance) != result or call(make()) != result:
        raise wrong(what, f"two calls with one {given} differ")


def _fixed(instance: object) -> dict[str, str]:
    return {name: repr(value) for name, value in vars(type(instance)).items()}


@contextmanager
def pure(what: str) -> Iterator[None]:
    """Whether what runs within touches no file, process or socket."""
    _hook()
    events: list[str] = []
    _listening.append(events)
    try:
        yield
    finally:
        _listening.pop()
    if events:
        raise wrong(what, f"not pure: {', '.join(sorted(set(events)))}")


@cache
def _hook() -> None:
    """Have this process's events heard: a hook cannot be taken back."""
    sys.addaudithook(_hear)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _listening and (event == "open" or event.startswith(IMPURE)):
        _listening[-1].append(f"{event} {arguments[0]!r}" if arguments else event)


def typed(instance: object, base: type) -> None:
    """Whether a subclass's attributes have the types of those of its base."""
    hints = {**_own(base), **_annotated(base)}
    for name, hint in hints.items():
        value = getattr(instance, name)
        if not _fits(value, hint):
            raise wrong(f"attribute {name}", f"{value!r} is no {getattr(hint, '__name__', hint)}")


def _own(base: type) -> dict[str, Any]:
    kinds = (str, int, bool, tuple, frozenset)
    return {name: type(value) for name, value in vars(base).items() if type(value) in kinds and
            not name.startswith("__")}  # fmt: skip


def _annotated(base: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, hint in base.__annotations__.items():
        try:
            found[name] = get_type_hints(_holding(base, name, hint))[name]
        except NameError:
            continue  # a type that only type checkers see: the value's own type is looked at
    return found


def _holding(base: type, name: str, hint: Any) -> type:
    return type("Held", (), {"__annotations__": {name: hint}, "__module__": base.__module__})


def _fits(value: object, hint: Any) -> bool:
    kind = get_origin(hint) or hint
    if kind in (bool, int):
        return type(value) is kind
    if not isinstance(kind, type):
        return True
    if not isinstance(value, kind):
        return False
    inner = get_args(hint)
    if isinstance(value, (tuple, frozenset)) and inner and isinstance(inner[0], type):
        return all(isinstance(item, inner[0]) for item in value)
    return True


def known(name: str, values: Iterable[str], table: Iterable[str]) -> None:
    """Whether an attribute's values are among those that there are."""
    table = list(table)
    for value in values:
        if value not in table:
            raise wrong(f"attribute {name}", f"'{value}' is none of {', '.join(table)}")
