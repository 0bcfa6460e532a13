# SPDX-License-Identifier: Apache-2.0
"""The options of a mount (mount(8), config.md's recursive ones, tmpfs(5)): what the host
holds its guest to, and what the guest's mount is told. Pure.

Read-only, and when a file was last read, are the host's business: its own mount of a shared
directory has them, whatever the guest does. Set-user-ID, devices, programs and links are the
guest's: nothing of what is shared is executed or opened as a device on the host.
"""

from __future__ import annotations

from urunc.errors import SpecError
from urunc.linux.mounts import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME,
)
from urunc.record import record
from urunc.storage.facts import Attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.bundle.spec import Mount

OPPOSITES = {
    "rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec", "diratime": "nodiratime",
    "symfollow": "nosymfollow",
}  # fmt: skip
"""Switches that are set by the second word and cleared by the first."""
SWITCHES = tuple(OPPOSITES.values())
TIMES = {"atime": "noatime", "norelatime": "relatime", "nostrictatime": "strictatime"}
"""Of these kinds a mount has one; `atime` and so on only take theirs back."""
HOST_TIMES = {
    "relatime": MOUNT_ATTR_RELATIME,
    "noatime": MOUNT_ATTR_NOATIME,
    "strictatime": MOUNT_ATTR_STRICTATIME,
}
HOST_SWITCHES = {"ro": MOUNT_ATTR_RDONLY, "nodiratime": MOUNT_ATTR_NODIRATIME}
ATTRIBUTES = frozenset((*OPPOSITES, *SWITCHES, *TIMES, *TIMES.values()))
RECURSIVE = {f"r{word}": word for word in ATTRIBUTES}
"""config.md, Linux mount options: with what is mounted below."""
OF_FILE_SYSTEM = frozenset(("sync", "async", "dirsync", "lazytime", "nolazytime"))
"""Not of a mount: nothing to a bind mount (mount(2), MS_REMOUNT with MS_BIND), a tmpfs has them."""
WITHOUT_EFFECT = frozenset(
    ("bind", "rbind", "defaults", "loud", "silent", "mand", "nomand", "iversion", "noiversion",
     "acl", "noacl", "private", "rprivate", "notmpcopyup")
)  # fmt: skip
"""What says how to mount, what Linux has given up (mand, 5.15), what is so in any case: a guest's
mounts are private, a tmpfs has access control lists where its kernel can."""
MORE_WITHOUT_EFFECT = frozenset(("async", "nolazytime"))
UNBINDABLE = frozenset(("unbindable", "runbindable"))
SLAVE, SHARED = frozenset(("slave", "rslave")), frozenset(("shared", "rshared"))
IDENTITIES = frozenset(("idmap", "ridmap"))
"""Which ids the mount's files have: see `ids_shown`."""
COPY_UP = "tmpcopyup"
ALL = frozenset(
    (*ATTRIBUTES, *RECURSIVE, *OF_FILE_SYSTEM, *WITHOUT_EFFECT, *UNBINDABLE, *SLAVE, COPY_UP)
)
"""What `parse` knows by name."""
KNOWN_OF_BINDS = frozenset((*RECURSIVE, *WITHOUT_EFFECT, *OF_FILE_SYSTEM, *IDENTITIES))
FLAGS = {
    "ro": 0x1, "sync": 0x10, "dirsync": 0x80, "nosymfollow": 0x100, "noatime": 0x400,
    "nodiratime": 0x800, "relatime": 0x200000, "strictatime": 0x1000000, "lazytime": 0x2000000,
}  # fmt: skip
"""mount(2)'s MS_* of a file system that is mounted on the host."""
TMPFS_SIZES = ("size", "nr_blocks", "nr_inodes")
TMPFS_IDS = ("uid", "gid")
TMPFS_FLAGS = ("noswap", "inode32", "inode64")
HUGE = ("never", "always", "within_size", "advise")
VALUED = frozenset((*TMPFS_SIZES, *TMPFS_IDS, "mode", "huge"))
GREATEST_ID = (1 << 32) - 2
"""The one after it means that none is said (chown(2))."""
GREATEST_MODE = (1 << 32) - 1
"""Of which the kernel takes the lowest twelve bits."""


@record
class MountOptions:
    """What a mount's options mean."""

    read_only: bool
    read_only_below: bool
    """Whether what is mounted below it is read-only as well (rro)."""
    recursive: bool
    """Whether what is mounted below it is mounted, too (rbind)."""
    host: Attributes
    words: tuple[str, ...]
    """For the guest's mount, beside `ro`."""
    slave: bool
    """Whether what is mounted on the host later shall appear."""
    unknown: tuple[str, ...]
    """What a bind mount makes nothing of, as with runc."""


class _Choices:
    """The switches of a mount that are said, and its way of times."""

    def __init__(self) -> None:
        self.switches: dict[str, bool] = {}
        self.times = ""

    def take(self, word: str) -> None:
        if word in OPPOSITES:
            self.switches[OPPOSITES[word]] = False
        elif word in SWITCHES:
            self.switches[word] = True
        elif word in HOST_TIMES:
            self.times = word
        elif self.times == TIMES[word]:
            self.times = ""

    def host(self, *, cleared: bool) -> tuple[int, int]:
        """(set, clear); `cleared`: what is cleared is taken from the host's mount, too."""
        to_set = to_clear = 0
        for word, flag in HOST_SWITCHES.items():
            if self.switches.get(word):
                to_set |= flag
            elif cleared and word in self.switches:
                to_clear |= flag
        if self.times:
            to_set |= HOST_TIMES[self.times]
            to_clear |= MOUNT_ATTR__ATIME
        return to_set, to_clear


def parse(mount: Mount) -> MountOptions:
    """The options of a bind mount or a tmpfs; raises SpecError for one that cannot be."""
    top, below = _Choices(), _Choices()
    data, unknown = [], []
    slave = False
    for word in mount.options:
        if word in ATTRIBUTES:
            top.take(word)
        elif word in SLAVE:
            slave = mount.is_bind()
        elif word in SHARED and mount.is_bind():
            raise _wrong(mount, word, "what a guest mounts cannot appear on the host")
        elif word == "remount":
            raise _wrong(mount, word, "there is nothing to mount anew")
        elif word in UNBINDABLE:
            data.append("unbindable")
        elif mount.is_bind():
            if word.startswith("idmap="):
                raise _wrong(mount, word, "say it by uidMappings and gidMappings")
            if word not in KNOWN_OF_BINDS:
                unknown.append(word)
        elif word not in WITHOUT_EFFECT and word not in RECURSIVE and word not in SHARED:
            data.append(_of_tmpfs(mount, word))
    for word in mount.options:  # after the others, wherever they stand
        if word in RECURSIVE:
            top.take(RECURSIVE[word])
            below.take(RECURSIVE[word])
    # a host's mount that is read-only stays so unless everything below it is asked to be writable
    to_set, to_clear = top.host(cleared=False)
    set_below, clear_below = below.host(cleared=True)
    words = [word for word in SWITCHES[1:] if top.switches.get(word)]
    words += [top.times] if top.times else []
    return MountOptions(
        read_only=top.switches.get("ro", False),
        read_only_below=below.switches.get("ro", False),
        recursive="rbind" in mount.options,
        host=Attributes(
            set=to_set,
            clear=to_clear | (clear_below & ~to_set),
            set_below=set_below,
            clear_below=clear_below,
        ),
        words=(*words, *data),
        slave=slave,
        unknown=tuple(unknown),
    )


def of_file_system(mount: Mount) -> tuple[bool, int, tuple[str, ...], str]:
    """(read-only, MS_*, words for the guest's mount, what the file system is told) of a mount of
    another type: what is no word of mount(8)'s is the file system's, as it stands."""
    chosen = _Choices()
    data: list[str] = []
    flags = 0
    for word in mount.options:
        if word in ATTRIBUTES:
            chosen.take(word)
        elif word in RECURSIVE:
            chosen.take(RECURSIVE[word])
        elif word == "remount":
            raise _wrong(mount, word, "there is nothing to mount anew")
        elif word in IDENTITIES:
            raise _wrong(mount, word, "only a bind mount can show other ids")
        elif word in FLAGS:
            flags |= FLAGS[word]
        elif word not in ALL and word not in SHARED and word not in MORE_WITHOUT_EFFECT:
            data.append(word)
    words = [word for word in SWITCHES if chosen.switches.get(word)]
    words += [chosen.times] if chosen.times else []
    for word in words:
        flags |= FLAGS.get(word, 0)
    return chosen.switches.get("ro", False), flags, tuple(words), ",".join(data)


def _of_tmpfs(mount: Mount, word: str) -> str:
    """An option of tmpfs(5) as it stands, once it is one."""
    name, equals, value = word.partition("=")
    if name in TMPFS_SIZES and equals:
        digits = value.rstrip("%" if name == "size" else "").rstrip("kKmMgGtTpPeE")
        fits = _is_number(digits) and len(value) - len(digits) <= 1
    elif name in TMPFS_IDS and equals:
        fits = _is_number(value) and int(value) <= GREATEST_ID
    elif name == "mode" and equals:
        fits = bool(value) and not value.strip("01234567") and int(value, 8) <= GREATEST_MODE
    elif name == "huge" and equals:
        fits = value in HUGE
    elif name == "mpol":
        raise _wrong(mount, word, "a guest's memory is not on the host's nodes")
    else:
        fits = not equals and (name in TMPFS_FLAGS or name in OF_FILE_SYSTEM or name == COPY_UP)
    if not fits:
        known = equals and name in VALUED
        why = f"no {name} that tmpfs knows" if known else "tmpfs knows no such option"
        raise _wrong(mount, word, why)
    return word


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _wrong(mount: Mount, word: str, why: str) -> SpecError:
    return SpecError(
        f"config.json: mounts: '{mount.destination}': option '{word}': {why}", "leave it out"
    )
