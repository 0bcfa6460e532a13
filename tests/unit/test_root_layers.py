# SPDX-License-Identifier: Apache-2.0
"""What the kernel's table of mounts says of a root filesystem, read without any mount."""

from __future__ import annotations

import os
import pathlib

import pytest

from urunc.config import Config, load
from urunc.errors import ConfigError, HostError
from urunc.linux import mountinfo
from urunc.storage import cache, layers


@pytest.mark.parametrize(
    ("value", "directories"),
    (
        ("/a:/b", ["/a", "/b"]),
        ("/a\\:b:/c\\\\d:/e\\,f", ["/a:b", "/c\\d", "/e,f"]),
        ("l/AB:l/CD", ["l/AB", "l/CD"]),
        ("/a::/data", ["/a", "", "/data"]),
        ("/a\\", ["/a"]),
    ),
)
def test_lower_directories(value: str, directories: list[str]) -> None:
    assert layers._split(value) == directories


def test_octal_escapes() -> None:
    assert mountinfo.unescape("/a\\040b\\134:c\\054\\011ü") == "/a b\\:c,\tü"


@pytest.mark.parametrize("path", ("/", "/proc", "/dev/shm", "."))
def test_two_ways_to_ask_of_a_mount(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system call says what the table says, but for flags before a filesystem's options."""
    fd = os.open(path, os.O_PATH)
    try:
        asked = mountinfo.Mounts().of(fd)

        def refuse(*_: object) -> bytes:
            raise OSError(38, "no such system call")

        monkeypatch.setattr("urunc.linux._linux.statmount", refuse)
        read = mountinfo.Mounts().of(fd)
    finally:
        os.close(fd)
    assert asked and read
    for name in ("device", "root", "point", "kind", "source"):
        assert getattr(asked, name) == getattr(read, name)
    assert set(read.options.split(",")) - {"rw", "ro"} >= set(asked.options.split(",")) - {""}


def overlay(point: pathlib.Path, options: str, kind: str = "overlay") -> layers.Source | None:
    line = f"40 30 0:99 / {point} rw,relatime shared:3 master:1 - {kind} overlay rw,{options}"
    return layers._overlay(mountinfo.parse(line), mountinfo.Mounts())


def test_a_layers_key(tmp_path: pathlib.Path) -> None:
    """Engines' ways to name the same layers give the same key; data directories, which layers'
    files are parts of, give none."""
    for name in ("1/fs", "2/fs", "3/fs", "3/merged"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "1/fs/file").write_text("x")
    (tmp_path / "l").mkdir()
    (tmp_path / "l/AB").symlink_to("../2/fs")
    (tmp_path / "l/CD").symlink_to("../1/fs")
    point = tmp_path / "3/merged"
    lower, upper = f"{tmp_path}/2/fs:{tmp_path}/1/fs", f"upperdir={tmp_path}/3/fs"
    found = [
        overlay(point, f"lowerdir={lower},{upper},workdir=/w,uuid=on"),
        overlay(point, f"lowerdir+={tmp_path}/2/fs,lowerdir+={tmp_path}/1/fs,{upper},index=off"),
        overlay(point, f"lowerdir=2/fs:1/fs,{upper}"),
        overlay(point, "lowerdir=l/AB:l/CD,upperdir=3/fs"),
        overlay(point, f"lowerdir={tmp_path}/l/AB:{tmp_path}/l/CD"),
    ]
    assert all(found)
    assert len({source.key for source in found if source}) == 1
    assert found[2] and found[2].lowers == (f"{tmp_path}/2/fs", f"{tmp_path}/1/fs")
    assert [source.upper for source in found if source] == [f"{tmp_path}/3/fs"] * 4 + [""]
    for options in (
        f"lowerdir={lower}::{tmp_path}/3/fs",
        f"lowerdir+={tmp_path}/2/fs,datadir+={tmp_path}/1/fs",
        f"lowerdir={tmp_path}/2/fs:{tmp_path}/gone",
        "lowerdir=5/fs:6/fs",
        f"lowerdir={lower},upperdir={tmp_path}/gone",
    ):
        assert overlay(point, options) is None


def test_a_directory_is_a_tree(tmp_path: pathlib.Path) -> None:
    found = layers.identify(f"{tmp_path}/.")
    assert (found.kind, found.root, found.key) == ("tree", str(tmp_path), "")
    with pytest.raises(HostError, match=r"root filesystem '.*/gone': no such file"):
        layers.identify(f"{tmp_path}/gone")


def test_texts_do_not_run_together() -> None:
    assert len({layers.digest("a", "b"), layers.digest("ab"), layers.digest("a b", "")}) == 3


@pytest.mark.parametrize("text", ("cache = 'cache'", "cache = '/cache/'", "image_limit_mib = 0"))
def test_settings_that_cannot_be(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(f"[storage]\n{text}\n")
    with pytest.raises(ConfigError, match=r"c\.toml:2.*storage\."):
        load(str(tmp_path / "c.toml"))


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user has one of his own, where the administrator names none."""
    config = Config()
    monkeypatch.setattr("posix.geteuid", lambda: 1000)
    for variables, path in (
        ({b"HOME": b"/home/u"}, "/home/u/.cache/urunc"),
        ({b"HOME": b"/home/u", b"XDG_CACHE_HOME": b"/c"}, "/c/urunc"),
        ({}, cache.DEFAULT),
    ):
        monkeypatch.setattr("posix.environ", variables)
        assert cache.location(config) == path
    config.values["storage.cache"] = "/elsewhere"
    assert cache.location(config) == "/elsewhere"


def test_an_entry_without_privileges(tmp_path: pathlib.Path) -> None:
    """Locked, written, committed, found; a second build would find it under the lock."""
    path = str(tmp_path / "cache")
    config = Config()
    config.values["storage.cache"] = path
    assert cache.directory(config) == path
    assert os.stat(path).st_mode & 0o777 == 0o700
    assert cache.find(path, "k.ext4") is None
    fd = cache.lock(path, "k.ext4")
    os.write(fd, b"content")
    assert cache.sweep(path) == []  # somebody is at it
    cache.commit(path, "k.ext4", fd, "/root")
    os.close(fd)
    entry = cache.find(path, "k.ext4")
    assert entry and (entry.size_bytes, entry.source) == (7, "/root")
    os.close(cache.lock(path, "k.ext4"))
    assert cache.sweep(path) == ["k.ext4.tmp"]
    assert cache.entries(path) == [entry]
