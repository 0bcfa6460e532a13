# SPDX-License-Identifier: Apache-2.0
"""What an image is to be made of: the record that build files and options are read into."""

from __future__ import annotations

from urunc.errors import ImageError
from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""The machine's name → the image specification's (GOARCH)."""
OTHER_NAMES = {
    **{name: name for name in ARCHITECTURES},
    **{other: name for name, other in ARCHITECTURES.items()},
    "x86": "x86_64",
    "arm": "aarch64",
}


@record
class Place:
    """Where something stands: a file and its line; the file is "" for the command line."""

    file: str
    line: int = 0

    def error(self, message: str, hint: str = "") -> ImageError:
        """An error that begins with the place, as compilers write it."""
        where = f"{self.file}:{self.line}" if self.line else self.file
        return ImageError(f"{where}: {message}" if where else message, hint)


@record
class Source:
    """A file or folder: on this machine, or in another image (`image`, "" for this machine)."""

    path: str
    image: str = ""
    place: Place


@record
class Include:
    """A source, and the path that it gets."""

    source: Source
    destination: str


@record
class Recipe:
    """An image for one architecture. What is "" or empty is left to be found out, or left out."""

    place: Place
    kernel: Source
    architecture: str = ""
    guest: str = ""
    monitor: str = ""
    version: str = ""
    initrd: Source | None = None
    """A file, or a folder that becomes one."""
    initrd_files: tuple[Include, ...] = ()
    """What an initrd is to be made of; not together with `initrd`."""
    block: Source | None = None
    mount_point: str = ""
    files: tuple[Include, ...] = ()
    """Files of the image's own root filesystem."""
    mount_rootfs: bool = False
    """Whether that is the guest's."""
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    annotations: Mapping[str, str]
    """Further ones, by their keys below com.urunc.unikernel. or by full names."""
    places: Mapping[str, Place]
    """Where keys stand that are checked later: guest, monitor, and those of annotations."""

    def at(self, key: str) -> Place:
        """Where a key stands; else where the kernel does."""
        return self.places.get(key, self.place)


def architecture(text: str, place: Place) -> str:
    """The machine's name for any of the usual names; raises ImageError."""
    if text and text not in OTHER_NAMES:
        raise place.error(
            f"architecture '{text}': unknown", f"known: {', '.join(sorted(OTHER_NAMES))}"
        )
    return OTHER_NAMES.get(text, "")


def closest(word: str, known: Collection[str]) -> str:
    """A hint: the key that may be meant, and all that there are."""
    from difflib import get_close_matches

    close = get_close_matches(word, known, 1)
    guess = f"did you mean '{close[0]}'? " if close else ""
    return f"{guess}known: {', '.join(known)}"


def variable(text: str, place: Place) -> str:
    """An environment variable, checked; raises ImageError."""
    name, equals, _ = text.partition("=")
    if not name or not equals or "\0" in text:
        raise place.error(f"environment '{text}': not NAME=VALUE", "for example PORT=8080")
    return text
