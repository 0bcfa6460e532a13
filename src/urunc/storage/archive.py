# SPDX-License-Identifier: Apache-2.0
"""The archive of a container's own files for urunc's init in its guest: copies of mounts, and the
writable layer of the root filesystem.

Runs in the host's namespaces, as root, at create or start. The sources may be written to meanwhile.
The directory of a ConfigMap or Secret is copied with its `..data` link, and in one consistent
state.
"""

from __future__ import annotations

import posix

from urunc.errors import HostError, ImageError, reason
from urunc.linux.files import O_PATH, S_IFDIR, S_IFMT, S_IFREG, unlink
from urunc.record import record
from urunc.storage.cpio import LeftOut, TooLargeError, Writer, decoded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from urunc.storage.ownership import Owners

DATA = "..data"
"""The link that the kubelet points to a new directory when it updates a ConfigMap or the like; it
then removes the old one (pkg/volume/util, AtomicWriter)."""
ATTEMPTS = 20
"""How many times to copy everything until no such update comes in between."""
LAYER = "layer"
"""The writable layer's directory in the archive, in overlayfs' own format: whiteouts are character
devices 0:0."""
OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
MOVED = (
    *("trusted.overlay.redirect", "user.overlay.redirect"),
    *("trusted.overlay.metacopy", "user.overlay.metacopy"),
)
"""overlayfs' attributes for what is stored elsewhere: a renamed directory, content that was not
copied up."""


@record
class Copied:
    """A mount to copy: the directory or file that is at `source` becomes `name` in the archive."""

    name: str
    source: str
    destination: str
    recursive: bool
    """Whether the mounts below it belong to it (rbind)."""


@record
class Archive:
    """An archive that was written."""

    size_bytes: int
    opaque: tuple[str, ...]
    """Opaque directories of the layer, which hide those of lower layers (overlayfs)."""
    left_out: tuple[LeftOut, ...]
    """Extended attributes that the copies lack."""
    linked: int
    linked_example: str
    """Hard links, as in cpio.Facts."""


def write_archive(
    target: str, volumes: Sequence[Copied], upper: str, limit_bytes: int, hint: str = "",
    owners: Owners | None = None,
) -> Archive:  # fmt: skip
    """Write the archive to a new file, in whole blocks of cpio.BLOCK_BYTES; on failure there is no
    file.

    `upper` is the directory of the writable layer, "" for none. Raises HostError beyond the limit
    (with `hint`), for sources that cannot be read, and if the archive cannot be written; ImageError
    for a mount that is neither a directory nor a regular file.
    """
    try:
        out = posix.open(
            target, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise HostError(f"write '{target}': {reason(error)}") from None
    try:
        for _ in range(ATTEMPTS):
            archive = _attempt(Writer(out, limit_bytes, owners), volumes, upper)
            if archive:
                return archive
        raise HostError(f"copy mounts: one of them was updated during each of {ATTEMPTS} attempts")
    except BaseException as error:
        unlink(target)
        if isinstance(error, TooLargeError):
            raise HostError(error.message, hint) from None
        if isinstance(error, OSError):
            raise HostError(f"write '{target}': {reason(error)}") from None
        raise
    finally:
        posix.close(out)


def _attempt(writer: Writer, volumes: Sequence[Copied], upper: str) -> Archive | None:
    """Write the archive from the file's beginning; None if a volume was updated meanwhile."""
    posix.ftruncate(writer.out, 0)
    posix.lseek(writer.out, 0, 0)
    opaque: list[str] = []
    if upper:
        _add_layer(writer, upper, opaque)
    if not all(_add_volume(writer, volume) for volume in volumes):
        return None
    facts = writer.end()
    return Archive(
        size_bytes=facts.size_bytes,
        opaque=tuple(opaque),
        left_out=facts.left_out,
        linked=facts.linked,
        linked_example=facts.linked_example,
    )


def _add_volume(writer: Writer, volume: Copied) -> bool:
    """Write a volume; False if it was updated meanwhile."""
    what = f"mount '{volume.destination}'"
    fd = _open(volume.source, what)
    try:
        if posix.fstat(fd).st_mode & S_IFMT not in (S_IFDIR, S_IFREG):
            raise ImageError(
                f"{what}: '{volume.source}' is neither a directory nor a regular file",
                "only those can be copied into a guest",
            )
        before = _data(fd)
        writer.tree(
            fd,
            volume.name,
            what=what,
            one_file_system=not volume.recursive,
            live=True,
        )
        return _data(fd) == before
    finally:
        posix.close(fd)


def _add_layer(writer: Writer, upper: str, opaque: list[str]) -> None:
    what = "the container's own files"

    def attribute(path: bytes, fd: int, name: str) -> bool:
        if name in OPAQUE and posix.getxattr(fd, name) == b"y":
            opaque.append(decoded(path))
            return True
        if name in MOVED:
            raise HostError(
                f"pack {what}: '{decoded(path)}' is a part of what overlayfs keeps elsewhere",
                "mount overlays without redirect_dir and metacopy, or do not rename directories of "
                "the image before the container is started",
            )
        return False

    fd = _open(upper, what)
    try:
        writer.tree(fd, LAYER, what=what, attribute=attribute)
    finally:
        posix.close(fd)


def _open(path: str, what: str) -> int:
    try:
        return posix.open(path, O_PATH | posix.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{what}: open '{path}': {reason(error)}") from None


def _data(fd: int) -> str:
    """The target of a volume's DATA link, "" if it has none."""
    try:
        return posix.readlink(DATA, dir_fd=fd)
    except OSError:
        return ""
