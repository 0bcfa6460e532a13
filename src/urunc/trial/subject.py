# SPDX-License-Identifier: Apache-2.0
"""What is tried: an image, a folder or a kernel; and the guest and monitor that fit it, guessed
from what `urunc image inspect` finds."""

from __future__ import annotations

import os
import shutil
import stat

from urunc import guests, monitors
from urunc.doctor import kvm
from urunc.errors import HostError, ImageError, reason
from urunc.image import kernels, report
from urunc.image.images import Image
from urunc.image.tree import Entry, of_file
from urunc.plan.host import device
from urunc.record import record
from urunc.trial.unpack import unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import ExitStack
    from typing import Any

    from urunc.config import Config
    from urunc.image.report import Report

KERNEL, INITRD, BLOCK = "/.boot/kernel", "/.boot/initrd", "/.boot/block"
BOOT = "/boot"
KVM = "/dev/kvm"
PREFERRED = ("qemu", "firecracker", "spt", "hvt")
"""Monitors in the order of choice: QEMU runs without KVM, too."""
PACKAGES = {"qemu": f"qemu-system-{'arm' if os.uname().machine == 'aarch64' else 'x86'}"}


@record
class Wishes:
    """What the user says of the subject; "" for what is to be guessed."""

    guest: str = ""
    monitor: str = ""
    initrd: str = ""
    block: str = ""
    words: tuple[str, ...] = ()
    terminal: bool = False


@record
class Subject:
    """What to run, with its files below a directory."""

    what: str
    annotations: dict[str, str]
    """By their short keys."""
    settings: dict[str, Any]
    """Keys of the configuration that hold for it alone."""
    command: tuple[str, ...]
    environment: tuple[str, ...]
    directory: str
    """Its working directory."""
    user: str
    """As the image names it."""
    remarks: tuple[str, ...]


def resolve(reference: str, wishes: Wishes, root: str, config: Config, stack: ExitStack) -> Subject:
    """Find out what a reference is, and unpack it below `root`. Raises ImageError, HostError."""
    _check(reference)
    if wishes.guest and not guests.known(wishes.guest, config):
        known = ", ".join(guests.names(config))
        raise ImageError(f"guest '{wishes.guest}': unknown", f"known: {known}")
    if wishes.monitor and not monitors.known(wishes.monitor):
        known = ", ".join(monitors.names())
        raise ImageError(f"monitor '{wishes.monitor}': unknown", f"known: {known}")
    image, found = report.look_into(reference, config, stack, wishes.guest)
    ordinary = not found.kernel
    if image is None and not wishes.guest and not found.guest:
        image = _program(reference)
        ordinary = image is not None
    if image is None:
        _copy(reference, f"{root}{KERNEL}")
    elif image.entries:
        unpack(image, root)
    else:
        raise ImageError(f"'{reference}': holds no files", "a root file system, or a kernel")
    for source, target in ((wishes.initrd, INITRD), (wishes.block, BLOCK)):
        if source:
            _copy(source, f"{root}{target}")
    if ordinary:
        return _linux(reference, image, found, wishes, root, config)
    _fits(reference, found)
    annotations = dict(found.says)
    annotations["unikernelType"] = _guest(reference, wishes.guest or found.guest, config)
    annotations["hypervisor"], remarks = _monitor(reference, found, wishes.monitor)
    if image is None:
        annotations["binary"] = KERNEL
    if wishes.initrd:
        annotations["initrd"] = INITRD
    if wishes.block:
        annotations["block"] = BLOCK
    return _subject(image, found, wishes, annotations, {}, remarks)


def _check(reference: str) -> None:
    if os.path.isfile(f"{reference}/config.json") and not os.path.exists(f"{reference}/oci-layout"):
        raise ImageError(
            f"'{reference}': a bundle, which has its own config.json",
            f"urunc run --bundle {reference} NAME runs it",
        )
    if os.path.exists(reference) and not os.access(reference, os.R_OK):
        raise ImageError(f"read '{reference}': permission denied", "its mode, or its directory's")


def _program(reference: str) -> Image | None:
    """An ELF file that is a program of Linux's, not a kernel, as an image with it alone; raises
    ImageError for one that needs libraries."""
    with open(reference, "rb") as file:
        facts = kernels.look(file.fileno(), reference)
    if report.may_boot(facts):
        return None
    host = os.uname().machine
    if facts.binary.machine != host:
        raise ImageError(
            f"'{reference}': built for {facts.binary.machine}, and this machine is {host}",
            f"build it for {host}",
        )
    if facts.binary.interpreter:
        raise ImageError(
            f"'{reference}': a program of Linux's that needs libraries "
            f"({facts.binary.interpreter})",
            "link it statically, or give a folder that holds it with all that it needs",
        )
    name = f"bin/{os.path.basename(reference)}"
    entry = of_file(os.path.realpath(reference))
    program = Entry(mode=stat.S_IFREG | 0o755, size_bytes=entry.size_bytes, open=entry.open)
    config = {"config": {"Entrypoint": [f"/{name}"]}}
    return Image(kind="program", config=config, annotations={}, entries={name: program})


def _copy(source: str, target: str) -> None:
    os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise ImageError(f"copy '{source}': {reason(error)}") from None
    os.chmod(target, 0o644)


def _fits(reference: str, found: Report) -> None:
    host = os.uname().machine
    if not found.format:
        raise ImageError(
            f"'{reference}': '{found.kernel}' is no kernel: not ELF, nor Linux's bzImage or Image",
            f"urunc image inspect {reference} says more",
        )
    if found.machine.replace("i386", "x86_64") not in (host, ""):
        raise ImageError(
            f"'{reference}': its kernel is built for {found.machine}, and this machine is {host}",
            f"build it for {host}",
        )


def _guest(reference: str, guest: str, config: Config) -> str:
    if not guest:
        raise ImageError(
            f"'{reference}': its framework cannot be told from the file",
            f"say --guest and one of {', '.join(guests.names(config))}",
        )
    return guest


def _monitor(reference: str, found: Report, wanted: str) -> tuple[str, tuple[str, ...]]:
    """(the monitor, remarks): the one that is asked for, else the image's, else the first that runs
    it here."""
    verdicts = {name: (runs, why) for name, runs, why in found.runs}
    able = [name for name, (runs, _) in verdicts.items() if runs]
    if wanted:
        if wanted not in able:
            others = f"it runs on {', '.join(able)}" if able else _install(wanted)
            raise HostError(f"'{reference}': {verdicts[wanted][1]}", others)
        return wanted, ()
    asked = found.monitor
    if asked in able:
        return asked, ()
    order = [name for name in PREFERRED if name in able] + able
    if order:
        why = verdicts[asked][1] if asked in verdicts else ""
        remark = (f"on {order[0]} in place of {asked}: {why}",) if why else ()
        return order[0], remark
    name, why = _nearest(found)
    raise HostError(f"'{reference}': no monitor of this machine runs it: {why}", _install(name))


def _nearest(found: Report) -> tuple[str, str]:
    """The monitor that would run it if this machine were another, and what is wrong."""
    known = {name: why for name, _, why in found.runs}
    order = [name for name in (found.monitor, *PREFERRED, *known) if name in known]
    reasons = {name: known[name] for name in order}
    for name, why in reasons.items():
        if "not installed" in why or "needs KVM" in why or "older" in why:
            return name, why
    return next(iter(reasons.items()))


def _install(monitor: str) -> str:
    package = PACKAGES.get(monitor)
    return f"apt-get install {package}" if package else "docs/monitors.md says where to get it"


def _linux(
    reference: str, image: Image | None, found: Report, wishes: Wishes, root: str, config: Config
) -> Subject:
    """An ordinary image, which Linux runs: the kernel of the configuration, else this machine's."""
    guest = wishes.guest or "linux"
    settings: dict[str, Any] = {}
    annotations = {"unikernelType": guest, "mountRootfs": "true", "hypervisor": "qemu"}
    annotations["hypervisor"] = wishes.monitor or config.get("ordinary.monitor")
    if not _command(image, wishes, annotations):
        raise ImageError(
            f"'{reference}': an ordinary image that names no command",
            f"say which: urunc try {reference} -- /bin/sh",
        )
    if not config.get(f"guests.{guest}.kernel"):
        kernel, modules = _newest(reference)
        _copy(kernel, f"{root}{KERNEL}")
        annotations["binary"] = KERNEL
        settings[f"guests.{guest}.modules"] = modules
    return _subject(image, found, wishes, annotations, settings, ())


def _newest(reference: str) -> tuple[str, str]:
    """(kernel, directory of its modules): the newest of this machine that can be read."""
    found = []
    for name in os.listdir(BOOT) if os.path.isdir(BOOT) else ():
        release = name.removeprefix("vmlinuz-")
        modules = f"/lib/modules/{release}"
        if release != name and os.path.isdir(modules) and os.access(f"{BOOT}/{name}", os.R_OK):
            numbers = [int(part) for part in release.replace("-", ".").split(".") if part.isdigit()]
            found.append((numbers, f"{BOOT}/{name}", modules))
    if not found:
        raise HostError(
            f"'{reference}': an ordinary image, which takes a Linux kernel to run as a guest, and "
            "there is none",
            "apt-get install linux-image-cloud-amd64, or set guests.linux.kernel (docs/storage.md)",
        )
    _, kernel, modules = max(found)
    return kernel, modules


def _command(image: Image | None, wishes: Wishes, annotations: dict[str, str]) -> tuple[str, ...]:
    """The image's entry point with the user's words or the image's own; () where there is none."""
    runs = (image.config.get("config") if image else None) or {}
    entry = [str(word) for word in runs.get("Entrypoint") or ()]
    usual = [str(word) for word in runs.get("Cmd") or ()]
    command = (*entry, *(wishes.words or usual))
    if not command and "mountRootfs" not in annotations:
        command = ("unikernel",)
    if not command and wishes.terminal:
        command = ("/bin/sh",)
    return command


def _subject(
    image: Image | None,
    found: Report,
    wishes: Wishes,
    annotations: dict[str, str],
    settings: dict[str, Any],
    remarks: tuple[str, ...],
) -> Subject:
    runs = (image.config.get("config") if image else None) or {}
    return Subject(
        what=image.kind if image else found.what,
        annotations=annotations,
        settings=settings,
        command=_command(image, wishes, annotations),
        environment=tuple(str(text) for text in runs.get("Env") or ()),
        directory=str(runs.get("WorkingDir") or "/"),
        user=str(runs.get("User") or ""),
        remarks=remarks,
    )


def kvm_problem() -> str:
    """Why KVM, which opens, runs no ordinary guest, as within a virtual machine; "" where it does,
    or where it does not even open, which monitors know how to take."""
    if device(KVM, opened=True).problem:
        return ""
    try:
        runs, lacking = kvm.runs()
    except OSError as error:
        return f"{KVM} opens, but has no machine: {reason(error)}"
    return f"{KVM} runs no ordinary guest: {lacking}" if lacking or not runs else ""
