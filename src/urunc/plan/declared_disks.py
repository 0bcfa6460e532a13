# SPDX-License-Identifier: Apache-2.0
"""Which mounts engines add by themselves, and which mount becomes the disk of which block device
that a guest declares (a Solo5 manifest). Pure.

A mount goes to the device that the annotation `disks` says, else to the one that is called as the
last part of its path; what is left goes to the devices that are left, in order. Docker and Podman
give mounts of one depth in no order at all: where it matters which is which, names say it.
"""

from __future__ import annotations

from urunc.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from urunc.bundle.spec import Spec
    from urunc.storage.facts import VolumeSource

ORCHESTRATED = frozenset(
    (
        "/dev/termination-log",
        "/dev/shm",
        "/dev/mqueue",
        "/etc/localtime",
        "/etc/passwd",
        "/etc/group",
        "/etc/podinfo",
        "/run/.containerenv",
        "/run/notify",
        "/run/secrets",
        "/var/run/secrets",
    )
)
"""Mounts that an engine adds, whether or not anybody asked for one: of Kubernetes' kubelet and
containerd's CRI, CRI-O, Docker, Podman (pkg/specgen/generate, libpod/container_internal_common)."""
BELOW = ("/run/secrets/", "/var/run/secrets/")
"""Where service accounts' tokens, what admission controllers inject, and engines' secrets are."""
INITS = ("/sbin/docker-init", "/run/podman-init", "/dev/init", "/sbin/tini")
"""What `--init` puts before the arguments, and mounts: Docker's, Podman's and older Podman's,
nerdctl's."""


def is_orchestrated(destination: str) -> bool:
    """Whether an engine mounts there by itself."""
    return destination in ORCHESTRATED or destination.startswith(BELOW)


def engines_init(spec: Spec) -> str:
    """Where an engine has mounted an init of its own and put it before the arguments, with `--`
    (`--init`); "" where it has not."""
    program = spec.args[0] if spec.args[1:2] == ("--",) else ""
    mounted = program in INITS and any(mount.destination == program for mount in spec.mounts)
    return program if mounted else ""


def parse_disks(text: str) -> dict[str, str]:
    """destination → device of the annotation `disks` (`DEVICE=DESTINATION,…`); raises
    ImageError."""
    found: dict[str, str] = {}
    devices = set()
    for item in filter(None, map(str.strip, text.split(","))):
        device, equals, destination = (part.strip() for part in item.partition("="))
        destination = destination.rstrip("/")
        if not device or not equals or not destination.startswith("/"):
            raise ImageError(
                f"annotation 'disks': '{item}' is no disk",
                "a device of the guest's and where its directory is mounted: storage=/data",
            )
        if device in devices or destination in found:
            raise ImageError(f"annotation 'disks': '{item}' comes twice, by one of its names")
        devices.add(device)
        found[destination] = device
    return found


def match(
    sources: Sequence[VolumeSource],
    declared: tuple[str, ...],
    taken: int,
    requested: Mapping[str, str],
) -> dict[int, str]:
    """index of a source → its device; a source that is not there has none. `taken`: so many of the
    `declared` devices, from the first, have a disk of the image's. Raises ImageError."""
    free = list(declared[taken:])
    places: dict[int, str] = {}

    def give(index: int, device: str) -> None:
        free.remove(device)
        places[index] = device

    paths = [source.destination.rstrip("/") for source in sources]
    for destination, device in requested.items():
        _check(destination, device, declared, taken, paths)
        give(paths.index(destination), device)
    # what somebody asked for goes before what the image has for a volume (VOLUME)
    order = sorted(range(len(sources)), key=lambda index: sources[index].anonymous)
    named: dict[str, int] = {}
    for index in order:
        name = paths[index].rpartition("/")[2]
        if index in places or name not in (*free, *named):
            continue
        if name not in named:
            named[name] = index
            give(index, name)
        elif not sources[index].anonymous:
            raise ImageError(
                f"mounts '{paths[named[name]]}' and '{paths[index]}': both are called as the "
                f"block device '{name}'",
                f"the annotation 'disks' says which it is: {name}={paths[index]}",
            )
    for index in order:
        if index not in places and free:
            give(index, free[0])
    return places


def _check(
    destination: str, device: str, declared: tuple[str, ...], taken: int, paths: list[str]
) -> None:
    where = f"annotation 'disks': '{device}={destination}'"
    if device not in declared:
        known = ", ".join(declared) or "none"
        raise ImageError(
            f"{where}: the unikernel declares no such block device", f"it has: {known}"
        )
    if device in declared[:taken]:
        raise ImageError(
            f"{where}: the device has a disk of the image's",
            "the image's disks (block, mountRootfs) have the first devices that are declared",
        )
    if destination not in paths:
        there = ", ".join(paths) or "none"
        raise ImageError(
            f"{where}: no directory is mounted there that can be a disk", f"there is: {there}"
        )
