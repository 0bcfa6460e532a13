# SPDX-License-Identifier: Apache-2.0
"""Our TOML against tomllib's."""

from __future__ import annotations

import json
import pathlib
import sys
import tomllib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib.examples import tries
from urunc import tomltext

KEYS = st.sampled_from(["a", "b", "a.b", "b.a", "a . b", "a.b.c", "-_1", "", '"a"', "é", "a b"])
SCALARS = st.sampled_from(
    ["true", "false", "0", "7", "2_000", "012", "-1", "+1", "1_", "1.5", "0x1f", '""', "''",
     '"x # y"', "'x\\y'", '"x\\ty"', '"""x"""', "'''", '"', "[1", "tru", "1979-05-27", "{}",
     '"=]"', "[[1], 2]", "[ ]", "[,]", "[1,]", "[1,,2]", "[1 2]", '[ "a" , "b" ] ', "é", ""]
)  # fmt: skip
LINES = st.one_of(
    st.builds("{} = {}".format, KEYS, SCALARS),
    st.builds("[{}]".format, KEYS),
    st.builds("{}={} # c".format, KEYS, SCALARS),
    st.builds("x{} = [{}, {}]".format, KEYS, SCALARS, SCALARS),
    st.sampled_from(
        ["", "# c", "[[a]]", "[a] x", "[a] # c", "[a", "\t", "#\x00", "\r", "a", "= 1"]
    ),
    st.text(alphabet="ab.=[]\"'#,_01 \t\\", max_size=12),
)


def outcome(read: Any, text: str) -> str:
    try:
        return json.dumps(read(text))
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    except TypeError:  # a date, which JSON does not know
        return "date"


@tries(3000)
@given(st.lists(LINES, max_size=6).map("\n".join))
@example("a.b = 1\n[a]")
@example("[a]\nb.c = 1\n[a.b]")
@example("[a.b]\n[a]\nb.c = 1")
@example("[a.b]\n[a]\nc = 1")
@example("a = 1\n[a.b]")
@example("a = 1\na.b = 1")
@example("\ufeffa = 1")
def test_as_tomllib(text: str) -> None:
    assert outcome(tomltext.loads, text) == outcome(tomllib.loads, text)


def examples() -> str:
    """The configuration of the documentation."""
    page = pathlib.Path(__file__, "../../../docs/configuration.md").resolve().read_text()
    lines = page.partition("## Example")[2].partition("\n## ")[0].splitlines()
    return "\n".join(line.strip() for line in lines)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "a.b = [ 'c', 2_000, true ]\t# d\n", examples()]
)
def test_without_tomllib(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """What most configurations are made of needs none of the imports."""
    expected = tomllib.loads(text)
    monkeypatch.setitem(sys.modules, "tomllib", None)
    assert tomltext.loads(text) == expected
