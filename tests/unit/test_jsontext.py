# SPDX-License-Identifier: Apache-2.0
"""urunc.jsontext against the standard library's `json`: the same values, the same refusals."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from urunc import jsontext

TEXT = st.text(st.characters(codec=None, exclude_categories=()))
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    SCALARS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
BLANKS = (" ", "\n", "\t", "\r", "\f", "\0", "\u00a0", "\ufeff")
PIECES = st.sampled_from(BLANKS) | st.sampled_from(
    r"""{ } [ ] , : " "a" \ \u00e9 \ud800 1 - 0 .5 1e9 E true false null"""  # noqa: SIM905 (a long list of words)
    " NaN Infinity -Infinity ' // é".split()
)


def refuse(name: str) -> Any:
    raise ValueError(name)


def judge(text: str) -> tuple[bool, Any]:
    """(accepted, value) by the standard library, constants beyond JSON refused."""
    try:
        return True, json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False, None


def agree(text: str) -> None:
    accepted, value = judge(text)
    if accepted:
        ours = jsontext.loads(text)
        assert ours == value
        assert repr(ours) == repr(value)  # 1 and 1.0 and True are equal
    else:
        with pytest.raises(ValueError):
            jsontext.loads(text)


@given(VALUES)
def test_what_json_writes_is_read(value: Any) -> None:
    for text in (
        json.dumps(value),
        json.dumps(value, indent=3),
        json.dumps(value, ensure_ascii=False),
    ):
        assert repr(jsontext.loads(text)) == repr(json.loads(text))


@given(VALUES)
def test_what_is_written_json_reads(value: Any) -> None:
    assert jsontext.dumps(value) == json.dumps(value, separators=(",", ":"))


@given(VALUES, st.integers(1, 5))
def test_indented_text_is_that_of_json(value: Any, indent: int) -> None:
    assert jsontext.dumps(value, indent) == json.dumps(value, indent=indent)


@given(st.lists(PIECES, max_size=14).map("".join))
@example("")
@example("\ufeff{}")
@example("[1,]")
@example("{} {}")
def test_pieces_of_json_are_judged_as_by_json(text: str) -> None:
    agree(text)


@given(TEXT)
def test_any_text_is_judged_as_by_json(text: str) -> None:
    agree(text)


@given(VALUES, st.data())
def test_damaged_json_is_judged_as_by_json(value: Any, data: st.DataObject) -> None:
    text = json.dumps(value)
    place = data.draw(st.integers(0, len(text)))
    inserted = data.draw(PIECES | st.just(""))
    agree(text[:place] + inserted + text[place + 1 :])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a":1,"a":2}', {"a": 2}),
        (" \t\r\n[ ] \n", []),
        (r'"\ud83d\ude00"', "\U0001f600"),
        (r'"\ud83d"', "\ud83d"),
        (r'"\ude00\ud83d"', "\ude00\ud83d"),
        ("1" + "0" * 400, 10**400),
        ("-0", 0),
        ("1e400", math.inf),
        ('"\u00a0"', "\u00a0"),
        ('"\x7f"', "\x7f"),
    ],
)
def test_values(text: str, value: Any) -> None:
    assert jsontext.loads(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "[Infinity]",
        '{"a":-Infinity}',
        "\u00a01",
        "\f1",
        "1\v",
        "'a'",
        '"\n"',
        '"\0"',
        "{1:2}",
        "01",
    ],
)
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        jsontext.loads(text)


def test_the_message_has_the_place() -> None:
    with pytest.raises(ValueError, match=r"line 2 column 8"):
        jsontext.loads('{\n  "a": ?}')


def test_deep_nesting_is_an_error_of_its_own() -> None:
    assert jsontext.loads("[" * 200 + "]" * 200) == json.loads("[" * 200 + "]" * 200)
    with pytest.raises(ValueError, match="nested too deeply"):
        jsontext.loads("[" * 200_000)


def test_a_number_of_too_many_digits_is_refused() -> None:
    with pytest.raises(ValueError):
        jsontext.loads("1" * 10_000)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [math.nan], {"a": math.inf}])
def test_what_json_cannot_say_is_not_written(value: Any) -> None:
    with pytest.raises(ValueError):
        jsontext.dumps(value)


def test_tuples_are_arrays() -> None:
    assert jsontext.dumps({"a": (1, ("b",))}) == '{"a":[1,["b"]]}'
    assert jsontext.dumps([[], {}], indent=2) == "[\n  [],\n  {}\n]"


@given(
    st.lists(VALUES, max_size=5), st.sampled_from([None, 0, 2]), st.sampled_from(["\n", "", " "])
)
def test_objects_one_after_the_other(values: list[Any], indent: int | None, between: str) -> None:
    """However they are laid out; what else is JSON is no object."""
    values = [value if isinstance(value, dict | list) else [value] for value in values]
    text = between.join(json.dumps(value, indent=indent) for value in values)
    assert list(jsontext.objects(text)) == [value for value in values if isinstance(value, dict)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ('no JSON\n{"a": 1}\n', [{"a": 1}]),
        ('{"a": 1} and more {"b": 2}\n{"c": 3}', [{"a": 1}, {"c": 3}]),
        ('{"a": 1}\n{\n  "b": 2,\n  "c', [{"a": 1}]),
        ('{"a": NaN}\n{"b": 2}', [{"b": 2}]),
        ("[" * 100_000, []),
    ],
)
def test_objects_among_other_things(text: str, expected: list[Any]) -> None:
    assert list(jsontext.objects(text)) == expected
