# SPDX-License-Identifier: Apache-2.0
"""Unikraft: library parameters, `--`, then the application's arguments, on one line.

From 0.16.1 on (and where the image gives no version) `netdev.ip` and `vfs.fstab`; before, a
parameter each for address, gateway and mask. A list parameter is `NAME=[ a b ]`; its items are
split at blanks.
"""

from __future__ import annotations

from urunc.errors import ImageError
from urunc.guests import Guest, Nic, Request, Words, joined
from urunc.net.ipv4 import dotted_mask

NEW_DIALECT = (0, 16, 1)


class Unikraft(Guest):
    """A Unikraft unikernel."""

    name = "unikraft"
    monitors = frozenset(("qemu", "firecracker"))
    storage = frozenset(("initrd",))
    quirks = frozenset(("isa-debug-exit",))

    def words(self, request: Request) -> Words:
        old = bool(request.version) and _version(request.version) < NEW_DIALECT
        words = []
        if request.env:
            words.append(f"env.vars=[ {' '.join(map(_item, request.env))} ]")
        nic = request.nics[0] if request.nics else None
        if nic and nic.ipv4:
            words.append(_old_network(nic) if old else _network(nic, request.dns))
        if request.initrd:
            words.append("vfs.rootfs=initrd" if old else 'vfs.fstab=[ "initrd0:/:extract:::" ]')
        if words:  # with nothing before it, the `--` itself would be an argument
            words.append("--")
        if request.args[1:]:
            words.append(joined(request.args[1:], "unikraft"))
        program = joined(request.args[:1], "unikraft") or "unikernel"
        return Words(program=program, words=tuple(words))


def _item(variable: str) -> str:
    """An item of a list parameter; a bracket would end the list, also within quotes."""
    if "]" in variable or '"' in variable or "\n" in variable:
        raise ImageError(
            f"process.env: unikraft's command line cannot hold '{variable}'",
            "a bracket, a quote or a line's end would end its list of variables",
        )
    return f'"{variable}"' if variable.split() != [variable] else variable


def _network(nic: Nic, dns: tuple[str, ...]) -> str:
    """`netdev.ip=IP/PLEN:GW:DNS`; a field that is not known is left out, trailing colons with
    it."""
    # a resolver on the namespace's loopback device is out of a guest's reach
    servers = [server for server in dns if ":" not in server and not server.startswith("127.")]
    text = (
        f"netdev.ip={nic.ipv4}/{nic.ipv4_prefix}:{nic.ipv4_gateway}:{servers[0] if servers else ''}"
    )
    return text.rstrip(":")


def _old_network(nic: Nic) -> str:
    words = [f"netdev.ipv4_addr={nic.ipv4}"]
    if nic.ipv4_gateway:
        words.append(f"netdev.ipv4_gw_addr={nic.ipv4_gateway}")
    words.append(f"netdev.ipv4_subnet_mask={dotted_mask(nic.ipv4_prefix)}")
    return " ".join(words)


def _version(text: str) -> tuple[int, ...]:
    numbers = text.removeprefix("v").split("-")[0].split("+")[0].split(".")
    try:
        return tuple(int(number) for number in numbers)
    except ValueError:
        raise ImageError(
            f"annotation 'unikernelVersion': '{text}' is not a version", "for example 0.16.1"
        ) from None


GUEST = Unikraft
