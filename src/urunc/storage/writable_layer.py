# SPDX-License-Identifier: Apache-2.0
"""The disk for a guest's writes, if the annotation `rootfsSize` or the administrator asks for one
(plan/sizing.py has its size): how it is made.

For a Linux guest it holds the upper layer of the root filesystem, which is otherwise in the guest's
memory. A guest that gets a private copy of its root filesystem gets a copy of that size. The file
is sparse and belongs to one container. Imported only when there is such a disk.
"""

from __future__ import annotations

import posix
from errno import ENOSPC

from urunc.errors import HostError, reason
from urunc.linux.files import unlink
from urunc.storage import mkfs
from urunc.storage.facts import LAYER_FORMAT

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

MIB = 1 << 20
FEATURES = (
    "none,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,dir_nlink,"
    "extra_isize,uninit_bg"
)
"""No journal: the filesystem lives no longer than its guest. `uninit_bg` leaves the tables of
inodes as they are, which are holes."""


def make_layer(path: str, size_mib: int) -> None:
    """Make an empty ext4 of that size at a new path; raises HostError."""
    program = mkfs.find(LAYER_FORMAT)
    if not program:
        name, package = mkfs.PROGRAMS[LAYER_FORMAT]
        raise HostError(
            f"a disk for what the guest writes: '{name}' is not installed",
            f"it is in the package {package}",
        )
    try:
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
        fd = posix.open(path, flags, 0o600)
        try:
            posix.ftruncate(fd, size_mib * MIB)
        finally:
            posix.close(fd)
        words = f"-q -F -t {LAYER_FORMAT} -O {FEATURES} -m 0 -b 4096 -I 256"
        _run([program, *words.split(), "-E", "lazy_itable_init=1,nodiscard", path], path)
    except OSError as error:
        unlink(path)
        raise HostError(f"make '{path}' of {size_mib} MiB: {reason(error)}") from None


def resize(path: str, size_mib: int) -> None:
    """Resize an ext2 or ext4 filesystem and its file; raises HostError, also if its content does
    not fit."""
    program = f"{mkfs.find(LAYER_FORMAT).rpartition('/')[0]}/resize2fs"
    try:
        size = max(posix.stat(path).st_size, size_mib * MIB)
        posix.truncate(path, size)
        _run([program, "-f", path, f"{size_mib}M"], path)
        posix.truncate(path, size_mib * MIB)
    except OSError as error:
        unlink(path)
        if error.errno == ENOSPC:  # resize2fs says the same of both
            raise HostError(
                f"rootfsSize: {size_mib} MiB are too few for what the root filesystem holds, or "
                f"'{path.rpartition('/')[0]}' has no space left"
            ) from None
        raise HostError(f"make '{path}' {size_mib} MiB large: {reason(error)}") from None


def _run(argv: list[str], path: str) -> None:
    """Run a program of e2fsprogs; raises OSError where there is no room."""
    from urunc.storage.build_image import run_program

    try:
        run_program(argv)
    except HostError as error:
        unlink(path)
        raise HostError(f"make '{path}': {error.message}", error.hint) from None
