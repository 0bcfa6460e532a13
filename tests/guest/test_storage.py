# SPDX-License-Identifier: Apache-2.0
"""An ordinary root filesystem as a Linux guest's own, each way that it can take; volumes; the exit
code and signals. QEMU emulates: Linux does not run on every nested KVM."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from lib.patience import patient
from lib.rooted import configure, linux, run, spared, volume
from lib.support import PARTS, Bundle, Network, Urunc, need, nothing_left
from lib.ways import forms
from urunc.storage.facts import SHARES

SHARED_MIB = 64


def images(urunc: Urunc) -> list[str]:
    """The files of the shared images of root filesystems."""
    found = json.loads(urunc("cache", "list", "--format", "json").stdout)
    return [entry["path"] for entry in found if entry["form"] != "initrd"]


def own_files(urunc: Urunc) -> list[pathlib.Path]:
    """What containers have for themselves outside of the cache."""
    directory = urunc.root.parent / "private"
    return list(directory.iterdir()) if directory.exists() else []


def test_files_of_containers_of_another_boot(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """After a reboot nothing else knows of them."""
    need("linux", "qemu")
    configure(urunc, "ext4")
    directory = urunc.root.parent / "private"
    lost = directory / "0f9a3c1e-0000-4000-8000-000000000000.19-2a.box"
    (lost / "below").mkdir(parents=True)
    (lost / "archive").write_text("secret")
    alien = directory / "alien.txt"
    alien.touch()
    directory.chmod(0o700)
    (tmp_path / "data").mkdir()
    bundle = linux(tmp_path / "b", "true")
    bundle.config["mounts"] = [volume("/data", tmp_path / "data", "ro")]
    container = urunc.create(bundle)
    (own,) = set(own_files(urunc)) - {alien}
    assert own.name.endswith(container.id) and (own / "archive").exists()
    container.delete("--force")
    assert own_files(urunc) == [alien]
    directory.chmod(0o777)
    result = urunc("create", "--bundle", str(bundle.path), urunc.new_id(), check=False)
    assert f"containers' files '{directory}': others may write to it" in result.stderr


@pytest.mark.parametrize("form", [form for form in forms("linux", "qemu") if form not in SHARES])
def test_a_root_filesystem_in_each_form(urunc: Urunc, tmp_path: pathlib.Path, form: str) -> None:
    """What the guest sees is the tree; what it writes is nobody's but its own: no byte of the image
    changes, which the next container has, too; the exit code is the application's."""
    need("linux", "qemu", "images")
    configure(urunc, form)
    script = (
        'echo "args: $1/$2/$3"; echo "env: $QUOTED"; echo "in $(pwd) on $(hostname) as $(id -u)";'
        "cat /etc/passwd; echo mine >/written; cat /written; ls /tmp; mount; exit 7"
    )
    bundle = linux(
        tmp_path / "b", script, "sh", "two words", "", 'a "quote"\nand a line', rootfs=form
    )
    bundle.config["process"] |= {"env": ["PATH=/bin", 'QUOTED=a "b" \\ c'], "cwd": "/tmp"}
    bundle.config["hostname"] = "box"
    before = sorted(str(path) for path in bundle.root.rglob("*"))
    with nothing_left(urunc.root):
        urunc.create(bundle).delete("--force")
        made = images(urunc)
        assert [name.rpartition(".")[2].removeprefix("root-") for name in made] == [form]
        content = pathlib.Path(made[0]).read_bytes()
        guest = run(urunc, bundle)
        assert guest.returncode == 7, guest.stdout + guest.stderr
        for line in (
            'args: two words//a "quote"\nand a line\n', 'env: a "b" \\ c\n',
            "in /tmp on box as 0\n", "root:x:0:0::/:/bin/sh\n", "\nmine\n",
        ):  # fmt: skip
            assert line in guest.stdout, guest.stdout
    assert images(urunc) == made
    assert pathlib.Path(made[0]).read_bytes() == content
    assert sorted(str(path) for path in bundle.root.rglob("*")) == before
    assert own_files(urunc) == []


def test_the_containers_own_layer(urunc: Urunc, overlay: pathlib.Path) -> None:
    """An engine's writable layer is seen by the guest, and is in no shared image."""
    need("linux", "qemu", "images")
    configure(urunc, "ext4")
    root = overlay / "rootfs"
    (root / "etc/secret").write_text("a secret of one container")
    (root / "etc/gone").unlink()
    shutil.rmtree(root / "opaque")
    (root / "opaque").mkdir()
    (root / "opaque/new").write_text("new")
    bundle = Bundle(overlay, "linux", "qemu", binary="", mountRootfs="true")
    bundle.args("sh", "-c", "cat /etc/secret; echo; ls /etc /opaque")
    bundle.config["process"]["env"] = ["PATH=/bin"]
    bundle.config["vm"] = spared()
    del bundle.config["linux"]["resources"]
    with nothing_left(urunc.root):
        result = run(urunc, bundle)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "a secret of one container\n" in result.stdout
        assert "gone" not in result.stdout
        assert "old" not in result.stdout
        assert "new" in result.stdout
    (name,) = images(urunc)
    content = pathlib.Path(name).read_bytes()
    assert b"a secret" not in content
    assert b"root:x:0:0" in content


def test_a_guest_without_layers_gets_the_whole(urunc: Urunc, overlay: pathlib.Path) -> None:
    """Rumprun's disk is the container's root filesystem with the engine's writable layer, and it
    writes to it."""
    need("solo5", "probe", "images")
    configure(urunc)
    bundle = Bundle(overlay, "rumprun", "spt", mountRootfs="true")
    bundle.add("unikernel", PARTS / "probe.spt")  # into the upper directory
    bundle.args("app", "probe.exit=3")
    with nothing_left(urunc.root):
        result = run(urunc, bundle)
        assert result.returncode == 3, result.stdout + result.stderr
        assert "/data" in result.stdout
    assert images(urunc) == []
    assert own_files(urunc) == []


def test_a_tender_has_a_disk_to_write_to(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """It opens it so, also for a guest that shall only read."""
    need("solo5", "probe", "images")
    configure(urunc)
    bundle = Bundle(tmp_path / "b", "rumprun", "spt", mountRootfs="true")
    bundle.add("unikernel", PARTS / "probe.spt")
    bundle.args("app", "probe.exit=3")
    bundle.config["root"]["readonly"] = True
    with nothing_left(urunc.root):
        result = run(urunc, bundle)
        assert result.returncode == 3, result.stdout + result.stderr
    assert len(images(urunc)) == 1
    assert own_files(urunc) == []


def test_volumes_that_are_copied(urunc: Urunc, tmp_path: pathlib.Path, device: str) -> None:
    """And a raw block device beside them."""
    need("linux", "qemu", "images")
    configure(urunc, "ext4")
    config = tmp_path / "config"  # as kubelet makes a ConfigMap
    (config / "..2026").mkdir(parents=True)
    (config / "..2026/key").write_text("from a map")
    (config / "..data").symlink_to("..2026")
    (config / "key").symlink_to("..data/key")
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    secret.chmod(0o400)
    data = tmp_path / "data"
    data.mkdir()
    numbers = os.stat(device).st_rdev
    script = (
        "ls -l /dev/xvda; busybox dd if=/dev/xvda bs=1k skip=1 count=1 2>/dev/null |"
        " busybox hexdump -C | busybox head -n 4;"
        "cat /conf/key /run/secret; ls -l /run/secret; touch /conf/x; echo ro $?;"
        "echo gone >/data/file; cat /data/file; echo t >/scratch/t; mount; id -u; exit 3"
    )
    bundle = linux(tmp_path / "b", script, volumes="copy")
    bundle.config["process"]["user"]["uid"] = 0
    bundle.config["mounts"] = [
        volume("/conf", config, "ro"),
        volume("/run/secret", secret, "ro"),
        volume("/data", data),
        {"destination": "/scratch", "type": "tmpfs", "source": "t", "options": ["size=64k"]},
        {"destination": "/proc", "type": "proc", "source": "proc"},
    ]
    bundle.config["linux"]["devices"] = [
        {"path": "/dev/xvda", "type": "b", "major": os.major(numbers), "minor": os.minor(numbers)}
    ]
    with nothing_left(urunc.root):
        result = run(urunc, bundle)
    assert result.returncode == 3, result.stdout + result.stderr
    assert result.stdout.startswith("brw"), result.stdout
    assert "53 ef" in result.stdout, result.stdout  # ext4's magic number
    assert "from a map" in result.stdout
    assert "hidden" in result.stdout
    assert "-r--------" in result.stdout
    assert "ro 1\n" in result.stdout
    assert "\ngone\n" in result.stdout
    assert "tmpfs on /scratch type tmpfs (rw,relatime,size=64k" in result.stdout
    assert list(data.iterdir()) == []
    del bundle.config["annotations"]["com.urunc.unikernel.volumes"]
    result = run(urunc, bundle)
    assert result.returncode == 1
    assert f"mount '/data' of '{data}': can be copied only" in result.stderr


def test_a_snapshots_device_is_taken_over(
    urunc: Urunc, tmp_path: pathlib.Path, device: str
) -> None:
    """The guest has it, and nobody else: it cannot be mounted while the guest runs, nor be taken
    while it is mounted."""
    need("linux", "qemu")
    configure(urunc, "ext4")
    bundle = Bundle(tmp_path / "b", "linux", "qemu", binary="", mountRootfs="true")
    bundle.args("sh", "-c", "echo written >/file; mount; sleep 100")
    bundle.config["process"]["env"] = ["PATH=/bin"]
    bundle.config["vm"] = spared()
    del bundle.config["linux"]["resources"]
    other = tmp_path / "other"
    other.mkdir()
    mount = ["mount", device, str(bundle.root)]
    subprocess.run(mount, check=True)
    nowhere = ("--pid-file", str(tmp_path / "nowhere/pid"), urunc.new_id())
    refused = urunc("create", "--bundle", str(bundle.write()), *nowhere, check=False)
    assert refused.returncode == 1
    assert "nowhere/pid" in refused.stderr
    assert os.path.ismount(bundle.root)  # what failed can be tried again
    container = urunc.create(bundle)
    assert not os.path.ismount(bundle.root)
    container.start()
    assert "/dev/vda on / type ext4 (rw" in container.wait_for("/proc", 60)
    twice = subprocess.run(["mount", device, str(other)], capture_output=True, text=True)
    assert twice.returncode != 0, "it was mounted twice"
    urunc("kill", container.id, "TERM")
    container.wait_stopped()
    container.delete()
    subprocess.run(mount, check=True)
    assert (bundle.root / "file").read_text() == "written\n"
    subprocess.run(["mount", device, str(other)], check=True)
    try:
        container = urunc.create(bundle)
        result = urunc("start", container.id, check=False)
        assert result.returncode == 1
        assert "take over the root filesystem's device" in result.stderr
        container.delete("--force")
    finally:
        subprocess.run(["umount", str(other)], check=True)


def test_signals_and_the_exit_code(urunc: Urunc, network: Network, tmp_path: pathlib.Path) -> None:
    """`kill` reaches the application, by any signal; `run` has its exit code, the engine the
    monitor's, or with a supervisor the application's."""
    need("linux", "qemu", "images")
    configure(urunc, "ext4")
    network.connect()
    script = (
        "trap 'echo usr1' USR1; trap 'echo term; exit 5' TERM; ip addr; cat /etc/hosts; echo up;"
        "while :; do sleep 0.1; done"
    )
    bundle = linux(tmp_path / "b", script)
    bundle.config["hostname"] = "box"
    bundle.network(network.path)
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        assert f"inet {network.inside_address}/24" in container.wait_for("up\n", 60)
        network.ping()
        urunc("kill", container.id, "USR1")
        container.wait_for("usr1", 10)
        urunc("kill", container.id, "TERM")
        assert f"{network.inside_address}\tbox" in container.wait_for("term", 10)
        container.wait_stopped()
        container.delete()
    configure(urunc, "ext4", **{"monitors.qemu.supervisor": True})
    with nothing_left(urunc.root):
        identifier = urunc.new_id()
        command = urunc.command("run", "--bundle", str(bundle.write()), identifier)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert process.stdout
        for line in process.stdout:
            if line == b"up\n":
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(patient(30)) == 5
        process.stdout.close()


def test_the_supervisor_ends_as_the_application_did(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    need("linux", "qemu", "images")
    configure(urunc, "ext4", **{"monitors.qemu.supervisor": True})
    bundle = linux(tmp_path / "b", "exit 42")
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        events = subprocess.Popen(urunc.command("events", container.id), stdout=subprocess.PIPE)
        time.sleep(0.5)
        container.start()
        out = events.communicate(timeout=patient(60))[0]
        (end,) = [
            event for line in out.splitlines() if (event := json.loads(line))["type"] == "exit"
        ]
        assert end["data"]["status"] == 42
        container.delete()


def test_an_initrd_that_is_too_large(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    need("linux", "qemu")
    configure(urunc)
    bundle = linux(tmp_path / "b", "true", rootfs="cpio")
    bundle.add("large", b"x" * (SHARED_MIB << 20))
    bundle.config["annotations"]["com.urunc.unikernel.memory"] = "128"
    with nothing_left(urunc.root):
        result = run(urunc, bundle)
    assert result.returncode == 1
    assert "as much again once it is unpacked, are too much for a guest of 128 MiB" in result.stderr
    assert own_files(urunc) == []


def test_in_a_user_namespace(urunc: Urunc, tmp_path: pathlib.Path, device: str) -> None:
    """Init reaches neither the cache nor the device by itself."""
    need("linux", "qemu", "images")
    configure(urunc, "ext4")
    numbers = os.stat(device).st_rdev
    bundle = linux(tmp_path / "b", "cat /conf; ls -l /dev/xvda; exit 7")
    (tmp_path / "conf").write_text("configured\n")
    (tmp_path / "conf").chmod(0o600)
    bundle.config["mounts"] = [volume("/conf", tmp_path / "conf", "ro")]
    mapping = [{"containerID": 0, "hostID": 700_000, "size": 65_536}]
    bundle.config["linux"] |= {"uidMappings": mapping, "gidMappings": mapping}
    bundle.config["linux"]["namespaces"] += [{"type": "user"}]
    bundle.config["linux"]["devices"] = [
        {"path": "/dev/xvda", "type": "b", "major": os.major(numbers), "minor": os.minor(numbers)}
    ]
    with nothing_left(urunc.root):
        result = run(urunc, bundle)
    assert result.returncode == 7, result.stdout + result.stderr
    assert "configured" in result.stdout
    assert "brw" in result.stdout


def test_a_form_that_cannot_hold_all(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """mkfs.erofs before 1.6 leaves out names that begin with lost+found. The guest has another form
    then, unless erofs was asked for, which a warning says."""
    need("linux", "qemu", "images")
    configure(urunc, "erofs", "ext4", "squashfs")
    bundle = linux(tmp_path / "b", "cat /etc/lost+found.txt; mount | grep ' / '; exit 3")
    bundle.add("etc/lost+found.txt", b"kept\n")
    bundle.config["root"]["readonly"] = True
    for boots in (False, True):  # the second one's image is the first one's
        with nothing_left(urunc.root):
            container = urunc.create(bundle)
            way = container.plan()["root_way"]
            if boots:
                container.start()
                assert "kept\n" in container.wait_for(" / type", 60)
                container.wait_stopped()
            container.delete("--force")
        made = {name.rpartition(".")[2] for name in images(urunc)}
        if way["form"] == "erofs":
            assert made == {"erofs"}  # a later one, which holds them
            continue
        assert way["form"] == "ext4"
        assert way["reason"].startswith("not erofs: mkfs.erofs left out 'etc/lost+found.txt'")
        assert made == {"erofs", "ext4"}
    bundle.config["annotations"]["com.urunc.unikernel.rootfs"] = "erofs"
    container = urunc.create(bundle)
    lost = "mkfs.erofs left out 'etc/lost+found.txt'" in container.shown()
    container.delete("--force")
    assert lost == (way["form"] == "ext4")
