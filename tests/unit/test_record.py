# SPDX-License-Identifier: Apache-2.0
"""Records: made from keywords only, compared and hashed by value, and JSON values in both
directions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urunc.record import plain, rebuild, record, replace


@record
class Leaf:
    name: str
    size: int = 3


@record
class Tree:
    leaf: Leaf
    leaves: tuple[Leaf, ...]
    maybe: Leaf | None
    pairs: tuple[tuple[str, str], ...]
    words: tuple[str, ...] | None
    kinds: frozenset[str]
    table: Mapping[str, str]


LEAVES = st.builds(Leaf, name=st.text(), size=st.integers())
TREES = st.builds(
    Tree,
    leaf=LEAVES,
    leaves=st.lists(LEAVES, max_size=3).map(tuple),
    maybe=st.none() | LEAVES,
    pairs=st.lists(st.tuples(st.text(), st.text()), max_size=3).map(tuple),
    words=st.none() | st.lists(st.text(), max_size=3).map(tuple),
    kinds=st.frozensets(st.text(), max_size=3),
    table=st.dictionaries(st.text(), st.text(), max_size=3),
)


def test_defaults_and_keywords() -> None:
    leaf = Leaf(name="a")
    assert (leaf.name, leaf.size) == ("a", 3)
    assert leaf == Leaf(size=3, name="a")
    assert leaf != Leaf(name="a", size=4)
    assert leaf.__eq__(("a", 3)) is False
    assert repr(leaf) == "Leaf(name='a', size=3)"
    assert len({leaf, Leaf(name="a"), Leaf(name="b")}) == 2


@pytest.mark.parametrize("values", [{}, {"size": 1}, {"name": "a", "colour": 1}, {"colour": 1}])
def test_missing_or_unknown_fields(values: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="missing or unknown fields"):
        Leaf(**values)


def test_replace_copies() -> None:
    leaf = Leaf(name="a")
    other = replace(leaf, size=9)
    assert (other.name, other.size, leaf.size) == ("a", 9, 3)
    with pytest.raises(TypeError, match="colour"):
        replace(leaf, colour="green")


@given(TREES)
def test_plain_and_back(tree: Tree) -> None:
    values = json.loads(json.dumps(plain(tree)))
    again = rebuild(Tree, values)
    assert again == tree
    assert type(again.leaves) is tuple
    assert all(type(pair) is tuple for pair in again.pairs)
    assert type(again.kinds) is frozenset
    assert again.maybe is None or type(again.maybe) is Leaf


def test_sets_are_sorted() -> None:
    assert plain({"a": frozenset(("z", "b", "m"))}) == {"a": ["b", "m", "z"]}


def test_rebuild_refuses_other_fields() -> None:
    with pytest.raises(TypeError, match="unknown fields: colour, weight"):
        rebuild(Leaf, {"name": "a", "weight": 1, "colour": 2})
    with pytest.raises(TypeError, match="name"):
        rebuild(Leaf, {"size": 1})
    with pytest.raises(TypeError, match="colour"):
        rebuild(Tree, {"leaf": {"name": "a", "colour": 1}})
