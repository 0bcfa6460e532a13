# SPDX-License-Identifier: Apache-2.0
"""Linux unpacks what we pack: an initrd of several parts, with real modules, on a real kernel."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess

from lib.busybox import BUSYBOX
from lib.patience import patient
from lib.support import PARTS, need
from urunc.storage import cpio, initrd

INIT = """#!/bin/busybox sh
/bin/busybox mkdir /proc
/bin/busybox mount -t proc proc /proc
while read -r module; do /bin/busybox insmod "/modules/$module.ko"; done </modules/order
/bin/busybox sed 's/ .*//' /proc/modules
echo ---
/bin/busybox sh /list /root-tree
echo ---
/bin/busybox cat /volumes/0
echo ---
/bin/busybox poweroff -f
"""
# What both sides say of a tree: a directory's links and size are its file system's business
LIST = r"""
cd "$1"
busybox=/bin/busybox
$busybox find . | $busybox sort | while read -r name; do
    $busybox stat -c '%n %F %f %u:%g %h %s %t:%T %Y' "$name"
    if [ -h "$name" ]; then $busybox readlink "$name"; fi
    if [ -f "$name" ] && [ ! -h "$name" ]; then $busybox sha1sum <"$name"; fi
done | $busybox sed '/ directory /s/ [0-9]* [0-9]* 0:0 / /'
"""


def tree(top: pathlib.Path) -> None:
    """All kinds of files. A directory's mode may not keep its owner out, nor a name have a newline:
    busybox reads them."""
    for directory in ("a", "b", "sticky", "empty"):
        (top / directory).mkdir(parents=True)
    (top / "sticky").chmod(0o1777)
    (top / "none").touch(mode=0o600)
    for length in (1, 2, 3, 4, 5, 4095, 200_001):
        (top / f"of-{length}").write_bytes(os.urandom(length))
    with open(top / "sparse", "wb") as file:
        file.truncate(1 << 20)
    (top / "setuid").write_text("x")
    os.chown(top / "setuid", 7, 65534)
    (top / "setuid").chmod(0o6755)
    pathlib.Path(os.fsdecode(os.fsencode(top) + b"/\xff\xfe name")).write_text("odd\n")
    deep = top.joinpath(*["n" * 200] * 12)
    deep.mkdir(parents=True)
    (deep / "deep").write_text("deep\n")
    os.symlink("a/linked", top / "link")
    os.symlink("/nowhere", top / "dangling")
    os.mkfifo(top / "fifo", 0o640)
    os.link(top / "fifo", top / "b/fifo")
    os.mknod(top / "null", 0o020666, os.makedev(1, 3))
    os.mknod(top / "whiteout", 0o020000, 0)
    os.mknod(top / "disk", 0o060660, os.makedev(259, 70_000))
    os.chdir(top)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    (top / "b/linked").write_text("linked\n")
    for name in ("linked", "a/linked"):
        os.link(top / "b/linked", top / name)


def archive(path: pathlib.Path, name: str, target: pathlib.Path) -> str:
    """An archive of one tree or file."""
    fd = os.open(path, os.O_PATH)
    out = os.open(target, os.O_WRONLY | os.O_CREAT, 0o600)
    cpio.write_tree(out, fd, name)
    os.close(fd)
    os.close(out)
    return str(target)


def test_linux_unpacks_it(tmp_path: pathlib.Path) -> None:
    need("root", "qemu", "linux")
    top = tmp_path / "tree"
    tree(top)
    (tmp_path / "init").write_text(INIT)
    (tmp_path / "list").write_text(LIST)
    (tmp_path / "volume").write_text("nameserver 192.0.2.1\n")
    listed = (PARTS / "linux/modules/order").read_text().split()
    modules = tmp_path / "6.1"
    modules.mkdir()
    for name in listed:
        os.symlink(PARTS / f"linux/modules/{name}.ko", modules / f"{name}.ko")
    (modules / "modules.dep").write_text("".join(f"{name}.ko:\n" for name in sorted(listed)))
    out = os.open(tmp_path / "kernel", os.O_WRONLY | os.O_CREAT, 0o600)
    initrd.write_kernel_part(out, str(modules), ["virtiofs", "overlay"], str(tmp_path / "init"))
    os.close(out)
    parts = [
        str(tmp_path / "kernel"),
        archive(BUSYBOX, "bin/busybox", tmp_path / "1"),
        archive(tmp_path / "list", "list", tmp_path / "2"),
        archive(top, "root-tree", tmp_path / "3"),
        archive(tmp_path / "volume", "volumes/0", tmp_path / "4"),
    ]
    initrd.assemble(parts, str(tmp_path / "initrd"))
    command = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256M"]
    command += ["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"]
    command += ["-kernel", str(PARTS / "linux/vmlinuz"), "-initrd", str(tmp_path / "initrd")]
    command += ["-append", "console=ttyS0 loglevel=3 panic=-1 mitigations=off"]
    answer = subprocess.run(command, capture_output=True, timeout=patient(100), check=True)
    loaded, got, volume = answer.stdout.replace(b"\r\n", b"\n").split(b"---\n")[:3]
    command = [str(BUSYBOX), "sh", str(tmp_path / "list"), str(top)]
    expected = subprocess.run(command, capture_output=True, check=True).stdout
    assert got == expected and len(got.splitlines()) > 50
    wanted = {b"virtiofs", b"fuse", b"overlay", b"virtio", b"virtio_ring"}
    wanted &= {name.encode() for name in listed}  # others are in the kernel (Linux 6.12)
    assert wanted <= set(loaded.split())
    assert volume == b"nameserver 192.0.2.1\n"
