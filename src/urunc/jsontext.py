# SPDX-License-Identifier: Apache-2.0
"""JSON without the `json` package, whose import costs as much as the whole interpreter's start (it
is `re`).

Parsing uses the C scanner inside CPython; whatever that refuses, and any Python without it, goes to
`json` itself, so that the error is `json`'s. Writing is ours: what urunc writes is small. Fuzzed
against `json` in the unit tests.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["dumps", "loads", "objects", "quote"]

try:
    from _json import encode_basestring_ascii as quote
    from _json import make_scanner

    _SCAN = True
except ImportError:  # a Python that is not CPython
    from json.encoder import encode_basestring_ascii as quote

    _SCAN = False


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class _Context:
    """The attributes that CPython's scanner reads from its `json.JSONDecoder`."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse_constant)
    memo: dict[str, str] = {}


_CONTEXT: Any = _Context
_BLANK = " \t\n\r"


def loads(text: str) -> Any:
    """The value of a JSON text; raises ValueError (with line and column)."""
    if _SCAN:
        try:
            value, end = make_scanner(_CONTEXT)(text, len(text) - len(text.lstrip(_BLANK)))
            if not text[end:].strip(_BLANK):
                return value
        except (StopIteration, ValueError, RecursionError, SystemError):
            pass
    import json

    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects that a program has written one after the other, each on as many lines as it
    likes. Where none begins, the rest of the line is passed over; so is all else that is JSON."""
    scan: Any
    if _SCAN:
        scan = make_scanner(_CONTEXT)
    else:
        from json import JSONDecoder

        scan = JSONDecoder(parse_constant=_refuse_constant).raw_decode
    at = 0
    while at < len(text):
        if text[at] in _BLANK:
            at += 1
            continue
        try:
            value, at = scan(text, at)
        except (StopIteration, ValueError, RecursionError):
            at = text.find("\n", at)
            if at < 0:
                return
            continue
        if isinstance(value, dict):
            yield value


def dumps(value: Any, indent: int = 0) -> str:
    """JSON text of dicts with text keys, lists, tuples, text, numbers, booleans and None."""
    return _dump(value, indent, "\n" if indent else "")


def _dump(value: Any, indent: int, newline: str) -> str:
    if isinstance(value, str):
        return quote(value)
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, int | float):
        text = repr(value)
        return text if "n" not in text else _refuse_constant(text)  # nan, inf
    inner = newline + " " * indent
    if isinstance(value, dict):
        colon = ": " if indent else ":"
        parts = [quote(key) + colon + _dump(item, indent, inner) for key, item in value.items()]
        start, end = "{", "}"
    else:
        parts = [_dump(item, indent, inner) for item in value]
        start, end = "[", "]"
    if not parts:
        return start + end
    return start + inner + ("," + inner).join(parts) + newline + end
