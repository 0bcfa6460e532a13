# SPDX-License-Identifier: Apache-2.0
"""A Linux guest on directories of the host's, by virtiofs and 9p: its root filesystem and volumes.
QEMU emulates: Linux does not run on every nested KVM."""

from __future__ import annotations

import json
import os
import pathlib
import stat
import subprocess
import time

import pytest

from lib.patience import until
from lib.rooted import configure, linux, run, volume
from lib.support import PARTS, RESERVED_USERS, Container, Urunc, need, nothing_left
from urunc.storage.initrd import known

KIND = "virtiofs"


def test_root_and_volumes_by_virtiofs(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """What the guest writes is there on the host, with its owners and modes, and nowhere else."""
    need("root", "linux", "qemu", "virtiofsd")
    configure(urunc, KIND)
    script = """
        mount; cat /conf/key /run/secret/password /single
        echo guest >/written; mkdir /d; chown 1000:1001 /d; chmod 4711 /d
        touch /conf/x; echo conf $?; touch /run/secret/x; echo secret $?
        echo data >/data/new; cat /data/below/file; mknod /data/device c 1 3; echo mknod $?
        [ $(stat -c %d /data) = $(stat -c %d /data/below) ]; echo one filesystem $?
        ls -a /; exit 9
    """
    bundle = linux(tmp_path / "b", script, rootfs=KIND)
    for directory in ("conf", "secret", "data/below", "mounted"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "conf/..1").mkdir()
    (tmp_path / "conf/..1/key").write_text("from a map\n")
    (tmp_path / "conf/..data").symlink_to("..1")
    (tmp_path / "conf/key").symlink_to("..data/key")
    (tmp_path / "secret/password").write_text("hidden\n")
    (tmp_path / "secret/password").chmod(0o400)
    (tmp_path / "single").write_text("a file\n")
    (tmp_path / "mounted/file").write_text("mounted below\n")
    bundle.config["mounts"] = [
        volume("/conf", tmp_path / "conf", "ro"),
        volume("/run/secret", tmp_path / "secret", "ro"),
        volume("/single", tmp_path / "single"),
        volume("/data", tmp_path / "data"),
    ]
    below = str(tmp_path / "data/below")
    subprocess.run(["mount", "--bind", str(tmp_path / "mounted"), below], check=True)
    try:
        with nothing_left(urunc.root):
            result = run(urunc, bundle)
    finally:
        subprocess.run(["umount", below], check=True)
    assert result.returncode == 9, result.stdout + result.stderr
    assert result.stderr == "" or "virtio" not in result.stderr
    for line in (
        " on / type virtiofs (rw", " on /conf type virtiofs (ro", "from a map\n",
        "hidden\n", "a file\n", "conf 1\n", "secret 1\n", "mounted below\n", "mknod 1\n",
        "one filesystem ",
    ):  # fmt: skip
        assert line in result.stdout, result.stdout
    assert (bundle.root / "written").read_text() == "guest\n"
    facts = (bundle.root / "d").stat()
    assert (facts.st_uid, facts.st_gid, stat.S_IMODE(facts.st_mode)) == (1000, 1001, 0o4711)
    assert (tmp_path / "data/new").read_text() == "data\n"
    assert sorted(os.listdir(tmp_path / "data")) == ["below", "new"]
    assert sorted(os.listdir(tmp_path / "conf")) == ["..1", "..data", "key"]


def test_a_root_that_is_only_read(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    need("root", "linux", "qemu", "virtiofsd")
    configure(urunc, KIND)
    bundle = linux(tmp_path / "b", "touch /x; echo over $?", rootfs=KIND)
    bundle.config["root"]["readonly"] = True
    before = sorted(str(path) for path in bundle.root.rglob("*"))
    result = run(urunc, bundle)
    assert "over 1\n" in result.stdout, result.stdout + result.stderr
    assert sorted(str(path) for path in bundle.root.rglob("*")) == before


def daemons(container: Container) -> dict[int, str]:
    """Processes of a container's, but for its first one: pid → name."""
    found = {}
    for directory in pathlib.Path("/proc").iterdir():
        try:
            same = os.readlink(directory / "ns/ipc") == os.readlink(f"/proc/{container.pid}/ns/ipc")
            if same and directory.name.isdecimal() and int(directory.name) != container.pid:
                found[int(directory.name)] = (directory / "comm").read_text().strip()
        except OSError:
            continue
    return found


@pytest.mark.parametrize("own_pids", [True, False])
def test_the_daemons_life(urunc: Urunc, tmp_path: pathlib.Path, own_pids: bool) -> None:
    """It is there from create on, in the container's groups, and ends with the monitor, whatever
    that one's end is. What the host changes is seen in the guest."""
    need("root", "linux", "qemu", "virtiofsd")
    configure(urunc, KIND)
    script = "echo up; while [ ! -e /data/go ]; do sleep 0.1; done; echo seen; sleep 100"
    bundle = linux(tmp_path / "b", script, rootfs=KIND)
    (tmp_path / "data").mkdir()
    bundle.config["mounts"] = [volume("/data", tmp_path / "data")]
    if not own_pids:
        namespaces = bundle.config["linux"]["namespaces"]
        bundle.config["linux"]["namespaces"] = [x for x in namespaces if x["type"] != "pid"]
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        assert set(daemons(container).values()) == {"virtiofsd"}
        container.delete("--force")  # never started
        container = urunc.create(bundle)
        container.start()
        container.wait_for("up\n", 60)
        (tmp_path / "data/go").touch()
        container.wait_for("seen\n")
        found = daemons(container)
        assert "virtiofsd" in found.values()
        root = pathlib.Path(f"/proc/{container.pid}/root")
        assert os.listdir(root / "share") == []
        groups = pathlib.Path(f"/proc/{container.pid}/cgroup").read_text()
        for pid in found:
            assert pathlib.Path(f"/proc/{pid}/cgroup").read_text() == groups
            links = os.listdir(f"/proc/{pid}/fd")
            opened = {os.readlink(f"/proc/{pid}/fd/{link}") for link in links}
            assert not any("fifo" in path or "start" in path for path in opened), opened
        urunc("kill", container.id, "KILL")
        container.wait_stopped()
        until(
            lambda: not any(os.path.exists(f"/proc/{pid}") for pid in found),
            "it outlived its monitor",
        )
        container.delete()


def status(pid: int) -> dict[str, str]:
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


FILES = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 31
"""CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, SETFCAP: not DAC_READ_SEARCH, MKNOD, or any
that is about more than files."""


def of_daemon(pid: int) -> bool:
    """Whether it is a virtiofsd that has closed itself in, which it does when its monitor comes."""
    facts = status(pid)
    return facts["Name"].strip() == "virtiofsd" and facts["Seccomp"] == "2"


def test_what_the_daemon_and_the_supervisor_have(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """Somebody who takes over the daemon has the shared directories, and no way to make a device or
    to open a file by its handle; the supervisor has no more than its monitor."""
    need("root", "linux", "qemu", "virtiofsd")
    configure(urunc, KIND)
    with urunc.config.open("a") as file:
        file.write("monitors.qemu.supervisor = true\n")
    bundle = linux(tmp_path / "b", "sleep 100", rootfs=KIND)
    (bundle.root / "shared").touch()
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        serving = until(lambda: [x for x in daemons(container) if of_daemon(x)])
        for pid, name in daemons(container).items():
            facts = status(pid)
            assert int(facts["CapBnd"], 16) == 0, name
            if name == "virtiofsd":
                assert os.listdir(f"/proc/{pid}/root") == ["root"]
                table = pathlib.Path(f"/proc/{pid}/mountinfo").read_text()
                assert len(table.splitlines()) == 2, table  # the directory, and the root in it
                rights = int(facts["CapEff"], 16)
                assert rights & ~FILES == 0
                assert pid in serving or rights == 0
            else:
                monitor = status(container.pid)
                assert monitor["Name"] == "supervisor" != name
                for key in ("Uid", "Gid", "Groups", "NoNewPrivs"):
                    assert facts[key] == monitor[key], key
                assert facts["NoNewPrivs"] == "1" and int(facts["Uid"].split()[0]) > 0
                for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                    assert int(facts[key], 16) == int(monitor[key], 16) == 0, key
                roots = [f"/proc/{x}/root" for x in (pid, container.pid)]
                assert os.path.samefile(*roots)
        for pid in serving:
            assert status(pid)["Seccomp"] == "2"
        container.delete("--force")


def test_nine_p(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """The monitor's user reads and writes; what that one may not, the guest has in its memory."""
    need("root", "linux", "qemu")
    if not known(str(PARTS / "linux/lib-modules"), ("9p", "9pnet_virtio")):
        pytest.skip("needs a guest's kernel with 9p (KERNEL_PACKAGE=linux-image-amd64)")
    configure(urunc, "9p")
    script = """
        mount; echo mine >/written; cat /written /secret/password; echo data >/data/new
        cat /data/new; chmod 640 /data/new; echo chmod $?; exit 9
    """
    bundle = linux(tmp_path / "b", script, rootfs="9p")
    for directory in ("secret", "data"):
        (tmp_path / directory).mkdir()
    (tmp_path / "data").chmod(0o777)
    (tmp_path / "secret/password").write_text("hidden\n")
    (tmp_path / "secret/password").chmod(0o400)
    bundle.config["mounts"] = [
        volume("/secret", tmp_path / "secret", "ro"),
        volume("/data", tmp_path / "data"),
    ]
    with nothing_left(urunc.root):
        result = run(urunc, bundle)
    assert result.returncode == 9, result.stdout + result.stderr
    for line in (
        "overlay on / type overlay (rw", "share on /data type 9p (rw", "mine\nhidden\ndata\n",
        "chmod 0\n",
    ):  # fmt: skip
        assert line in result.stdout, result.stdout
    assert (tmp_path / "data/new").read_text() == "data\n"
    facts = (tmp_path / "data/new").stat()
    assert facts.st_uid >= RESERVED_USERS and stat.S_IMODE(facts.st_mode) == 0o640
    assert not (bundle.root / "written").exists()


def test_verbs_with_a_supervisor_and_a_daemon(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """All of a container's processes stand still, and are listed and counted."""
    need("root", "linux", "qemu", "virtiofsd")
    configure(urunc, KIND)
    with urunc.config.open("a") as file:
        file.write("monitors.qemu.supervisor = true\n")
    script = "echo up; while [ ! -e /data/go ]; do sleep 0.1; done; echo seen; sleep 100"
    bundle = linux(tmp_path / "b", script, rootfs=KIND)
    (tmp_path / "data").mkdir()
    bundle.config["mounts"] = [volume("/data", tmp_path / "data")]
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        container.wait_for("up\n", 60)
        urunc("pause", container.id)
        assert container.status() == "paused"
        (tmp_path / "data/go").touch()
        time.sleep(0.5)  # it would look five times
        assert "seen" not in container.console.read_text()
        urunc("resume", container.id)
        container.wait_for("seen\n", 30)
        pids = json.loads(urunc("ps", "--format", "json", container.id).stdout)
        names = {pathlib.Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids}
        assert {"supervisor", "virtiofsd"} < names, names
        assert len(names) == 3, names
        stats = json.loads(urunc("events", "--stats", container.id).stdout)
        assert stats["data"]["pids"]["current"] >= len(pids)
        urunc("kill", container.id, "KILL")
        container.wait_stopped()
        container.delete()
