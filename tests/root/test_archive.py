# SPDX-License-Identifier: Apache-2.0
"""A container's own files as an archive: volumes as engines make them, and the writable layer of a
real overlay."""

from __future__ import annotations

import os
import pathlib
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lib.newc import Node, on_disk, unpacked
from lib.support import need
from urunc.errors import Error, HostError, ImageError
from urunc.storage import archive, cpio
from urunc.storage.archive import Archive, Copied, write_archive

LIMIT = 64 << 20


@pytest.fixture(autouse=True)
def _root() -> None:
    need("root")


def volume(number: int, source: Any, destination: str = "/data", recursive: bool = True) -> Copied:
    return Copied(
        name=f"volumes/{number}", source=str(source), destination=destination, recursive=recursive
    )  # fmt: skip


def written(
    tmp_path: pathlib.Path, *volumes: Copied, upper: Any = "", limit_bytes: int = LIMIT
) -> tuple[dict[bytes, Node], Archive]:
    """What would be unpacked, and what is said of it."""
    target = tmp_path / "archive"
    target.unlink(missing_ok=True)
    facts = write_archive(str(target), volumes, str(upper), limit_bytes, "raise the limit")
    content = target.read_bytes()
    assert len(content) == facts.size_bytes and not len(content) % 512
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    return unpacked(content), facts


def projected(directory: pathlib.Path, files: dict[str, str], mode: int = 0o644) -> pathlib.Path:
    """A volume as a kubelet writes it: files in a dated directory, `..data` leads to it, and
    links."""
    dated = directory / "..2026_01_02_03_04_05.123456789"
    dated.mkdir(parents=True)
    directory.chmod(0o1777)
    for name, text in files.items():
        (dated / name).parent.mkdir(exist_ok=True)
        (dated / name).write_text(text)
        (dated / name).chmod(mode)
        top = name.partition("/")[0]
        if not (directory / top).is_symlink():
            os.symlink(f"..data/{top}", directory / top)
    os.symlink(dated.name, directory / "..data")
    return directory


def test_volumes_of_a_pod(tmp_path: pathlib.Path) -> None:
    config = projected(tmp_path / "config", {"app.conf": "a=1\n", "conf.d/x": "x\n"})
    secret = projected(tmp_path / "secret", {"password": "geheim"}, mode=0o400)
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    (tmp_path / "empty").mkdir(mode=0o700)
    tree, facts = written(
        tmp_path,
        volume(0, config, "/etc/app"),
        volume(1, secret, "/etc/secret"),
        volume(4, tmp_path / "hosts", "/etc/hosts"),
        volume(7, tmp_path / "empty", "/cache"),
    )
    assert facts.opaque == () and facts.left_out == ()
    for number, source in ((0, config), (1, secret), (4, tmp_path / "hosts")):
        prefix = b"volumes/%d" % number
        expected = on_disk(str(source), prefix)
        assert {path: tree[path] for path in tree if path.startswith(prefix)} == expected
    assert tree[b"volumes/0/..data"].body == b"..2026_01_02_03_04_05.123456789"
    password = tree[b"volumes/1/..2026_01_02_03_04_05.123456789/password"]
    assert (password.mode, password.body) == (0o100400, b"geheim")
    assert stat.S_ISREG(tree[b"volumes/4"].mode) and stat.S_ISDIR(tree[b"volumes/7"].mode)
    assert b"layer" not in tree


def test_a_source_may_be_a_link(tmp_path: pathlib.Path) -> None:
    """As mount(2) does: the engine's path leads there; links inside stay links."""
    (tmp_path / "real").mkdir()
    os.symlink("/etc/shadow", tmp_path / "real/shadow")
    os.symlink("../..", tmp_path / "real/up")
    os.symlink("real", tmp_path / "link")
    tree, _ = written(tmp_path, volume(0, tmp_path / "link"))
    assert set(tree) == {b"volumes", b"volumes/0", b"volumes/0/shadow", b"volumes/0/up"}
    assert tree[b"volumes/0/shadow"].body == b"/etc/shadow"


@pytest.mark.parametrize("recursive", [True, False])
def test_mounts_in_a_volume(tmp_path: pathlib.Path, recursive: bool) -> None:
    (tmp_path / "a/mnt").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/file").touch()
    subprocess.run(["mount", "--bind", tmp_path / "b", tmp_path / "a/mnt"], check=True)
    try:
        tree, _ = written(tmp_path, volume(0, tmp_path / "a", recursive=recursive))
    finally:
        subprocess.run(["umount", tmp_path / "a/mnt"], check=True)
    assert (b"volumes/0/mnt/file" in tree) == recursive
    assert b"volumes/0/mnt" in tree


@pytest.fixture
def overlay(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A real overlay, mounted at `merged`."""
    for name in ("lower/kept", "lower/emptied", "lower/gone", "upper", "work", "merged"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("kept/a", "kept/b", "emptied/old", "gone/x", "deleted", "changed"):
        (tmp_path / "lower" / name).write_text("old\n")
    directories = ",".join(f"{name}dir={tmp_path}/{name}" for name in ("lower", "upper", "work"))
    command = ["mount", "-t", "overlay", "-o", directories, "overlay", str(tmp_path / "merged")]
    subprocess.run(command, check=True)
    try:
        yield tmp_path / "merged"
    finally:
        subprocess.run(["umount", tmp_path / "merged"], check=True)


def test_a_writable_layer(tmp_path: pathlib.Path, overlay: pathlib.Path) -> None:
    (overlay / "changed").write_text("new\n")
    (overlay / "deleted").unlink()
    (overlay / "kept/b").unlink()
    (overlay / "emptied/old").unlink()
    (overlay / "emptied").rmdir()
    (overlay / "emptied").mkdir()
    (overlay / "emptied/new").write_text("new\n")
    subprocess.run(["rm", "-r", overlay / "gone"], check=True)
    (overlay / "made").mkdir()
    tree, facts = written(tmp_path, upper=tmp_path / "upper")
    assert facts.opaque == ("emptied",)
    assert facts.left_out == ()
    assert tree == on_disk(str(tmp_path / "upper"), b"layer")
    assert tree[b"layer/changed"].body == b"new\n"
    for name in ("deleted", "kept/b", "gone"):
        whiteout = tree[b"layer/" + name.encode()]
        assert stat.S_ISCHR(whiteout.mode) and whiteout.device == 0
    # the same layer over the same image is the same tree, once its opaque directories are marked
    target = tmp_path / "unpacked"
    target.mkdir()
    with open(tmp_path / "archive", "rb") as packed:
        subprocess.run(["cpio", "-idm", "--quiet"], stdin=packed, cwd=target, check=True)
    for path in facts.opaque:
        os.setxattr(target / "layer" / path, "trusted.overlay.opaque", b"y")
    (tmp_path / "again").mkdir()
    (tmp_path / "work2").mkdir()
    directories = f"lowerdir={tmp_path}/lower,upperdir={target}/layer,workdir={tmp_path}/work2"
    command = ["mount", "-t", "overlay", "-o", directories, "overlay", str(tmp_path / "again")]
    subprocess.run(command, check=True)
    try:
        again, merged = on_disk(str(tmp_path / "again")), on_disk(str(overlay))
    finally:
        subprocess.run(["umount", tmp_path / "again"], check=True)
    for tree in (again, merged):
        for node in tree.values():
            node.mtime = 0 if stat.S_ISDIR(node.mode) else node.mtime
    assert again == merged


@pytest.mark.parametrize("name", ["trusted.overlay.redirect", "trusted.overlay.metacopy"])
def test_a_layer_that_is_not_whole(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / "upper").mkdir()
    (tmp_path / "upper/x").touch()
    os.setxattr(tmp_path / "upper/x", name, b"/elsewhere")
    with pytest.raises(HostError, match="'x' is a part of what overlayfs keeps elsewhere"):
        written(tmp_path, upper=tmp_path / "upper")
    assert not (tmp_path / "archive").exists()


def test_limit(tmp_path: pathlib.Path) -> None:
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(bytes(1000 if name == "small" else 3_000_000))
    volumes = volume(0, tmp_path / "small", "/small"), volume(1, tmp_path / "large", "/large")
    with pytest.raises(HostError) as caught:
        written(tmp_path, *volumes, limit_bytes=2 << 20)
    assert str(caught.value) == "pack mount '/large': more than 2 MiB (raise the limit)"
    assert not (tmp_path / "archive").exists()


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("socket", ImageError, "mount '/data': '.*' is neither a directory nor a regular file"),
        ("fifo", ImageError, "neither a directory nor a regular file"),
        ("device", ImageError, "neither a directory nor a regular file"),
        ("missing", HostError, "mount '/data': open '.*': no such file or directory"),
    ],
)
def test_what_cannot_be_copied(
    tmp_path: pathlib.Path, kind: str, error: type[Error], message: str
) -> None:
    source = tmp_path / "source"
    if kind == "socket":
        os.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("source")
    elif kind == "fifo":
        os.mkfifo(source)
    elif kind == "device":
        os.mknod(source, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with pytest.raises(error, match=message):
        written(tmp_path, volume(0, source))
    assert not (tmp_path / "archive").exists()


def test_a_full_disk(tmp_path: pathlib.Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").write_bytes(bytes(2 << 20))
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "full", str(tmp_path / "disk")]
    subprocess.run(command, check=True)
    try:
        with pytest.raises(HostError, match=r"write '.*': no space left on device"):
            write_archive(f"{tmp_path}/disk/archive", [volume(0, tmp_path / "data")], "", LIMIT)
        assert not os.listdir(tmp_path / "disk")
        with pytest.raises(HostError, match=r"write '.*': no such file or directory"):
            write_archive(f"{tmp_path}/nowhere/archive", [], "", LIMIT)
    finally:
        subprocess.run(["umount", tmp_path / "disk"], check=True)


def test_a_volume_that_is_updated_meanwhile(tmp_path: pathlib.Path) -> None:
    """A kubelet puts a new directory in place of the one that `..data` leads to, again and again:
    each archive has one state, whole."""
    directory = projected(tmp_path / "config", {"a": "0", "b": "0"})
    done = threading.Event()

    def update() -> None:
        number = 1
        while not done.wait(0.001):
            new = directory / f"..{number}"
            new.mkdir()
            for name in ("a", "b"):
                (new / name).write_text(str(number))
            old = directory / os.readlink(directory / "..data")
            os.symlink(new.name, directory / "..data_tmp")
            os.rename(directory / "..data_tmp", directory / "..data")
            for name in ("a", "b"):
                (old / name).unlink()
            old.rmdir()
            number += 1

    thread = threading.Thread(target=update)
    thread.start()
    seen = set()
    try:
        for _ in range(200):
            tree, _facts = written(tmp_path, volume(0, directory))
            data = b"volumes/0/" + tree[b"volumes/0/..data"].body
            seen.add(tree[data + b"/a"].body)
            assert tree[data + b"/a"].body == tree[data + b"/b"].body
    finally:
        done.set()
        thread.join()
    assert len(seen) > 10


def test_a_volume_that_is_never_still(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = projected(tmp_path / "config", {"a": "0"})
    numbers = iter(range(1000))
    monkeypatch.setattr(archive, "_data", lambda fd: str(next(numbers)))
    with pytest.raises(HostError, match="was updated during each of"):
        written(tmp_path, volume(0, directory))
    assert not (tmp_path / "archive").exists()


def test_a_directory_of_more_names_than_can_be_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not listed to its end first."""
    directory = tmp_path / "many"
    directory.mkdir()
    for number in range(200):
        (directory / f"{number}").touch()
    listed: list[str] = []

    def encoded(name: str) -> bytes:
        listed.append(name)
        return name.encode()

    monkeypatch.setattr(cpio, "encoded", encoded)
    with pytest.raises(HostError, match="pack mount '/data': more than"):
        written(tmp_path, volume(0, directory), limit_bytes=110 * 100)
    assert 100 <= len(listed) < 110


def test_attributes_of_many_names(tmp_path: pathlib.Path) -> None:
    """Who made the files chose them: what is kept and said of them is bounded."""
    directory = tmp_path / "noted"
    directory.mkdir()
    for number in range(50):
        os.setxattr(directory, f"trusted.note{number}", b"")
    _, facts = written(tmp_path, volume(0, directory))
    assert len(facts.left_out) == cpio.LEFT_OUT_LIMIT + 1
    assert sum(item.files for item in facts.left_out) == 50
    assert cpio.OTHERS in [item.name for item in facts.left_out]
