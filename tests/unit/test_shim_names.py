# SPDX-License-Identifier: Apache-2.0
"""How containerd names a process's streams, and what a mount's option words mean."""

from __future__ import annotations

import pytest

from urunc.errors import HostError
from urunc.shim.rootfs import MS_BIND, RootfsOptions, shorten
from urunc.shim.stdio import parse

RDONLY, NOSUID, REC, NOATIME = 1, 2, 0x4000, 0x400


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", ("fifo", "", [])),
        ("/run/x/a%20b", ("fifo", "/run/x/a%20b", [])),
        ("/run/a:b/c", ("fifo", "/run/a:b/c", [])),
        ("fifo:///run/x", ("fifo", "/run/x", [])),
        ("file:///var/log/a%20b.log", ("file", "/var/log/a b.log", [])),
        ("file:/var/log/a", ("file", "/var/log/a", [])),
        ("binary:///l?a=1&b=%2Fx+y&c", ("binary", "/l", [("a", "1"), ("b", "/x y"), ("c", "")])),
        ("binary-v2:///bin/l?", ("binary-v2", "/bin/l", [])),
        ("file:///100%/x%zz%4", ("file", "/100%/x%zz%4", [])),
        ("file:///%ff", ("file", "/\udcff", [])),
        ("file:///a#b?c", ("file", "/a", [])),
    ],
)  # fmt: skip
def test_names(name: str, expected: tuple[str, str, list[tuple[str, str]]]) -> None:
    assert parse(name) == expected


@pytest.mark.parametrize(
    ("words", "flags", "data"),
    [
        ((), 0, []),
        (("rw", "relatime"), 0x200000, []),
        (("ro", "rw"), 0, []),
        (("rw", "ro"), RDONLY, []),
        (("rbind", "ro", "nosuid"), MS_BIND | REC | RDONLY | NOSUID, []),
        (("noatime", "atime"), 0, []),
        (("sync", "dirsync", "strictatime"), 0x10 | 0x80 | 0x1000000, []),
        (("defaults", "size=1m", "index=off"), 0, ["size=1m", "index=off"]),
        (("private",), 0, []),
    ],
)
def test_options(words: tuple[str, ...], flags: int, data: list[str]) -> None:
    options = RootfsOptions(words)
    assert (options.flags, options.data) == (flags, data)


def test_kinds_that_are_options() -> None:
    assert RootfsOptions(("ro",), "bind").flags == MS_BIND | RDONLY
    assert RootfsOptions((), "rbind").flags == MS_BIND | REC


def test_propagation() -> None:
    options = RootfsOptions(("rslave", "shared", "private", "runbindable"))
    assert options.propagation == [0x80000 | REC, 0x100000, 0x40000, 0x20000 | REC]
    assert options.data == []


def test_loop() -> None:
    options = RootfsOptions(("loop", "ro", "direct-io"))
    assert (options.loop, options.direct, options.data) == (True, True, [])
    assert RootfsOptions(("direct-io",)).data == ["direct-io"]


def test_attributes_of_a_bind() -> None:
    assert RootfsOptions(("bind", "ro", "nosuid", "nodev", "noexec")).attributes() == (0xF, 0)
    assert RootfsOptions(("bind", "rw")).attributes() == (0, 0)
    assert RootfsOptions(("bind", "remount", "rw", "suid")).attributes() == (0, 3)
    assert RootfsOptions(("bind", "noatime")).attributes() == (0x10, 0x70)
    assert RootfsOptions(("bind", "relatime")).attributes() == (0, 0x70)


@pytest.mark.parametrize("word", ["X-containerd.x", "loop=/dev/l"])
def test_what_is_not_known(word: str) -> None:
    with pytest.raises(HostError, match="not known to this shim"):
        RootfsOptions(("ro", word))


@pytest.mark.parametrize(
    ("layers", "directory", "short"),
    [
        (("/s/12/fs", "/s/1/fs", "/s/123/fs"), "/s", "12/fs:1/fs:123/fs"),
        (("/s/x/12/fs", "/s/y/1/fs"), "/s", "x/12/fs:y/1/fs"),
        (("/s/a\\:b/fs", "/s/c/fs"), "/s", "a\\:b/fs:c/fs"),
        (("/s/a", "/t/b"), "", "/s/a:/t/b"),
        (("/s", "/s/b"), "", "/s:/s/b"),
        (("a/1", "a/2"), "", "a/1:a/2"),
        (("/s\\:s/1", "/s\\:s/2"), "", "/s\\:s/1:/s\\:s/2"),
        (("/s/same", "/s/same"), "/s", "same:same"),
    ],
)
def test_overlay_in_one_page(layers: tuple[str, ...], directory: str, short: str) -> None:
    data = ["index=off", "lowerdir=" + ":".join(layers), "upperdir=/s/9/fs"]
    assert shorten(data) == (directory, ["index=off", f"lowerdir={short}", "upperdir=/s/9/fs"])


def test_no_lower_directories() -> None:
    assert shorten(["index=off"]) == ("", ["index=off"])
