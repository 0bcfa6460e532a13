# SPDX-License-Identifier: Apache-2.0
"""MirageOS on Solo5: options and arguments, each a word of its own.

A unikernel refuses options that it was not built with. Every dual-stack one has those for IPv6, and
dual-stack is the default from MirageOS 4 on. So beside an IPv4 address they are used only if the
image names such a version.
"""

from __future__ import annotations

from urunc.guests import Guest, Request, Words


class Mirage(Guest):
    """A MirageOS unikernel."""

    name = "mirage"
    monitors = frozenset(("hvt", "spt"))
    storage = frozenset(("block",))
    takes_environment = False
    takes_ipv6 = True
    splits_arguments = True

    def words(self, request: Request) -> Words:
        words = []
        nic = request.nics[0] if request.nics else None
        if nic and nic.ipv4:
            words.append(f"--ipv4={nic.ipv4}/{nic.ipv4_prefix}")
            if nic.ipv4_gateway:
                words.append(f"--ipv4-gateway={nic.ipv4_gateway}")
        if nic and nic.ipv6 and (not nic.ipv4 or _is_dual_stack(request.version)):
            words.append(f"--ipv6={nic.ipv6}/{nic.ipv6_prefix}")
            if nic.ipv6_gateway:
                words.append(f"--ipv6-gateway={nic.ipv6_gateway}")
        return Words(program="", words=(*words, *request.args))


def _is_dual_stack(version: str) -> bool:
    major = version.removeprefix("v").partition(".")[0]
    return major.isdecimal() and int(major) >= 4


GUEST = Mirage
