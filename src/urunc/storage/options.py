# SPDX-License-Identifier: Apache-2.0
"""Mount options (mount(8), the recursive ones of config.md, tmpfs(5)): which of them the host
enforces and which go to the guest's mount. Pure.

The host's own mount of a shared directory enforces `ro` and the updating of access times, whatever
the guest does. nosuid, nodev, noexec and nosymfollow are the guest's: on the host nothing of a
shared directory is executed or opened as a device.
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
"""Option that clears a switch → option that sets it."""
SWITCHES = tuple(OPPOSITES.values())
TIMES = {"atime": "noatime", "norelatime": "relatime", "nostrictatime": "strictatime"}
"""Option that withdraws one → option for access times, of which a mount has one at a time."""
HOST_TIMES = {
    "relatime": MOUNT_ATTR_RELATIME,
    "noatime": MOUNT_ATTR_NOATIME,
    "strictatime": MOUNT_ATTR_STRICTATIME,
}
HOST_SWITCHES = {"ro": MOUNT_ATTR_RDONLY, "nodiratime": MOUNT_ATTR_NODIRATIME}
ATTRIBUTES = frozenset((*OPPOSITES, *SWITCHES, *TIMES, *TIMES.values()))
RECURSIVE = {f"r{word}": word for word in ATTRIBUTES}
"""The recursive options (config.md, Linux mount options), which hold for mounts below as well."""
OF_FILE_SYSTEM = frozenset(("sync", "async", "dirsync", "lazytime", "nolazytime"))
"""Options of a file system, not of a mount: a tmpfs takes them, a bind mount ignores them
(mount(2), MS_REMOUNT with MS_BIND)."""
WITHOUT_EFFECT = frozenset(
    ("bind", "rbind", "defaults", "loud", "silent", "mand", "nomand", "iversion", "noiversion",
     "acl", "noacl", "private", "rprivate", "notmpcopyup")
)  # fmt: skip
"""Options that say how to mount, that Linux has dropped (mand, 5.15), or that hold in any case: a
guest's mounts are private, and a tmpfs has access control lists if its kernel supports them."""
MORE_WITHOUT_EFFECT = frozenset(("async", "nolazytime"))
UNBINDABLE = frozenset(("unbindable", "runbindable"))
SLAVE, SHARED = frozenset(("slave", "rslave")), frozenset(("shared", "rshared"))
IDENTITIES = frozenset(("idmap", "ridmap"))
"""Options for an id-mapped mount (look.py, `_mapped`)."""
COPY_UP = "tmpcopyup"
ALL = frozenset(
    (*ATTRIBUTES, *RECURSIVE, *OF_FILE_SYSTEM, *WITHOUT_EFFECT, *UNBINDABLE, *SLAVE, COPY_UP)
)
"""Options that `parse` knows by name."""
KNOWN_OF_BINDS = frozenset((*RECURSIVE, *WITHOUT_EFFECT, *OF_FILE_SYSTEM, *IDENTITIES))
FLAGS = {
    "ro": 0x1, "sync": 0x10, "dirsync": 0x80, "nosymfollow": 0x100, "noatime": 0x400,
    "nodiratime": 0x800, "relatime": 0x200000, "strictatime": 0x1000000, "lazytime": 0x2000000,
}  # fmt: skip
"""Option → MS_* of mount(2), for a file system that is mounted on the host."""
TMPFS_SIZES = ("size", "nr_blocks", "nr_inodes")
TMPFS_IDS = ("uid", "gid")
TMPFS_FLAGS = ("noswap", "inode32", "inode64")
HUGE = ("never", "always", "within_size", "advise")
VALUED = frozenset((*TMPFS_SIZES, *TMPFS_IDS, "mode", "huge"))
GREATEST_ID = (1 << 32) - 2
"""The next one, -1, means "no id" (chown(2))."""
GREATEST_MODE = (1 << 32) - 1
"""The kernel takes any 32-bit mode, and uses its lowest twelve bits."""


@record
class MountOptions:
    """The meaning of a mount's options."""

    read_only: bool
    read_only_below: bool
    """Whether the mounts below it are read-only as well (rro)."""
    recursive: bool
    """Whether the mounts below the source come along (rbind)."""
    host: Attributes
    """Attributes for the host's mount."""
    words: tuple[str, ...]
    """Options for the guest's mount, beside `ro`."""
    slave: bool
    """Whether later mounts of the host below it shall appear (slave, rslave)."""
    unknown: tuple[str, ...]
    """Options that a bind mount ignores; runc ignores them, too."""


class _Choices:
    """The switches and the access time option that a list of options adds up to."""

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
        """MOUNT_ATTR_* to (set, clear) on the host's mount; `cleared` says whether switches that
        the options clear are cleared there, too."""
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
    """The options of a bind mount or a tmpfs; raises SpecError for one that is not supported."""
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
    """For a mount of any other type: (read-only, MS_* of mount(2), options for the guest's mount,
    the file system's own options). An option that mount(8) does not define is the file system's."""
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
    """`word` itself, if it is an option of tmpfs(5); raises SpecError otherwise."""
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
