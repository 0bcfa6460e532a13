# SPDX-License-Identifier: Apache-2.0
"""The packages of tools/package: one tree makes one file, and Debian's is installed, triggered and
removed by the real dpkg, on a root that is this machine's with a layer of its own."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from lib.packages import DIST, package
from lib.patience import until
from lib.support import need

LAYER = r"""
set -eu
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
for name in dev proc sys; do mount --rbind /$name "$1/root/$name"; done
mount --bind "$2" "$1/root/mnt"
: >"$1/root/tmp/ready"
exec sleep infinity
"""


class Machine:
    """A root on which dpkg can do what it likes."""

    def __init__(self, directory: pathlib.Path, packages: pathlib.Path) -> None:
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", LAYER, "sh"]
        self.process = subprocess.Popen([*words, str(directory), str(packages)])
        self.root = f"/proc/{self.process.pid}/root{directory}/root"

    def __call__(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", "--mount", f"--target={self.process.pid}", "chroot"]
        root = self.root.removeprefix(f"/proc/{self.process.pid}/root")
        done = subprocess.run([*enter, root, *words], capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done


@pytest.fixture
def debian(tmp_path: pathlib.Path) -> Iterator[tuple[Machine, pathlib.Path]]:
    """A machine and the package, which it has in /mnt."""
    need("root", "installed")
    if not shutil.which("dpkg-deb"):
        pytest.skip("needs dpkg")
    file = package("deb")
    (tmp_path / "layer").mkdir()
    machine = Machine(tmp_path / "layer", DIST)
    try:
        until(lambda: os.path.exists(f"{machine.root}/tmp/ready"), "a root of its own")
        yield machine, file
    finally:
        machine.process.kill()
        machine.process.wait()


def test_debians(debian: tuple[Machine, pathlib.Path]) -> None:
    machine, file = debian
    first = file.read_bytes()
    assert package("deb").read_bytes() == first  # at another time, in another directory

    machine("dpkg", "--install", "--force-depends", f"/mnt/{file.name}")
    assert machine("/usr/bin/urunc", "--version").stdout.startswith("urunc version")
    (library,) = pathlib.Path(machine.root, "usr/lib/urunc").iterdir()
    (code,) = library.glob("code.*")
    assert machine("/usr/bin/containerd-shim-urunc-v2", "-v").returncode == 0
    assert "create" in machine("/usr/bin/urunc", "completion", "bash").stdout
    said = machine("dpkg", "--verify", "urunc", check=False).stdout.splitlines()
    # a small machine's dpkg may be told to leave documentation out
    assert [line for line in said if not re.search("missing +/usr/share/(doc|man)", line)] == []

    # the machine's Python has become another: its code is of no use to this one
    code.unlink()
    machine("dpkg-trigger", "--by-package=urunc", "/usr/bin/python3")
    machine("dpkg", "--triggers-only", "--pending")
    assert [item.name for item in library.glob("code.*")] == [code.name]

    assert (
        "nothing was changed" in machine("/usr/bin/urunc", "install", "--dry-run", "podman").stdout
    )
    machine("dpkg", "--remove", "urunc")
    assert not library.exists()
    assert not os.path.exists(f"{machine.root}/usr/bin/urunc")
