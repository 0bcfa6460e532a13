# SPDX-License-Identifier: Apache-2.0
"""The benches run to their end, leave nothing, and what they print is what the tables are made
of."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys

import pytest

from lib import measured
from lib.patience import patient
from lib.support import PARTS, PROJECT, URUNC, need, nothing_left

BENCHES = {
    "lifecycle": ("-n", "2"),
    "scale": ("--monitors", "spt", "-n", "10", "--at-once", "2", "--looks", "2"),
}
"""Those that are quick, and how they are quicker."""
EXPECTED = {measured.PROBE, "create alone", "the 1,000th container's create + delete"}


def test_quick_ones(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("root", "installed", "solo5", "probe", "runc", "busybox")
    results = tmp_path / "results.json"
    with nothing_left():
        for name, words in BENCHES.items():
            options = [
                *words,
                "--results",
                str(results),
                "--urunc",
                str(URUNC),
                "--parts",
                str(PARTS),
            ]
            command = [sys.executable, str(PROJECT / "bench" / name), *options]
            answer = subprocess.run(command, capture_output=True, text=True, timeout=patient(60))
            assert answer.returncode == 0, answer.stdout + answer.stderr
    found = json.loads(results.read_text())
    assert [point["number"] for point in found["scale"]["points"]] == [1, 10]
    monkeypatch.setattr(measured, "results", lambda: found)
    rows = {row[0]: row[3] for row in measured.goals() if row[3] != measured.NOT_MEASURED}
    assert rows.keys() >= EXPECTED
    assert all(re.fullmatch(r"\d+\.\d\d", rows[name]) for name in EXPECTED)
    assert "CPUs" in measured.machine()[0]


def test_all_are_made() -> None:
    """`make bench` runs what there is but what has a target of its own."""
    line = next(
        line
        for line in (PROJECT / "Makefile").read_text().splitlines()
        if line.startswith("BENCHES :=")
    )
    names = {path.name for path in (PROJECT / "bench").iterdir() if path.suffix != ".py"}
    assert set(line.split()[2:]) == names - {
        "draw",
        "network",
        "overhead",
        "restore",
        "storage",
    } - {"__pycache__"}
