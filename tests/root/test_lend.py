# SPDX-License-Identifier: Apache-2.0
"""A file that a monitor is given to read stays as it is, even where the monitor is its owner."""

from __future__ import annotations

import os
import pathlib
from errno import EROFS

import pytest

from lib.support import need
from urunc.snapshot.lend import to_read


def test_the_owner_cannot_write(tmp_path: pathlib.Path) -> None:
    need("root")
    path = tmp_path / "state"
    path.write_bytes(b"saved")
    path.chmod(0o644)
    before = set(os.listdir("/proc/self/fd"))
    with path.open("rb") as file:
        fd = to_read(file.fileno())
        assert os.read(fd, 9) == b"saved"
        assert file.tell() == 0
        with pytest.raises(OSError) as refused:
            os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        assert refused.value.errno == EROFS
        with pytest.raises(OSError) as refused:
            os.fchmod(fd, 0o666)
        assert refused.value.errno == EROFS
        os.close(fd)
    assert set(os.listdir("/proc/self/fd")) == before
