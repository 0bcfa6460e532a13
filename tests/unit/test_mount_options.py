# SPDX-License-Identifier: Apache-2.0
"""What the options of mounts mean, to the host and to the guest."""

from __future__ import annotations

import pathlib

import pytest

from urunc.bundle.spec import Mount
from urunc.errors import SpecError
from urunc.linux import mounts
from urunc.storage.facts import Attributes
from urunc.storage.options import ALL, MountOptions, parse

RDONLY, NODIRATIME = mounts.MOUNT_ATTR_RDONLY, mounts.MOUNT_ATTR_NODIRATIME
NOATIME, TIMES = mounts.MOUNT_ATTR_NOATIME, mounts.MOUNT_ATTR__ATIME
DOCUMENT = pathlib.Path(__file__).parent.parent.parent / "docs/storage.md"


def bound(*options: str) -> MountOptions:
    return parse(Mount(destination="/x", source="/y", type="bind", options=("rbind", *options)))


def memory(*options: str) -> MountOptions:
    return parse(Mount(destination="/x", source="tmpfs", type="tmpfs", options=options))


@pytest.mark.parametrize(
    ("options", "alone", "below", "host"),
    [
        ("", False, False, Attributes()),
        ("rw", False, False, Attributes()),
        ("ro", True, False, Attributes(set=RDONLY)),
        ("rro", True, True, Attributes(set=RDONLY, set_below=RDONLY)),
        ("rro rw", True, True, Attributes(set=RDONLY, set_below=RDONLY)),
        ("ro rw", False, False, Attributes()),
        ("ro rrw", False, False, Attributes(clear=RDONLY, clear_below=RDONLY)),
        ("noatime", False, False, Attributes(set=NOATIME, clear=TIMES)),
        ("noatime ratime", False, False, Attributes()),
        (
            "rnoatime nodiratime", False, False,
            Attributes(
                set=NOATIME | NODIRATIME, clear=TIMES, set_below=NOATIME, clear_below=TIMES
            ),
        ),
    ],
)  # fmt: skip
def test_the_hosts_side(options: str, alone: bool, below: bool, host: Attributes) -> None:
    found = bound(*options.split())
    assert (found.read_only, found.read_only_below) == (alone, below)
    assert found.host == host


def test_the_guests_side() -> None:
    assert bound("rnosuid", "nodev", "rnoexec", "exec").words == ("nosuid", "nodev", "noexec")
    assert bound("nosuid", "suid", "rnosymfollow", "relatime").words == ("nosymfollow", "relatime")
    assert bound("rslave").slave
    assert bound("sync", "z", "idmap").unknown == ("z",)
    assert memory("size=1%", "uid=5", "sync", "acl", "tmpcopyup").words == (
        "size=1%", "uid=5", "sync", "tmpcopyup",
    )  # fmt: skip
    found = memory("rro", "shared", "nr_inodes=1k")
    assert found.read_only
    assert found.words == ("nr_inodes=1k",)


def test_every_option_is_known_and_told_of() -> None:
    """None is taken for another's, or for a tmpfs' own; the table of the documentation has it."""
    text = DOCUMENT.read_text()
    for word in ALL - {"tmpcopyup"}:
        assert bound(word).unknown == ()
        assert f"`{word.removeprefix('r')}`" in text or f"`{word}`" in text, word
    for word in ALL:
        memory(word)
    for word in ("remount", "shared", "rshared"):
        with pytest.raises(SpecError):
            bound(word)


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("mode=9999", "no mode that tmpfs knows"),
        ("mode=40000000000", "no mode that tmpfs knows"),
        ("uid=4294967295", "no uid that tmpfs knows"),
        ("gid=-1", "no gid that tmpfs knows"),
        ("size=\N{ARABIC-INDIC DIGIT THREE}k", "no size that tmpfs knows"),
        ("size=k", "no size that tmpfs knows"),
        ("huge=yes", "no huge that tmpfs knows"),
        ("size", "tmpfs knows no such option"),
        ("colour=red", "tmpfs knows no such option"),
    ],
)
def test_what_a_tmpfs_cannot_be_told(option: str, why: str) -> None:
    """Here, and not by the guest's kernel once it has booted."""
    with pytest.raises(SpecError, match=f"'{option}': {why}"):
        memory(option)
    assert memory("mode=37777777777", "uid=4294967294").words
