# SPDX-License-Identifier: Apache-2.0
"""What `urunc image inspect` says: what an image or kernel is, what runs it here, what is odd."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack

from urunc import guests, monitors
from urunc.bundle.image import FILE, KEYS, OVERRIDES, OWN_KEYS, decode, strangers
from urunc.bundle.pods import PREFIX
from urunc.errors import Error, ImageError
from urunc.image import images, kernels
from urunc.image.build import look
from urunc.image.images import Image
from urunc.image.recipe import ARCHITECTURES
from urunc.jsontext import loads
from urunc.plan.compatibility import check_kernel, check_program
from urunc.plan.host import device, probe
from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urunc.config import Config
    from urunc.image.kernels import Kernel

KRAFT = "org.unikraft."
KRAFT_KERNEL, KRAFT_INITRD = "/unikraft/bin/kernel", "/unikraft/bin/initrd"
KRAFT_MONITORS = {"fc": "firecracker", "kvm": "qemu"}
MAGICS = (b"\x7fELF", b"MZ")


@record
class Report:
    """What there is to say of one image or file."""

    what: str
    made_by: str
    kernel: str
    """Its path, "" where none is found."""
    initrd: str
    guest: str
    why: str
    version: str
    monitor: str
    format: str
    machine: str
    facts: tuple[str, ...]
    needs: tuple[str, ...]
    command: tuple[str, ...]
    runs: tuple[tuple[str, bool, str], ...]
    """(monitor, whether it runs here, why or why not)."""
    odd: tuple[str, ...]
    says: dict[str, str]
    """The annotations that it gives by itself or, if it is another tool's, would have: short key →
    value."""


def inspect(reference: str, config: Config) -> Report:
    """Look at an image, archive, folder or kernel. Raises ImageError, HostError."""
    with ExitStack() as stack:
        return look_into(reference, config, stack)[1]


def look_into(
    reference: str, config: Config, stack: ExitStack, guest: str = ""
) -> tuple[Image | None, Report]:
    """The image, whose content can be read until the stack is closed (None for a kernel's file),
    and what there is to say of it. `guest` is the framework if the caller knows better. Raises
    ImageError, HostError."""
    if os.path.isfile(reference):
        with open(reference, "rb") as file:
            head = file.read(0x240)
            if (
                head[:4] == MAGICS[0]
                or head[0x202:0x206] == b"HdrS"
                or head[0x38:0x3C] == b"ARM\x64"
            ):
                said = _Said()
                said.guest = guest
                facts = kernels.look(file.fileno(), reference)
                return None, _report("kernel", said, reference, facts, config)
    image = images.load(reference, ARCHITECTURES.get(os.uname().machine, "amd64"), stack)
    said = _said(image, config)
    said.guest = guest or said.guest
    found = None
    if said.kernel:
        entry = image.find(said.kernel)
        if entry and entry.open:
            found = look(entry, said.kernel, tempfile.gettempdir())
        else:
            said.odd.append(f"'binary': there is no file '{said.kernel}' in the image")
    if found and said.lone and not said.guest and not may_boot(found):
        said, found = _Said(), None
        said.is_ordinary = True
    for key, path in (("initrd", said.initrd), *(("block", path) for path in said.blocks)):
        if path and image.find(path) is None:
            said.odd.append(f"'{key}': there is no file '{path}' in the image")
    return image, _report(image.kind, said, said.kernel, found, config)


class _Said:
    """What an image says of itself."""

    def __init__(self) -> None:
        self.made_by = ""
        self.guest = self.monitor = self.kernel = self.initrd = self.version = ""
        self.blocks: list[str] = []
        self.values: dict[str, str] = {}
        self.rootfs = False
        self.command: tuple[str, ...] = ()
        self.odd: list[str] = []
        self.is_ordinary = False
        self.lone = False
        """Whether its kernel is merely the one file that can be."""


def _said(image: Image, config: Config) -> _Said:
    said = _Said()
    settings = image.config.get("config") or {}
    labels = {str(key): str(value) for key, value in (settings.get("Labels") or {}).items()}
    labels = {**image.annotations, **labels}
    words = [*(settings.get("Entrypoint") or ()), *(settings.get("Cmd") or ())]
    said.command = tuple(map(str, words))
    values = _file(image, said)
    marked = {key: value for key, value in labels.items() if key.startswith(PREFIX)}
    said.odd += strangers(marked, config)
    short = {key.removeprefix(PREFIX): value for key, value in marked.items()}
    if short and not values:
        said.odd.append(
            f"labels {PREFIX}* but no {FILE}: most engines pass no labels to a runtime, and run it "
            "as an ordinary container; give the annotations on the container, or build it again"
        )
    source = values or {key: value for key, value in short.items() if key in KEYS}
    if source:
        try:
            found = decode(source, FILE if values else "label", config)
        except ImageError as error:
            said.odd.append(str(error))
            found = source
        _take(said, found)
        said.made_by = "urunc's annotations"
    elif image.find(KRAFT_KERNEL) or any(key.startswith(KRAFT) for key in labels):
        said.made_by = "kraft"
        said.guest = "unikraft"
        said.kernel = labels.get(f"{KRAFT}kernel.image", KRAFT_KERNEL)
        initrd = labels.get(f"{KRAFT}kernel.initrd", KRAFT_INITRD)
        said.initrd = initrd if image.find(initrd) else ""
        said.version = labels.get(f"{KRAFT}kernel.version", "")
        platform = str(image.config.get("os", ""))
        said.monitor = KRAFT_MONITORS.get(
            platform, platform if platform in monitors.names() else ""
        )
        said.odd.append(
            f"no {FILE}: engines run it as an ordinary container; build it again with "
            'kernel = { image = "…", path = "' + said.kernel + '" }'
        )
    else:
        _lone(image, said)
    return said


def _take(said: _Said, found: dict[str, str]) -> None:
    said.values = found
    said.guest, said.monitor = found.get("unikernelType", ""), found.get("hypervisor", "")
    said.kernel, said.initrd = found.get("binary", ""), found.get("initrd", "")
    said.version = found.get("unikernelVersion", "")
    said.blocks = [path.strip() for path in found.get("block", "").split(",") if path.strip()]
    said.rootfs = "true" in (found.get("mountRootfs"), found.get("useDMBlock"))


def _file(image: Image, said: _Said) -> dict[str, str]:
    entry = image.find(FILE)
    if entry is None or entry.open is None:
        return {}
    with entry.open() as content:
        text = content.read(1 << 20)
    try:
        document: Any = loads(text.decode())
        items = {str(key).removeprefix(PREFIX): value for key, value in document.items()}
    except (ValueError, AttributeError) as error:
        said.odd.append(f"{FILE}: not an object of JSON: {error}")
        return {}
    for key, value in items.items():
        if key in OVERRIDES and key not in OWN_KEYS:
            said.odd.append(f"{FILE} '{key}': without effect; it is a container's annotation")
        elif key not in OWN_KEYS:
            said.odd.append(f"{FILE} '{key}': unknown, and without effect")
        elif not isinstance(value, str):
            said.odd.append(f"{FILE} '{key}': not a string")
    return {
        key: value for key, value in items.items() if key in OWN_KEYS and isinstance(value, str)
    }


def _lone(image: Image, said: _Said) -> None:
    """An image that says nothing: a single kernel in it, or an ordinary one."""
    files = [path for path, entry in image.entries.items() if entry.open]
    named = [
        path for path in files if path.rpartition("/")[2] in ("kernel", "unikernel", "vmlinux")
    ]
    if len(files) == 1 or len(named) == 1:
        said.kernel = f"/{(named or files)[0]}"
        said.made_by = "nobody who says so: a kernel alone"
        said.lone = True
        said.odd.append(f"no {FILE}: engines run it as an ordinary container; build it again")
    else:
        said.is_ordinary = True


def _report(what: str, said: _Said, path: str, facts: Kernel | None, config: Config) -> Report:
    binary = facts.binary if facts else None
    guest = said.guest or (facts.guest if facts else "")
    version = (facts.version if facts else "") or said.version
    if facts and facts.guest and said.guest and facts.guest != said.guest:
        said.odd.append(f"'unikernelType' is {said.guest}, but by {facts.why} it is {facts.guest}")
    told = facts.version.partition("~")[0] if facts and guest == "unikraft" else ""
    if told and said.version and told != said.version.removeprefix("v"):
        said.odd.append(f"'unikernelVersion' is {said.version}, the kernel's {told}")
    if binary and said.monitor and binary.solo5_target not in ("", said.monitor):
        said.odd.append(
            f"'hypervisor' is {said.monitor}, but the kernel is built for {binary.solo5_target}"
        )
    return Report(
        what=what,
        made_by=said.made_by or ("an ordinary image" if said.is_ordinary else ""),
        kernel=path,
        initrd=said.initrd,
        guest=guest,
        why=facts.why if facts and not said.guest else "",
        version=version,
        monitor=said.monitor,
        format=binary.format if binary else "",
        machine=binary.machine if binary else "",
        facts=_facts(facts),
        needs=_needs(said, facts),
        command=said.command,
        runs=_runs(guest, facts, path, config) if facts else (),
        odd=tuple(said.odd),
        says=said.values or _would_say(said),
    )


def may_boot(facts: Kernel) -> bool:
    """Whether a file looks like a kernel, and not like a program of Linux's."""
    binary = facts.binary
    known = facts.guest or facts.multiboot or binary.pvh or binary.solo5_target
    return bool(known) or binary.format != "elf"


def _would_say(said: _Said) -> dict[str, str]:
    found = {
        "unikernelType": said.guest,
        "hypervisor": said.monitor,
        "binary": said.kernel,
        "initrd": said.initrd,
        "unikernelVersion": said.version,
    }
    return {key: value for key, value in found.items() if value}


def _facts(facts: Kernel | None) -> tuple[str, ...]:
    if facts is None:
        return ()
    binary = facts.binary
    found = [f"multiboot {version}" for version in facts.multiboot]
    if binary.pvh:
        found.insert(0, "PVH note")
    if binary.solo5_target:
        found.append(f"Solo5, target {binary.solo5_target}")
    if binary.position_independent:
        found.append("position-independent")
    return tuple(found)


def _needs(said: _Said, facts: Kernel | None) -> tuple[str, ...]:
    found = []
    if facts and facts.binary.memory_bytes:
        found.append(f"{-(-facts.binary.memory_bytes >> 20)} MiB of memory at least")
    for name, kind in facts.binary.solo5_devices if facts else ():
        found.append(f"a {'disk' if kind == 'block' else 'network'} for its device '{name}'")
    if said.initrd:
        found.append(f"its initrd {said.initrd}")
    found += [f"its disk {path}" for path in said.blocks]
    if said.rootfs:
        found.append("the image's own files, shared or on a disk")
    return tuple(found)


def _runs(
    guest: str, facts: Kernel, path: str, config: Config
) -> tuple[tuple[str, bool, str], ...]:
    """Each monitor's verdict on this machine."""
    known = guests.load(guest, config) if guest and guests.known(guest, config) else None
    host = os.uname().machine
    kvm = device("/dev/kvm", opened=True).problem
    found = []
    for name in monitors.names():
        try:
            monitor = monitors.load(name, config)
            if known and known.monitors and name not in known.monitors:
                raise ImageError(f"{guest} does not run on it")
            check_kernel(facts.binary, path, monitor, host)
            there = probe(monitor, config)
            check_program(monitor, there, config)
            if kvm and monitor.needs_kvm:
                raise ImageError(f"it needs KVM, and /dev/kvm: {kvm}")
            why = f"version {there.program.version}" if there.program.version else ""
            if kvm and monitor.can_emulate:
                why += f", by emulation (/dev/kvm: {kvm})"
            found.append((name, True, why))
        except Error as error:
            found.append((name, False, error.message))
    return tuple(found)
