# SPDX-License-Identifier: Apache-2.0
"""Linux with one application as its init: kernel parameters, environment, `--`, the application's
arguments.

The kernel's own parser reads the line (lib/cmdline.c, init/main.c): blanks separate, a double quote
groups and cannot be escaped, `NAME=VALUE` words that are no kernel parameter become init's
environment (32 at most, else it panics), and the line ends at 2,048 bytes on x86 and arm64. What
cannot be said so is refused here.
"""

from __future__ import annotations

from urunc.errors import ImageError
from urunc.guests import Guest, Request, Words
from urunc.net.ipv4 import dotted_mask

LINE_LIMIT_BYTES = 2047
ENVIRONMENT_LIMIT = 32 - 2  # MAX_INIT_ENVS, less HOME and TERM that the kernel sets itself
ARGUMENT_LIMIT = 32 - 1  # MAX_INIT_ARGS, less init's own name

# An environment variable of one of these names would be taken by the kernel
# (Documentation/admin-guide/kernel-parameters.txt); so is any name with a dot, which is a module's
# parameter.
KERNEL_PARAMETERS = frozenset(
    "acpi console debug hugepages init initrd ip isolcpus lockdown loglevel maxcpus mem "  # noqa: SIM905
    "mitigations nfsroot noapic nokaslr nosmp nosmt nr_cpus panic pci quiet rdinit reboot resume "
    "ro root rootdelay rootflags rootfstype rootwait rw security selinux single smp swiotlb tsc "
    "vga".split()
)


class Linux(Guest):
    """A Linux kernel that runs one application."""

    name = "linux"
    monitors = frozenset(("qemu", "firecracker"))
    storage = frozenset(("initrd", "block"))
    quirks = frozenset(("isa-debug-exit",))

    def words(self, request: Request) -> Words:
        words = ["panic=-1", f"console={request.console}", "reboot=k"]
        if request.disks:
            words.append("root=/dev/vda " + ("ro" if request.disks[0].read_only else "rw"))
        elif request.initrd:
            words.append("root=/dev/ram0 rw")
        for index, nic in enumerate(request.nics):
            if nic.ipv4:
                mask = dotted_mask(nic.ipv4_prefix)
                host = _host(request.hostname)
                words.append(f"ip={nic.ipv4}::{nic.ipv4_gateway}:{mask}:{host}:eth{index}:off")
        words += [_environment(variable) for variable in request.env]
        if len(request.env) > ENVIRONMENT_LIMIT:
            raise ImageError(
                f"process.env: {len(request.env)} variables are more than the kernel takes "
                f"({ENVIRONMENT_LIMIT})",
                "it panics past them; set fewer",
            )
        if request.args:
            # with an initrd alone its own program is init; with a disk the kernel (or the initrd)
            # mounts the disk first
            verb = "rdinit" if request.initrd and not request.disks else "init"
            words.append(f"{verb}={_quoted(request.args[0], 'process.args[0]')}")
            if len(request.args) - 1 > ARGUMENT_LIMIT:
                raise ImageError(
                    f"process.args: {len(request.args) - 1} arguments are more than the kernel "
                    f"takes ({ARGUMENT_LIMIT})",
                    "it panics past them; pass fewer",
                )
            if request.args[1:]:
                words.append("--")
                words += [
                    _quoted(word, f"process.args[{index}]")
                    for index, word in enumerate(request.args[1:], 1)
                ]
        line = " ".join(words)
        if len(line.encode()) > LINE_LIMIT_BYTES:
            raise ImageError(
                f"kernel command line: {len(line.encode())} bytes are more than {LINE_LIMIT_BYTES}",
                "the kernel would cut it; shorten the arguments or the environment",
            )
        return Words(program="", words=(line,))


def _host(name: str) -> str:
    if not all(letter.isalnum() or letter in "-_." for letter in name):
        raise ImageError(
            f"hostname: '{name}' cannot stand in the kernel's `ip=`",
            "letters, digits, hyphens and dots only",
        )
    return name or "urunc"


def _environment(variable: str) -> str:
    name = variable.partition("=")[0]
    if name in KERNEL_PARAMETERS or "." in name or "-" in name:
        raise ImageError(
            f"process.env: '{name}' would be taken as a kernel parameter", "choose another name"
        )
    return _quoted(variable, f"process.env '{name}'")


def _quoted(word: str, where: str) -> str:
    if '"' in word or "\n" in word:
        raise ImageError(
            f"{where}: a double quote or a line's end cannot be passed on the kernel's "
            "command line",
            "pass it in a file of the image",
        )
    return f'"{word}"' if not word or word.split() != [word] else word


GUEST = Linux
