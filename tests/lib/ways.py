# SPDX-License-Identifier: Apache-2.0
"""Which way root filesystems and volumes take to each guest on each monitor, as the code that
decides answers: tables of docs/storage.md, and cases of the tests that see it in guests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from lib.made import config, document, found, host, image, solo5, source
from urunc import guests, monitors
from urunc.bundle import spec
from urunc.bundle.image import UnikernelImage
from urunc.bundle.spec import Spec
from urunc.errors import ImageError
from urunc.guests import BUILT_IN, Guest
from urunc.monitors import BUILT_IN as MONITORS
from urunc.monitors import Monitor
from urunc.plan.model import Inputs
from urunc.plan.storage import choose_storage
from urunc.storage.facts import (
    DEVICE,
    DIRECTORY,
    DISKS,
    FILE,
    ROOT_FORMATS,
    SHARES,
    TMPFS,
    Root,
    StorageFound,
)

SETUPS = tuple(
    (name, monitor)
    for name in BUILT_IN
    for monitor in MONITORS
    if monitor in guests.load(name, config()).monitors
)
"""(guest, monitor) of all that there are."""
ROOTED = tuple(setup for setup in SETUPS if guests.load(setup[0], config()).root_forms)
"""Those that can have the container's root filesystem."""


def _inputs(
    parsed: Spec, made: UnikernelImage, guest: Guest, monitor: Monitor, there: StorageFound
) -> Inputs:
    return Inputs(
        spec=parsed, image=made, guest=guest, monitor=monitor, host=host(), config=config(),
        found=there,
    )  # fmt: skip


def _root(name: str, monitor: str, there: StorageFound, form: str = "") -> Root | None:
    """What is chosen, or None where nothing fits."""
    asked = {"rootfs": form} if form else {}
    made = image(name, monitor, mount_rootfs=True, overrides=asked)
    parsed = spec.parse(document(), "/bundle")
    guest, runs = guests.load(name, config()), monitors.load(monitor, config())
    try:
        root, *_ = choose_storage(_inputs(parsed, made, guest, runs, there))
    except ImageError:
        return None
    return root


def forms(name: str, monitor: str) -> list[str]:
    """The ROOT_FORMATS in which a root filesystem can be had."""
    return [form for form in ROOT_FORMATS if _root(name, monitor, found(), form)]


def order(name: str, monitor: str) -> list[str]:
    """Forms that come by themselves: each is the one that is taken where those before are not to be
    had."""
    taken: list[str] = []
    while True:
        left = tuple(form for form in ROOT_FORMATS if form not in taken)
        daemon = "/virtiofsd" if "virtiofs" in left else ""
        root = _root(name, monitor, found(builders=left, filesystems=left, virtiofsd=daemon))
        if not root or root.form in taken:
            return taken
        taken.append(root.form)


def devices(name: str, monitor: str) -> list[str]:
    """Filesystems of a block device that the guest is given as it is."""
    given = []
    for form in DISKS:
        there = found(device="/dev/a", device_numbers=(7, 1), device_filesystem=form)
        root = _root(name, monitor, there)
        given += [form] if root and root.device else []
    return given


class Content(NamedTuple):
    """What is mounted."""

    words: str
    destination: str
    kind: str
    read_only: bool = False
    scratch: bool = False


CONTENTS = (
    Content("read-only directory", "/in", DIRECTORY, read_only=True),
    Content("writable directory", "/out", DIRECTORY),
    Content("emptyDir", "/empty", DIRECTORY, scratch=True),
    Content("read-only file", "/in.conf", FILE, read_only=True),
    Content("writable file", "/out.conf", FILE),
    Content("tmpfs", "/scratch", TMPFS),
    Content("block device", "/dev/xvda", DEVICE),
    Content("an engine's secret", "/run/secrets/token", DIRECTORY, read_only=True),
)


class Setting(NamedTuple):
    """A guest on a monitor; `shares` are the kinds by which directories could be shared, `rooted`
    says whether it has the container's root filesystem."""

    guest: str
    monitor: str
    shares: tuple[str, ...] = SHARES
    words: str = ""
    rooted: bool = False

    @property
    def name(self) -> str:
        return f"{self.guest} on {self.monitor}{self.words}"


def _settings() -> Iterator[Setting]:
    """Linux with the container's root filesystem, and all with their image's own files."""
    for name, monitor in SETUPS:
        if not guests.load(name, config()).init:
            yield Setting(name, monitor)
            continue
        if monitors.load(monitor, config()).shares:
            yield Setting(name, monitor, SHARES, " with virtiofs", rooted=True)
            yield Setting(name, monitor, ("9p",), " with 9p alone", rooted=True)
            yield Setting(name, monitor, (), " with neither", rooted=True)
        else:
            yield Setting(name, monitor, rooted=True)
        yield Setting(name, monitor, SHARES, " without mountRootfs")


SETTINGS = tuple(_settings())
REFUSED, LEFT_OUT = "refused", "left out"


def way(setting: Setting, content: Content) -> str:
    """How it gets to the guest (of SHARES, DISKS, or a volume's other ways), REFUSED or LEFT_OUT,
    which a warning says."""
    guest = guests.load(setting.guest, config())
    runs = monitors.load(setting.monitor, config())
    volume = source(
        content.destination, content.kind, read_only=content.read_only, scratch=content.scratch,
        source="" if content.kind in (TMPFS, DEVICE) else "/host",
    )  # fmt: skip
    there = found(
        volume, filesystems=(*DISKS, *setting.shares),
        virtiofsd="/virtiofsd" if "virtiofs" in setting.shares else "",
    )  # fmt: skip
    made = image(
        setting.guest, setting.monitor, mount_rootfs=setting.rooted,
        binary=solo5(setting.monitor, ("data", "block")),
    )  # fmt: skip
    warnings: list[str] = []
    try:
        parsed = spec.parse(document(), "/bundle")
        _, chosen, warnings = choose_storage(_inputs(parsed, made, guest, runs, there))
    except ImageError as error:
        assert content.destination in error.message, error.message
        return REFUSED
    if not chosen:
        assert warnings == [f"mounts that the guest does not see: {content.destination}"]
        return LEFT_OUT
    return chosen[0].way


WAYS = {
    "archive": "copy", "initrd": "copy in the initrd", "ext2": "copy on an ext2 disk",
    TMPFS: "memory", DEVICE: "disk",
}  # fmt: skip


def volume_cells() -> Iterator[list[str]]:
    """The lines; guests with the same ones share one."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for setting in SETTINGS:
        cells = tuple(way(setting, content) for content in CONTENTS)
        lines.setdefault(cells, []).append(setting.name)
    for cells, names in lines.items():
        yield ["; ".join(names), *(WAYS.get(cell, cell) for cell in cells)]


def root_cells() -> Iterator[list[str]]:
    """The lines of forms; guests on monitors are columns."""
    yield ["a device", *(", ".join(devices(*setup)) or "no" for setup in ROOTED)]
    places = [(forms(*setup), order(*setup)) for setup in ROOTED]
    for form in ROOT_FORMATS:
        cells = [
            str(own.index(form) + 1) if form in own else "if asked for" if form in all_ else "no"
            for all_, own in places
        ]
        yield [f"`{form}`", *cells]
