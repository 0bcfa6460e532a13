# SPDX-License-Identifier: Apache-2.0
"""What urunc runs: its configuration, monitors, the ordinary runtime, image builders, virtiofsd."""

from __future__ import annotations

import platform

from urunc import monitors, ordinary
from urunc.doctor.finding import Finding, fine, note, problem
from urunc.errors import Error
from urunc.linux.files import exists
from urunc.plan.compatibility import check_program
from urunc.plan.host import probe
from urunc.storage import mkfs, virtiofsd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.config import Config

PACKAGES = {"qemu": {"x86_64": "qemu-system-x86", "aarch64": "qemu-system-arm"}}
"""Monitor → architecture → Debian's package."""


def findings(config: Config) -> list[Finding]:
    """Everything that a configuration leads to."""
    found = [_monitor(name, config) for name in monitors.names()]
    if not any(item.level == "fine" for item in found):
        found.append(problem("monitors", "there is none: no guest runs", _install("qemu")))
    return [*found, _ordinary(config), _guest_kernel(config), _builders(), _virtiofsd(config)]


def _install(name: str) -> str:
    package = PACKAGES.get(name, {}).get(platform.machine())
    return f"apt-get install {package}" if package else ""


def _monitor(name: str, config: Config) -> Finding:
    try:
        monitor = monitors.load(name, config)
        host = probe(monitor, config)
        check_program(monitor, host, config)
    except Error as error:
        advice = _install(name) or error.hint
        configured = config.get(f"monitors.{name}.path")
        return (problem if configured else note)(f"monitor {name}", error.message, advice)
    return fine(f"monitor {name}", f"{host.program.version} ({host.program.path})".strip())


def _ordinary(config: Config) -> Finding:
    try:
        return fine("ordinary containers", f"handed to {ordinary.find(config)}")
    except Error as error:
        return note("ordinary containers", error.message, "apt-get install runc")


def _guest_kernel(config: Config) -> Finding:
    subject = "kernel for images"
    key = "guests.linux.kernel"
    path = config.get(key)
    if not path:
        return note(
            subject,
            "none: an image that is no unikernel has to bring one to run as a Linux guest",
            f"set {key} and guests.linux.modules (docs/storage.md)",
        )
    for name in (path, config.get("guests.linux.modules")):
        if name and not exists(name):
            return problem(subject, f"there is no '{name}'", f"set in {config.source(key)}")
    return fine(subject, path)


def _builders() -> Finding:
    found = {image_format: mkfs.find(image_format) for image_format in mkfs.PROGRAMS}
    have = [image_format for image_format, path in found.items() if path]
    if not {"erofs", "ext4"} & set(have):
        return note(
            "image builders",
            "none: a guest without a shared folder gets its root file system in memory",
            "apt-get install erofs-utils e2fsprogs",
        )
    return fine("image builders", ", ".join(have))


def _virtiofsd(config: Config) -> Finding:
    try:
        path, rust = virtiofsd.find(config)
    except Error as error:
        return problem("virtiofsd", error.message, error.hint)
    if not path:
        return note(
            "virtiofsd",
            "none: guests write to no volume of the host's",
            "apt-get install virtiofsd (Debian 12: part of qemu-system-common)",
        )
    return fine("virtiofsd", f"{path}, the one in {'Rust' if rust else 'C'}")
