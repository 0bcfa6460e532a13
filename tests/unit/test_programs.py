# SPDX-License-Identifier: Apache-2.0
"""Where the compiled programs are looked for."""

from __future__ import annotations

import pathlib

import pytest

from urunc import programs
from urunc.errors import HostError


@pytest.mark.parametrize("place", ["supervisor", "urunc/supervisor"])
def test_path(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Beside the package as `make install` has it, within as a wheel does."""
    (tmp_path / "urunc").mkdir()
    monkeypatch.setattr(programs, "__file__", str(tmp_path / "urunc/programs.py"))
    with pytest.raises(HostError, match="supervisor"):
        programs.path("supervisor")
    (tmp_path / place).touch()
    assert programs.path("supervisor") == str(tmp_path / place)
