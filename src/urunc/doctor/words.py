# SPDX-License-Identifier: Apache-2.0
"""What the last lines of a guest's or monitor's output mean: pure.

A console is the guest's own, who may print what he likes: what is found here is an explanation, and
nothing depends on it.
"""

from __future__ import annotations

import re

from urunc.record import record


@record
class Meaning:
    """What lines say, and what to do."""

    line: str
    """The line it was told by."""
    text: str
    advice: str = ""


KNOWN = (
    (
        r"KVM internal error|KVM_EXIT_INTERNAL_ERROR|emulation failure|EmulationFailure",
        "KVM cannot run this guest's instructions here, as often inside a virtual machine",
        "annotation 'accelerator' with 'tcg' (QEMU), or Solo5 spt; `urunc doctor` tries KVM",
    ),
    (
        r"No working init found|Failed to execute /init|"
        r"Attempted to kill init.*exitcode=0x00007f",
        "the kernel found no program that it can run as the first one",
        "is there an initrd or a root filesystem with it, and for this architecture?",
    ),
    (
        r"VFS: Unable to mount root fs|Cannot open root device",
        "the kernel has no root filesystem that it can mount",
        "a kernel with virtio_blk and the image's file system, or guests.linux.modules",
    ),
    (
        r"System is deadlocked on memory|Out of memory|out of memory|Cannot allocate memory",
        "the guest ran out of memory",
        "a higher memory limit of the container (docs/monitors.md says what the monitor needs)",
    ),
    (
        r"Kernel panic - not syncing|Oops:|BUG: unable to handle",
        "the guest's kernel panicked",
        "the lines before this one say why",
    ),
    (
        r"Decompressing Linux|Booting from ROM|SeaBIOS|iPXE",
        "the firmware runs, and no kernel after it",
        "is it a kernel for this monitor? `urunc image inspect FILE` says what it is",
    ),
    (
        r"without an? (?:ELF|PVH)|Error loading uncompressed kernel without PVH|Invalid ELF|"
        r"Cannot load kernel|Unable to read kernel image|invalid kernel header|KernelLoader",
        "the monitor takes no kernel of this kind",
        "`urunc image inspect FILE` says what it is, and which monitors load it",
    ),
    (
        r"ABI version|Unsupported .*manifest|not a Solo5|Invalid or unsupported executable",
        "the kernel was built for another Solo5, or for another of its tenders",
        "`urunc image inspect FILE` names the ABI and the target it was built for",
    ),
    (
        r"Could not access KVM|/dev/kvm: (?:Permission denied|No such file)|"
        r"failed to initialize kvm",
        "the monitor cannot use /dev/kvm",
        "`urunc doctor` says why; annotation 'accelerator' with 'tcg' does without (QEMU)",
    ),
    (
        r"seccomp|Bad system call|SIGSYS",
        "a system call was refused",
        "docs/security.md: monitors' filters; a newer monitor may need more",
    ),
    (
        r"Assertion (?:failure|failed)|CRIT|Aborted|fatal error:|Fatal error|panic:|"
        r"Segmentation fault",
        "the guest ended itself on an error of its own",
        "the lines before this one say why",
    ),
    (
        r"[Aa]ddress already in use",
        "a port is taken",
        "another server in the same network has it",
    ),
    (
        r"Permission denied|Operation not permitted|Read-only file system",
        "something was not allowed to the guest's application",
        "`urunc plan` shows what is writable, and the user it runs as",
    ),
    (
        r"No such file or directory|not found",
        "the guest looks for something that is not there",
        "`urunc plan` shows the guest's command line and files",
    ),
)
"""(pattern, what it means, what to do), the more telling first."""
MOST = 2


def meanings(text: str) -> list[Meaning]:
    """What is known of a console's last lines, the more telling first; at most MOST."""
    lines = [line for line in text.splitlines() if line.strip()]
    found: list[Meaning] = []
    for pattern, meaning, advice in KNOWN:
        line = next((line for line in reversed(lines) if re.search(pattern, line)), None)
        if line is not None and line not in [item.line for item in found]:
            found.append(Meaning(line=line.strip(), text=meaning, advice=advice))
    return found[:MOST]
