# SPDX-License-Identifier: Apache-2.0
"""The table of keys.py is whole: every key that the published schema knows has a row, every row a
test, and the documentation shows the same."""

from __future__ import annotations

import copy
import pathlib
import re

import pytest

from lib import key_samples, keys, schema

TESTS = pathlib.Path(__file__).resolve().parent.parent
FOREIGN = {row.keys for row in keys.ROWS if row.fate == "foreign"}


def test_every_key_has_one_row() -> None:
    """Down to where values stand; sections for other platforms as a whole."""
    published = schema.leaves(schema.kept())
    wanted = {key for key in published if key.partition(".")[0] not in FOREIGN} | FOREIGN
    rows = [key for row in keys.ROWS for key in keys.spread(row.keys)]
    assert sorted(rows) == sorted(wanted)


def test_the_list_is_the_schema_s() -> None:
    """The tests keep a list of names; the schema itself is a module of Go's."""
    directory = schema.download()
    if directory is None:
        pytest.skip("needs Go's modules")
    assert schema.kept() == schema.keys(directory)


def test_every_row_has_its_proof() -> None:
    """A test that has the key's own name in it; a value that shows the effect, or is refused."""
    for row in keys.ROWS:
        files = [TESTS / test.replace("/", "/test_") for test in row.tests.split()]
        texts = [path.with_suffix(".py").read_text() for path in files]
        for key in keys.spread(row.keys):
            if row.fate == "effect":
                name = key.split(".")[-1].removesuffix("[]")
                assert any(re.search(rf"\b{name}\b", text) for text in texts), key
                there = keys.remove(copy.deepcopy(key_samples.FULL), key)
                assert there or key in key_samples.APART or key in key_samples.BY_TESTS_ALONE, key
            else:
                assert key in key_samples.SAMPLES
