# SPDX-License-Identifier: Apache-2.0
"""Who makes the next container: a worker that is forked ahead, and loads what `create` needs while
the shim loads what is its own. So neither waits for the other's modules, and the shim, which stays,
never has those of `create`.

It hears an Order and three streams over a socket, in one message, and goes on as a worker does
(worker.py). It ends with the shim, or when it is dismissed.
"""

from __future__ import annotations

import gc
import posix
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_SEQPACKET, SOL_SOCKET, socketpair
from _struct import iter_unpack, pack

from urunc.jsontext import dumps, loads
from urunc.linux import _linux
from urunc.linux.files import write_all
from urunc.record import plain, rebuild, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket
    from typing import Any, NoReturn

MODULES = ("__main__", "cli.create", "lifecycle.create", "shim.worker", "shim.rootfs")
"""In the order in which the launcher has them in pieces (launcher/bundle.py)."""
MSG_CMSG_CLOEXEC = 0x40000000
ORDER_LIMIT_BYTES = 1 << 18
"""More than a socket takes in one message."""
RIGHTS_BYTES = 64


@record
class Order:
    """What is to be made."""

    words: tuple[str, ...]
    """A command line of urunc's, without the program's name."""
    runtime: str
    """The ordinary runtime that the options name, "" for none."""
    directory: str
    mounts: tuple[dict[str, Any], ...]
    """containerd's, for the root filesystem."""
    rootfs: str
    log: str
    """The ordinary runtime's."""


class Standby:
    """The process that stands by."""

    def __init__(self) -> None:
        """Fork it; raises OSError."""
        self.answer = posix.memfd_create("answer")
        """The file of its answer, which is the caller's once it has begun."""
        self._socket, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
        try:
            self.pid = posix.fork()
        except OSError:
            self.dismiss()
            raise
        if not self.pid:
            _stand_by(self.answer, theirs)
        theirs.close()

    def begin(self, order: Order, streams: tuple[int, int, int]) -> bool:
        """Have it work, with these descriptors as its standard streams (-1: /dev/null); False where
        it is not there any more, or the order is too long for it."""
        fds = [fd for fd in streams if fd >= 0]
        message = dumps([plain(order), [fd >= 0 for fd in streams]]).encode()
        rights = [(SOL_SOCKET, SCM_RIGHTS, pack(f"@{len(fds)}i", *fds))] if fds else []
        try:
            self._socket.sendmsg([message], rights)
        except OSError:
            return False
        self._socket.close()
        return True

    def dismiss(self) -> None:
        """It is not needed: it ends."""
        self._socket.close()
        posix.close(self.answer)


def _stand_by(answer: int, order: Socket) -> NoReturn:
    try:
        gc.disable()
        _linux.set_name("urunc")
        # what else the shim has open is not its: a connection would not end, nor an output
        low, high = sorted((answer, order.fileno()))
        for first, last in ((3, low - 1), (low + 1, high - 1), (high + 1, 0xFFFFFFFF)):
            if first <= last:
                _linux.close_range(first, last, 0)
        for name in MODULES:
            __import__(f"urunc.{name}")
        message, rights, _, _ = order.recvmsg(ORDER_LIMIT_BYTES, RIGHTS_BYTES, MSG_CMSG_CLOEXEC)
        if message:
            _begin(answer, message, [data for _, _, data in rights])
    except BaseException as error:  # the order may be on its way: who gave it must hear of this
        text = f"internal error: {type(error).__name__}: {error}"
        write_all(answer, dumps({"answer": {"code": 1, "message": text}}).encode() + b"\n")
    finally:
        posix._exit(1)  # nothing is made


def _begin(answer: int, message: bytes, rights: list[bytes]) -> NoReturn:
    """Be the worker for this order."""
    from urunc.shim import worker

    values, given = loads(message.decode())
    order = rebuild(Order, values)
    fds = [fd for data in rights for (fd,) in iter_unpack("@i", data)]
    stdin, stdout, stderr = (fds.pop(0) if there else -1 for there in given)
    log = worker.RuntimeLog(order.log)
    worker.become(
        lambda: worker.verb(list(order.words), log, order.runtime),
        answer, (stdin, stdout, stderr), order.directory,
        lambda: worker.mount(order.mounts, order.rootfs),
    )  # fmt: skip
