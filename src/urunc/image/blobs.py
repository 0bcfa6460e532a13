# SPDX-License-Identifier: Apache-2.0
"""Content by its digest: files without names until they are whole, so that a build that is killed
leaves none."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from hashlib import sha256
from shutil import copyfileobj

from urunc.errors import HostError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO, Any

CHUNK_BYTES = 1 << 20


class Blob:
    """A file without a name in a directory (O_TMPFILE), written once."""

    def __init__(self, directory: str) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=directory)
        self.digest = ""
        """sha256:…, once it is whole."""
        self.size_bytes = 0

    def finish(self) -> Blob:
        """Read it once for its digest and size."""
        self.file.flush()
        self.file.seek(0)
        found = sha256()
        while part := self.file.read(CHUNK_BYTES):
            found.update(part)
        self.size_bytes = self.file.tell()
        self.digest = f"sha256:{found.hexdigest()}"
        self.file.seek(0)
        return self

    def parts(self) -> Iterator[bytes]:
        """Its content, from the beginning."""
        self.file.seek(0)
        while part := self.file.read(CHUNK_BYTES):
            yield part

    def link(self, path: str) -> None:
        """Give it a name, which must be free."""
        os.fchmod(self.file.fileno(), 0o644)
        try:
            # with src_dir_fd os.link follows the link in /proc, without it does not
            os.link(f"/proc/self/fd/{self.file.fileno()}", path, src_dir_fd=0)
        except FileExistsError:
            raise
        except OSError:  # a file system without O_TMPFILE
            self.file.seek(0)
            with open(path, "xb") as out:
                copyfileobj(self.file, out, CHUNK_BYTES)

    def name(self, path: str) -> None:
        """Put it in the place of the file at a path, whole."""
        temporary = f"{path}.{os.getpid()}.part"
        try:
            self.link(temporary)
            os.rename(temporary, path)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(temporary)
            if isinstance(error, OSError):
                raise HostError(f"write '{path}': {reason(error)}") from None
            raise


def of_text(directory: str, text: str) -> Blob:
    """A blob of a text."""
    blob = Blob(directory)
    blob.file.write(text.encode())
    return blob.finish()


def of_json(directory: str, value: Any) -> Blob:
    """A blob of a JSON value: the same value gives the same bytes."""
    from json import dumps

    return of_text(directory, dumps(value, sort_keys=True, separators=(",", ":")))
