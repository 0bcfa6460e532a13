# SPDX-License-Identifier: Apache-2.0
"""The manifest of a saved guest: every field missing, of another type, or too large."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from lib.saved import MANIFEST, A, C
from urunc.errors import SnapshotError
from urunc.record import plain
from urunc.snapshot.manifest import LIMIT_BYTES, parse, written

PLAIN = plain(MANIFEST)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON value."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*path, index))


def changed(path: tuple[Any, ...], value: Any) -> bytes:
    """The manifest with another value at a path; without one for `...`."""
    found = copy.deepcopy(PLAIN)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return json.dumps(found).encode()


def refused(content: bytes) -> str:
    with pytest.raises(SnapshotError) as caught:
        parse(content)
    return str(caught.value)


def test_as_it_was_written() -> None:
    assert parse(written(MANIFEST)) == MANIFEST


@pytest.mark.parametrize("path", list(places(PLAIN)), ids=lambda path: ".".join(map(str, path)))
def test_each_field(path: tuple[Any, ...]) -> None:
    """Of another type, too large, or missing: the message names the field."""
    name = path[-1] if isinstance(path[-1], str) else path[-2]
    value = PLAIN
    for key in path:
        value = value[key]
    wrong: list[Any] = [None, 1.5, -1, 1 << 62, "\x1b", "x" * 10000, [None] * 10000, {"x": 1}]
    if isinstance(value, bool):
        wrong += [0, 1, "true"]
    elif isinstance(value, int):
        wrong += [True, str(value)]
    for other in wrong:
        assert name in refused(changed(path, other)), other
    if isinstance(path[-1], str):
        assert name in refused(changed(path, ...))
        assert "extra" in refused(changed((*path[:-1], "extra"), 1))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "line 1"),
        (b"[]", "no object"),
        (b"\xff", "decode"),
        (b"[" * 100000, "nested too deeply"),
        (b" " * (LIMIT_BYTES + 1), "more than"),
        (b'{"schema": 2}', "schema 2 is not 1"),
        (b'{"schema": NaN}', "NaN"),
    ],
    ids=["empty", "list", "text", "deep", "large", "schema", "number"],
)
def test_no_manifest(content: bytes, words: str) -> None:
    assert words in refused(content)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("files", 0, "name"), "../state", "name"),
        (("files", 0, "name"), "a/b", "name"),
        (("files", 0, "name"), ".", "name"),
        (("files", 0, "name"), "disk-0", "twice"),
        (("disks", 0, "file"), "state", "not as in 'files'"),
        (("disks", 0, "file"), "none", "not as in 'files'"),
        (("disks", 0, "file"), "", "kind 'saved'"),
        (("disks", 0, "size_bytes"), 8, "not as in 'files'"),
        (("disks", 0, "digest"), C, "not as in 'files'"),
        (("disks", 1, "file"), "disk-0", "kind 'same'"),
        (("disks", 1, "digest"), "", "kind 'same'"),
        (("disks", 2, "digest"), A, "kind 'free'"),
        (("disks", 0, "target"), "/a/../b", "path"),
        (("disks", 0, "target"), "disk0", "path"),
        (("kernel",), A.upper(), "digest"),
        (("kernel",), A[1:], "digest"),
        (("accelerator",), "none", "accelerator"),
        (("interfaces", 0, "mac"), "02:00:00:00:00,x=", "mac"),
        (("interfaces", 0, "mac"), "02:00:00:00:00", "mac"),
        (("interfaces",), [PLAIN["interfaces"][0]] * 2, "a tap is there twice"),
    ],
)
def test_what_contradicts_itself(path: tuple[Any, ...], value: Any, words: str) -> None:
    assert words in refused(changed(path, value))
