# SPDX-License-Identifier: Apache-2.0
"""Images of root filesystems for a monitor to give to its guest: shared ones from the cache, and
private ones.

`obtain` is on `create`'s path: for an image that the cache has, it looks at the layers' directories
and the cache entry only. The builder is imported when an image has to be built.
"""

from __future__ import annotations

import posix
from errno import EINVAL, ENOTTY, EOPNOTSUPP, EXDEV
from fcntl import ioctl

from urunc.errors import HostError, reason
from urunc.linux.files import unlink
from urunc.storage import cache
from urunc.storage.cache import WRITABLE, FilesystemImage, of_entry
from urunc.storage.layers import Source, digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.config import Config
    from urunc.storage.ownership import Owners

RECIPE = "1"
"""A part of every key: to be changed when the same content has to give another image."""
FICLONE = 0x40049409


def obtain(
    source: Source, image_format: str, config: Config, owners: Owners | None = None
) -> FilesystemImage:
    """The shared image of a root filesystem in one of ROOT_FORMATS; built if the cache has none.

    Of an overlay it holds the lower directories, without the upper one and without what is mounted;
    of a source without layers, the directory. With `owners`, files have the owners that the
    container sees. To be opened soon: the cache may drop the entry after cache.RECENT_S seconds.
    Raises HostError.
    """
    directory = cache.directory(config)
    content = source.key
    if not content:
        from urunc.storage.trees import key_of

        content = key_of(source.root, directory)
    room = str(config.get("storage.slack_mib")) if image_format in WRITABLE else ""
    key = digest(RECIPE, content, image_format, room, *([owners.name] if owners else []))
    entry = cache.find(directory, f"{key}.{image_format}")
    if entry:
        cache.touch(entry)
        return of_entry(entry, key)
    from urunc.storage.build_image import LayersChangedError, build

    try:
        return build(source, image_format, key, directory, config, owners)
    except LayersChangedError:
        return obtain(Source(kind="tree", root=source.root), image_format, config, owners)


def build_private(
    root: str, image_format: str, target: str, config: Config, owners: Owners | None = None
) -> FilesystemImage:
    """Build an image of a root filesystem as it is now, with an overlay's upper directory, at a new
    path; raises HostError."""
    from urunc.storage.build_image import build_at

    return build_at(Source(kind="tree", root=root), image_format, target, config, owners)


def private_copy(image: str, target: str) -> None:
    """Copy an image to a new path, with mode 0600.

    The copy shares the image's blocks if the filesystem can do that (ioctl_ficlone(2)); otherwise
    holes stay holes. Raises HostError.
    """
    try:
        source = posix.open(image, posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            copy = posix.open(
                target, posix.O_RDWR | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600
            )
            try:
                _copy(source, copy)
            except BaseException:
                unlink(target)
                raise
            finally:
                posix.close(copy)
        finally:
            posix.close(source)
    except OSError as error:
        raise HostError(f"copy image '{image}' to '{target}': {reason(error)}") from None


def _copy(source: int, target: int) -> None:
    try:
        ioctl(target, FICLONE, source)
        return
    except OSError as error:
        if error.errno not in (EINVAL, ENOTTY, EOPNOTSUPP, EXDEV):
            raise
    from urunc.storage import sparse

    size = posix.fstat(source).st_size
    posix.ftruncate(target, size)
    sparse.copy(source, target, size)
    if posix.fstat(source).st_size < size:
        raise OSError(EINVAL, "the image was cut short")
