# SPDX-License-Identifier: Apache-2.0
"""Failures, by the administrator's log (`log.file`)."""

from __future__ import annotations

from collections import Counter

from urunc.linux.files import read_text
from urunc.logs import KIND
from urunc.metrics.exposition import Family, counted

LIMIT_BYTES = 1 << 28
LINE = r'time="[^"]*" level=(error|warning) msg="(?:[^"\\]|\\.)*"(?: ' + KIND + r"(\w+))?"
"""As logs.py writes them; the message is a JSON string."""
OTHER = "other"
"""Errors whose kind nobody says: those of older versions."""


def families(path: str) -> list[Family]:
    """Of the log at a path; raises OSError. What is rotated away counts no more, which Prometheus
    takes for a new beginning."""
    import re

    pattern = re.compile(LINE)
    kinds: Counter[str] = Counter()
    levels: Counter[str] = Counter(error=0, warning=0)
    for line in read_text(path, LIMIT_BYTES).splitlines():
        found = pattern.match(line)
        if found:
            level, kind = found.groups()
            levels[level] += 1
            kinds[kind or OTHER] += level == "error"
    failures = Family("urunc_failures_total", "counter", "Errors in the log, by their kind.")
    messages = Family("urunc_log_messages_total", "counter", "Errors and warnings in the log.")
    return [counted(failures, +kinds, "kind"), counted(messages, levels, "level")]
