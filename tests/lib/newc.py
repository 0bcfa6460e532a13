# SPDX-License-Identifier: Apache-2.0
"""A reader of newc archives that does what Linux' init/initramfs.c does, and is strict where that
only says "broken padding" or skips a member."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

PATH_MAX = 4096


class Member(NamedTuple):
    """One member as it is in the archive."""

    name: bytes
    inode: int
    mode: int
    uid: int
    gid: int
    links: int
    mtime: int
    device: int
    body: bytes


def members(archive: bytes) -> list[Member]:
    """Every member of one archive or several in a row, without the trailers."""
    found: list[Member] = []
    at = 0
    trailed = False
    while at < len(archive):
        if archive[at] == 0 and (trailed or not found):
            at += 1
            continue
        assert at % 4 == 0, f"a header at {at}"
        assert archive[at : at + 6] == b"070701", f"no header at {at}"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        inode, mode, uid, gid, links, mtime, size, major, minor, rmajor, rminor, length, check = (
            fields
        )
        assert (major, minor, check) == (0, 0, 0)
        assert 0 < length <= PATH_MAX
        name = archive[at + 110 : at + 110 + length]
        assert name[-1:] == b"\0" and b"\0" not in name[:-1]
        start = at + (110 + length + 3) // 4 * 4
        body = archive[start : start + size]
        assert len(body) == size
        at = (start + size + 3) // 4 * 4
        assert not any(archive[start + size : at])
        trailed = name == b"TRAILER!!!\0"
        if trailed:
            assert (mode, size) == (0, 0)
            found.append(Member(b"", 0, 0, 0, 0, 0, 0, 0, b""))
            continue
        if stat.S_ISLNK(mode):
            assert 0 < size < PATH_MAX
        elif not stat.S_ISREG(mode):
            assert not size
        device = os.makedev(rmajor, rminor)
        found.append(Member(name[:-1], inode, mode, uid, gid, links, mtime, device, body))
    assert trailed, "no trailer"
    return found


class Node:
    """A file as it would be unpacked; hard links are one Node."""

    def __init__(self, member: Member) -> None:
        self.mode, self.uid, self.gid = member.mode, member.uid, member.gid
        self.mtime, self.device, self.body = member.mtime, member.device, member.body

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and vars(self) == vars(other)

    def __repr__(self) -> str:
        return f"{self.mode:o} {self.uid}:{self.gid} {self.mtime} {self.device} {self.body[:40]!r}"


def unpacked(archive: bytes) -> dict[bytes, Node]:
    """Path → file, as the kernel makes them: parents must be there, links are found by inode."""
    tree: dict[bytes, Node] = {}
    linked: dict[tuple[int, int], Node] = {}
    for member in members(archive):
        if not member.name:  # a trailer: inodes mean something else from here on
            linked.clear()
            continue
        parent = member.name.rpartition(b"/")[0]
        assert not parent or stat.S_ISDIR(tree[parent].mode), f"{member.name!r} has no parent"
        node = Node(member)
        shared = member.links > 1 and not stat.S_ISDIR(member.mode)
        if shared and not stat.S_ISLNK(member.mode):
            key = member.inode, stat.S_IFMT(member.mode)
            first = linked.setdefault(key, node)
            if member.body:
                assert not first.body, "content with two links"
                first.body = member.body
            node = first
        assert member.name not in tree, f"{member.name!r} twice"
        tree[member.name] = node
    return tree


def on_disk(directory: bytes | str, prefix: bytes = b"") -> dict[bytes, Node]:
    """The same of a real tree."""
    top = os.fsencode(directory)
    identities: dict[tuple[int, int], Node] = {}
    tree: dict[bytes, Node] = {}

    def add(path: bytes, name: bytes) -> None:
        facts = os.lstat(path)
        body = b""
        if stat.S_ISREG(facts.st_mode):
            with open(path, "rb") as file:
                body = file.read()
        elif stat.S_ISLNK(facts.st_mode):
            body = os.readlink(path)
        is_device = stat.S_ISBLK(facts.st_mode) or stat.S_ISCHR(facts.st_mode)
        device = facts.st_rdev if is_device else 0
        node = Node(
            Member(name, 0, facts.st_mode, facts.st_uid, facts.st_gid, 1, int(facts.st_mtime),
                   device, body)
        )  # fmt: skip
        if not stat.S_ISDIR(facts.st_mode) and not stat.S_ISLNK(facts.st_mode):
            node = identities.setdefault((facts.st_dev, facts.st_ino), node)
        tree[name] = node
        if stat.S_ISDIR(facts.st_mode):
            for entry in os.listdir(path):
                add(path + b"/" + entry, name + b"/" + entry if name != b"." else entry)

    add(top, prefix or b".")
    return tree


def cpio(files: dict[str, bytes]) -> bytes:
    """A newc archive (cpio(5)) of regular files."""
    archive = b""
    for number, (name, content) in enumerate([*files.items(), ("TRAILER!!!", b"")], 1):
        mode = 0o100644 if name != "TRAILER!!!" else 0
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        entry = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        entry += bytes(-len(entry) % 4)
        archive += entry + content + bytes(-len(content) % 4)
    return archive
