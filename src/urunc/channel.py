# SPDX-License-Identifier: Apache-2.0
"""The host's end of the talk with urunc's init in a guest: two FIFOs in the container's folder, a
line each way (guest-init/channel.c).

`channel.in` takes `signal N` to the guest, for its application, and `window ROWS COLUMNS`; init
holds it open for the monitor, so nothing is lost that is said after start. `channel.out` brings
`exit N`, the application's exit code as a shell has it: whoever wants to know that must hold the
reading end before the monitor ends, for a FIFO that nobody has open is empty. The guest is not
trusted: what it says is bounded, and at worst a wrong exit code of its own.
"""

from __future__ import annotations

import posix
from errno import EAGAIN, ENXIO, EPIPE

IN, OUT = "channel.in", "channel.out"
LIMIT_BYTES = 1 << 16
"""What a pipe holds (pipe(7))."""


def make(folder: str, uid: int, gid: int) -> None:
    """The FIFOs, for the monitor's user. Raises OSError."""
    for name in (IN, OUT):
        posix.mkfifo(f"{folder}/{name}", 0o600)
        posix.chown(f"{folder}/{name}", uid, gid)


def listen(folder: str) -> int:
    """A descriptor to read the exit code from once the monitor has ended; -1 where this container
    has no such channel."""
    try:
        return posix.open(f"{folder}/{OUT}", posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    except OSError:
        return -1


def exit_code(fd: int) -> int | None:
    """The application's exit code, None where the guest has not told one; closes the descriptor."""
    if fd < 0:
        return None
    try:
        said = posix.read(fd, LIMIT_BYTES)
    except OSError:
        said = b""
    posix.close(fd)
    code = None
    for line in said.split(b"\n"):
        word, _, number = line.partition(b" ")
        if word == b"exit" and number.isdigit() and int(number[:4]) < 256:
            code = int(number[:4])
    return code


def signal(folder: str, number: int) -> bool:
    """Have the guest's init send a signal to its application; False where nobody is there to take
    it. One that has not come up yet gets it when it does."""
    return _tell(folder, b"signal %d\n" % number)


def resize(folder: str, rows: int, columns: int) -> bool:
    """Tell the guest's terminal its size, which a serial port does not; False as in `signal`."""
    return _tell(folder, b"window %d %d\n" % (rows, columns))


def _tell(folder: str, line: bytes) -> bool:
    try:
        fd = posix.open(f"{folder}/{IN}", posix.O_WRONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    except OSError:
        return False
    try:
        posix.write(fd, line)
    except OSError as error:
        if error.errno not in (EAGAIN, ENXIO, EPIPE):
            raise
        return False
    finally:
        posix.close(fd)
    return True
