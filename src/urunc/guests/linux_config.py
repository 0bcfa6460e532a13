# SPDX-License-Identifier: Apache-2.0
"""The configuration of urunc's init in a Linux guest (guest-init/): a line for the kernel, and the
text of a disk. docs/guests.md has the format.

A record is `KEY=VALUE`, ended by a NUL. Fields within a value are separated by a tab; a tab, a line
feed and a backslash in a field are written `\\t`, `\\n`, `\\\\`. The text is padded to whole
sectors.
"""

from __future__ import annotations

from urunc.errors import ImageError
from urunc.guests import CHANNEL_PORT, SHARE_TAG, STREAM_PORTS, VSOCK_PORT
from urunc.guests.linux_line import LINE_LIMIT_BYTES, items, parameters
from urunc.net.facts import is_loopback
from urunc.storage.facts import (
    ARCHIVE,
    DEVICE,
    INITRD,
    KERNEL,
    LAYER_FORMAT,
    NODE,
    SHARES,
    TMPFS,
    share_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from urunc.guests import Nic, Request
    from urunc.storage.facts import Volume

MAGIC = "urunc-guest 1"
SECTOR_BYTES = 512
LOCALHOST = (
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
)
"""The first lines of every hosts file."""
LAYER_OPTIONS = "noinit_itable"
"""Keeps the guest's kernel from filling the holes of the disk with zeros (ext4(5))."""
TEXT_LIMIT_BYTES = 2 << 20
"""Linux passes no more arguments and environment to a program (execve(2)). The disk is in the
monitor's /run, which has room for 4 MiB (init/setup.py)."""
DISK_LIMIT = 26
"""The number of disks with one letter in their names: vda to vdz."""


def config_line(request: Request) -> str:
    """The kernel's command line: its own parameters, and the disk with the rest. Raises
    ImageError."""
    if len(request.disks) >= DISK_LIMIT:
        raise ImageError(f"disks: {len(request.disks)} are more than {DISK_LIMIT - 1}")
    line = " ".join(
        (
            "panic=-1",
            f"console={request.console}",
            "reboot=k",
            "quiet",
            *parameters(request),
            f"urunc.config={disk_path(len(request.disks))}",
        )
    )
    if len(line.encode()) > LINE_LIMIT_BYTES:
        raise ImageError(
            f"kernel parameters: a line of {len(line.encode())} bytes is more than the kernel "
            f"takes ({LINE_LIMIT_BYTES})"
        )
    return line


def config_text(request: Request) -> str:
    """The disk's whole text; raises ImageError beyond TEXT_LIMIT_BYTES."""
    assert request.process
    records = [
        *_root(request),
        *_volumes(request),
        *_names(request),
        *_network(request.nics),
        *_process(request),
    ]
    text = "".join(f"{record}\0" for record in (MAGIC, *records, ""))
    # names on the host need not be UTF-8 (as Python has them, PEP 383)
    size = len(text.encode("utf-8", "surrogateescape"))
    if size > TEXT_LIMIT_BYTES:
        raise ImageError(
            f"process: arguments, environment and the rest of the guest's configuration take "
            f"{size} bytes",
            f"the limit is {TEXT_LIMIT_BYTES}",
        )
    return text + "\0" * (-size % SECTOR_BYTES)


def disk_path(index: int) -> str:
    """Linux's name of the machine's disk with this index."""
    return f"/dev/vd{chr(ord('a') + index)}"


def _record(key: str, *fields: str) -> str:
    if any("\0" in field for field in fields):
        raise ImageError(f"{key}: a NUL character in '{fields[-1]}'")
    return f"{key}=" + "\t".join(
        field.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n") for field in fields
    )


def _root(request: Request) -> list[str]:
    root = request.root
    assert root
    share = share_of(root, request.volumes)
    records = [_record("share", share, SHARE_TAG)] if share else []
    access = "ro" if root.read_only else "rw"
    overlay = _record("overlay", "tmpfs", "")
    if request.upper >= 0:
        overlay = _record("overlay", LAYER_FORMAT, disk_path(request.upper), LAYER_OPTIONS)
    if root.form in SHARES:
        # by 9p it is the monitor's user of the host who would write
        alone = root.form == "9p" and not root.read_only
        records.append(_record("root", "share", "root", "ro" if alone else access))
        records += [overlay] if alone else []
    elif root.form == INITRD:
        records.append(_record("root", "initrd", "root", access))
        records += [overlay] if request.layer or request.upper >= 0 else []
    else:
        index = next(i for i, disk in enumerate(request.disks) if disk.mount_point == "/")
        disk = request.disks[index]
        below = "ro" if disk.read_only else access
        records.append(_record("root", root.form, disk_path(index), below))
        if disk.read_only and (request.layer or not root.read_only):
            records.append(overlay)
    if request.layer and root.read_only:
        records.append(_record("readonly", "/"))  # after the layer was copied to the overlay
    if request.archive >= 0:
        records.append(_record("archive", disk_path(request.archive)))
    return records + [_record("opaque", path) for path in request.opaque]


def _volumes(request: Request) -> list[str]:
    records = []
    for index, volume in enumerate(request.volumes):
        options = ",".join(("ro" if volume.read_only else "rw", *volume.options))
        kind, source = _source(request, index, volume)
        records.append(_record("mount", kind, source, volume.destination, options))
        if volume.way in SHARES:
            # mounts below stay writable, as they are on the host
            records += [
                _record("mount", "below", f"{source}/{path}", f"{volume.destination}/{path}", "rw")
                for path in volume.writable_below
            ]
        if volume.returned and request.returned >= 0:
            disk = disk_path(request.returned)
            records.append(_record("returned", disk, source))
    return records


def _source(request: Request, index: int, volume: Volume) -> tuple[str, str]:
    if volume.way in SHARES:
        return "share", f"volumes/{index}"
    if volume.way == ARCHIVE:
        return "copy", f"volumes/{index}"
    if volume.way == TMPFS:
        return "tmpfs", ""
    if volume.way == KERNEL:
        return "kernel", volume.source
    if volume.way == NODE:
        return "node", ":".join(("c", *map(str, volume.device))) if volume.device else "p"
    assert volume.way == DEVICE
    place = next(
        number
        for number, disk in enumerate(request.disks)
        if disk.mount_point == volume.destination
    )
    return "device", disk_path(place)


def _names(request: Request) -> list[str]:
    """The files that engines mount into every container, adapted to the guest's network: with a
    shared or loopback resolver they differ from the container's own."""
    files = {
        "/etc/hosts": _hosts(request) if request.hosts_file is None else request.hosts_file,
        "/etc/hostname": f"{request.hostname}\n" if request.hostname else "",
        "/etc/resolv.conf": _resolver(request),
    }
    asked = request.process.files if request.process else ()
    return [
        _record("file", path, "644", content, *(["asked"] if path in asked else []))
        for path, content in files.items()
        if content or path in asked
    ]


def _hosts(request: Request) -> str:
    """A hosts file for a container that has none."""
    hosts = list(LOCALHOST)
    if request.hostname:
        hosts += [
            f"{address}\t{request.hostname}"
            for nic in request.nics
            for address in (nic.ipv4, nic.ipv6)
            if address
        ]
    hosts += [line.replace(" ", "\t", 1) for line in request.hosts]
    return "".join(f"{line}\n" for line in hosts)


def _resolver(request: Request) -> str:
    """The container's resolv.conf, with addresses that the guest can reach in place of name servers
    on the namespace's loopback. Without any such address the file stays as it is."""
    text = request.resolver_file
    if text is None:
        lines = [f"search {' '.join(request.search)}"] if request.search else []
        lines += [f"options {' '.join(request.options)}"] if request.options else []
        lines += [f"nameserver {server}" for server in request.dns]
        return "".join(f"{line}\n" for line in lines)
    servers = {
        words[1]
        for words in (line.split() for line in text.splitlines())
        if words[:1] == ["nameserver"] and len(words) > 1
    }
    relays = [server for server in request.dns if server not in servers]
    if not request.dns or not any(map(is_loopback, servers)):
        return text
    kept = []
    for line in text.splitlines(keepends=True):
        words = line.split()
        if words[:1] == ["nameserver"] and len(words) > 1 and is_loopback(words[1]):
            if not relays:
                continue
            line = line.replace(words[1], relays.pop(0), 1)
        kept.append(line)
    return "".join(kept)


def _network(nics: Iterable[Nic]) -> list[str]:
    records = []
    for index, nic in enumerate(nics):
        first = [f"addr={nic.ipv4}/{nic.ipv4_prefix}"] if nic.ipv4 else []
        all_items = items(nic, "")
        mtu = [item for item in all_items if item.startswith("mtu=")]
        rest = [item for item in all_items if not item.startswith("mtu=")]
        name = nic.interface or f"eth{index}"
        mac = [f"mac={nic.mac}"] if nic.mac else []
        records.append(_record("net", name, *mac, *mtu, *first, *rest))
    return records


def _process(request: Request) -> list[str]:
    process = request.process
    assert process
    records = [_record("arg", word) for word in request.args]
    records += [_record("env", variable) for variable in request.env]
    records += [
        _record("cwd", process.cwd),
        _record("uid", str(process.uid)),
        _record("gid", str(process.gid)),
    ]
    if request.hostname:
        records.append(_record("hostname", request.hostname))
    if process.domainname:
        records.append(_record("domainname", process.domainname))
    if process.groups:
        records.append(_record("groups", ",".join(map(str, process.groups))))
    if process.umask is not None:
        records.append(_record("umask", f"{process.umask:o}"))
    if process.capabilities:
        records.append(_record("capabilities", *process.capabilities))
    records += [_record("no_new_privileges", "1")] if process.no_new_privileges else []
    if process.personality:
        records.append(_record("personality", process.personality))
    records += [_record("time_offset", *offset.split(" ")) for offset in process.time_offsets]
    if process.filter:
        records.append(_record("seccomp", str(process.filter_flags), process.filter))
    records += [_record("rlimit", *limit.split(" ")) for limit in process.rlimits]
    records += [_record("sysctl", path, value) for path, value in process.sysctls.items()]
    records += [_record("masked", path) for path in process.masked_paths]
    records += [_record("readonly", path) for path in process.read_only_paths]
    records += [_record("terminal", "1")] if process.terminal else []
    records += [_record("pid_namespace", "1")] if process.own_pids else []
    records += [_record("pids", str(process.most_processes))] if process.most_processes else []
    records += _streams(request)
    if request.channel == "virtio":
        records += [_record("channel", "virtio", CHANNEL_PORT), _record("debug_exit", "1")]
    elif request.channel == "vsock":
        records.append(_record("channel", "vsock", str(VSOCK_PORT)))
    return records


def _streams(request: Request) -> list[str]:
    process = request.process
    assert process
    records = []
    for name, port in zip(("stdin", "stdout", "stderr"), STREAM_PORTS, strict=True):
        if name == "stdin" and process.no_input:
            records.append(_record(name, "null"))
        elif request.streams and (name == "stdin" or not process.terminal):
            records.append(_record(name, "virtio", port))
    return records
