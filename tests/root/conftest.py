# SPDX-License-Identifier: Apache-2.0
"""The container that most of these tests make."""

from __future__ import annotations

import pathlib

import pytest

from lib.support import PARTS, Bundle, need


@pytest.fixture
def bundle(tmp_path: pathlib.Path) -> Bundle:
    """The probe on Solo5's spt: nothing but Linux is needed."""
    need("solo5", "probe")
    made = Bundle(tmp_path / "b", "rumprun", "spt")
    made.add("unikernel", PARTS / "probe-bare.spt")
    made.args("probe.hang")
    return made


@pytest.fixture
def with_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """The door is on, also where all tests run without it: for those that are about it."""
    monkeypatch.delenv("URUNC_DOOR", raising=False)
