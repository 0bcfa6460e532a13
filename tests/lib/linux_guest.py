# SPDX-License-Identifier: Apache-2.0
"""A Linux guest with urunc's init, booted by QEMU directly: what the program guest-init does by
itself, whoever writes its configuration. Emulated: a boot takes some seconds, on the plainest CPU
some tenths less than on the fullest, which urunc has."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable

from lib import busybox
from lib.patience import patient, until
from lib.rooted import SPARED
from lib.support import PARTS, PROJECT

LINUX = PARTS / "linux"
PROGRAMS = PROJECT / "build/guest-init"
PORT = "org.urunc.guest"
PATH = ("env", "PATH=/bin")
LINE = f"console=ttyS0 quiet panic=-1 reboot=k no_timer_check {' '.join(SPARED)} urunc.config="
Record = tuple[str, ...]


def escaped(field: str) -> str:
    """A field of a record, as the format has it."""
    return field.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


def config_disk(records: Iterable[Record]) -> bytes:
    """The configuration: (key, field, …) for each record."""
    lines = [f"{key}=" + "\t".join(map(escaped, fields)) for key, *fields in records]
    text = "".join(f"{line}\0" for line in ["urunc-guest 1", *lines, ""])
    content = text.encode(errors="surrogateescape")
    return content + bytes(-len(content) % 512)


def initrd(path: pathlib.Path) -> pathlib.Path:
    """Init and all modules."""
    modules = LINUX / "guest-modules"
    tree = path.with_suffix(".tree")
    shutil.copytree(modules, tree / "modules")
    shutil.copy(PROGRAMS / "guest-init", tree / "init")
    imagetool = PROJECT / "guests-src/linux/imagetool.py"
    subprocess.run([sys.executable, imagetool, "cpio", tree, path], check=True)
    return path


def root_tree(path: pathlib.Path) -> pathlib.Path:
    """A root filesystem of busybox that lacks what a container's image may lack: /proc, /dev."""
    busybox.install(path / "bin", *busybox.applets())
    for directory in ("etc", "data", "old", "root"):
        (path / directory).mkdir()
    (path / "etc/passwd").write_text(
        "root:x:0:0::/root:/bin/sh\nmary:x:1000:1001::/home/mary:/bin/sh\n"
    )
    (path / "etc/plain").write_text("a plain file\n")
    (path / "etc/plain").chmod(0o755)
    (path / "etc/secret").write_text("of the image\n")
    (path / "data/kept").write_text("kept\n")
    (path / "data/gone").write_text("gone\n")
    (path / "old/hidden").write_text("hidden\n")
    (path / "out").symlink_to("/../../elsewhere")
    return path


def image(tree: pathlib.Path, form: str, path: pathlib.Path) -> pathlib.Path:
    """An image of a tree."""
    commands: dict[str, list[str | pathlib.Path]] = {
        "ext4": ["mke2fs", "-q", "-t", "ext4", "-d", tree, path, "24M"],
        "erofs": ["mkfs.erofs", path, tree],
        "squashfs": ["mksquashfs", tree, path, "-quiet", "-no-progress", "-noappend"],
    }
    subprocess.run(commands[form], check=True, capture_output=True)
    if path.stat().st_size % 512:  # a disk has whole sectors
        os.truncate(path, -(-path.stat().st_size // 512) * 512)
    return path


class Guest:
    """A machine: disks are /dev/vda and so on in their order, the configuration is the last."""

    def __init__(self, directory: pathlib.Path, initrd: pathlib.Path) -> None:
        self.directory = directory
        self.initrd = initrd
        self.disks: list[tuple[pathlib.Path, bool]] = []
        self.records: list[Record] = [("debug_exit", "1"), ("channel", "virtio", PORT), PATH]
        self.devices: list[str] = []
        self.memory_mib = 256
        self.input: int = subprocess.DEVNULL
        self.streams: dict[str, int] = {}
        """stdin, stdout, stderr → the descriptor that a port of its own is for."""
        self.said = b""
        self.console = directory / "console"
        self._pipe = directory / "channel"

    def disk(self, path: pathlib.Path, *, writable: bool = False) -> str:
        """Its name in the guest."""
        self.disks.append((path, writable))
        return f"/dev/vd{chr(ord('a') + len(self.disks) - 1)}"

    def tell(self, *record: str) -> None:
        """One record of the configuration."""
        self.records.append(record)

    def application(self, *arguments: str) -> None:
        """What it runs."""
        self.records += [("arg", argument) for argument in arguments]

    def stream(self, name: str, descriptor: int) -> None:
        """Have a stream of the application's by a port of its own, not by the console."""
        self.streams[name] = descriptor
        self.tell(name, "virtio", f"org.urunc.{name}")

    def _ports(self) -> list[str]:
        ports: list[str] = []
        for name, descriptor in self.streams.items():
            if name == "stdin":
                ports += ["-chardev", "stdio,id=stdin,signal=off"]
            else:
                ports += ["-add-fd", f"fd={descriptor},set={descriptor}"]
                ports += ["-chardev", f"file,id={name},path=/dev/fdset/{descriptor},append=on"]
            ports += ["-device", f"virtserialport,chardev={name},name=org.urunc.{name}"]
        return ports

    def start(self) -> None:
        """Power on."""
        config = self.directory / "config"
        config.write_bytes(config_disk(self.records))
        line = LINE + self.disk(config)
        for way in ("in", "out"):
            os.mkfifo(f"{self._pipe}.{way}")
        self._from = os.open(f"{self._pipe}.out", os.O_RDWR | os.O_NONBLOCK)
        self._to = os.open(f"{self._pipe}.in", os.O_RDWR)
        disks = []
        for path, writable in self.disks:
            access = "off" if writable else "on"
            disks += ["-drive", f"file={path},if=virtio,format=raw,readonly={access}"]
        serial = f"file:{self.console}" if "stdin" in self.streams else "stdio"
        with self.console.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    "qemu-system-x86_64", "-M", "q35,i8042=off", "-accel", "tcg", "-cpu", "qemu64",
                    "-m", str(self.memory_mib), "-nodefaults", "-no-reboot", "-display", "none",
                    "-serial", serial, "-kernel", LINUX / "vmlinux", "-initrd", self.initrd,
                    "-append", line, *disks,
                    "-device", "isa-debug-exit,iobase=0x501,iosize=2",
                    "-device", "isa-debug-exit,iobase=0x64,iosize=1",
                    "-chardev", f"pipe,id=channel,path={self._pipe}",
                    "-device", "virtio-serial-pci,ioeventfd=off", *self._ports(),
                    "-device", f"virtserialport,chardev=channel,name={PORT}", *self.devices,
                ],
                stdin=self.streams.get("stdin", self.input), stdout=out, stderr=subprocess.STDOUT,
                pass_fds=tuple(self.streams.values()),
            )  # fmt: skip
        for descriptor in self.streams.values():
            os.close(descriptor)

    def output(self) -> str:
        """The console so far."""
        return self.console.read_bytes().decode(errors="surrogateescape")

    def say(self, line: str) -> None:
        """A line to init."""
        os.write(self._to, line.encode() + b"\n")

    def hear(self) -> str:
        """What init said so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.said += os.read(self._from, 4096)
        return self.said.decode()

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 60) -> None:
        """Wait for something, or fail with what there is on the console."""
        until(condition, lambda: f"{self.output()}\n{self.hear()}", timeout_s)

    def wait_for(self, text: str) -> None:
        """Wait for something on the console."""
        self.wait_until(lambda: text in self.output())

    def run(self) -> int:
        """From power on to the end; QEMU's exit code."""
        self.start()
        return self.wait()

    def wait(self) -> int:
        """QEMU's exit code."""
        try:
            return self.process.wait(patient(30))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.output()}\n{self.hear()}") from None
        finally:
            self.hear()

    def remove(self) -> None:
        """The process and the descriptors."""
        if hasattr(self, "process"):
            self.process.kill()
            self.process.wait()
            os.close(self._from)
            os.close(self._to)


def sections(output: str) -> dict[str, str]:
    """What a script printed after each line `== NAME`."""
    parts = re.split(r"^== (\w+)\n", output, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def run_script(guest: Guest, script: str, code: int = 0) -> dict[str, str]:
    """Run it to its end, which must be what it should be in every way that tells."""
    guest.application("sh", "-c", script, "sh")
    guest.tell("stdin", "null")
    assert guest.run() == (2 * code + 1 if code else 0), guest.output()
    assert guest.hear() == f"ready\nexit {code}\n"
    assert "urunc-init:" not in guest.output()
    return sections(guest.output())


def ext4_root(guest: Guest, files: pathlib.Path) -> None:
    """The usual one: an image that is shared, and a layer above it in memory."""
    guest.tell("root", "ext4", guest.disk(files / "ext4"), "ro")
    guest.tell("overlay", "tmpfs", "")
