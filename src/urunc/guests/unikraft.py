# SPDX-License-Identifier: Apache-2.0
"""Unikraft: library parameters, `--`, then the application's arguments, on one line.

From 0.16.1 on (and where the image gives no version) `netdev.ip`, once for each interface, and
`vfs.fstab`; before, a parameter each for address, gateway and mask of one interface. A list
parameter is `NAME=[ a b ]`; its items are split at blanks.
"""

from __future__ import annotations

from urunc.errors import ImageError
from urunc.guests import Guest, Nic, Request, Words, host_name, joined, share_tag
from urunc.net.ipv4 import dotted_mask
from urunc.storage.facts import SHARES

NEW_DIALECT = (0, 16, 1)
# from 0.16.2 on nothing is mounted for the files of an initrd, unless this asks for it (`ramfs=2`:
# where the kernel has mounted nothing itself); others ignore it
INITRD_MOUNT = '"initrd0:/:extract::ramfs=2:"'
MS_RDONLY = 1


class Unikraft(Guest):
    """A Unikraft unikernel."""

    name = "unikraft"
    monitors = frozenset(("qemu", "firecracker"))
    storage = frozenset(("initrd",))
    root_forms = ("cpio", "9p")
    volume_ways = ("initrd", "9p")
    # no isa-debug-exit: it writes 41 there when it has ended well
    max_addressed = 4  # LIBUKNETDEV_EINFO_LIBPARAM_MAXCOUNT of a default build

    def words(self, request: Request) -> Words:
        old = bool(request.version) and _version(request.version) < NEW_DIALECT
        words = []
        if request.env:
            words.append(f"env.vars=[ {' '.join(map(_item, request.env))} ]")
        if old:
            words += [_old_network(nic) for nic in request.nics[:1] if nic.ipv4]
        else:
            words += _network(request)
        mounts = _mounts(request)
        if mounts and old:
            if mounts != [INITRD_MOUNT]:
                raise ImageError(
                    f"unikraft {request.version}: knows no shared folders",
                    "before 0.16.1 it has its initrd alone",
                )
            words.append("vfs.rootfs=initrd")
        elif mounts:
            words.append(f"vfs.fstab=[ {' '.join(mounts)} ]")
        if words:  # with nothing before it, the `--` itself would be an argument
            words.append("--")
        if request.args[1:]:
            words.append(joined(request.args[1:], "unikraft"))
        program = joined(request.args[:1], "unikraft") or "unikernel"
        return Words(program=program, words=tuple(words))


def _mounts(request: Request) -> list[str]:
    """Entries of `vfs.fstab`: `DEVICE:PATH:DRIVER:FLAGS:OPTIONS:UKOPTIONS`, the root first. A
    device is an initrd, or a share's tag (lib/posix-vfs-fstab; vfscore's automount before 0.18)."""
    mounts = [INITRD_MOUNT] if request.initrd else []
    if request.root and request.root.form in SHARES:
        mounts.append(_share("root", "/", read_only=True))
    for index, volume in enumerate(request.volumes):
        if volume.way in SHARES:
            if ":" in volume.destination or volume.destination.split() != [volume.destination]:
                raise ImageError(
                    f"mount '{volume.destination}': unikraft's list of mounts cannot hold it",
                    "choose a path without colons and blanks",
                )
            tag = share_tag(index)
            mounts.append(_share(tag, volume.destination, read_only=volume.read_only))
    return mounts


def _share(tag: str, path: str, *, read_only: bool) -> str:
    """An entry for 9pfs; the flags are mount(2)'s, in hexadecimal, and `mkmp` makes the mount
    point."""
    flags = f"{MS_RDONLY:#x}" if read_only else ""
    return f'"{tag}:{path}:9pfs:{flags}::{"" if path == "/" else "mkmp"}"'


def _item(variable: str) -> str:
    """An item of a list parameter; a bracket would end the list, also within quotes."""
    if "]" in variable or '"' in variable or "\n" in variable:
        raise ImageError(
            f"process.env: unikraft's command line cannot hold '{variable}'",
            "a bracket, a quote or a line's end would end its list of variables",
        )
    return f'"{variable}"' if variable.split() != [variable] else variable


def _network(request: Request) -> list[str]:
    """`netdev.ip=IP/PLEN:GW:DNS:DNS:HOST:DOMAIN` for each interface in turn; a field that is not
    known is left out, trailing colons with it. Name servers and names are the first one's."""
    nics = list(request.nics[: Unikraft.max_addressed])
    while nics and not nics[-1].ipv4:
        nics.pop()
    servers = [server for server in request.dns if ":" not in server][:2]
    shared = [
        *servers,
        *[""] * (2 - len(servers)),
        host_name(request.hostname),
        *request.search[:1],
    ]
    words = []
    for nic in nics:
        address = f"{nic.ipv4}/{nic.ipv4_prefix}" if nic.ipv4 else ""
        words.append("netdev.ip=" + ":".join((address, nic.ipv4_gateway, *shared)).rstrip(":"))
        shared = []
    return words


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
