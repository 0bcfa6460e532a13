# SPDX-License-Identifier: Apache-2.0
"""What a check found."""

from __future__ import annotations

from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Level = Literal["fine", "note", "problem"]
    """How it is: well; a limit that one can live with; something does not work."""


@record
class Finding:
    """One thing that was looked at."""

    subject: str
    level: Level
    text: str
    advice: str = ""
    """What to type or to set, "" where nothing is to be done."""


def fine(subject: str, text: str) -> Finding:
    return Finding(subject=subject, level="fine", text=text)


def note(subject: str, text: str, advice: str = "") -> Finding:
    return Finding(subject=subject, level="note", text=text, advice=advice)


def problem(subject: str, text: str, advice: str = "") -> Finding:
    return Finding(subject=subject, level="problem", text=text, advice=advice)
