# SPDX-License-Identifier: Apache-2.0
"""Firecracker: started with a configuration file, controlled through its API socket; it has its own
seccomp filters.

It adds ` virtio_mmio.device=…` words to the boot arguments, before a `--`. Its log goes to standard
output, which is the guest's console, so only errors are logged. Its exit code is 0 whatever the
guest did.
"""

from __future__ import annotations

from urunc.errors import MonitorError
from urunc.jsontext import dumps
from urunc.monitors import MIB, RUN, VSOCK_PORT, Launch, Machine, Monitor, Program, numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urunc.monitor_client import Control

ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")
ID_LIMIT = 64
GUEST_CID = 3
"""The guest's vsock address: the first that is not reserved (vsock(7))."""
CONFIGURATION = f"{RUN}/firecracker.json"
VSOCK = f"{RUN}/vsock.sock"
"""A guest's connection to port N arrives at the socket VSOCK_N (Firecracker's docs/vsock.md)."""
ETHERNET_MTU = 1500
"""The MTU that a guest assumes unless it is told one."""
TELLS_MTU = (1, 16)
"""The first version that can set the guest's MTU."""
LINE_BYTES = 2047
"""The most bytes of the kernel's command line, without its NUL (CMDLINE_MAX_SIZE,
src/vmm/src/arch)."""
DEVICE_WORD, FIRST_IRQ = " virtio_mmio.device=4K@0xd0000000:{}", 5
REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ctrl-alt-del": ("PUT", "/actions", {"action_type": "SendCtrlAltDel"}),
    "pause": ("PATCH", "/vm", {"state": "Paused"}),
    "resume": ("PATCH", "/vm", {"state": "Resumed"}),
}
"""Orders as requests of its API (src/firecracker/swagger/firecracker.yaml)."""
ENDINGS = {
    0: "the guest shut down or reset, or KVM could not run it: then the container's log says "
    "KVM_EXIT_INTERNAL_ERROR",
    1: "firecracker failed, or KVM could not run the guest; the reason is in the container's log",
    148: "firecracker made a system call that its filter forbids",
    149: "firecracker died of SIGBUS",
    150: "firecracker died of SIGSEGV",
    151: "firecracker died of SIGXFSZ",
    152: "firecracker refused its configuration; its message is in the container's log",
    153: "firecracker refused its arguments; its message is in the container's log",
    154: "firecracker died of SIGXCPU",
    156: "firecracker was told to stop",
    157: "firecracker died of SIGILL",
}
"""Its exit codes (FcExitCode, src/vmm/src/lib.rs). After an error of KVM it is 0 or 1 by chance:
the vCPU's thread wakes the main one before it leaves the code that the main one reads
(`Vcpu::exit`, src/vmm/src/vstate/vcpu.rs, to version 1.16 at least)."""


class Firecracker(Monitor):
    """Amazon's Firecracker."""

    name = "firecracker"
    channel = "vsock"
    vsock = f"{VSOCK}_{VSOCK_PORT}"
    minimum_version = (1, 0)
    sets_modes = True
    disk_unit_bytes = 512  # SECTOR_SIZE, src/vmm/src/devices/virtio/block/virtio/mod.rs
    needs_kvm = True
    max_nics = 8
    max_disks = 8
    max_vcpus = 32
    takes_initrd = True
    overhead_mib = 4
    overhead_tasks = 3  # its main one, the API's, and KVM's
    overhead_per_vcpu_mib = 1
    overhead_per_gib_mib = 8
    formats = {
        "x86_64": frozenset(("elf",)),
        "aarch64": frozenset(("image",)),
    }
    control_socket = f"{RUN}/firecracker.sock"
    saves_by = "urunc.monitors.firecracker_snapshots"
    orders = frozenset(REQUESTS)
    # as PID 1 of a namespace it has no handler for TERM and INT; on HUP it ends with 156
    stop_signal = 9

    def program_name(self, architecture: str) -> str:
        return "firecracker"

    def order(self, control: Control, what: str) -> None:
        method, path, body = REQUESTS[what]
        text = dumps(body)
        control.send(
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(text)}\r\n\r\n{text}".encode()
        )
        status = control.line().decode("ascii", "replace")
        if status.split()[1:2] not in (["200"], ["204"]):
            raise MonitorError(f"{method} {path}: {status}")

    def ending(self, code: int) -> str:
        return ENDINGS.get(code) or super().ending(code)

    def line_room(self, devices: int, program: Program, architecture: str) -> int:
        """As in Monitor: on x86_64 it adds a word for each device, and from 1.13 on `pci=off`."""
        if architecture != "x86_64":
            return LINE_BYTES
        added = sum(len(DEVICE_WORD.format(FIRST_IRQ + index)) for index in range(devices))
        return LINE_BYTES - added - len(" pci=off")

    def launch(self, machine: Machine, program: Program) -> Launch:
        argv = [
            program.path,
            "--id",
            _identifier(machine.id),
            "--api-sock",
            f"{RUN}/firecracker.sock",
        ]
        argv += ["--config-file", CONFIGURATION, "--level", "Error"]
        if not machine.seccomp:
            argv.append("--no-seccomp")
        argv += machine.arguments
        devices = ("/dev/kvm", *(("/dev/net/tun",) if machine.nics else ()))
        return Launch(
            argv=tuple(argv),
            files={CONFIGURATION: dumps(_configuration(machine, program), indent=2)},
            devices=devices,
            seccomp="own" if machine.seccomp else "",
        )


def _configuration(machine: Machine, program: Program) -> dict[str, object]:
    version = numbers(program.version)
    tells_mtu = version >= TELLS_MTU
    boot = {
        "kernel_image_path": machine.kernel,
        "boot_args": " ".join(filter(None, (machine.words.program, *machine.words.words))),
    }
    if machine.initrd:
        boot["initrd_path"] = machine.initrd
    return {
        "boot-source": boot,
        "machine-config": {
            "vcpu_count": machine.vcpus,
            "mem_size_mib": machine.memory_bytes // MIB,
        },
        "drives": [
            {
                "drive_id": disk.name or f"disk{index}",
                "path_on_host": disk.path,
                "is_root_device": False,
                "is_read_only": disk.read_only,
            }
            for index, disk in enumerate(machine.disks)
        ],
        **({"vsock": {"guest_cid": GUEST_CID, "uds_path": VSOCK}} if machine.channel else {}),
        "network-interfaces": [
            {"iface_id": f"net{index}", "guest_mac": nic.mac, "host_dev_name": nic.tap}
            | ({"mtu": nic.mtu} if tells_mtu and nic.mtu != ETHERNET_MTU else {})
            for index, nic in enumerate(machine.nics)
        ],
    }


def _identifier(container: str) -> str:
    """A container's id in the characters and the length that Firecracker takes; a mere label."""
    return "".join(letter if letter in ID_CHARACTERS else "-" for letter in container)[:ID_LIMIT]


MONITORS = {"firecracker": Firecracker}
