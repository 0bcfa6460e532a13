# SPDX-License-Identifier: Apache-2.0
"""Plain records: what `dataclasses` would do, without its import (20 ms, twice an interpreter's
start).

Type checkers see a frozen dataclass with keyword-only fields; at run time it is a class whose
instances hold exactly their annotated fields. `plain` and `rebuild` turn records into JSON values
and back.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, TypeVar, dataclass_transform

    T = TypeVar("T")

    @dataclass_transform(kw_only_default=True, frozen_default=True)
    def record(cls: type[T]) -> type[T]: ...
else:

    def record(cls):
        """Give a class with annotated fields a keyword `__init__`, equality and a repr."""
        fields = tuple(cls.__annotations__)
        defaults = {name: cls.__dict__[name] for name in fields if name in cls.__dict__}
        known = frozenset(fields)

        def __init__(self, **values):
            own = self.__dict__
            own.update(defaults)
            own.update(values)
            if len(own) != len(known) or not known.issuperset(values):
                wrong = sorted(known.symmetric_difference(own))
                raise TypeError(f"{cls.__name__}: missing or unknown fields: {', '.join(wrong)}")

        def __eq__(self, other):
            return type(other) is cls and self.__dict__ == other.__dict__

        def __hash__(self):
            return hash(tuple(self.__dict__[name] for name in fields))

        def __repr__(self):
            return f"{cls.__name__}({', '.join(f'{n}={self.__dict__[n]!r}' for n in fields)})"

        for method in (__init__, __eq__, __hash__, __repr__):
            setattr(cls, method.__name__, method)
        cls.record_fields = fields
        return cls


def replace(instance: T, **changes: Any) -> T:
    """A copy of a record with some fields changed."""
    return type(instance)(**{**instance.__dict__, **changes})


def plain(value: Any) -> Any:
    """A record (or a container of records) as JSON values; sets become sorted lists."""
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value)
    return {name: plain(value.__dict__[name]) for name in type(value).record_fields}


def rebuild(cls: type[T], values: Mapping[str, Any]) -> T:
    """The record that `plain` took apart; raises TypeError where the fields are not the class's."""
    annotations = cls.__annotations__
    unknown = [name for name in values if name not in annotations]
    if unknown:
        raise TypeError(f"{cls.__name__}: unknown fields: {', '.join(sorted(unknown))}")
    scope = sys.modules[cls.__module__].__dict__
    return cls(**{name: _value(annotations[name], values[name], scope) for name in values})


def _value(annotation: str, value: Any, scope: Mapping[str, Any]) -> Any:
    """One field's value from its JSON form; the annotation is text (`from __future__ import
    annotations`)."""
    if annotation.endswith(" | None"):
        return None if value is None else _value(annotation[: -len(" | None")], value, scope)
    if annotation.startswith("tuple["):
        item = annotation[len("tuple[") :].partition(",")[0]
        return tuple(_value(item, element, scope) for element in value)
    if annotation.startswith("frozenset["):
        return frozenset(value)
    cls: Any = scope.get(annotation)
    return rebuild(cls, value) if hasattr(cls, "record_fields") else value
