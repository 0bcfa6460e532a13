# SPDX-License-Identifier: Apache-2.0
"""Golden files: what must come out, written by the code itself on demand and read by people."""

from __future__ import annotations

import os
import pathlib

from urunc.guests import Words
from urunc.jsontext import dumps
from urunc.monitors import Launch
from urunc.record import plain

UPDATE = "URUNC_UPDATE_GOLDEN"
"""Set to 1 in the environment, it has `matches_golden` write the file."""


def matches_golden(path: str | pathlib.Path, text: str) -> None:
    """Whether a text is that of a file; raises AssertionError with both where it is not."""
    file = pathlib.Path(path)
    if os.environ.get(UPDATE) == "1":
        file.write_text(text)
    if not file.exists():
        raise AssertionError(f"{file}: not there; write it with {UPDATE}=1, and read it")
    expected = file.read_text()
    if text != expected:
        raise AssertionError(
            f"{file}: not what comes out now; if that is meant, write it with {UPDATE}=1\n"
            f"expected:\n{expected}\nfound:\n{text}"
        )


def words_text(words: Words) -> str:
    """A guest's command line as a golden file has it: JSON, a word a line."""
    return dumps(plain(words), indent=2) + "\n"


def launch_text(launch: Launch) -> str:
    """A monitor's launch as a golden file has it."""
    return dumps(plain(launch), indent=2) + "\n"
