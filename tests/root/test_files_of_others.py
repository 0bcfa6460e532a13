# SPDX-License-Identifier: Apache-2.0
"""Files whose places others may know, or reach: no link of another user's is followed, and what a
container has on the host is root's alone."""

from __future__ import annotations

import os
import pathlib
import stat

import pytest

from lib.support import Bundle, Urunc, nothing_left
from urunc.linux.files import write_whole

STRANGER = 65_534


def link(path: pathlib.Path, target: pathlib.Path, owner: int) -> None:
    path.symlink_to(target)
    os.chown(path, owner, owner, follow_symlinks=False)


@pytest.fixture
def victim(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "victim"
    path.write_text("mine\n")
    return path


@pytest.mark.parametrize("owner", [0, STRANGER])
def test_a_pid_file_that_is_a_link(
    urunc: Urunc, bundle: Bundle, tmp_path: pathlib.Path, victim: pathlib.Path, owner: int
) -> None:
    """The file takes the link's place."""
    pid_file = tmp_path / "pid"
    link(pid_file, victim, owner)
    container = urunc.create(bundle, "--pid-file", str(pid_file))
    assert victim.read_text() == "mine\n"
    assert not pid_file.is_symlink() and int(pid_file.read_text()) == container.pid
    container.delete("--force")


@pytest.mark.parametrize("kind", [os.symlink, os.link])
def test_a_temporary_name_that_is_taken(tmp_path: pathlib.Path, victim: pathlib.Path,
                                        kind: object) -> None:  # fmt: skip
    """Whoever knows the process's id knows the name."""
    assert callable(kind)
    path = tmp_path / "file"
    kind(victim, f"{path}.{os.getpid()}.tmp")
    write_whole(str(path), b"new")
    assert (path.read_bytes(), victim.read_text()) == (b"new", "mine\n")
    assert sorted(os.listdir(tmp_path)) == ["file", "victim"]


@pytest.mark.parametrize("owner", [0, STRANGER])
@pytest.mark.parametrize("door", ["on", "off"])
def test_logs_that_are_links(
    urunc: Urunc,
    bundle: Bundle,
    tmp_path: pathlib.Path,
    victim: pathlib.Path,
    owner: int,
    door: str,
) -> None:
    """`--log`, `log.file` and the timestamps' file: followed where the link is root's, as in
    /var/log; never a stranger's, and the container lives on all the same."""
    places = [tmp_path / name for name in ("log", "file", "stamps")]
    for place in places:
        link(place, victim, owner)
    urunc.config.write_text(f'[log]\nfile = "{places[1]}"\n[timestamps]\nfile = "{places[2]}"\n')
    bundle.config["annotations"]["com.urunc.unikernel.nonsense"] = "1"  # a warning
    urunc.options = ["--log", str(places[0])]
    environment = {"URUNC_DOOR": door, "URUNC_TIMESTAMPS": "1"}
    container = urunc.create(bundle, **environment)
    container.start(**environment)
    container.delete("--force")
    lines = victim.read_text().splitlines()
    assert lines[0] == "mine"
    if owner:
        assert len(lines) == 1
        assert all(place.is_symlink() for place in places)
    else:
        assert len([line for line in lines if "nonsense" in line]) == 2
        assert len([line for line in lines if '"TS' in line]) > 10


def test_what_a_local_user_may_reach(urunc: Urunc, bundle: Bundle) -> None:
    """Of a running container's directory: a way through, and nothing to open."""
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        found = {}
        for directory, _, files in os.walk(urunc.root):
            for path in (directory, *(f"{directory}/{name}" for name in files)):
                facts = os.lstat(path)
                assert facts.st_uid == 0, path
                found[path] = facts.st_mode
        open_ones = {path for path, mode in found.items() if mode & 0o077}
        assert len(found) > 5
        for path in open_ones:
            assert stat.S_ISDIR(found[path]), path
            assert stat.S_IMODE(found[path]) in (0o711, 0o755), path
        readable = {path for path in open_ones if found[path] & 0o044}
        assert {os.path.basename(path) for path in readable} <= {"root"}
        assert all(os.listdir(path) == [] for path in readable)
        container.delete("--force")
