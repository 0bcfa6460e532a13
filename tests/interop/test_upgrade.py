# SPDX-License-Identifier: Apache-2.0
"""Another version of urunc is installed while containers of the one before run: each goes on with
the code that it began with."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from lib import busybox
from lib.engines import bare_probe, containerd_with
from lib.images import archive
from lib.patience import until
from lib.places.containerd import SHIM, Containerd
from lib.support import PROJECT, need

FIRST, SECOND = "1.0.1", "1.0.2"


def install(directory: pathlib.Path, version: str) -> pathlib.Path:
    """`make install` of a source that has this version; the prefix."""
    source = directory / f"source-{version}"
    for name in ("src", "launcher", "door", "guest-init", "build/door", "build/guest-init"):
        shutil.copytree(PROJECT / name, source / name)
    shutil.copy2(PROJECT / "Makefile", source)
    file = source / "src/urunc/__init__.py"
    text = re.sub(r'(?<=__version__ = ")[^"]*', version, file.read_text())
    file.write_text(text)
    prefix = directory / "prefix"
    command = ["make", "-s", "install", f"PREFIX={prefix}", "PYTHON=/usr/bin/python3"]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return prefix


@pytest.fixture
def containerd(tmp_path: pathlib.Path, urunc_config: str) -> Iterator[Containerd]:
    """containerd with the first version's shim, an ordinary image `box` and a guest `spt`."""
    need("root", "tun", "installed", "runc", "containerd", "probe", "solo5")
    prefix = install(tmp_path, FIRST)
    files = busybox.files("sh", "sleep", "echo")
    box = archive(tmp_path / "box.tar", "box", files, ["/bin/sleep", "1000"])
    place = Containerd(str(prefix / "bin/urunc"), urunc_config)
    with containerd_with(place, box, bare_probe(tmp_path)):
        yield place


def users(containerd: Containerd, version: str) -> list[str]:
    """The processes that have a version's code, as docs/engines.md finds them."""
    script = f"grep -ls 'lib/urunc/{version}/' /proc/[0-9]*/maps || :"
    return containerd.run("sh", "-c", script).stdout.split()


def test_upgrade(containerd: Containerd, tmp_path: pathlib.Path) -> None:
    for name in ("box", "spt"):
        for what in ("kept", "lost"):
            containerd.launch(f"{what}-{name}", name, options=("-d",))
    shims = set(users(containerd, FIRST))
    assert len(shims) == 4

    prefix = install(tmp_path, SECOND)
    # what the old one has not loaded yet is its own, too
    done = containerd("tasks", "exec", "--exec-id", "e", "kept-box", "/bin/echo", "on")
    assert done.stdout == "on\n"
    for name in ("kept-box", "kept-spt"):
        containerd("tasks", "pause", name)
        containerd("tasks", "resume", name)
        containerd("tasks", "metrics", name)
        assert containerd("tasks", "ps", name).stdout.count("\n") >= 2
    assert containerd("tasks", "ls").stdout.count("RUNNING") == 4
    containerd.launch("new", "spt", options=("-d",))
    assert len(users(containerd, SECOND)) == 1
    assert set(users(containerd, FIRST)) == shims

    # who cleans up after a dead shim is the new version
    for name in ("lost-box", "lost-spt"):
        pid = shim_of(containerd, name)
        containerd.run("kill", "-KILL", pid)
        ended(containerd, name, gone=True)
        containerd("containers", "delete", name)
    for name in ("kept-box", "kept-spt", "new"):
        containerd("tasks", "kill", "-s", "KILL", name)
        ended(containerd, name, gone=False)
        assert "exit code 137" in containerd("tasks", "delete", name, check=False).stderr
        containerd("containers", "delete", name)
    until(lambda: not users(containerd, FIRST))
    shutil.rmtree(prefix / "lib/urunc" / FIRST)
    assert [path.name for path in (prefix / "lib/urunc").iterdir()] == [SECOND]
    done = containerd.launch("last", "spt", "probe.exit=3", options=("--rm",), check=False)
    assert done.returncode == 3
    assert SECOND in containerd.run(str(prefix / "bin/containerd-shim-urunc-v2"), "-v").stdout
    assert SHIM in containerd.run(str(prefix / "bin/containerd-shim-urunc-v2"), "-v").stdout


def shim_of(containerd: Containerd, identifier: str) -> str:
    """The pid of a container's shim."""
    pattern = f"containerd-shim-urunc-v2 .*-id {identifier} "
    return containerd.run("pgrep", "-f", pattern).stdout.split()[0]


def ended(containerd: Containerd, identifier: str, *, gone: bool) -> None:
    """Wait for a container's end: that it is gone, or stopped."""

    def state() -> str:
        lines = containerd("tasks", "ls").stdout.splitlines()
        return " ".join(line for line in lines if line.startswith(f"{identifier} "))

    until(lambda: not state() if gone else "STOPPED" in state(), state)
