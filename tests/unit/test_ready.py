# SPDX-License-Identifier: Apache-2.0
"""What containers say about their start."""

from __future__ import annotations

import pytest

from urunc.bundle.ready import Mark, Wish, check, mark_of, wish_of
from urunc.errors import ImageError

MARK = Mark(kind="port", number=80)


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("line:now: serving", Mark(kind="line", text="now: serving")),
        ("port:65535", Mark(kind="port", number=65535)),
        ("init", Mark(kind="init")),
        ("after:3", Mark(kind="after", number=3)),
    ],
)
def test_marks(text: str, mark: Mark) -> None:
    assert mark_of(text) == mark


@pytest.mark.parametrize(
    "text",
    ["", "line", "line:", "line:a\nb", "line:" + "x" * 257, "port:65536", "port:-1", "port:٣",
     "init:", "after:0", "after:3601", "after:1.5", "Init", "port"],
)  # fmt: skip
def test_no_marks(text: str) -> None:
    with pytest.raises(ValueError):
        mark_of(text)
    with pytest.raises(ImageError, match="annotation 'ready'"):
        check({"ready": text})


@pytest.mark.parametrize("text", ["", "Boot", "boot snapshot", "snapshot boot", "same-random"])
def test_no_starts(text: str) -> None:
    with pytest.raises(ImageError, match="annotation 'start'"):
        check({"start": text})


@pytest.mark.parametrize(
    ("overrides", "snapshots", "wish", "why"),
    [
        ({}, "asked", None, ""),
        ({}, "always", Wish(mark=MARK), ""),
        ({"start": "boot"}, "always", None, ""),
        ({"start": "snapshot"}, "never", None, "start.snapshots"),
        ({"start": "snapshot", "ready": "init"}, "asked", Wish(mark=Mark(kind="init")), ""),
        ({"start": "snapshot same-random"}, "asked", Wish(mark=MARK, same_random=True), ""),
    ],
)
def test_wishes(overrides: dict[str, str], snapshots: str, wish: Wish | None, why: str) -> None:
    found, reason = wish_of(overrides, snapshots, "port:80")
    assert found == wish and why in reason and bool(why) == bool(reason)
    check(overrides)


def test_nobody_says_when() -> None:
    assert wish_of({"start": "snapshot"}, "asked", "")[0] is None
