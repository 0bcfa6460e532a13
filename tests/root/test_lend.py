# SPDX-License-Identifier: Apache-2.0
"""A file that a monitor is given to read stays as it is, even where the monitor is its owner."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
from collections.abc import Iterator
from errno import EROFS

import pytest

from lib.support import need
from urunc.errors import HostError
from urunc.plan.model import MonitorUser
from urunc.snapshot.lend import lend, take_back, to_read

USER = 65_534


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


@contextlib.contextmanager
def monitor(directory: pathlib.Path, script: str = "") -> Iterator[int]:
    """A process with a mount namespace and a /run of its own, as a monitor has; its pid. `script`
    is what it does as the monitor's user first."""
    mount = f"mount -t tmpfs -o uid={USER},gid={USER},mode=700 none /run"
    become = f"exec setpriv --reuid={USER} --regid={USER} --clear-groups sh -c"
    words = f"{mount} && {become} '{script or ':'}; echo ready; exec sleep 60'"
    with subprocess.Popen(
        ["unshare", "-m", "sh", "-c", words], cwd=directory, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        try:
            yield process.pid
        finally:
            process.kill()


def user() -> MonitorUser:
    return MonitorUser(uid=USER, gid=USER, groups=())


def test_lent_and_taken_back(tmp_path: pathlib.Path) -> None:
    need("root")
    path = tmp_path / "saved"
    path.write_text("saved")
    with monitor(tmp_path) as pid, path.open("r+b") as file:
        place = pathlib.Path(f"/proc/{pid}/root/run")
        for _ in range(2):  # one that was not taken back is replaced
            assert lend(pid, user(), {"state": file.fileno()}, read_only=True) == {
                "state": "/run/snapshot/state"
            }
        assert (place / "snapshot/state").read_text() == "saved"
        take_back(pid, ("state",))
        assert os.listdir(place) == []
    assert path.read_text() == "saved"


def test_a_monitor_that_leads_elsewhere(tmp_path: pathlib.Path) -> None:
    """Its /run is its own: a link there is followed with its own rights, not with root's."""
    need("root")
    tmp_path.chmod(0o755)
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    (shared / "state").write_text("root's")
    with monitor(tmp_path, f"ln -s {shared} /run/snapshot") as pid:
        for _ in range(2):
            with pytest.raises(HostError, match="permission denied"):
                take_back(pid, ("state",))
        with (shared / "state").open() as file, pytest.raises(HostError, match="denied"):
            lend(pid, user(), {"state": file.fileno()}, read_only=True)
    assert (shared / "state").read_text() == "root's"
