# SPDX-License-Identifier: Apache-2.0
"""What the tests of guests' storage with container engines share: an ordinary image, configurations
by which it runs as a Linux guest, scripts of several questions, and what engines mount."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import subprocess
from collections.abc import Iterator
from typing import Any

from lib import busybox
from lib.images import archive
from lib.places import Place
from lib.rooted import SPARED
from lib.support import PARTS, PREFIX, URUNC

APPLETS = ("sh", "cat", "dd", "grep", "ls", "mount", "readlink", "stat", "touch", "wc")
AS_LINUX = {"unikernelType": "linux", "hypervisor": "qemu", "mountRootfs": "true"}
"""The annotations of an ordinary image that is to run as a Linux guest."""
CONFIG = f"""
[monitors.qemu]
accelerator = "tcg"
[guests.linux]
kernel = "{PARTS}/linux/vmlinux"
modules = "{PARTS}/linux/lib-modules"
parameters = {json.dumps(SPARED)}
[storage]
cache = "/run/cache"
private = "/run/private"
"""
"""The kernel mounts directories that are shared by virtiofs."""
COPYING = CONFIG.replace("[guests.linux]", '[guests.linux]\nfilesystems = ["erofs"]')
"""It is told not to, so what it gets of volumes are copies."""
CONTENT = "of the image\n"
SETTINGS = "settings of the image\n"
LOOK = {
    "image": "cat /etc/image",
    "written": "cat /etc/written",
    "link": "readlink /bin/cat",
    "write": "echo guest >/etc/written; cat /etc/written",
}
"""What is asked of a guest's root filesystem; only another's writes could make `written` answer."""
SEEN = {
    "image": CONTENT,
    "written": "cat: can't open '/etc/written': No such file or directory\n",
    "link": "busybox\n",
    "write": "guest\n",
}
DENIED = "/bin/sh: can't create {}: Read-only file system\n"
LOOK_AT_VOLUMES = {
    "directory": "cat /in/directory/text /in/directory/below/text /in/directory/..data/key",
    "kept": "stat -c '%a %u' /in/directory/secret",
    "file": "cat /in/file",
    "denied": "echo guest >/in/directory/text; echo guest >/in/file",
    "tmpfs": "grep -c ' /scratch tmpfs .*size=1024k' /proc/mounts; touch /scratch/a; ls /scratch",
    "device": "dd if={device} bs=10 count=1 2>/dev/null",
    "change": "echo by the guest | dd of={device} bs=512 conv=fsync 2>/dev/null",
}
"""What is asked of Volumes: a directory and a file to be read alone, 1 MiB of memory, a device."""
VOLUMES_SEEN = {
    "directory": "in a directory\nbelow\none of a map\n",
    "kept": "400 1234\n",
    "file": "a file\n",
    "denied": DENIED.format("/in/directory/text") + DENIED.format("/in/file"),
    "tmpfs": "1\na\n",
    "device": "on a disk\n",
    "change": "",
}
LOOK_AT_MEMORY = {
    "shm": "stat -f -c '%T %b %S' /dev/shm; stat -c '%a %u %g' /dev/shm; touch /dev/shm/x",
    "sized": "stat -f -c '%T %b %S' /sized; stat -c '%a %u %g' /sized",
    "over": "stat -c '%a %u %g' /data; ls /data",
    "nodes": "stat -c '%a %t:%T' /dev/null /dev/fuse",
}
"""What runc and a guest answer alike, of file systems in memory and of nodes."""
WRITE = {"write": "cat /out/text; echo by the guest >/out/text; cat /out/text"}
"""What is asked of the directory that may be written to; a copy answers the same."""
WRITTEN = {"write": "to be written over\nby the guest\n"}


KEEP = {
    "kept": "cat /data/settings; echo guest >/data/settings; cat /data/settings",
    "mounted": "grep -c ' /data ' /proc/mounts",
}
"""What is asked of a volume that the image declares."""
KEPT = {"kept": SETTINGS + "guest\n", "mounted": "1\n"}


def image(directory: pathlib.Path, name: str = "stored", *volumes: str) -> pathlib.Path:
    """The archive of an ordinary image, which may declare volumes."""
    files = busybox.files(*APPLETS)
    files |= {"etc/image": CONTENT.encode(), "data/settings": SETTINGS.encode()}
    return archive(directory / f"{name}.tar", name, files, ["/bin/sh"], volumes)


def annotation_words(*form: str, **more: str) -> list[str]:
    """The words of a command line that set the annotations; `form` are the words of one."""
    found = {PREFIX + key: value for key, value in (AS_LINUX | more).items()}
    return [word for key, value in found.items() for word in (*form, f"{key}={value}")]


def script(asked: dict[str, str], code: int = 0, **words: str) -> tuple[str, ...]:
    """A command that asks all of it, with what is said of errors among the answers, and ends with
    an exit code; `words` are what is in braces."""
    questions = "".join(f"echo '== {name}'; {text}\n" for name, text in asked.items())
    for name, word in words.items():
        questions = questions.replace(f"{{{name}}}", word)
    return "/bin/sh", "-c", f"exec 2>&1\n{questions}exit {code}"


def answers(said: str) -> dict[str, str]:
    """What a guest answered to each question. (A line's end is what a terminal makes of it where
    there is one.)"""
    said = re.sub(r"sh: line \d+: ", "sh: ", said)  # as newer shells of busybox say it
    parts = said.replace("\r\n", "\n").split("== ")[1:]
    return {name: text for name, _, text in (part.partition("\n") for part in parts)}


def cached(place: Place, config: str = "config") -> list[tuple[str, str]]:
    """The images of root filesystems in a place's cache: their paths, and when they were made."""
    words = [str(URUNC), "--config", f"/etc/urunc/{config}.toml", "cache", "list"]
    words += ["--format", "json"]
    listed: list[dict[str, Any]] = json.loads(place.run(*words).stdout)
    return [(e["path"], e["made"]) for e in listed if e["form"] != "initrd"]


class Volumes:
    """What engines mount, of a directory of the host's."""

    def __init__(self, path: pathlib.Path) -> None:
        self.directory, self.file, self.out = path / "directory", path / "file", path / "out"
        self._disk = path / "disk"
        for name, content in (
            ("directory/text", "in a directory\n"),
            ("directory/below/text", "below\n"),
            ("directory/secret", "a secret\n"),
            ("directory/..1/key", "one of a map\n"),
            ("file", "a file\n"),
            ("out/text", "to be written over\n"),
        ):
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(content)
        (self.directory / "..data").symlink_to("..1")
        (self.directory / "secret").chmod(0o400)
        os.chown(self.directory / "secret", 1234, 0)

    @contextlib.contextmanager
    def device(self) -> Iterator[str]:
        """A block device of 1 MiB, which begins with a text; the guest writes over it."""
        with self._disk.open("wb") as file:
            file.write(b"on a disk\n")
            file.truncate(1 << 20)
        found = subprocess.run(
            ["losetup", "--show", "-f", self._disk], check=True, capture_output=True, text=True
        ).stdout.strip()
        try:
            yield found
        finally:
            subprocess.run(["losetup", "-d", found], check=True)
        assert self._disk.read_bytes().startswith(b"by the guest\n")

    def are_left(self, *, written: bool) -> None:
        """See what a guest has left of it: what is to be read alone, and the rest as it wrote it,
        if it could."""
        assert (self.directory / "text").read_text() == "in a directory\n"
        assert self.file.read_text() == "a file\n"
        text = "by the guest\n" if written else "to be written over\n"
        assert (self.out / "text").read_text() == text
