# SPDX-License-Identifier: Apache-2.0
"""Who carries out a container's verbs, in words; tests/root/test_plan_door.py has the facts."""

from __future__ import annotations

import pathlib

import pytest

from urunc.cli.by_door import in_words, left

NONE = dict.fromkeys(("start", "state", "kill", "delete"), "")


@pytest.mark.parametrize(
    ("verbs", "words"),
    [
        (NONE, "start, state, kill KILL, delete without Python"),
        (
            NONE | {"delete": "poststop hooks"},
            "start, state, kill KILL without Python; delete takes Python (poststop hooks)",
        ),
        (
            NONE | {"start": "its network", "delete": "its network"},
            "state, kill KILL without Python; start, delete take Python (its network)",
        ),
        (
            dict.fromkeys(NONE, "URUNC_DOOR=off"),
            "start, state, kill KILL, delete take Python (URUNC_DOOR=off)",
        ),
    ],
)
def test_in_words(verbs: dict[str, str], words: str) -> None:
    assert in_words(verbs) == words


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "no recipe: no such file or directory"),
        ("urunc recipe 0\0", "another version of urunc has left the recipe"),
        ("urunc recipe 1\0a\0b", "the recipe is damaged"),
        ("urunc recipe 1\0" + "x\0" * 20, "the recipe is damaged"),
    ],
)
def test_no_recipe(tmp_path: pathlib.Path, content: str | None, why: str) -> None:
    if content is not None:
        (tmp_path / "recipe").write_text(content)
    assert left(str(tmp_path), NONE) == dict.fromkeys(NONE, why)
