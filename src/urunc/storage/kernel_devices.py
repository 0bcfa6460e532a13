# SPDX-License-Identifier: Apache-2.0
"""Device nodes of kernel facilities, not of hardware (`/dev/fuse`, `/dev/net/tun`): a guest's
kernel has them under the same numbers as the host's. Pure, except `find`, which reads the list of
modules.

The numbers are fixed (Documentation/admin-guide/devices.txt, include/linux/miscdevice.h). Nodes
with other numbers belong to hardware or differ between machines, and are not made.
"""

from __future__ import annotations

from urunc.storage.facts import NODE, VolumeSource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from urunc.bundle.spec import Spec, SpecDevice
    from urunc.storage.facts import Volume

CHARACTER, PIPE = "c", "p"
MODULES: dict[tuple[int, ...], str] = {
    (1, 3): "",  # null
    (1, 5): "",  # zero
    (1, 7): "",  # full
    (1, 8): "",  # random
    (1, 9): "",  # urandom
    (1, 11): "",  # kmsg
    (5, 0): "",  # tty
    (5, 1): "",  # console
    (5, 2): "",  # ptmx
    (10, 200): "tun",
    (10, 203): "cuse",
    (10, 223): "uinput",
    (10, 229): "fuse",
    (10, 236): "dm_mod",
    (10, 237): "loop",
    (10, 238): "vhost_net",
    (10, 241): "vhost_vsock",
    (108, 0): "ppp_generic",
}
"""(major, minor) of a character device → the module that provides it, "" if it is always built
in."""


def options(mode: int, uid: int, gid: int) -> tuple[str, ...]:
    """A node's permissions and owner as options for urunc's init in the guest."""
    return f"mode={mode & 0o7777:o}", f"uid={uid}", f"gid={gid}"


def modules_of(volumes: Iterable[Volume]) -> tuple[str, ...]:
    """The modules that a guest's kernel has to load for its nodes."""
    names = (MODULES.get(volume.device, "") for volume in volumes if volume.way == NODE)
    return tuple(name for name in dict.fromkeys(names) if name)


def find(spec: Spec, directory: str) -> list[VolumeSource]:
    """The devices of linux.devices that a guest with urunc's init can have. `directory` is its
    kernel's /lib/modules/VERSION, "" if it is not known."""
    from urunc.storage.initrd import known

    devices = [
        device
        for device in spec.devices
        if device.type == PIPE or (_is_character(device) and _numbers(device) in MODULES)
    ]
    if not devices:
        return []
    wanted = {MODULES.get(_numbers(device), "") for device in devices}
    there = known(directory, wanted) if directory else wanted
    return [
        VolumeSource(
            destination=device.path,
            source="",
            kind=NODE,
            read_only=False,
            recursive=False,
            scratch=False,
            options=options(device.mode, device.uid, device.gid),
            device=() if device.type == PIPE else _numbers(device),
        )
        for device in devices
        if device.type == PIPE or MODULES[_numbers(device)] in {"", *there}
    ]


def _is_character(device: SpecDevice) -> bool:
    return device.type in (CHARACTER, "u")  # config.md: unbuffered is the same


def _numbers(device: SpecDevice) -> tuple[int, int]:
    return device.major, device.minor
