# SPDX-License-Identifier: Apache-2.0
"""What a container gets for its caller's standard streams."""

from __future__ import annotations

import os
import pathlib

import pytest

from urunc import logs
from urunc.lifecycle.streams import take
from urunc.linux.files import is_null


@pytest.mark.parametrize("kind", ["directory", "written"])
def test_an_input_that_cannot_be_read(
    tmp_path: pathlib.Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is empty, with a warning: QEMU would try to read it for ever."""
    warnings: list[str] = []
    monkeypatch.setattr(logs, "warn", warnings.append)
    flags = os.O_WRONLY | os.O_CREAT if kind == "written" else os.O_RDONLY
    path = tmp_path / "written" if kind == "written" else tmp_path
    given = os.open(path, flags)
    output = os.open(os.devnull, os.O_WRONLY)
    streams = take((given, output, output))
    try:
        assert is_null(streams.descriptors[0])
        assert os.read(streams.descriptors[0], 1) == b""
    finally:
        streams.close()
        os.close(given)
        os.close(output)
    assert len(warnings) == 1 and "standard input cannot be read" in warnings[0]
