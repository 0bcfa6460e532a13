# SPDX-License-Identifier: Apache-2.0
"""JSON as text: one member put into a file that somebody has written, and taken out, with all else
left as it is. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from urunc.installer.host import Failure

BLANK = re.compile(r"[ \t\r\n]*")
DECODER = json.JSONDecoder()


@dataclass
class Member:
    """Where a member of an object is: from its name to the end of its value."""

    name: str
    begin: int
    value: int
    end: int


def parse(text: str, path: str) -> dict[str, Any]:
    """A file's object; raises Failure, with the path, where it is none."""
    try:
        found = json.loads(text) if text.strip() else {}
    except json.JSONDecodeError as error:
        raise Failure(
            f"{path}: line {error.lineno}, column {error.colno}: not JSON: {error.msg}"
        ) from None
    if not isinstance(found, dict):
        raise Failure(f"{path}: not a JSON object")
    return found


def with_member(text: str, where: Sequence[str], value: Any) -> str:
    """A text with a member that it lacks, the first of its object; `where` are the names that lead
    to it, of which the outer ones may be missing, too."""
    if not text.strip():
        return json.dumps(_nested(where, value), indent=2) + "\n"
    begin = _skip(text, 0)
    left = list(where)
    while len(left) > 1 and (found := _member(text, begin, left[0])):
        begin = found.value
        del left[0]
    added = f"{json.dumps(left[0])}: {json.dumps(_nested(left[1:], value))}"
    inner = BLANK.match(text, begin + 1)
    blank = inner[0] if inner else ""
    if text[begin + 1 + len(blank)] == "}":
        return f"{text[: begin + 1]}{added}{text[begin + 1 :]}"
    return f"{text[: begin + 1]}{blank}{added},{text[begin + 1 :]}"


def without_member(text: str, where: Sequence[str]) -> str:
    """A text without a member that it has, and without those around it that are empty then."""
    begin = _skip(text, 0)
    for name in where[:-1]:
        found = _member(text, begin, name)
        assert found
        begin = found.value
    members = list(_members(text, begin))
    place = next(i for i, member in enumerate(members) if member.name == where[-1])
    if len(members) == 1:
        if len(where) > 1:
            return without_member(text, where[:-1])
        end = _skip(text, members[0].end)
        return text[: begin + 1] + text[end:]
    if place:
        return text[: members[place - 1].end] + text[members[place].end :]
    return text[: members[0].begin] + text[members[1].begin :]


def _nested(where: Sequence[str], value: Any) -> Any:
    for name in reversed(where):
        value = {name: value}
    return value


def _member(text: str, begin: int, name: str) -> Member | None:
    found = [member for member in _members(text, begin) if member.name == name]
    return found[-1] if found and text[found[-1].value] == "{" else None


def _members(text: str, begin: int) -> Iterator[Member]:
    """Of the object that begins there, in a text that is JSON."""
    place = _skip(text, begin + 1)
    while text[place] != "}":
        name, end = DECODER.raw_decode(text, place)
        value = _skip(text, _skip(text, end) + 1)
        _, end = DECODER.raw_decode(text, value)
        yield Member(name, place, value, end)
        place = _skip(text, end)
        if text[place] == ",":
            place = _skip(text, place + 1)


def _skip(text: str, place: int) -> int:
    found = BLANK.match(text, place)
    return found.end() if found else place
