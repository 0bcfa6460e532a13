# SPDX-License-Identifier: Apache-2.0
"""Copies of the installed door that have another program behind them than urunc's Python."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

from lib.support import PROJECT, URUNC

HANDED_OVER = "install urunc again"
"""What the door says where nothing is behind it."""


SANITIZED = ("-std=gnu11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def make_door(path: pathlib.Path, launcher: object, program: pathlib.Path = URUNC) -> None:
    """One with another program behind it."""
    script = PROJECT / "launcher/door.py"
    subprocess.run([sys.executable, script, str(program), str(path), str(launcher)], check=True)
    path.chmod(0o755)


def make_sanitized(path: pathlib.Path, which: str) -> None:
    """DOOR or SHIM of door/Makefile with sanitizers, and nothing behind it."""
    text = (PROJECT / "door/Makefile").read_text()
    (parts,) = re.findall(rf"^{which} := (.*)$", text, re.MULTILINE)
    files = [str(PROJECT / f"door/{part}.c") for part in parts.split()]
    subprocess.run(["gcc", *SANITIZED, "-o", str(path), *files], check=True)


def handed_over(answer: subprocess.CompletedProcess[str]) -> bool:
    """Whether a door with nothing behind it left this to Python."""
    assert answer.returncode == 1 or HANDED_OVER not in answer.stderr
    return HANDED_OVER in answer.stderr
