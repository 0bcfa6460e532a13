# SPDX-License-Identifier: Apache-2.0
"""The timeline's table: its numbers, its bars, and that it fits into 80 columns."""

from __future__ import annotations

import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urunc.cli import timeline
from urunc.cli.options import Arguments
from urunc.errors import HostError, NotFoundError
from urunc.timestamps import Stamp
from urunc.timing import NAMES

START_NS = 1_700_000_000_000_000_000


def test_a_table() -> None:
    stamps = [
        Stamp(container="box", number=0, now_ns=START_NS),
        Stamp(container="box", number=13, now_ns=START_NS + 1_000_000, by_door=True),
        Stamp(container="box", number=18, now_ns=START_NS + 4_000_000),
    ]
    assert timeline.render("box", stamps) == (
        "box: 4.0 ms\n"
        "     phase                              at ms    took\n"
        "TS00 create invoked                      0.00    0.00  ▏\n"
        "TS13 start sent to init, by the door     1.00    1.00  ██████\n"
        "TS18 execve of the monitor               4.00    3.00        ██████████████████\n"
    )


def test_one_stamp() -> None:
    assert "box: 0.0 ms" in timeline.render(
        "box", [Stamp(container="box", number=0, now_ns=START_NS)]
    )


@given(st.lists(st.integers(0, 99_999_000_000), min_size=1, max_size=25), st.data())
def test_80_columns(offsets: list[int], data: st.DataObject) -> None:
    ids = st.sampled_from([*NAMES, 42])

    def stamp(offset: int) -> Stamp:
        number = data.draw(ids)
        by_door = number in (11, 12, 13) and data.draw(st.booleans())
        return Stamp(container="box", number=number, now_ns=START_NS + offset, by_door=by_door)

    stamps = [stamp(offset) for offset in sorted(offsets)]
    lines = timeline.render("box", stamps).splitlines()
    assert len(lines) == len(stamps) + 2
    assert max(map(len, lines)) <= 80
    assert lines[2].startswith(f"TS{stamps[0].number:02}")
    assert all(len(name) <= 32 for name in NAMES.values())


def line(container: str, number: int, now_ns: int) -> str:
    return json.dumps(
        {
            "containerID": container,
            "timestampID": f"TS{number:02}",
            "timestampName": "x",
            "timestampNS": now_ns,
        }
    )


def run(file: pathlib.Path, *words: str) -> None:
    arguments = Arguments([])
    arguments.options["--file"] = str(file)
    arguments.words = list(words)
    assert timeline.main(arguments) == 0


def test_the_last_life_of_a_container(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "stamps"
    lines = [
        line("a", 0, 1_000_000),
        line("a", 18, 900_000_000),
        line("b", 0, 2_000_000_000),
        "another program's line",
        '{"containerID": "a", "timestampID": 7}',
        line("a", 0, 3_000_000_000),
        line("b", 1, 3_001_000_000),
        line("a", 18, 3_007_000_000),
        '{"containerID": "a", "timest',
    ]
    file.write_text("\n".join(lines))
    run(file)
    assert capsys.readouterr().out.startswith("a: 7.0 ms\n")
    run(file, "b")
    out = capsys.readouterr().out
    assert out.startswith("b: 1001.0 ms\n")
    assert out.count("\nTS") == 2


def test_no_timestamps(tmp_path: pathlib.Path) -> None:
    with pytest.raises(HostError, match="no such file"):
        run(tmp_path / "missing")
    (tmp_path / "empty").touch()
    with pytest.raises(NotFoundError, match="no timestamps of 'box'") as caught:
        run(tmp_path / "empty", "box")
    assert "URUNC_TIMESTAMPS=1" in caught.value.hint
