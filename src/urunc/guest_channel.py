# SPDX-License-Identifier: Apache-2.0
"""The host's end of the channel to urunc's init in a guest: two FIFOs in the container's directory,
one for each direction, with a message a line (guest-init/channel.c).

`channel.in` takes `signal N` to the guest, for its application, `window ROWS COLUMNS`, `pids N`,
and `closed N` where nobody reads a stream any more; init holds it open for the monitor, so nothing
is lost that is said after start. `channel.out` brings `ready` once the application runs, `oom`
where the guest's kernel killed a process of it for want of memory, and `exit N`, the application's
exit code as a shell has it. What was said stays there for whoever else looks: one who wants to know
at the end must hold the reading end before the monitor ends, for a FIFO that nobody has open is
empty. For a guest that is saved there are `hold` and `go`, between which its application stands
still (`held`), and `again TIME SEED` to go on as another container (`told`).

The guest is not trusted: what it says is bounded, and at worst a wrong exit code of its own.
"""

from __future__ import annotations

import posix
from errno import EAGAIN, ENXIO, EPIPE

from urunc.linux import _linux
from urunc.record import record

IN, OUT = "channel.in", "channel.out"
LIMIT_BYTES = 1 << 16
"""What a pipe holds (pipe(7))."""


@record
class Said:
    """What the guest's init has said so far."""

    ready: bool = False
    code: int | None = None
    """The application's exit code."""
    kills: int = 0
    """How often the guest's memory ran out, and processes were killed for it."""
    held: bool = False
    """Whether its application was made to stand still once."""
    told: bool = False
    """Whether it has gone on as another container's."""


def make(directory: str, uid: int, gid: int) -> None:
    """The FIFOs, for the monitor's user. Raises OSError."""
    for name in (IN, OUT):
        posix.mkfifo(f"{directory}/{name}", 0o600)
        posix.chown(f"{directory}/{name}", uid, gid)


def listen(directory: str) -> int:
    """A descriptor for `said`; -1 if the container has no channel."""
    try:
        return posix.open(f"{directory}/{OUT}", posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    except OSError:
        return -1


def said(fd: int) -> Said:
    """Everything that the guest's init has reported, without consuming it; an empty Said for -1."""
    if fd < 0:
        return Said()
    source, target = posix.pipe()
    try:
        size = _linux.tee(fd, target, LIMIT_BYTES)
        lines = posix.read(source, size).split(b"\n") if size else []
    except OSError:
        lines = []  # EAGAIN: nothing
    finally:
        posix.close(source)
        posix.close(target)
    code = None
    for line in lines:
        word, _, number = line.partition(b" ")
        if word == b"exit" and number.isdigit() and int(number[:4]) < 256:
            code = int(number[:4])
    return Said(
        ready=b"ready" in lines,
        code=code,
        kills=lines.count(b"oom"),
        held=b"held" in lines,
        told=b"told" in lines,
    )


def last_words(fd: int) -> Said:
    """As `said`, and close the descriptor."""
    found = said(fd)
    if fd >= 0:
        posix.close(fd)
    return found


def is_silent(directory: str) -> bool:
    """Whether the guest's init has reported nothing yet, so that its application does not run."""
    fd = listen(directory)
    return fd >= 0 and last_words(fd) == Said()


def signal(directory: str, number: int) -> bool:
    """Have the guest's init send a signal to its application; False if the channel has no reader. A
    guest that is still booting gets it later."""
    return _tell(directory, b"signal %d\n" % number)


def resize(directory: str, rows: int, columns: int) -> bool:
    """Set the size of the guest's terminal, which a serial port cannot carry; False as in
    `signal`."""
    return _tell(directory, b"window %d %d\n" % (rows, columns))


def limit_processes(directory: str, most: int) -> bool:
    """Limit the application to `most` tasks, UNLIMITED (-1) for any number; False as in
    `signal`."""
    return _tell(directory, b"pids %s\n" % (b"max" if most < 0 else b"%d" % most))


def hold(directory: str) -> bool:
    """Have the application stand still; False as in `signal`."""
    return _tell(directory, b"hold\n")


def let_go(directory: str) -> bool:
    """Have it go on; False as in `signal`."""
    return _tell(directory, b"go\n")


def tell_again(directory: str, now_ns: int, seed: bytes) -> bool:
    """Have the guest's init read its configuration anew, set the clock (nanoseconds since the
    Epoch) and the random numbers (64 bytes), and let the application go on; False as in
    `signal`."""
    seconds, rest = divmod(now_ns, 10**9)
    return _tell(directory, f"again {seconds}.{rest:09} {seed.hex()}\n".encode())


def closed(directory: str, stream: int) -> bool:
    """Tell the guest that an output stream (1 or 2) has no reader any more; False as in
    `signal`."""
    return _tell(directory, b"closed %d\n" % stream)


def _tell(directory: str, line: bytes) -> bool:
    try:
        fd = posix.open(f"{directory}/{IN}", posix.O_WRONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
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
