# SPDX-License-Identifier: Apache-2.0
"""The directory of a saved guest: written whole or not at all, and read as a stranger's."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import pytest

from lib.saved import MANIFEST
from urunc.errors import SnapshotError
from urunc.record import replace
from urunc.snapshot.files import CHUNK_BYTES, GUEST, Reading, Writing, digest
from urunc.snapshot.manifest import SavedFile

CONTENT = {"state": b"state", "memory": bytes(CHUNK_BYTES) + b"x" * 5000 + bytes(2 * CHUNK_BYTES)}


def save(path: pathlib.Path, content: dict[str, bytes] = CONTENT) -> None:
    writing = Writing(str(path))
    writing.begin()
    files = []
    for name, data in content.items():
        fd = writing.new(name, len(data))
        os.pwrite(fd, data, 0)
        found = digest(fd, len(data), dig=name == "memory")
        files.append(SavedFile(name=name, size_bytes=len(data), digest=found))
    writing.settle()
    writing.commit(replace(MANIFEST, disks=(), files=tuple(files)))
    writing.end()


def read(path: pathlib.Path) -> dict[str, bytes]:
    reading = Reading(str(path))
    try:
        reading.verify()
        return {name: os.pread(fd, os.fstat(fd).st_size, 0) for name, fd in reading.files.items()}
    finally:
        reading.close()


def test_what_is_written_is_read(tmp_path: pathlib.Path) -> None:
    """Its own directory is private, and there is nothing else; a second one replaces the first."""
    image = tmp_path / "made/image"
    descriptors = set(os.listdir("/proc/self/fd"))
    save(image)
    assert read(image) == CONTENT
    assert (image / GUEST).stat().st_mode & 0o777 == 0o700
    assert (image / GUEST / "memory").stat().st_mode & 0o777 == 0o444
    save(image, {"state": b"other"})
    assert read(image) == {"state": b"other"}
    assert os.listdir(image) == [GUEST]
    assert set(os.listdir("/proc/self/fd")) == descriptors


def test_holes_do_not_count(tmp_path: pathlib.Path) -> None:
    """The digest is that of the content, with holes or zeros; chunks of zeros become holes."""
    dense, sparse = tmp_path / "dense", tmp_path / "sparse"
    dense.write_bytes(CONTENT["memory"])
    with sparse.open("wb") as file:
        file.seek(CHUNK_BYTES)
        file.write(b"x" * 5000)
        file.truncate(len(CONTENT["memory"]))
    found = []
    for path in (dense, sparse):
        with path.open("r+b") as file:
            found.append(digest(file.fileno(), path.stat().st_size))
            assert digest(file.fileno(), path.stat().st_size, dig=True) == found[-1]
    assert found[0] == found[1]
    assert dense.read_bytes() == CONTENT["memory"]
    with dense.open("rb") as file:
        assert digest(file.fileno(), CHUNK_BYTES) != digest(file.fileno(), 2 * CHUNK_BYTES)
        os.fsync(file.fileno())
    assert dense.stat().st_blocks * 512 <= 2 * CHUNK_BYTES


def test_abandoned(tmp_path: pathlib.Path) -> None:
    """Nothing stays of one that is not finished; what a killed writer left is removed by the next,
    and not what another writes right now."""
    save(tmp_path)
    left = tmp_path / f".{GUEST}.1"
    left.mkdir()
    (left / "state").write_bytes(b"half")
    one = Writing(str(tmp_path))
    one.begin()
    one.new("state")
    two = Writing(str(tmp_path))
    two._name = f".{GUEST}.{1 << 30}"  # no process has this number
    two.begin()
    assert sorted(os.listdir(tmp_path)) == sorted([GUEST, one._name, two._name])
    one.end()
    two.end()
    assert os.listdir(tmp_path) == [GUEST]
    assert read(tmp_path) == CONTENT


def test_nothing_of_others_is_removed(tmp_path: pathlib.Path) -> None:
    """What has the image's name and is none, what only begins like a half one, and a half one of a
    writer with the same number (in another PID namespace)."""
    place, notes = tmp_path / GUEST, tmp_path / f".{GUEST}.notes"
    for path in (place, notes):
        path.mkdir()
        (path / "precious").write_bytes(b"1")
    with pytest.raises(SnapshotError, match="something else than a saved guest"):
        Writing(str(tmp_path)).begin()
    (place / "precious").rename(tmp_path / "precious")
    save(tmp_path)  # in place of an empty directory
    assert sorted(os.listdir(tmp_path)) == sorted([GUEST, notes.name, "precious"])
    assert os.listdir(notes) == ["precious"]
    one, two = Writing(str(tmp_path)), Writing(str(tmp_path))
    one.begin()
    one.new("state")
    with pytest.raises(SnapshotError, match="exists"):
        two.begin()
    assert os.listdir(tmp_path / one._name) == ["state"]
    one.end()
    place.rename(tmp_path / "saved")
    place.write_bytes(b"a file")
    with pytest.raises(SnapshotError, match="not a directory"):
        Writing(str(tmp_path)).begin()
    assert place.read_bytes() == b"a file"


def test_what_could_not_be_read_is_not_written(tmp_path: pathlib.Path) -> None:
    """The older image stays."""
    save(tmp_path)
    writing = Writing(str(tmp_path))
    writing.begin()
    with pytest.raises(SnapshotError, match=r"machine\[0\]"):
        writing.commit(replace(MANIFEST, machine=("x" * 5000,)))
    writing.end()
    assert os.listdir(tmp_path) == [GUEST]
    assert read(tmp_path) == CONTENT


def test_the_directory_is_moved(tmp_path: pathlib.Path) -> None:
    """While it is written: what is by then at its path is left alone."""
    image, moved = tmp_path / "image", tmp_path / "moved"
    writing = Writing(str(image))
    writing.begin()
    image.rename(moved)
    image.mkdir()
    for name in (writing._name, GUEST):
        (image / name).mkdir()
        (image / name / "precious").write_bytes(b"1")
    writing.settle()
    writing.commit(replace(MANIFEST, disks=(), files=()))
    writing.end()
    assert read(moved) == {}
    assert os.listdir(moved) == [GUEST]
    for name in (writing._name, GUEST):
        assert os.listdir(image / name) == ["precious"]


def cut(guest: pathlib.Path) -> None:
    os.truncate(guest / "memory", CHUNK_BYTES)


def grow(guest: pathlib.Path) -> None:
    os.truncate(guest / "memory", 9 * CHUNK_BYTES)


def flip(guest: pathlib.Path) -> None:
    with (guest / "memory").open("r+b") as file:
        file.seek(CHUNK_BYTES + 17)
        file.write(b"y")


def drop(guest: pathlib.Path) -> None:
    (guest / "memory").unlink()


def link(guest: pathlib.Path) -> None:
    (guest / "memory").rename(guest.parent / "memory")
    (guest / "memory").symlink_to(guest.parent / "memory")


def fifo(guest: pathlib.Path) -> None:
    (guest / "memory").unlink()
    os.mkfifo(guest / "memory")


def open_file(guest: pathlib.Path) -> None:
    (guest / "memory").chmod(0o646)


def open_directory(guest: pathlib.Path) -> None:
    guest.chmod(0o770)


def open_image(guest: pathlib.Path) -> None:
    guest.parent.chmod(0o777)


def linked_directory(guest: pathlib.Path) -> None:
    guest.rename(guest.parent / "other")
    guest.symlink_to("other")


def large_manifest(guest: pathlib.Path) -> None:
    path = guest / "manifest.json"
    path.chmod(0o600)
    path.write_bytes(path.read_bytes() + b" " * (1 << 20))


def no_manifest(guest: pathlib.Path) -> None:
    (guest / "manifest.json").unlink()


def strangers(guest: pathlib.Path) -> None:
    if os.geteuid():
        pytest.skip("needs root")
    os.chown(guest / "memory", 12345, 0)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "are not the"), (grow, "are not the"), (flip, "not what was saved"),
        (drop, "no such file"), (link, "symbolic links"), (fifo, "no regular file"),
        (open_file, "others may write"), (open_directory, "others may write"),
        (open_image, "others may write"), (linked_directory, "not a directory"),
        (large_manifest, "more than"), (no_manifest, "no such file"), (strangers, "user 12345"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_damaged(
    tmp_path: pathlib.Path, damage: Callable[[pathlib.Path], None], words: str
) -> None:
    image = tmp_path / "image"
    save(image)
    damage(image / GUEST)
    descriptors = set(os.listdir("/proc/self/fd"))
    with pytest.raises(SnapshotError, match=words):
        read(image)
    assert set(os.listdir("/proc/self/fd")) == descriptors


def test_no_image(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SnapshotError, match="no checkpoint of a unikernel"):
        Reading(str(tmp_path))
    with pytest.raises(SnapshotError, match="no such file"):
        Reading(str(tmp_path / "none"))
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    descriptors = set(os.listdir("/proc/self/fd"))
    with pytest.raises(SnapshotError, match="others may write"):
        Writing(str(tmp_path / "open")).begin()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SnapshotError, match="not a directory"):
        Writing(str(tmp_path / "file/image")).begin()
    assert set(os.listdir("/proc/self/fd")) == descriptors
