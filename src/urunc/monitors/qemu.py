# SPDX-License-Identifier: Apache-2.0
"""QEMU's system emulators, with KVM or (where that is not to be had) their own code generator, TCG.

The machine is the smallest that the guest can drive: a q35 (x86) or virt (aarch64) board with
nothing but what is asked for. On x86 the firmware is SeaBIOS, which QEMU has by itself; guests that
assign PCI resources themselves have qboot, which does not and is done sooner (docs/monitors.md).
"""

from __future__ import annotations

from urunc.errors import MonitorError
from urunc.jsontext import dumps, loads
from urunc.monitors import (
    CHANNEL,
    CHANNEL_PORT,
    MIB,
    RUN,
    STREAM_PORTS,
    Launch,
    Machine,
    MachineDisk,
    MachineNic,
    MachineShare,
    Monitor,
    Program,
    numbers,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urunc.monitor_client import Control

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
COMMANDS: dict[str, dict[str, Any]] = {
    "acpi-power-button": {"execute": "system_powerdown"},
    "ctrl-alt-del": {
        "execute": "send-key",
        "arguments": {
            "keys": [{"type": "qcode", "data": key} for key in ("ctrl", "alt", "delete")]
        },
    },
    "pause": {"execute": "stop"},
    "resume": {"execute": "cont"},
}
"""Orders in QMP (docs/interop/qemu-qmp-ref)."""
TOLD = {
    "SHUTDOWN": {
        "": "the machine was shut down",
        "guest-shutdown": "the guest shut down",
        "guest-reset": "the guest reset (a reboot, or a triple fault)",
        "guest-panic": "the guest panicked",
        "host-signal": "qemu was told to stop by a signal",
        "host-qmp-quit": "qemu was told to quit",
    },
    "GUEST_PANICKED": {"": "the guest panicked"},
    "STOP": {"": ""},
    "RESUME": {"": ""},
    "POWERDOWN": {"": ""},
    "WATCHDOG": {"": ""},
}
"""QMP's events that are passed on, by reason; the words are why the guest ended, where it did."""
TRANSLATED_MIB = 32
"""Memory for translated code: by itself TCG takes an eighth of the host's, up to 1 GiB."""
ETHERNET_MTU = 1500
"""What a guest takes it for where nobody says."""
TERMINAL = "/dev/pts/0"
"""The container's terminal (steps.Terminal), the only one of its devpts."""
BOARDS = {"x86_64": "q35,sata=off,smbus=off,vmport=off", "aarch64": "virt"}
RESET_PORT = "isa-debug-exit,iobase=0x64,iosize=1"
"""In the keyboard controller's place: QEMU ends with RESET_CODE where Linux writes 0xfe, the pulse
of the reset line, as it does after a panic (arch/x86/kernel/reboot.c); -no-reboot would be 0."""
RESET_CODE = (0xFE << 1 | 1) & 0xFF
WITHOUT_8042 = (7, 0)
"""The first version whose boards can lack the controller, and whose ACPI tables say so."""


class Qemu(Monitor):
    """qemu-system-x86_64 and qemu-system-aarch64."""

    name = "qemu"
    channel = "virtio"
    shares = frozenset(("virtiofs", "9p"))
    minimum_version = (5, 0)
    sets_modes = True
    can_emulate = True
    max_nics = 16
    max_queues = 8
    max_disks = 16
    max_vcpus = 64
    stop_signal = 9  # for SIGTERM it ends with 0, as if its guest had ended well
    takes_initrd = True
    overhead_mib = 28
    overhead_emulating_mib = 48 + TRANSLATED_MIB
    overhead_tasks = 3 + 64  # its main one, RCU's, KVM's, and of its pool (thread-pool-max)
    overhead_per_vcpu_mib = 3
    overhead_per_gib_mib = 8
    consoles = {"aarch64": "ttyAMA0"}
    control_socket = f"{RUN}/qmp.sock"
    saves_by = "urunc.monitors.qemu_snapshots"
    orders = frozenset(COMMANDS)
    events_socket = f"{RUN}/events.sock"
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
        directories = (f"lib/{arch}-linux-gnu/qemu" for arch in ("x86_64", "aarch64"))
        return [
            f"{prefix}/{directory}/{name}"
            for directory in (*directories, "lib/qemu", "lib64/qemu")
            for name in names
        ]

    def order(self, control: Control, what: str) -> None:
        self.subscribe(control)
        execute(control, COMMANDS[what])

    def is_attended(self, control: Control) -> bool:
        self.subscribe(control)
        ports = execute(control, {"execute": "query-chardev"})
        return any(port["label"] == "channel" and port["frontend-open"] for port in ports)

    def subscribe(self, control: Control) -> None:
        control.line()  # its greeting
        execute(control, {"execute": "qmp_capabilities"})

    def heard(self, control: Control) -> list[dict[str, str]]:
        found = []
        for line in control.lines():
            answer = loads(line.decode())
            event, data = str(answer.get("event", "")), answer.get("data", {})
            if event not in TOLD:
                continue
            text = TOLD[event].get(str(data.get("reason", "")), TOLD[event][""])
            if event == "STOP" and _status(control) == "internal-error":
                # it stays, with a guest that will never run again
                text = "KVM cannot run the guest (internal error); the monitor waits to be killed"
            found.append({"event": event, "reason": text} if text else {"event": event})
        return found

    def ending(self, code: int) -> str:
        if code == 0:
            return "the guest shut down or reset, or qemu was told to stop"
        if code == 1:
            return "qemu failed; its message is in the container's log"
        if code == RESET_CODE:
            return "the guest reset its machine (a kernel panic, or a reboot)"
        if code % 2:
            return f"the guest ended with {code >> 1} (isa-debug-exit)"
        return super().ending(code)

    def tells_resets(self, architecture: str, version: str) -> bool:
        parts = numbers(version)
        return architecture == "x86_64" and parts >= WITHOUT_8042

    def launch(self, machine: Machine, program: Program) -> Launch:
        kvm = machine.accelerator == "kvm"
        argv = [program.path, *_board(machine, kvm=kvm), *_console(machine)]
        argv += [
            "-no-reboot",
            "-qmp",
            f"unix:{RUN}/qmp.sock,server=on,wait=off",
            "-qmp",
            f"unix:{RUN}/events.sock,server=on,wait=off",
        ]
        if machine.seccomp:
            argv += ["-sandbox", SANDBOX]
        argv += _boot(machine)
        for index, disk in enumerate(machine.disks):
            argv += _disk(disk, index)
        for index, nic in enumerate(machine.nics):
            argv += ["-netdev", _backend(nic, index)]
            argv += ["-device", _network_device(nic, index, machine.quirks)]
        for index, share in enumerate(machine.shares):
            argv += _share(share, index)
        if machine.architecture == "x86_64" and "isa-debug-exit" in machine.quirks:
            argv += ["-device", "isa-debug-exit,iobase=0x501,iosize=2"]
        if machine.tells_resets:
            argv += ["-device", RESET_PORT]
        if machine.channel:
            # without ioeventfd what the guest says has left QEMU before the guest goes on: its last
            # words are followed by the machine's end
            argv += ["-chardev", f"pipe,id=channel,path={CHANNEL}"]
            argv += ["-device", "virtio-serial-pci,ioeventfd=off", *_streams(machine)]
            argv += ["-device", f"virtserialport,chardev=channel,name={CHANNEL_PORT}"]
        argv += machine.arguments
        devices = (*(("/dev/kvm",) if kvm else ()), *(("/dev/net/tun",) if machine.nics else ()))
        return Launch(
            argv=tuple(argv),
            files={},
            devices=devices,
            seccomp="own" if machine.seccomp else "",
            streams=bool(machine.stream_descriptors),
        )


def _board(machine: Machine, *, kvm: bool) -> list[str]:
    """The board, its processors and its memory."""
    accelerator = "kvm" if kvm else f"tcg,tb-size={TRANSLATED_MIB}"
    board = BOARDS[machine.architecture] + (",i8042=off" if machine.tells_resets else "")
    memory = f"{machine.memory_bytes // MIB}M"
    argv = ["-M", board, "-accel", accelerator, "-cpu", _cpu(machine, kvm=kvm), "-m", memory]
    if any(share.kind == "virtiofs" for share in machine.shares):
        # virtiofs' daemon reads and writes the guest's memory
        argv += ["-object", f"memory-backend-memfd,id=memory,size={memory},share=on"]
        argv += ["-machine", "memory-backend=memory"]
    argv += ["-smp", str(machine.vcpus), "-nodefaults", "-no-user-config", "-display", "none"]
    return argv


def _boot(machine: Machine) -> list[str]:
    """What boots: firmware, kernel, its command line and its initrd."""
    argv = [*_firmware(machine), "-kernel", machine.kernel]
    if machine.words.words:
        argv += ["-append", " ".join(machine.words.words)]
    if machine.initrd:
        argv += ["-initrd", machine.initrd]
    return argv


def _disk(disk: MachineDisk, index: int) -> list[str]:
    kind = "host_device" if disk.path.startswith("/dev/") else "file"
    node = f"driver=raw,node-name=disk{index},file.driver={kind},"
    # nobody else has the file; to find out whether it can be locked takes /dev/null
    node += f"file.locking=off,file.filename={_escaped(disk.path)}"
    # a disk of the host's that is full is the guest's trouble: QEMU would stop it, for ever
    full = "" if disk.read_only else ",werror=report"
    return [
        *("-blockdev", node + (",read-only=on" if disk.read_only else "")),
        *("-device", f"virtio-blk-pci,drive=disk{index}{full}"),
    ]


def _console(machine: Machine) -> list[str]:
    """The serial port. Where the streams have ways of their own, what the kernel says there is on
    standard error."""
    if machine.streams == ("terminal",):
        return [*_to("console", TERMINAL), "-serial", "chardev:console"]
    if machine.terminal:
        return ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    if not machine.streams:
        return ["-serial", "stdio"]
    if machine.streams[2] == "socket":
        return ["-serial", "null"]  # two cannot have one connection
    place = f"/dev/fdset/{machine.stream_descriptors[1]}"
    return [*_to("console", place), "-serial", "chardev:console"]


def _streams(machine: Machine) -> list[str]:
    """Ports for the standard streams. Before 8.1 a file's input cannot be said on the command line,
    so that is QEMU's own."""
    argv = []
    for number, kind in enumerate(machine.streams):
        name = ("stdin", "stdout", "stderr")[number]
        if not kind:
            continue
        if kind == "terminal":
            # of all its ways this alone leaves a line's end as it is (no OPOST)
            argv += ["-chardev", f"serial,id={name},path={TERMINAL}"]
        elif number == 0:
            argv += ["-chardev", f"stdio,id={name},signal=off"]
        elif kind == "socket":
            argv += ["-chardev", f"socket,id={name},fd={machine.stream_descriptors[number - 1]}"]
        else:
            fd = machine.stream_descriptors[number - 1]
            argv += ["-add-fd", f"fd={fd},set={fd}", *_to(name, f"/dev/fdset/{fd}")]
        argv += ["-device", f"virtserialport,chardev={name},name={STREAM_PORTS[number]}"]
    return argv


def _to(name: str, path: str) -> list[str]:
    # without "append" QEMU truncates what it is given, and fails where that is a pipe
    return ["-chardev", f"file,id={name},path={path},append=on"]


def _firmware(machine: Machine) -> tuple[str, ...]:
    if machine.architecture != "x86_64":
        return ()
    spared = machine.firmware == "auto" and machine.assigns_resources
    return ("-bios", "qboot.rom") if spared or machine.firmware == "qboot" else ()


def _backend(nic: MachineNic, index: int) -> str:
    """QEMU itself asks the TAP device for virtio headers, and for the offloads that its guest
    takes."""
    queues = f",queues={nic.queues}" if nic.queues > 1 else ""
    return f"tap,id=net{index},ifname={nic.tap},script=no,downscript=no{queues}"


def _network_device(nic: MachineNic, index: int, quirks: frozenset[str]) -> str:
    words = f"virtio-net-pci,netdev=net{index},mac={nic.mac},romfile="
    if nic.mtu != ETHERNET_MTU:
        words += f",host_mtu={nic.mtu}"
    if nic.queues > 1:  # a vector for each queue, the control queue's, and the device's own
        words += f",mq=on,vectors={2 * nic.queues + 2}"
    return words + (",disable-legacy=on,disable-modern=off" if "virtio-modern" in quirks else "")


def _share(share: MachineShare, index: int) -> list[str]:
    if share.kind == "virtiofs":
        return [
            *("-chardev", f"socket,id=share{index},path={_escaped(share.socket)}"),
            *("-device", f"vhost-user-fs-pci,chardev=share{index},tag={share.tag}"),
        ]
    # "none": owners and modes as far as the monitor's user may set them; several file systems may
    # be below the directory
    backend = f"local,id=share{index},path={_escaped(share.path)},security_model=none"
    return [
        *("-fsdev", f"{backend},multidevs=remap"),
        *("-device", f"virtio-9p-pci,fsdev=share{index},mount_tag={share.tag}"),
    ]


def execute(control: Control, command: dict[str, Any], descriptors: tuple[int, ...] = ()) -> Any:
    """A command's answer; `descriptors` go with it. Raises MonitorError."""
    control.send(dumps(command).encode() + b"\n", descriptors)
    while True:
        answer = loads(control.line().decode())
        if "error" in answer:
            raise MonitorError(f"{command['execute']}: {answer['error'].get('desc')}")
        if "return" in answer:
            return answer["return"]  # anything else is an event


def _status(control: Control) -> str:
    return str(execute(control, {"execute": "query-status"}).get("status", ""))


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
