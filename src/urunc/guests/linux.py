# SPDX-License-Identifier: Apache-2.0
"""Linux with one application as its init: kernel parameters, environment, `--`, the application's
arguments. If the container's root filesystem is the guest's, urunc's own init runs the application
instead, and reads everything from a disk (linux_config.py).

The kernel's own `ip=` holds one IPv4 address and gateway of an interface, and two name servers.
The rest goes into words of urunc's for the guest's first program (docs/guests.md), with a dot in
their names, so that the kernel ignores them.

The kernel's own parser reads the line (lib/cmdline.c, init/main.c): blanks separate, a double quote
groups and cannot be escaped, `NAME=VALUE` words that are no kernel parameter become init's
environment (32 at most, or it panics), and the line ends at 2,048 bytes on x86 and arm64. Words
that cannot be passed so are refused; names that there is no room for are left out, with a warning.
"""

from __future__ import annotations

from urunc.errors import ImageError
from urunc.guests import Guest, Request, Words
from urunc.guests.linux_line import LINE_LIMIT_BYTES, line_of, network_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass


MODULES = (
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "vmw_vsock_virtio_transport",
    "crc32c_generic",
)
"""The drivers of a machine's devices, and the checksum that ext4 and erofs request by its
algorithm's name (until Linux 6.14), so that it is no dependency of their modules. Those that a
kernel lacks or has built in are skipped."""
MOUNTING = {"9p": ("9p", "9pnet_virtio"), "ext2": ("ext4",)}
"""Filesystem → the modules that mount it, if their names differ from its own."""


class Linux(Guest):
    """A Linux kernel that runs one application."""

    name = "linux"
    monitors = frozenset(("qemu", "firecracker"))
    storage = frozenset(("initrd", "block"))
    quirks = frozenset(("isa-debug-exit", "reset-by-8042"))
    assigns_resources = True  # drivers/pci/setup-bus.c
    takes_hostname = True
    takes_parameters = True
    takes_ipv6 = True
    max_addressed = 1 << 16
    root_forms = ("erofs", "ext4", "virtiofs", "9p", "squashfs", "cpio", "ext2")
    volume_ways = ("virtiofs", "9p", "archive", "tmpfs", "device", "node")
    init = True
    working_mib = 4
    working_percent = 25  # 6.12 frees late on a busy host

    def modules(self, filesystems: tuple[str, ...]) -> tuple[str, ...]:
        return (*MODULES, *(name for kind in filesystems for name in MOUNTING.get(kind, (kind,))))

    def words(self, request: Request) -> Words:
        if request.process:
            from urunc.guests.linux_config import config_line, config_text

            return Words(program="", words=(config_line(request),), config=config_text(request))
        line, _ = line_of(request)
        if len(line.encode()) > LINE_LIMIT_BYTES:
            network = len(" ".join(network_words(request)).encode())
            raise ImageError(
                f"kernel command line: {len(line.encode())} bytes are more than {LINE_LIMIT_BYTES}",
                "the kernel would cut it off; shorten the arguments or the environment"
                + (
                    f", or have fewer interfaces, addresses or routes: they take {network} bytes"
                    if network
                    else ""
                ),
            )
        return Words(program="", words=(line,))

    def omissions(self, request: Request) -> list[str]:
        if request.process:
            return []
        return [
            f"kernel command line: no room in {LINE_LIMIT_BYTES} bytes for {what}: "
            f"{self.name} gets none"
            for what in line_of(request)[1]
        ]


GUEST = Linux
