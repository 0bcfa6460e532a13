# SPDX-License-Identifier: Apache-2.0
"""Reads config.json, and a JSON document field by field; every error names the field by its path.

Serves config.json and the resources that `update` reads. Changes nothing and knows no field.
"""

from __future__ import annotations

from urunc.errors import SpecError, reason
from urunc.jsontext import loads
from urunc.linux.files import read_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

CONFIG = "config.json"
CONFIG_LIMIT_BYTES = 16 << 20
INT64_MAXIMUM = (1 << 63) - 1

WORDS = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
}


def read_document(bundle: str) -> Any:
    """The JSON value of a bundle's config.json, unchecked but for being JSON."""
    path = f"{bundle}/config.json"
    try:
        content = read_bytes(path, CONFIG_LIMIT_BYTES)
    except OSError as error:
        hint = (
            "a bundle is a directory with a config.json and a root filesystem; "
            "`urunc spec` writes one"
        )
        raise SpecError(f"read '{path}': {reason(error)}", hint) from None
    if len(content) > CONFIG_LIMIT_BYTES:
        raise SpecError(f"read '{path}': larger than {CONFIG_LIMIT_BYTES} bytes")
    try:
        return loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise SpecError(f"parse '{path}': not UTF-8 at byte {error.start}") from None
    except ValueError as error:
        raise SpecError(f"parse '{path}': not JSON: {error}") from None


class Object:
    """A JSON object and its path in the document. null counts as absent, as in Go's decoder.

    The readers return the field's value, or an empty one if it is absent (None for `get` and
    `number`), and raise SpecError for a value of another type or beyond its bounds.
    """

    def __init__(self, value: Any, path: str, document: str = CONFIG) -> None:
        self.path = path
        self.document = document
        if not isinstance(value, dict):
            raise self.wrong("", f"expected an object, found {WORDS[type(value)]}")
        self.value = value

    def wrong(self, key: str, what: str, hint: str = "") -> SpecError:
        """The error for a field of this object (or, without a key, for the object itself)."""
        where = self.at(key) if key else self.path or "the document"
        return SpecError(f"{self.document}: {where}: {what}", hint)

    def at(self, key: str) -> str:
        """The path of a field."""
        return f"{self.path}.{key}" if self.path else key

    def names(self, key: str) -> tuple[str, ...]:
        """The names in an object whose names are free."""
        items = self.get(key, dict) or {}
        for name in items:
            self._check_text(name, f"{key}[{name!r}]")
        return tuple(items)

    def get(self, key: str, kind: type, *, required: bool = False) -> Any:
        value = self.value.get(key)
        if value is None:
            if required:
                raise self.wrong(key, "missing")
            return None
        if type(value) is not kind:
            raise self.wrong(key, f"expected {WORDS[kind]}, found {WORDS[type(value)]}")
        return value

    def object(self, key: str, *, required: bool = False) -> Object:
        return Object(self.get(key, dict, required=required) or {}, self.at(key), self.document)

    def objects(self, key: str) -> list[Object]:
        items = self.get(key, list) or []
        return [
            Object(item, f"{self.at(key)}[{index}]", self.document)
            for index, item in enumerate(items)
        ]

    def text(self, key: str, *, required: bool = False) -> str:
        value: str = self.get(key, str, required=required) or ""
        if required and not value:
            raise self.wrong(key, "empty")
        self._check_text(value, key)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        items = self.get(key, list) or []
        for index, item in enumerate(items):
            if type(item) is not str:
                raise self.wrong(f"{key}[{index}]", f"expected a string, found {WORDS[type(item)]}")
            self._check_text(item, f"{key}[{index}]")
        return tuple(items)

    def texts_of(self, key: str, known: Collection[str]) -> tuple[str, ...]:
        """An array of strings, each of which is one of `known`."""
        items = self.texts(key)
        for index, item in enumerate(items):
            if item not in known:
                words = ", ".join(known)
                raise self.wrong(f"{key}[{index}]", f"unknown '{item}'", f"known: {words}")
        return items

    def text_map(self, key: str) -> dict[str, str]:
        items = self.get(key, dict) or {}
        for name, item in items.items():
            self._check_text(name.replace("\0", ""), f"{key}[{name!r}]")
            if type(item) is not str:
                where = f"{key}[{name!r}]"
                raise self.wrong(where, f"expected a string, found {WORDS[type(item)]}")
            if not item.isascii():  # a NUL may be in an annotation that is not for us
                self._check_text(item.replace("\0", ""), f"{key}[{name!r}]")
        return dict(items)

    def boolean(self, key: str) -> bool:
        return bool(self.get(key, bool))

    def number(self, key: str, minimum: int = 0, maximum: int = 1 << 63) -> int | None:
        value: int | None = self.get(key, int)
        if value is not None and not minimum <= value <= maximum:
            raise self.wrong(key, f"{value} is not between {minimum} and {maximum}")
        return value

    def numbers(self, key: str, minimum: int = 0, maximum: int = 1 << 63) -> tuple[int, ...]:
        items = self.get(key, list) or []
        for index, item in enumerate(items):
            if type(item) is not int:
                raise self.wrong(
                    f"{key}[{index}]", f"expected a whole number, found {WORDS[type(item)]}"
                )
            if not minimum <= item <= maximum:
                raise self.wrong(
                    f"{key}[{index}]", f"{item} is not between {minimum} and {maximum}"
                )
        return tuple(items)

    def one_of(self, key: str, known: tuple[str, ...]) -> str:
        """A string that is one of `known`, "" if absent."""
        value = self.text(key)
        if value and value not in known:
            raise self.wrong(key, f"unknown '{value}'", f"known: {', '.join(known)}")
        return value

    def _check_text(self, value: str, where: str) -> None:
        if "\0" in value:
            raise self.wrong(where, "holds a NUL character")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:  # JSON's \ud800 alone: no file or argument can hold it
                raise self.wrong(where, "holds half of a surrogate pair") from None
