# SPDX-License-Identifier: Apache-2.0
"""MirageOS on Solo5: options and arguments, each a word of its own."""

from __future__ import annotations

from urunc.guests import Guest, Request, Words


class Mirage(Guest):
    """A MirageOS unikernel."""

    name = "mirage"
    monitors = frozenset(("hvt", "spt"))
    storage = frozenset(("block",))

    def words(self, request: Request) -> Words:
        words = []
        nic = request.nics[0] if request.nics else None
        if nic and nic.ipv4:
            words.append(f"--ipv4={nic.ipv4}/{nic.ipv4_prefix}")
            if nic.ipv4_gateway:
                words.append(f"--ipv4-gateway={nic.ipv4_gateway}")
        return Words(program="", words=(*words, *request.args))


GUEST = Mirage
