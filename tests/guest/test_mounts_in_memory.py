# SPDX-License-Identifier: Apache-2.0
"""Mounts without files of the host's in a guest: in memory, an engine's /dev/shm, the kernel's own;
huge pages are refused."""

from __future__ import annotations

import os
import pathlib
import subprocess

import pytest

from lib.rooted import PROC, answers, by_runc, configure, linux, run, volume
from lib.support import PARTS, Urunc, need, nothing_left
from urunc.storage.initrd import known

IN_MEMORY = """
    for path in /sized /blocks /inodes /owned /plain /there /up /only; do
        echo "== $path"; stat -f -c '%T %b %S' $path; stat -c '%a %u %g' $path
        grep " $path " /proc/mounts | cut -d' ' -f3
    done
    echo '== count'; stat -f -c %c /inodes
    echo '== up'; cat /up/file /up/directory/link; stat -c '%n %a %u %g' /up/* /up/directory/*
    touch /up/new && ls -1 /up
    echo '== only'; touch /only/x 2>&1 | grep -o 'Read-only.*'; cat /only/text
    echo '== shm'; df -k /dev/shm | grep /dev/shm; stat -c %a /dev/shm
    grep ' /dev/shm ' /proc/mounts | cut -d' ' -f2-4 | cut -d, -f1-6
"""


def test_file_systems_in_memory(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """Sizes, owners, modes (the hidden directory's where none is said), what was there before; and
    shared memory as large as the specification has it."""
    need("root", "linux", "qemu", "virtiofsd", "runc")
    configure(urunc, "virtiofs")
    bundle = linux(tmp_path / "b", IN_MEMORY, rootfs="virtiofs")
    for path in ("there", "up/directory", "only"):
        (bundle.root / path).mkdir(parents=True)
    (bundle.root / "there").chmod(0o2711)
    (bundle.root / "up/file").write_text("of the image\n")
    (bundle.root / "up/directory/link").symlink_to("../file")
    (bundle.root / "up/directory/own").touch()
    os.chown(bundle.root / "up/directory/own", 5, 6)
    (bundle.root / "up/directory/own").chmod(0o4750)
    (bundle.root / "only/text").write_text("to be read\n")

    def memory(path: str, *options: str) -> dict[str, object]:
        return {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": list(options)}

    bundle.config["mounts"] = [
        PROC,
        memory("/dev", "nosuid", "size=65536k", "mode=755"),
        memory("/dev/shm", "nosuid", "noexec", "nodev", "mode=1777", "size=3072k"),
        memory("/sized", "size=1m", "nosuid"),
        memory("/blocks", "nr_blocks=100"),
        memory("/inodes", "nr_inodes=50", "size=2M"),
        memory("/owned", "uid=1000", "gid=1001", "mode=0750", "size=512K"),
        memory("/plain", "size=64k"),
        memory("/there", "size=64k"),
        memory("/up", "tmpcopyup", "size=1m"),
        memory("/only", "tmpcopyup", "ro", "size=1m"),
    ]
    with nothing_left(urunc.root):
        theirs = answers(by_runc(urunc, bundle).stdout)
    assert theirs["up"].startswith("of the image\nof the image\n"), theirs
    assert theirs["only"] == "Read-only file system\nto be read\n"
    for path in ("sized", "blocks", "inodes", "owned", "plain"):
        (bundle.root / path).rmdir()
    result = run(urunc, bundle)
    ours = answers(result.stdout)
    assert ours == theirs, result.stdout + result.stderr
    assert result.stderr == ""
    assert sorted(os.listdir(bundle.root / "up")) == ["directory", "file"]


@pytest.mark.parametrize("filesystem", ["virtiofs", "erofs"])
@pytest.mark.parametrize("kind", ["engine's", "emptyDir"])
def test_shared_memory_of_an_engine(
    urunc: Urunc, tmp_path: pathlib.Path, filesystem: str, kind: str
) -> None:
    """Docker's, Podman's and CRI's directory, of the size that `--shm-size` had it made in; and an
    emptyDir in memory in its place. An engine's is the guest's memory: nothing of it is seen on the
    host."""
    need("root", "linux", "qemu", "virtiofsd", "runc", "images")
    configure(urunc, filesystem)
    script = "df -k | grep /dev/shm; echo x >/dev/shm/x; stat -c '%a %u' /dev/shm"
    bundle = linux(tmp_path / "b", script, rootfs=filesystem)
    empty_dir = "pods/1/volumes/kubernetes.io~empty-dir/memory"
    path = tmp_path / (empty_dir if kind == "emptyDir" else "sandbox/shm")
    path.mkdir(parents=True)
    options = "size=5m,mode=" + ("777" if kind == "emptyDir" else "1777")
    bundle.config["mounts"] = [PROC, volume("/dev/shm", path, "rprivate")]
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "shm", path], check=True)
    try:
        theirs = by_runc(urunc, bundle)
        assert "5120" in theirs.stdout, theirs.stdout + theirs.stderr
        (path / "x").unlink()
        result = run(urunc, bundle)
        seen = os.listdir(path)
    finally:
        subprocess.run(["umount", path], check=True)
    lines = [line.split()[1:] for line in result.stdout.splitlines()]
    expected = [line.split()[1:] for line in theirs.stdout.splitlines()]
    used, theirs_used = lines[0].pop(1), expected[0].pop(1)
    assert used == theirs_used == "0", result.stdout + result.stderr
    assert lines == expected, result.stdout + result.stderr
    assert seen == (["x"] if kind == "emptyDir" and filesystem == "virtiofs" else [])


NODES = """
    nodes() { stat -c '%n %a %u %g %t:%T' /dev/null /dev/fuse /dev/net/tun /dev/lost/loops; }
    echo '== nodes'; nodes; echo '== pipe'; stat -c '%F %a' /dev/pipe
    echo '== bound'; stat -c '%n %a %t:%T' /etc/dev/zero /data/full
    echo '== open'; echo x >/dev/null && echo null; (: <>/dev/net/tun) && echo tun
    (: <>/dev/fuse) && echo fuse; dd if=/etc/dev/zero bs=3 count=1 2>/dev/null | wc -c
    (echo x >/data/full) 2>&1 | grep -o 'No space.*'
    echo '== own'; stat -c '%a %t:%T' /dev/own; dd if=/dev/own bs=3 count=1 2>/dev/null | wc -c
    echo '== others'; ls /dev/kvm /dev/sound 2>/dev/null | wc -l
"""


def test_nodes_of_the_kernels_own(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """What linux.devices names, with its mode and owner, by the guest's kernel, which loads what it
    needs; what it cannot have is in a warning. On the host no node appears. One that is bound, as a
    hostPath of type CharDevice, and as rootless Podman's `--device`."""
    need("root", "linux", "qemu", "virtiofsd", "runc")
    if not known(str(PARTS / "linux/lib-modules"), ("tun", "loop")) >= {"tun", "loop"}:
        pytest.skip("needs a guest's kernel with these modules (make parts)")
    configure(urunc, "virtiofs")
    bundle = linux(tmp_path / "b", NODES, rootfs="virtiofs")
    (tmp_path / "data").mkdir()
    (bundle.root / "sys").mkdir()

    def node(path: str, major: int, minor: int, **more: object) -> dict[str, object]:
        return {"path": path, "type": "c", "major": major, "minor": minor, **more}

    allowed = [{"allow": True, "type": "c", "access": "rwm"}]
    bundle.config["linux"]["resources"] = {"devices": allowed}
    bundle.config["mounts"] = [
        PROC,
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        volume("/data", tmp_path / "data"),
        volume("/dev/own", pathlib.Path("/dev/zero")),
    ]
    given = [
        node("/dev/null", 1, 3, fileMode=0o622, uid=1, gid=2),
        node("/dev/fuse", 10, 229, fileMode=0o660, uid=1000, gid=1001),
        node("/dev/net/tun", 10, 200),
        node("/dev/lost/loops", 10, 237, fileMode=0o20600),
        node("/etc/dev/zero", 1, 5),
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o640},
    ]
    bundle.config["linux"]["devices"] = given
    theirs = answers(by_runc(urunc, bundle).stdout)
    assert "/dev/lost/loops 600 0 0 a:ed" in theirs["nodes"], theirs
    (bundle.root / "etc/dev/zero").unlink()  # which runc has made on the host
    (tmp_path / "data/full").unlink()  # and the script, where it is no device
    bundle.config["linux"]["devices"] = [
        *given, node("/data/full", 1, 7), node("/dev/kvm", 10, 232), node("/dev/sound", 14, 3),
    ]  # fmt: skip
    with nothing_left(urunc.root):
        result = run(urunc, bundle)
    ours = answers(result.stdout)
    assert ours["own"] == "666 1:5\n3\n", result.stdout + result.stderr
    for name in ("nodes", "pipe", "own", "others"):
        assert ours[name] == theirs[name], result.stdout + result.stderr
    assert ours["bound"] == "/etc/dev/zero 666 1:5\n/data/full 666 1:7\n"
    assert ours["open"] == "null\ntun\nfuse\n3\nNo space left on device\n"
    assert "devices that the guest does not have: /dev/kvm, /dev/sound\n" in result.stderr
    for path in (tmp_path / "data/full", bundle.root / "etc/dev/zero"):
        assert path.is_file()
        assert path.stat().st_size == 0


def test_huge_pages_are_refused(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    need("root", "linux", "qemu", "virtiofsd")
    configure(urunc, "virtiofs")
    bundle = linux(tmp_path / "b", "true", rootfs="virtiofs")
    (tmp_path / "huge").mkdir()
    if subprocess.run(["mount", "-t", "hugetlbfs", "none", tmp_path / "huge"]).returncode:
        pytest.skip("needs hugetlbfs")
    try:
        for mount in (
            volume("/huge", tmp_path / "huge"),
            {"destination": "/huge", "type": "hugetlbfs", "source": "none"},
        ):
            bundle.config["mounts"] = [mount]
            result = run(urunc, bundle)
            assert result.returncode == 1
            assert "it is of huge pages, which are the host's: a guest has none" in result.stderr
    finally:
        subprocess.run(["umount", tmp_path / "huge"], check=True)
