# SPDX-License-Identifier: Apache-2.0
"""The standard streams of an application in a Linux guest, each by a port of its own: what a
process of the host's has, to the last byte. guest-init and QEMU alone; with urunc and engines:
test_streams of root and interop."""

from __future__ import annotations

import hashlib
import os
import pathlib
import threading
from collections.abc import Iterator

import pytest

from lib.linux_guest import Guest, ext4_root
from lib.streams import wait_full

MUCH = 10 << 20


class Ends:
    """The host's ends of a guest's streams: pipes."""

    def __init__(self, guest: Guest) -> None:
        self.open: set[int] = set()
        self.stdin = self._make(guest, "stdin", writes=True)
        self.stdout = self._make(guest, "stdout", writes=False)
        self.stderr = self._make(guest, "stderr", writes=False)

    def _make(self, guest: Guest, name: str, *, writes: bool) -> int:
        reader, writer = os.pipe()
        guest.stream(name, reader if writes else writer)
        own = writer if writes else reader
        self.open.add(own)
        return own

    def close(self, fd: int) -> None:
        """One of them."""
        self.open.discard(fd)
        os.close(fd)

    def write(self, content: bytes) -> threading.Thread:
        """Write it all to standard input, and end that, beside what else is done."""

        def run() -> None:
            with os.fdopen(self.stdin, "wb") as file:
                file.write(content)

        self.open.discard(self.stdin)
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def read(self, fd: int, *, late: bool = False) -> list[bytes]:
        """Read one to its end, beside what else is done, if `late` not before the guest has to wait
        for it; the list gets the whole."""
        found: list[bytes] = []

        def run() -> None:
            if late:
                wait_full(fd)
            with os.fdopen(fd, "rb") as file:
                found.append(file.read())

        self.open.discard(fd)
        threading.Thread(target=run, daemon=True).start()
        return found


@pytest.fixture
def ends(guest: Guest, files: pathlib.Path) -> Iterator[Ends]:
    ext4_root(guest, files)
    made = Ends(guest)
    yield made
    for fd in list(made.open):
        made.close(fd)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_three_streams(guest: Guest, ends: Ends) -> None:
    """Output and errors apart, the input whole though it came before the guest, and its end."""
    script = "cat; echo error >&2; echo again >/dev/stderr; echo more >/dev/stdout"
    guest.application("sh", "-c", script)
    os.write(ends.stdin, b"first\n")
    out, err = ends.read(ends.stdout), ends.read(ends.stderr)
    guest.start()
    os.write(ends.stdin, b"second\n")
    ends.close(ends.stdin)
    assert guest.wait() == 0
    guest.wait_until(lambda: bool(out and err))
    assert out == [b"first\nsecond\nmore\n"]
    assert err == [b"error\nagain\n"]
    assert guest.output() == ""


def test_much_at_once(guest: Guest, ends: Ends) -> None:
    """10 MiB each way at the same time, with readers that begin late."""
    content = os.urandom(MUCH)
    script = """
        head -c 10485760 /dev/urandom >/tmp/r
        sha256sum /tmp/r | cut -c1-64 >&2
        cat /tmp/r & tee /tmp/in | sha256sum | cut -c1-64 >&2; wait
    """
    guest.tell("mount", "tmpfs", "", "/tmp", "")
    guest.application("sh", "-c", script)
    ends.write(content)
    out, err = ends.read(ends.stdout, late=True), ends.read(ends.stderr)
    guest.start()
    guest.wait_until(lambda: guest.process.poll() is not None, 120)
    guest.wait_until(lambda: bool(out and err))
    assert len(out[0]) == MUCH
    assert err[0].decode().split() == [digest(out[0]), digest(content)]
