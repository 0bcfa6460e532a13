# SPDX-License-Identifier: Apache-2.0
"""TAP devices through /dev/net/tun (Documentation/networking/tuntap.rst)."""

from __future__ import annotations

import posix
from fcntl import ioctl

from urunc.linux.namespaces import refuse_host_network

TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
TUNSETOWNER = 0x400454CC
TUNSETGROUP = 0x400454CE

IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_NO_PI = 0x1000
IFF_TUN_EXCL = 0x8000


def _as_int(number: int) -> int:
    """An id as fcntl.ioctl takes it, a C int: a kubelet gives a pod's users ids up to 2^32."""
    return number - (1 << 32) if number >> 31 else number


def create_tap(name: str, uid: int, gid: int, *, multiqueue: bool = False) -> None:
    """Make a persistent TAP device in this thread's network namespace that this user may attach to.

    Whether it has several queues must be as the monitor attaches with (EINVAL there else); it says
    itself whether frames carry a virtio header (IFF_VNET_HDR), and which offloads its guest took.
    Raises OSError: EBUSY where the name is taken, ENOENT/EACCES/ENODEV where /dev/net/tun is,
    EOPNOTSUPP where the namespace is the host's.
    """
    refuse_host_network()
    fd = posix.open("/dev/net/tun", posix.O_RDWR | posix.O_CLOEXEC)
    try:
        flags = IFF_TAP | IFF_NO_PI | IFF_TUN_EXCL | (IFF_MULTI_QUEUE if multiqueue else 0)
        ioctl(
            fd, TUNSETIFF, name.encode().ljust(16, b"\0") + flags.to_bytes(2, "little") + bytes(22)
        )
        ioctl(fd, TUNSETOWNER, _as_int(uid))
        ioctl(fd, TUNSETGROUP, _as_int(gid))
        ioctl(fd, TUNSETPERSIST, 1)
    finally:
        posix.close(fd)
