# SPDX-License-Identifier: Apache-2.0
"""What a Linux guest writes to its root filesystem goes to a disk of a given size, where the
annotation `rootfsSize` asks for one: more than its memory holds, no more than the size, gone with
the container."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess

import pytest

from lib.patience import until
from lib.rooted import configure, linux, run, volume
from lib.support import PREFIX, Urunc, need, nothing_left

MIB = 1 << 20


def own_files(urunc: Urunc) -> list[pathlib.Path]:
    """What containers have for themselves outside of the cache."""
    return sorted((urunc.root.parent / "private").rglob("*"))


def test_more_than_memory_holds(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """300 MiB in a guest of 256 MiB; past the size the guest sees ENOSPC, and lives on."""
    need("linux", "qemu", "images")
    configure(urunc, "erofs", "ext4")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/text").write_text("a volume's\n")
    script = (
        "dd if=/dev/zero of=/big bs=1M count=300 2>/dev/null; echo wrote $?;"
        "stat -c 'size %s' /big; free -m | grep Mem;"
        "df -m / | tail -n 1; cat /etc/passwd /data/text;"
        "dd if=/dev/zero of=/data/more bs=1M count=250; echo over $?; rm /big;"
        "echo again >/small; cat /small; exit 5"
    )
    asked = {"rootfs": "erofs", "rootfsSize": "512Mi", "memory": "256", "volumes": "copy"}
    bundle = linux(tmp_path / "b", script, "sh", **asked)
    bundle.config["mounts"] = [volume("/data", tmp_path / "data")]
    with nothing_left(urunc.root):
        found = run(urunc, bundle)
        assert found.returncode == 5, found.stdout + found.stderr
        for text in ("wrote 0\n", f"size {300 * MIB}\n", "root:x:0:0", "a volume's\n", "over 1\n",
                     "\nagain\n"):  # fmt: skip
            assert text in found.stdout, found.stdout
        assert "No space left on device" in found.stderr
        assert own_files(urunc) == []
    assert list((tmp_path / "data").iterdir()) == [tmp_path / "data/text"]


def test_above_an_initrd(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """The root filesystem is in the guest's memory, and what it writes on the disk."""
    need("linux", "qemu", "images")
    configure(urunc, "cpio", "ext4")
    script = "mount | grep ' / '; df -m / | tail -n 1; echo mine >/new; cat /new /etc/passwd"
    bundle = linux(tmp_path / "b", script, "sh", rootfs="cpio", rootfsSize="64")
    found = run(urunc, bundle)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "overlay on / type overlay" in found.stdout
    assert "mine\nroot:x:0:0" in found.stdout
    assert 50 < int(found.stdout.split(" /\n")[-2].split()[-4]) < 64


def test_the_file_is_the_containers(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """Sparse, its monitor's alone; gone with `delete`, after a create that failed, and after one
    that was killed."""
    need("linux", "qemu", "images")
    configure(urunc, "ext4")
    bundle = linux(tmp_path / "b", "sleep 100", "sh", rootfsSize="2Gi")
    container = urunc.create(bundle)
    (directory,) = (urunc.root.parent / "private").iterdir()
    facts = (directory / "layer").stat()
    assert facts.st_size == 2048 * MIB
    assert facts.st_blocks * 512 < 8 * MIB
    state = json.loads((urunc.root / container.id / "container.json").read_text())
    assert facts.st_uid == state["plan"]["uid"] != 0
    assert facts.st_mode & 0o7777 == 0o600
    container.delete("--force")
    assert own_files(urunc) == []
    hook = {"path": "/bin/false", "args": ["false"]}
    bundle.config["hooks"] = {"createRuntime": [hook]}
    failed = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    assert failed.returncode == 1
    assert own_files(urunc) == []
    reached = tmp_path / "reached"
    hook |= {"path": "/bin/sh", "args": ["sh", "-c", f": >{reached}; exec sleep 100"]}
    identifier = urunc.new_id()
    words = urunc.command("create", "--bundle", str(bundle.write()), identifier)
    with subprocess.Popen(words, start_new_session=True) as process:
        until(reached.exists, timeout_s=30)
        assert own_files(urunc)
        os.killpg(process.pid, signal.SIGKILL)
    urunc("delete", "--force", identifier)
    assert own_files(urunc) == []


@pytest.mark.parametrize(
    ("size", "complaint"),
    [
        ("0", "0 is less than 16 MiB"),
        ("much", "'much' is no size"),
        ("-1", "'-1' is no size"),
        ("20Gi", "20Gi is more than this machine allows (16384 MiB)"),
        ("1Ti", "'1Ti' is no size"),
    ],
)
def test_nonsense(urunc: Urunc, tmp_path: pathlib.Path, size: str, complaint: str) -> None:
    need("linux", "qemu")
    configure(urunc, "ext4")
    bundle = linux(tmp_path / "b", "true", "sh", rootfsSize=size)
    found = run(urunc, bundle)
    assert found.returncode == 1
    assert f"annotation 'rootfsSize': {complaint}" in found.stderr


def test_the_administrators_size(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """It holds for containers that say nothing, where their way has room for it."""
    need("linux", "qemu", "images")
    configure(urunc, "ext4", **{"storage.rootfs_size_mib": 100})
    bundle = linux(tmp_path / "b", "df -m / | tail -n 1", "sh")
    found = run(urunc, bundle)
    assert found.returncode == 0, found.stdout + found.stderr
    assert 80 < int(found.stdout.split()[1]) < 100, found.stdout
    assert PREFIX + "rootfsSize" not in bundle.config["annotations"]


def test_the_hosts_disk_is_full(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """The file is sparse: there may be less room than the guest is told. It is an error of its disk
    then, said at create, and the guest goes on."""
    need("root", "linux", "qemu", "images")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m,mode=700", "small", small], check=True)
    try:
        configure(urunc, "ext4", **{"storage.private": str(small)})
        script = (
            "dd if=/dev/zero of=/big bs=1M count=100 conv=fsync; echo ended $?; cat /etc/passwd;"
            "exit 4"
        )
        bundle = linux(tmp_path / "b", script, "sh", rootfsSize="256Mi")
        found = run(urunc, bundle)
        assert found.returncode == 4, found.stdout + found.stderr
        assert "ended 1\n" in found.stdout
        assert "Input/output error" in found.stderr + found.stdout
        assert "root:x:0:0" in found.stdout
        assert f"the guest may write 256 MiB to '{small}/" in found.stderr
    finally:
        subprocess.run(["umount", small], check=True)
