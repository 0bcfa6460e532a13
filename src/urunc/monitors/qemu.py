# SPDX-License-Identifier: Apache-2.0
"""QEMU's system emulators, with KVM or (where that is not to be had) their own code generator, TCG.

The machine is the smallest that the guest can drive: a q35 (x86) or virt (aarch64) board with
nothing but what is asked for. On x86 the firmware is qboot: SeaBIOS takes seconds where KVM is
nested.
"""

from __future__ import annotations

from urunc.monitors import MIB, RUN, Launch, Machine, Monitor, Program

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
BOARDS = {"x86_64": "q35,sata=off,smbus=off,vmport=off", "aarch64": "virt"}


class Qemu(Monitor):
    """qemu-system-x86_64 and qemu-system-aarch64."""

    name = "qemu"
    minimum_version = (5, 0)
    can_emulate = True
    max_nics = 16
    max_disks = 16
    max_vcpus = 64
    takes_initrd = True
    overhead_bytes = 48 * MIB
    consoles = {"aarch64": "ttyAMA0"}
    formats = {
        "x86_64": frozenset(("elf", "elf32", "bzimage")),
        "aarch64": frozenset(("elf", "image")),
    }

    def program_name(self, architecture: str) -> str:
        return f"qemu-system-{architecture}"

    def data(self, path: str) -> tuple[str, ...]:
        prefix = path.rpartition("/bin/")[0]
        return (f"{prefix}/share/qemu", f"{prefix}/share/seabios", *self._modules(prefix))

    def _modules(self, prefix: str) -> list[str]:
        # the accelerators are loadable modules in some builds (Debian's); display, audio and USB
        # never load
        names = [f"accel-tcg-{arch}.so" for arch in ("x86_64", "aarch64")]
        folders = (f"lib/{arch}-linux-gnu/qemu" for arch in ("x86_64", "aarch64"))
        return [
            f"{prefix}/{folder}/{name}"
            for folder in (*folders, "lib/qemu", "lib64/qemu")
            for name in names
        ]

    def launch(self, machine: Machine, program: Program) -> Launch:
        x86 = machine.architecture == "x86_64"
        kvm = machine.accelerator == "kvm"
        legacy_free = "virtio-modern" in machine.quirks
        argv = [program.path, "-M", BOARDS[machine.architecture], "-accel", machine.accelerator]
        argv += ["-cpu", _cpu(machine, kvm=kvm), "-m", f"{machine.memory_bytes // MIB}M"]
        argv += ["-smp", str(machine.vcpus), "-nodefaults", "-no-user-config", "-display", "none"]
        argv += [
            "-serial",
            "stdio",
            "-no-reboot",
            "-qmp",
            f"unix:{RUN}/qmp.sock,server=on,wait=off",
        ]
        if machine.seccomp:
            argv += ["-sandbox", SANDBOX]
        if x86:
            argv += ["-bios", "qboot.rom"]
        argv += ["-kernel", machine.kernel]
        if machine.words.words:
            argv += ["-append", " ".join(machine.words.words)]
        if machine.initrd:
            argv += ["-initrd", machine.initrd]
        for index, disk in enumerate(machine.disks):
            node = f"driver=raw,node-name=disk{index},file.driver=file,"
            node += f"file.filename={_escaped(disk.path)}"
            argv += ["-blockdev", node + (",read-only=on" if disk.read_only else "")]
            argv += ["-device", f"virtio-blk-pci,drive=disk{index}"]
        for index, nic in enumerate(machine.nics):
            argv += ["-netdev", f"tap,id=net{index},ifname={nic.tap},script=no,downscript=no"]
            modern = ",disable-legacy=on,disable-modern=off" if legacy_free else ""
            argv += ["-device", f"virtio-net-pci,netdev=net{index},mac={nic.mac},romfile={modern}"]
        if x86 and "isa-debug-exit" in machine.quirks:
            argv += ["-device", "isa-debug-exit,iobase=0x501,iosize=2"]
        argv += machine.arguments
        devices = (*(("/dev/kvm",) if kvm else ()), *(("/dev/net/tun",) if machine.nics else ()))
        return Launch(
            argv=tuple(argv), files={}, devices=devices, seccomp="own" if machine.seccomp else ""
        )


def _cpu(machine: Machine, *, kvm: bool) -> str:
    if not kvm:
        return "max"
    # with KVM inside a virtual machine, ARCH_CAPABILITIES makes QEMU 7.2 abort ("failed to set MSR
    # 0x10a")
    return (
        "host,-arch-capabilities" if machine.nested and machine.architecture == "x86_64" else "host"
    )


def _escaped(value: str) -> str:
    """A value in QEMU's option syntax: a comma is written twice."""
    return value.replace(",", ",,")


MONITORS = {"qemu": Qemu}
