# SPDX-License-Identifier: Apache-2.0
"""Copies of the installed door that have another program behind them than urunc's Python."""

from __future__ import annotations

import pathlib
import subprocess
import sys

from lib.support import PROJECT, URUNC

HANDED_OVER = "install urunc again"
"""What the door says where nothing is behind it."""


def make_door(path: pathlib.Path, launcher: object) -> None:
    """One with another program behind it."""
    script = PROJECT / "launcher/door.py"
    subprocess.run([sys.executable, script, str(URUNC), str(path), str(launcher)], check=True)
    path.chmod(0o755)


def handed_over(answer: subprocess.CompletedProcess[str]) -> bool:
    """Whether a door with nothing behind it left this to Python."""
    assert answer.returncode == 1 or HANDED_OVER not in answer.stderr
    return HANDED_OVER in answer.stderr
