# SPDX-License-Identifier: Apache-2.0
"""Every row of the table, booted: what was asked for arrives in the guest, down to the byte.

The guest is the probe (guests-src/probe) or Debian's Linux kernel; the monitors are real, but for
Solo5's tenders where they are not on PATH: then their contract double stands in, and its first line
says so.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from lib.newc import cpio
from lib.patience import patient
from lib.rooted import own_init
from lib.support import PARTS, Bundle, Network, Urunc, need, nothing_left

BLOCK = b"urunc test block!" + bytes(512 * 2048 - 17)


def _unikraft(path: pathlib.Path, monitor: str, kernel: str, **annotations: str) -> Bundle:
    bundle = Bundle(path, "unikraft", monitor, initrd="/initrd", **annotations)
    bundle.add("unikernel", PARTS / kernel)
    bundle.add("initrd", cpio({"hello.txt": b"hello", "etc-motd": b"x" * 1000}))
    return bundle


@pytest.mark.parametrize(
    ("monitor", "accelerator", "kernel", "boot"),
    [
        ("qemu", "tcg", "probe.pvh", "pvh"),
        ("qemu", "kvm", "probe.pvh", "pvh"),
        ("firecracker", "auto", "probe.pvh", "pvh"),
        ("firecracker", "auto", "probe.linux64", "linux64"),
    ],
)
def test_unikraft(
    urunc: Urunc,
    network: Network,
    tmp_path: pathlib.Path,
    monitor: str,
    accelerator: str,
    kernel: str,
    boot: str,
) -> None:
    need("probe", monitor, *(() if accelerator == "tcg" else ("kvm",)))
    network.connect()
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("search example.org\nnameserver 10.123.0.53\n")
    bundle = _unikraft(tmp_path / "b", monitor, kernel, accelerator=accelerator)
    bundle.args("app", "probe.serve=30000", "--flag")
    bundle.config["process"]["env"] = ["A=1", "B=2"]
    bundle.config["mounts"] = [
        {"destination": "/etc/resolv.conf", "type": "bind", "source": str(resolver)}
    ]
    bundle.network(network.path)
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        assert container.status() == "created"
        container.start()
        report = container.report()
        line = (
            "env.vars=[ A=1 B=2 ] netdev.ip=10.123.0.2/24:10.123.0.1:10.123.0.53:::example.org "
            'vfs.fstab=[ "none:/:ramfs" "initrd0:/:extract" ]'
        )
        if monitor == "firecracker":
            line = f"app {line} virtio_mmio.device=4K@0xd0000000:5"
        assert report["cmdline"] == f"{line} -- probe.serve=30000 --flag"
        assert report["boot"] == boot
        assert report["memory"] == container.plan()["memory_bytes"]
        assert report["vcpus"] == 1
        assert [(item["name"], item["size"]) for item in report["initrd"]["entries"]] == [
            ("hello.txt", 5),
            ("etc-motd", 1000),
        ]
        shown = subprocess.run(
            ["ip", "-n", network.inside, "-o", "link", "show", "eth0"],
            capture_output=True,
            text=True,
        ).stdout
        assert report["nics"][0]["mac"] in shown
        assert container.status() == "running"
        container.wait_for('"serving"')
        network.ping()
        assert network.udp(b"echo this") == b"echo this"
        assert network.udp(b"quit 5") == b"quit 5"
        container.wait_stopped()
        assert '"code":5' in container.console.read_text()
        container.delete()


@pytest.mark.parametrize(
    ("guest", "monitor", "code"),
    [("linux", "qemu", 7 * 2 + 1), ("unikraft", "qemu", 0), ("unikraft", "firecracker", 0)],
)
def test_exit_code_of_run(
    urunc: Urunc, tmp_path: pathlib.Path, guest: str, monitor: str, code: int
) -> None:
    """`run` ends with the monitor's own status: isa-debug-exit's 2n+1 where the guest is one that
    uses it to say so, else 0."""
    need("probe", monitor, *(("kvm",) if monitor == "firecracker" else ()))
    bundle = _unikraft(tmp_path / "b", monitor, "probe.pvh")
    bundle.config["annotations"]["com.urunc.unikernel.unikernelType"] = guest
    bundle.args("app", "probe.exit=7")
    with nothing_left(urunc.root):
        result = urunc("run", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
        assert result.returncode == code, result.stderr
        assert '"code":7' in result.stdout


def _is_double(console: str) -> bool:
    return "contract double" in console


@pytest.mark.parametrize("tender", ["hvt", "spt"])
@pytest.mark.parametrize("guest", ["rumprun", "mirage"])
def test_solo5(
    urunc: Urunc, network: Network, tmp_path: pathlib.Path, tender: str, guest: str
) -> None:
    need("probe", "solo5", *(("kvm",) if tender == "hvt" else ()))
    network.connect()
    bundle = Bundle(tmp_path / "b", guest, tender, block="/disk.img")
    bundle.add("unikernel", PARTS / f"probe{'' if guest == 'rumprun' else '-mirage'}.{tender}")
    bundle.add("disk.img", BLOCK)
    bundle.args("app", "probe.serve=30000")
    bundle.network(network.path)
    with nothing_left(urunc.root, bundle.root):
        owner = (bundle.root / "disk.img").stat()
        container = urunc.create(bundle)
        container.start()
        report = container.report()
        if guest == "rumprun":
            assert report["cmdline"] == (
                '{"cmdline":"app probe.serve=30000","net":{"if":"ukvmif0","cloner":"True",'
                '"type":"inet",'
                '"method":"static","addr":"10.123.0.2","mask":"24","gw":"10.123.0.1"},'
                '"blk":{"source":"etfs","path":"/dev/ld0a","fstype":"blk","mountpoint":"/data"}}'
            )
        else:
            assert report["cmdline"] == (
                "--ipv4=10.123.0.2/24 --ipv4-gateway=10.123.0.1 app probe.serve=30000"
            )
        assert report["memory"] == container.plan()["memory_bytes"]
        signals = (
            pathlib.Path(f"/proc/{container.pid}/status").read_text().split("SigBlk:")[1].split()
        )
        assert int(signals[0], 16) == 0, "blocked"
        assert int(signals[2], 16) == 0, "ignored"
        (disk,) = report["disks"]
        assert disk["name"] == ("rootfs" if guest == "rumprun" else "storage")
        assert disk["size"] == len(BLOCK)
        assert bytes.fromhex(disk["first"]) == BLOCK[:16]
        container.wait_for('"serving"')
        network.ping()
        assert network.udp(b"quit 6") == b"quit 6"
        container.wait_stopped()
        container.delete()
        after = (bundle.root / "disk.img").stat()
        assert (after.st_uid, after.st_gid, after.st_mode) == (
            owner.st_uid,
            owner.st_gid,
            owner.st_mode,
        )


@pytest.mark.parametrize("tender", ["hvt", "spt"])
def test_solo5_without_network(urunc: Urunc, tmp_path: pathlib.Path, tender: str) -> None:
    """A declared net device without an interface gets a TAP device connected to nothing; the code
    is the guest's."""
    need("probe", "solo5", *(("kvm",) if tender == "hvt" else ()))
    bundle = Bundle(tmp_path / "b", "rumprun", tender, block="/disk.img", blkMntPoint="/srv")
    bundle.add("unikernel", PARTS / f"probe.{tender}")
    bundle.add("disk.img", BLOCK)
    bundle.args("app", "probe.exit=9")
    with nothing_left(urunc.root):
        result = urunc("run", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
        assert result.returncode == 9, result.stderr
        assert '"mountpoint' in result.stdout.replace("\\u0022", '"').replace("\\", "")
        assert "/srv" in result.stdout


def _linux(path: pathlib.Path, *command: str, **annotations: str) -> Bundle:
    bundle = own_init(path, *command, initrd="/initrd.cpio", **annotations)
    bundle.add("initrd.cpio", PARTS / "linux/initrd.cpio")
    return bundle


def test_linux_initrd(urunc: Urunc, network: Network, tmp_path: pathlib.Path) -> None:
    """Debian's kernel on QEMU: arguments with blanks, environment, network, and a page over
    HTTP."""
    need("linux", "qemu")
    network.connect()
    script = "echo args: $1/$2 env: $GREETING; exec httpd -f -p 80 -h /www"
    bundle = _linux(tmp_path / "b", "/init", "/bin/sh", "-c", script, "sh", "two words", "")
    bundle.config["process"]["env"] = ["GREETING=good day"]
    bundle.network(network.path)
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        container.wait_for("args: two words/ env: good day", 60)
        network.ping()
        page = ""
        fetch = (
            "import urllib.request as r; "
            f"page = r.urlopen('http://{network.inside_address}/', timeout={patient(5)}); "
            "print(page.read().decode())"
        )
        for _ in range(20):
            page = subprocess.run(
                ["ip", "netns", "exec", network.outside, sys.executable, "-c", fetch],
                capture_output=True,
                text=True,
            ).stdout
            if page:
                break
        assert "hello from a Linux guest" in page
        urunc("kill", container.id, "TERM")
        container.wait_stopped()
        container.delete()


@pytest.mark.parametrize("only_read", [False, True])
def test_linux_block(urunc: Urunc, tmp_path: pathlib.Path, *, only_read: bool) -> None:
    """The same kernel with its root on a virtio disk, which it writes to, but where the container's
    root filesystem is only read."""
    need("linux", "qemu")
    bundle = _linux(
        tmp_path / "b",
        *("/sbin/init", "/bin/sh", "-c"),
        "grep -o root=/dev/vda /proc/cmdline; mount; echo w >/written; sync",
        block="/rootfs.ext4",
    )
    bundle.add("rootfs.ext4", PARTS / "linux/rootfs.ext4")
    before = (bundle.root / "rootfs.ext4").read_bytes()
    bundle.config["root"]["readonly"] = only_read
    (bundle.root / "rootfs.ext4").chmod(0o600)
    with nothing_left(urunc.root):
        result = urunc(
            "run", "--bundle", str(bundle.write()), urunc.new_id(), check=False, timeout_s=90
        )
        assert "root=/dev/vda" in result.stdout, result.stdout + result.stderr
        assert f"/dev/vda on / type ext4 ({'ro' if only_read else 'rw'}" in result.stdout
    assert ((bundle.root / "rootfs.ext4").read_bytes() == before) == only_read
