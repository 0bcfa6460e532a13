# SPDX-License-Identifier: Apache-2.0
"""TOML without `tomllib`, whose import costs more than the interpreter's start (it is `re`,
`typing` and `datetime`).

This reads the usual parts: tables, bare keys, and values on one line that are true, false, whole
numbers, strings without escapes, or lists of these. A text with anything else, or with an error,
goes to `tomllib` as a whole, so that all of TOML is understood and errors are `tomllib`'s. Fuzzed
against it in the unit tests.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Path = tuple[str, ...]

_BLANK = " \t"
_ENDS = " \t,]#"
"""The characters that end a word (true, false, a number)."""


class _Elsewhere(Exception):
    """The text is for `tomllib`."""


def loads(text: str) -> dict[str, Any]:
    """The tables of a TOML text; raises ValueError (with line and column)."""
    try:
        return _Reader().read(text)
    except _Elsewhere:
        import tomllib

        return tomllib.loads(text)


class _Reader:
    """The tables so far, and how each was defined, since TOML forbids to define one twice."""

    def __init__(self) -> None:
        self._root: dict[str, Any] = {}
        self._headed: set[Path] = set()
        self._dotted: set[Path] = set()

    def read(self, text: str) -> dict[str, Any]:
        table: Path = ()
        for whole in text.split("\n"):
            line = whole.strip(_BLANK)
            if not line.replace("\t", " ").isprintable():
                raise _Elsewhere
            if not line or line.startswith("#"):
                continue
            if line.startswith("["):
                name, bracket, rest = line[1:].partition("]")
                table = _keys(name)
                self._head(table)
                if not bracket:
                    raise _Elsewhere
            else:
                name, _, rest = line.partition("=")
                value, rest = _value(rest.lstrip(_BLANK))
                self._set(table, _keys(name), value)
            rest = rest.lstrip(_BLANK)
            if rest and not rest.startswith("#"):
                raise _Elsewhere
        return self._root

    def _head(self, table: Path) -> None:
        if table in self._headed or any(table[: n + 1] in self._dotted for n in range(len(table))):
            raise _Elsewhere
        self._headed.add(table)
        _down(self._root, table)

    def _set(self, table: Path, keys: Path, value: Any) -> None:
        inner = _down(self._root, table)
        for n, name in enumerate(keys[:-1], 1):
            path = table + keys[:n]
            if name in inner and path not in self._dotted:
                raise _Elsewhere
            self._dotted.add(path)
            inner = inner.setdefault(name, {})
        if keys[-1] in inner:
            raise _Elsewhere
        inner[keys[-1]] = value


def _down(table: dict[str, Any], path: Path) -> dict[str, Any]:
    for name in path:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise _Elsewhere
    return table


def _keys(text: str) -> Path:
    keys = tuple(part.strip(_BLANK) for part in text.split("."))
    for key in keys:
        if not key.isascii() or not key.replace("-", "a").replace("_", "a").isalnum():
            raise _Elsewhere
    return keys


def _value(text: str) -> tuple[Any, str]:
    """(the value at the beginning of a text, the rest of the text)."""
    quote = text[:1]
    if quote == "[":
        return _list(text[1:].lstrip(_BLANK))
    if quote in ('"', "'"):
        content, end, rest = text[1:].partition(quote)
        if (
            not end
            or (not content and rest.startswith(quote))
            or (quote == '"' and "\\" in content)
        ):
            raise _Elsewhere
        return content, rest
    length = next((n for n, letter in enumerate(text) if letter in _ENDS), len(text))
    word, rest = text[:length], text[length:]
    if word in ("true", "false"):
        return word == "true", rest
    groups = word.split("_")
    whole = word.isascii() and all(group.isdecimal() for group in groups)
    if not whole or (word.startswith("0") and word != "0"):
        raise _Elsewhere
    return int(word), rest


def _list(text: str) -> tuple[list[Any], str]:
    """(the list whose opening bracket precedes the text, the rest of the text)."""
    items = []
    while not text.startswith("]"):
        item, text = _value(text)
        items.append(item)
        text = text.lstrip(_BLANK)
        if text.startswith(","):
            text = text[1:].lstrip(_BLANK)
        elif not text.startswith("]"):
            raise _Elsewhere
    return items, text[1:]
