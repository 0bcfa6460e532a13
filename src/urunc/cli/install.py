# SPDX-License-Identifier: Apache-2.0
"""`urunc install`: makes urunc a runtime of an engine of this machine."""

from __future__ import annotations

import posix

from urunc.cli.options import DIRECTORY, FILE, FLAG, VALUE, Arguments, one_of
from urunc.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.installer.node import Node

COMMON = {
    "--prefix": (DIRECTORY, "where urunc is or goes (default: its own, else /usr/local)"),
    "--restart": (
        VALUE,
        "how the engine takes it: auto, systemd, openrc, signal, none, or a command (auto)",
    ),
    "--engine-config": (FILE, "the engine's configuration, if elsewhere than usual"),
    "--socket": (FILE, "the engine's socket, if elsewhere than usual"),
    "--dry-run": (FLAG, "show what would change, and change nothing"),
}
OPTIONS = COMMON | {
    "--shim": (FLAG, "have containerd or Docker use urunc's own shim in place of runc's"),
    "--check": (FLAG, "change nothing: say whether the engine knows urunc"),
}
USAGE = "[OPTION...] containerd|docker|podman|crio|k3s|rke2|nerdctl"
SUMMARY = "Make urunc a runtime of a container engine."


def main(arguments: Arguments) -> int:
    """Run the verb."""
    return work(arguments, "verify" if arguments.has("--check") else "install")


def work(arguments: Arguments, what: str) -> int:
    """Install, verify or uninstall: the exit code. Raises HostError."""
    from urunc.installer import nodes, program
    from urunc.installer.host import Failure, Host, locked
    from urunc.installer.job import Job

    (kind,) = arguments.only("the name of an engine")
    one_of("", kind, nodes.KINDS)
    if posix.geteuid() != 0:
        raise HostError(f"{what}: needs root", "sudo will do")
    host = Host(dry=arguments.has("--dry-run"))
    try:
        source = program.own()
        prefix = "/" + (arguments.get("--prefix") or program.home(source)).strip("/")
        job = Job(
            host, prefix, arguments.get("--restart", "auto"), force=arguments.has("--force"),
            shim=arguments.has("--shim"),
        )  # fmt: skip
        with locked(host):
            node: Node = nodes.find(
                host, kind, arguments.get("--engine-config"), arguments.get("--socket")
            )
            if what == "verify":
                return 0 if job.verify(node) else 1
            if what == "install":
                job.install(node, source)
            else:
                job.uninstall(node)
    except Failure as error:
        raise HostError(str(error)) from None
    return 0
