# SPDX-License-Identifier: Apache-2.0
"""newc archives: all kinds of files through our writer, then read as Linux reads them and unpacked
by cpio(1)."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lib.newc import members, on_disk, unpacked
from lib.patience import patient
from lib.support import need
from urunc.errors import HostError, ImageError
from urunc.storage import cpio, initrd

O_PATH = os.O_PATH | os.O_CLOEXEC
LONG = "n" * 255


@pytest.fixture(autouse=True)
def _root() -> None:
    need("root")


def pack(source: pathlib.Path, target: pathlib.Path, prefix: str = "root", **options: Any) -> bytes:
    """The archive of a tree, by write_tree."""
    fd = os.open(source, O_PATH)
    out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        facts = cpio.write_tree(out, fd, prefix, **options)
    finally:
        os.close(fd)
        os.close(out)
    content = target.read_bytes()
    assert facts.size_bytes == len(content) and not len(content) % 512
    return content


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    """One of everything."""
    top = tmp_path / "tree"
    top.mkdir(mode=0o750)
    (top / "empty").touch(mode=0o600)
    for length in (1, 2, 3, 4, 5, 4095, cpio.SMALL_BYTES, cpio.SMALL_BYTES + 1, 3_000_001):
        (top / f"of-{length}").write_bytes(os.urandom(length))
    (top / "setuid").write_bytes(b"#!/bin/sh\n")
    os.chown(top / "setuid", 7, 4_294_967_294)
    (top / "setuid").chmod(0o6755)
    (top / "sticky").mkdir()
    (top / "sticky").chmod(0o1777)
    directory = top
    for _ in range(8):
        directory /= LONG
        directory.mkdir()
    (directory / "deep").write_text("deep\n")
    pathlib.Path(os.fsdecode(os.fsencode(top) + b"/\xff\xfe\n name\t")).write_text("odd name\n")
    (top / "TRAILER!!!").write_text("not the end\n")
    os.symlink("/etc/passwd", top / "out")
    os.symlink(b"t" * 4095, os.fsencode(top) + b"/far")
    os.symlink("sticky", top / "to-directory")
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "whiteout", stat.S_IFCHR, os.makedev(0, 0))
    os.mknod(top / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70_000))
    os.chdir(top)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    (top / "a").mkdir()
    (top / "b").mkdir()
    for name in ("linked", "also-empty"):
        (top / "b" / name).write_bytes(b"linked\n" if name == "linked" else b"")
        os.link(top / "b" / name, top / "a" / name)
        os.link(top / "b" / name, top / name)
    os.link(top / "of-3000001", top / "b/large")
    os.link(top / "fifo", top / "b/fifo")
    os.link(top / "out", top / "b/out", follow_symlinks=False)
    os.utime(top / "empty", (1, 4_294_967_295))
    os.utime(top / "a", (0, 0))
    return top


def test_everything(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content = pack(tree, tmp_path / "archive")
    expected = on_disk(str(tree), b"root")
    got = unpacked(content)
    assert got.keys() == expected.keys()
    for path, node in expected.items():
        assert got[path] == node, path
    assert got[b"root/linked"] is got[b"root/a/linked"] is got[b"root/b/linked"]
    assert got[b"root/fifo"] is got[b"root/b/fifo"]
    linked = [member for member in members(content) if member.name.endswith(b"/linked")]
    assert [bool(member.body) for member in linked] == [False, False, True]
    assert {member.links for member in linked} == {3}


@pytest.mark.parametrize("prefix", ["", "root", "volumes/3"])
def test_unpacked_by_cpio(tree: pathlib.Path, tmp_path: pathlib.Path, prefix: str) -> None:
    pack(tree, tmp_path / "archive", prefix)
    target = tmp_path / "out"
    target.mkdir()
    command = ["cpio", "-idm", "--quiet", "--no-absolute-filenames"]
    with open(tmp_path / "archive", "rb") as archive:
        answer = subprocess.run(command, stdin=archive, cwd=target, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    got, expected = on_disk(str(target / prefix)), on_disk(str(tree))
    assert got.keys() == expected.keys()
    for path, node in expected.items():
        # cpio(1) sets a directory's time before it fills the directory, and no linked symlink's
        if stat.S_ISDIR(node.mode) or stat.S_ISLNK(node.mode):
            got[path].mtime = node.mtime
        if path == b".":  # and leaves one that is there as it is
            got[path].mode = node.mode
        assert got[path] == node, path
    assert got[b"a/linked"] is got[b"b/linked"]


def test_the_same_tree_gives_the_same_bytes(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    first = pack(tree, tmp_path / "archive")
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", tree, copy], check=True)
    assert pack(tree, tmp_path / "archive") == first
    assert pack(copy, tmp_path / "archive") == first  # other inodes, another order of names


def test_one_file(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 192.0.2.1\n")
    os.link(file, tmp_path / "elsewhere")
    got = unpacked(pack(file, tmp_path / "archive", "volumes/0"))
    assert set(got) == {b"volumes", b"volumes/0"}
    assert got[b"volumes/0"].body == b"nameserver 192.0.2.1\n"


def test_links_from_outside(tmp_path: pathlib.Path) -> None:
    (tmp_path / "tree/x").mkdir(parents=True)
    (tmp_path / "outside").write_text("both\n")
    for name in ("a", "x/b"):
        os.link(tmp_path / "outside", tmp_path / "tree" / name)
    content = pack(tmp_path / "tree", tmp_path / "archive")
    got = unpacked(content)
    assert got[b"root/a"] is got[b"root/x/b"] and got[b"root/a"].body == b"both\n"
    assert {member.links for member in members(content) if stat.S_ISREG(member.mode)} == {2}


def test_holes_stay_holes(tmp_path: pathlib.Path) -> None:
    (tmp_path / "tree").mkdir()
    with open(tmp_path / "tree/sparse", "wb") as file:
        file.seek(64 << 20)
        file.write(b"in the middle")
        file.truncate(200 << 20)
    content = pack(tmp_path / "tree", tmp_path / "archive")
    assert (tmp_path / "archive").stat().st_blocks * 512 < 4 << 20
    body = unpacked(content)[b"root/sparse"].body
    assert len(body) == 200 << 20 and body.strip(b"\0") == b"in the middle"
    assert body.index(b"in") == 64 << 20


@pytest.mark.parametrize(("size", "fits"), [((4 << 30) - 1, True), (4 << 30, False)])
def test_four_gib(tmp_path: pathlib.Path, size: int, fits: bool) -> None:
    (tmp_path / "tree").mkdir()
    with open(tmp_path / "tree/huge", "wb") as file:
        file.truncate(size)
    out = os.open(tmp_path / "archive", os.O_WRONLY | os.O_CREAT, 0o600)
    fd = os.open(tmp_path / "tree", O_PATH)
    with contextlib.nullcontext() if fits else pytest.raises(ImageError, match="less than 4 GiB"):
        assert cpio.write_tree(out, fd, "root").size_bytes > size
    os.close(fd)
    os.close(out)


def test_a_path_that_linux_would_skip(tmp_path: pathlib.Path) -> None:
    (tmp_path / "tree").mkdir()
    os.chdir(tmp_path / "tree")
    for _ in range(16):
        os.mkdir(LONG)
        os.chdir(LONG)
    os.chdir(tmp_path)
    with pytest.raises(ImageError, match="names of 4095 at most"):
        pack(tmp_path / "tree", tmp_path / "archive", "volumes/0")
    pack(tmp_path / "tree", tmp_path / "archive", "")


def test_limit(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    size = len(pack(tree, tmp_path / "archive"))
    assert len(pack(tree, tmp_path / "archive", limit_bytes=size)) == size
    with pytest.raises(cpio.TooLargeError, match=r"pack 'root': more than 2 MiB"):
        pack(tree, tmp_path / "archive", limit_bytes=2 << 20)
    assert (tmp_path / "archive").stat().st_size <= 2 << 20


def test_what_is_mounted_below(tmp_path: pathlib.Path) -> None:
    top = tmp_path / "tree"
    (top / "mnt").mkdir(parents=True)
    (top / "file").write_text("covered\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/secret").write_text("secret\n")
    with mounted(tmp_path / "other", top / "mnt"), mounted(tmp_path / "other/secret", top / "file"):
        got = unpacked(pack(top, tmp_path / "archive"))
        assert set(got) == {b"root", b"root/file", b"root/mnt"} and not got[b"root/file"].body
        got = unpacked(pack(top, tmp_path / "archive", one_file_system=False))
        assert got[b"root/mnt/secret"].body == got[b"root/file"].body == b"secret\n"


def test_attributes_are_counted(tmp_path: pathlib.Path) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    for name in ("ping", "ping6"):
        (top / name).touch()
        os.setxattr(top / name, "security.capability", bytes.fromhex("0100000200200000" + "0" * 24))
    os.setxattr(top, "trusted.overlay.opaque", b"y")
    os.setxattr(top, "trusted.md5sum", b"x")
    fd = os.open(top, O_PATH)
    out = os.open(tmp_path / "archive", os.O_WRONLY | os.O_CREAT, 0o600)
    facts = cpio.write_tree(out, fd, "root")
    seen: list[tuple[bytes, str]] = []
    writer = cpio.Writer(out)

    def attribute(path: bytes, fd: int, name: str) -> bool:
        seen.append((path, name))
        return name == "trusted.md5sum"

    writer.tree(fd, "root", attribute=attribute)
    other = writer.end()
    os.close(fd)
    os.close(out)
    capability = cpio.LeftOut(name="security.capability", files=2, example="ping")
    digest = cpio.LeftOut(name="trusted.md5sum", files=1, example="")
    assert facts.left_out == (capability, digest) and other.left_out == (capability,)
    assert (b"", "trusted.overlay.opaque") in seen


@pytest.mark.parametrize("size", [1000, 10 << 20])
@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("longer", [False, True])
def test_a_file_that_changes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, size: int, live: bool, longer: bool
) -> None:
    """A file is cut off, or grows, after it was looked at and before it is read."""
    (tmp_path / "tree").mkdir()
    file = tmp_path / "tree/log"
    file.write_bytes(b"x" * size)
    header = cpio._Walk.header

    def late(walk: Any, path: bytes, *arguments: Any, **options: Any) -> None:
        header(walk, path, *arguments, **options)
        if path == b"log":
            os.truncate(file, size + 100 if longer else size // 2)

    monkeypatch.setattr(cpio._Walk, "header", late)
    fd = os.open(tmp_path / "tree", O_PATH)
    out = os.open(tmp_path / "archive", os.O_WRONLY | os.O_CREAT, 0o600)
    writer = cpio.Writer(out)
    fine = live and longer
    with contextlib.nullcontext() if fine else pytest.raises(HostError, match="changed meanwhile"):
        writer.tree(fd, "root", what="the tree", live=live)
    if fine:
        writer.end()
        assert unpacked((tmp_path / "archive").read_bytes())[b"root/log"].body == b"x" * size
    os.close(fd)
    os.close(out)


def test_no_way_out_by_a_race(tmp_path: pathlib.Path) -> None:
    """A directory that is a link to the outside in every other moment."""
    top = tmp_path / "tree"
    (top / "directory").mkdir(parents=True)
    (top / "directory/inside").write_text("inside\n")
    for number in range(200):
        (top / f"file-{number}").touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret\n")
    os.symlink(tmp_path / "outside", top / "link")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            os.rename(top / "directory", tmp_path / "aside")
            os.rename(top / "link", top / "directory")
            os.rename(top / "directory", top / "link")
            os.rename(tmp_path / "aside", top / "directory")

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    ends = time.monotonic() + patient(60)
    rounds = 0
    try:
        # a busy machine's threads may not meet in the first hundred
        while rounds < 100 or (True not in seen and time.monotonic() < ends):
            rounds += 1
            fd = os.open(top, O_PATH)
            out = os.open(tmp_path / "archive", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            writer = cpio.Writer(out)
            writer.tree(fd, "", live=True)
            writer.end()
            os.close(fd)
            os.close(out)
            content = (tmp_path / "archive").read_bytes()
            assert b"secret" not in content
            seen.add(b"inside\n" in content)
    finally:
        done.set()
        thread.join()
    assert True in seen


@contextlib.contextmanager
def mounted(source: pathlib.Path, target: pathlib.Path) -> Iterator[None]:
    """A bind mount."""
    subprocess.run(["mount", "--bind", source, target], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", target], check=True)


def test_one_archive_of_several(tmp_path: pathlib.Path) -> None:
    """What ends at the first archive's end finds the files of all parts."""
    parts = []
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"of {name}").write_text(name)
        pack(tmp_path / name, tmp_path / f"{name}.cpio", prefix="")
        parts.append(str(tmp_path / f"{name}.cpio"))
    initrd.assemble(parts, str(tmp_path / "initrd"), one_archive=True)
    content = (tmp_path / "initrd").read_bytes()
    assert content.count(b"TRAILER!!!\0") == 1
    assert content.rstrip(b"\0").endswith(b"TRAILER!!!")
    (tmp_path / "out").mkdir()
    with (tmp_path / "initrd").open("rb") as archive:
        unpack = ["cpio", "-idm", "--quiet"]
        subprocess.run(unpack, stdin=archive, cwd=tmp_path / "out", check=True)
    found = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert found == {"of first": "first", "of second": "second", "of third": "third"}
    (tmp_path / "first.cpio").write_bytes(b"no archive")
    with pytest.raises(ImageError, match="not a cpio archive"):
        initrd.assemble(parts, str(tmp_path / "again"), one_archive=True)
