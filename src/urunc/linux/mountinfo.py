# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of one mount: statmount(2) (Linux 6.8, with all of it since 6.13), else its
line of /proc/self/mountinfo.

The table is written anew for each reader, all of it: with 300 containers on this machine that takes
15 ms, and the system call a hundredth of one.
"""

from __future__ import annotations

import posix

from urunc.linux import _linux
from urunc.linux.files import O_PATH, read_bytes, read_text

TABLE_LIMIT_BYTES = 1 << 26

# enum of include/uapi/linux/mount.h: what to tell
SB_BASIC, MNT_ROOT, MNT_POINT, FS_TYPE, MNT_OPTS, SB_SOURCE = 0x1, 0x8, 0x10, 0x20, 0x80, 0x200
NEEDED = SB_BASIC | MNT_ROOT | MNT_POINT | FS_TYPE | SB_SOURCE
# offsets in struct statmount: of a number, or of where in its strings one begins
OPTIONS, MASK, MAJOR, MINOR, KIND, ROOT, POINT, SOURCE = 4, 8, 16, 20, 36, 104, 108, 124
STRINGS = 512


class MountInfo:
    """A mount, in words of proc_pid_mountinfo(5)."""

    __slots__ = ("device", "kind", "options", "point", "root", "source")

    def __init__(
        self, device: str, root: str, point: str, kind: str, source: str, options: str
    ) -> None:
        self.device = device
        """Major and minor number: `8:1`."""
        self.root = root
        """What of the filesystem is mounted."""
        self.point = point
        self.kind = kind
        self.source = source
        self.options = options
        """The filesystem's own, with commas between them; `unescape` each one."""


class Mounts:
    """This process's mounts; where the table is needed it is read once."""

    def __init__(self) -> None:
        self._table = ""

    def of(self, fd: int) -> MountInfo | None:
        """The mount that a descriptor is on; None for one that is nowhere in this namespace.
        Raises OSError."""
        try:
            told = _linux.statmount(fd, NEEDED | MNT_OPTS)
        except OSError:
            told = b""  # an older kernel, or a seccomp filter that does not know it
        if told and int.from_bytes(told[MASK : MASK + 8], "little") & NEEDED == NEEDED:
            return _told(told)
        if not self._table:
            table = read_bytes("/proc/self/mountinfo", TABLE_LIMIT_BYTES)
            self._table = "\n" + table.decode("utf-8", "surrogateescape")
        number = read_text(f"/proc/self/fdinfo/{fd}").partition("mnt_id:")[2].split()[0]
        start = self._table.find(f"\n{number} ") + 1
        return parse(self._table[start : self._table.find("\n", start)]) if start else None


def _told(told: bytes) -> MountInfo:
    def number(offset: int) -> int:
        return int.from_bytes(told[offset : offset + 4], "little")

    def text(offset: int) -> str:
        begin = STRINGS + number(offset)
        return told[begin : told.index(b"\0", begin)].decode("utf-8", "surrogateescape")

    return MountInfo(
        device=f"{number(MAJOR)}:{number(MINOR)}",
        root=text(ROOT),
        point=text(POINT),
        kind=text(KIND),
        source=text(SOURCE),
        options=text(OPTIONS) if number(MASK) & MNT_OPTS else "",
    )


def parse(line: str) -> MountInfo:
    """A line of the table."""
    before, _, after = line.partition(" - ")
    fields, more = before.split(" "), after.split(" ")
    return MountInfo(
        device=fields[2],
        root=unescape(fields[3]),
        point=unescape(fields[4]),
        kind=more[0],
        source=unescape(more[1]),
        options=more[2] if len(more) > 2 else "",
    )


def below(directory: str) -> list[tuple[str, bool]]:
    """The mounts that are to be seen below a directory: paths in it, and whether they are read-only
    (of the mount, or of its file system). Raises OSError."""
    fd = posix.open(directory, O_PATH | posix.O_CLOEXEC)
    try:
        top = posix.readlink(f"/proc/self/fd/{fd}")
    finally:
        posix.close(fd)
    top = top.rstrip("/") + "/"
    table = read_bytes("/proc/self/mountinfo", TABLE_LIMIT_BYTES)
    found: dict[str, bool] = {}
    for line in table.decode("utf-8", "surrogateescape").splitlines():
        fields = line.split(" ")
        point = unescape(fields[4])
        if point.startswith(top):
            read_only = "ro" in fields[5].split(",") or "ro" in fields[-1].split(",")
            found[point.removeprefix(top)] = read_only  # the last one is on top
    return sorted(found.items())


def unescape(text: str) -> str:
    r"""A field of the table, or an option: blanks, commas and backslashes in it are octal,
    `\040`."""
    if "\\" not in text:
        return text
    head, *parts = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts)
