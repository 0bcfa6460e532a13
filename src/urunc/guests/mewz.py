# SPDX-License-Identifier: Apache-2.0
"""Mewz (a WebAssembly unikernel) on QEMU: it takes an address and a gateway, and no arguments."""

from __future__ import annotations

from urunc.guests import Guest, Request, Words


class Mewz(Guest):
    """A Mewz unikernel; its program is linked into it."""

    name = "mewz"
    monitors = frozenset(("qemu",))
    takes_arguments = False
    takes_environment = False
    quirks = frozenset(("isa-debug-exit", "virtio-modern"))

    def words(self, request: Request) -> Words:
        words = []
        nic = request.nics[0] if request.nics else None
        if nic and nic.ipv4:
            words.append(f"ip={nic.ipv4}/{nic.ipv4_prefix}")
            if nic.ipv4_gateway:
                words.append(f"gateway={nic.ipv4_gateway}")
        return Words(program="", words=tuple(words))


GUEST = Mewz
