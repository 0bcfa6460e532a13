# SPDX-License-Identifier: Apache-2.0
"""The processes that the shim forks: what they find loaded."""

from __future__ import annotations

import importlib.util

import pytest

from urunc.shim.worker import FIRST, REST


@pytest.mark.parametrize("name", (*FIRST, *REST))
def test_what_is_preloaded_is_there(name: str) -> None:
    assert importlib.util.find_spec(f"urunc.{name}")
