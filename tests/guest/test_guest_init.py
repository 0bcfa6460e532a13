# SPDX-License-Identifier: Apache-2.0
"""guest-init, the first program of Linux guests with a container's root filesystem, in a real
kernel: what its configuration says is what the application finds. The other half, from the
application's start on, is in test_guest_init_ends."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess

import pytest

from lib import virtiofs
from lib.linux_guest import (
    PROGRAMS,
    Guest,
    Record,
    ext4_root,
    image,
    root_tree,
    run_script,
    sections,
)
from urunc.storage.cpio import write_tree


def test_size() -> None:
    """Static, and small: it is in each guest's memory."""
    for name in ("guest-init", "supervisor"):
        content = (PROGRAMS / name).read_bytes()
        assert len(content) < 1 << 20
        assert b"ld-linux" not in content


ARGUMENTS = [
    "two words", "a \"quoted\" 'one'", "line\nend\ttab\\t\\", "", "$HOME *", "é\udcff", "--",
]  # fmt: skip
VARIABLES = ["EMPTY=", "WITH=a=b c", "LINES=1\n2", "init=/bin/false", "a.b-c=\\n"]


SCRIPT = r"""
    echo '== output'; printf '\001\r\n\nx\t\377'; echo
    echo "== arguments"; cat /proc/$$/cmdline; echo
    echo "== environment"; cat /proc/$$/environ; echo
    echo "== status"; cat /proc/$$/status
    echo "== limits"; cat /proc/$$/limits
    echo "== where"; pwd; stat -c '%a %u %g' /made; hostname; cat /proc/sys/kernel/domainname
    echo "== streams"; for fd in 0 1 2; do readlink /proc/$$/fd/$fd; done
    echo again >/dev/stdout
    echo "== links"; cd /sys/class/net; cat eth0/mtu lo/flags eth1/flags
    echo "== addresses"; ip -o addr | sed 's/ *valid_lft.*//'
    echo "== routes"; ip route
    echo "== routes6"; grep -v -e ' lo$' /proc/net/ipv6_route
    echo "== end"; exit 3
"""


def test_the_process_and_its_network(guest: Guest, files: pathlib.Path) -> None:
    """Arguments and environment to the byte, user, groups, limits, capabilities, directory. Network
    devices with what they are to have, in order; a gateway that is in no network of theirs."""
    ext4_root(guest, files)
    for key, *fields in [
        ("uid", "1000"), ("gid", "1001"), ("groups", "5,77"), ("umask", "027"),
        ("cwd", "/made/here"),
        ("capabilities", "2c00", "400", "c00", "400", "400"), ("no_new_privileges", "1"),
        ("rlimit", "RLIMIT_NOFILE", "123", "456"),
        ("rlimit", "RLIMIT_CORE", "0", "18446744073709551615"),
        ("hostname", "a-guest"), ("domainname", "example"),
    ]:  # fmt: skip
        guest.tell(key, *fields)
    for variable in VARIABLES:
        guest.tell("env", variable)
    for number in (0, 1):
        guest.devices += ["-netdev", f"hubport,hubid={number},id=net{number}",
                          "-device", f"virtio-net-pci,netdev=net{number}"]  # fmt: skip
    guest.tell(
        "net", "eth0", "mtu=1400", "addr=10.1.2.3/24", "addr=fd00::2/64",
        "route=0.0.0.0/0@10.1.2.1", "route=::/0@fe80::1%50", "route=10.9.0.0/16@10.1.2.9%7",
    )  # fmt: skip
    guest.tell(
        "net", "eth1", "addr=192.0.2.7/32", "route=169.254.1.1/32",
        "route=198.51.100.0/24@169.254.1.1", "route=203.0.113.0/24@172.16.0.1",
    )  # fmt: skip
    guest.application("sh", "-c", SCRIPT, *ARGUMENTS)
    assert guest.run() == 7
    assert guest.hear() == "ready\nexit 3\n"
    found = sections(guest.output())
    is_the_process(found)
    is_the_network(found)


def is_the_process(found: dict[str, str]) -> None:
    """See that what it said of itself is what it was to be."""
    assert found["output"] == "\x01\r\n\nx\t\udcff\n"
    assert found["arguments"] == "\0".join(["sh", "-c", SCRIPT, *ARGUMENTS, "\n"])
    expected = ["PATH=/bin", *VARIABLES, "HOME=/home/mary", "\n"]
    assert found["environment"] == "\0".join(expected)
    status = dict(line.split(":\t", 1) for line in found["status"].splitlines() if ":\t" in line)
    assert status["Uid"].split() == ["1000"] * 4
    assert status["Gid"].split() == ["1001"] * 4
    assert status["Groups"].split() == ["5", "77"]
    assert status["Umask"] == "0027"
    assert status["NoNewPrivs"] == "1"
    sets = {
        name: int(status[name], 16) for name in ("CapBnd", "CapInh", "CapPrm", "CapEff", "CapAmb")
    }
    assert sets == {
        "CapBnd": 0x2C00,
        "CapInh": 0xC00,
        "CapPrm": 0x400,
        "CapEff": 0x400,
        "CapAmb": 0x400,
    }
    assert "Max open files            123                  456" in found["limits"]
    assert "Max core file size        0                    unlimited" in found["limits"]
    assert found["where"].split() == ["/made/here", "755", "0", "0", "a-guest", "example"]
    assert found["streams"] == 3 * "/dev/console\n" + "again\n"
    assert found["end"] == ""


def is_the_network(found: dict[str, str]) -> None:
    """And of its network."""
    assert found["links"].split() == ["1400", "0x9", "0x1003"]
    addresses = [
        " ".join(line.split()[1:]).rstrip("\\ ") for line in found["addresses"].splitlines()
    ]
    for address in (
        "lo inet 127.0.0.1/8 scope host lo", "lo inet6 ::1/128 scope host",
        "eth0 inet 10.1.2.3/24 brd 10.1.2.255 scope global eth0",
        "eth1 inet 192.0.2.7/32 scope global eth1",
    ):  # fmt: skip
        assert address in addresses
    assert any(line.startswith("eth0 inet6 fd00::2/64 scope global") for line in addresses)
    assert "tentative" not in found["addresses"]
    routes = {" ".join(line.split()) for line in found["routes"].splitlines()}
    assert routes >= {
        "default via 10.1.2.1 dev eth0", "10.9.0.0/16 via 10.1.2.9 dev eth0 metric 7",
        "169.254.1.1 dev eth1 scope link", "198.51.100.0/24 via 169.254.1.1 dev eth1",
    }  # fmt: skip
    assert any(route.startswith("203.0.113.0/24 via 172.16.0.1 dev eth1") for route in routes)
    default = next(
        line.split() for line in found["routes6"].splitlines() if line.startswith("0" * 32 + " 00")
    )
    assert default[4:6] == ["fe80" + "0" * 27 + "1", "00000032"]
    assert default[9] == "eth0"


ROOTS: dict[str, list[Record]] = {
    "read-only": [],
    "in memory": [("overlay", "tmpfs", "64m")],
    "on a disk": [("overlay", "ext4", "/dev/vdb")],
    "covered": [("overlay", "tmpfs", ""), ("readonly", "/")],
}


@pytest.mark.parametrize(
    ("form", "way"),
    [
        ("erofs", "read-only"),
        ("squashfs", "read-only"),
        ("squashfs", "in memory"),
        ("ext4", "in memory"),
        ("erofs", "on a disk"),
        ("erofs", "covered"),
    ],
)
def test_roots(
    guest: Guest, files: pathlib.Path, tmp_path: pathlib.Path, form: str, way: str
) -> None:
    """A shared image, never written to, with and without a layer; mount points are made either
    way."""
    before = (files / form).read_bytes()
    guest.tell("root", form, guest.disk(files / form), "ro")
    layer = tmp_path / "layer"
    if way == "on a disk":
        layer.mkdir()
        image(layer, "ext4", tmp_path / "layer.ext4")
        guest.disk(tmp_path / "layer.ext4", writable=True)
    guest.records += ROOTS[way]
    guest.tell("file", "/etc/plain", "640", "a new\tline\n")
    guest.tell("file", "/etc/made/new", "600", "")
    guest.tell("mount", "tmpfs", "", "/not/there", "size=1m,mode=1770,nosuid,noexec")
    found = run_script(
        guest,
        """
        echo "== write"; echo written >/etc/secret; cat /etc/secret; rm -f /data/gone
        ls -1 /data /proc/version /dev/null
        echo "== files"; cat /etc/plain; stat -c '%a %s' /etc/plain /etc/made/new
        echo "== mounts"; cat /proc/self/mounts
        echo "== space"; df -k / | tail -n1 | awk '{print $2}'
        echo "== mode"; stat -c %a / /not /not/there
        """,
    )
    written = way in ("in memory", "on a disk")
    if written:
        assert found["write"] == "written\n/dev/null\n/proc/version\n\n/data:\nkept\n"
    else:
        assert found["write"].count("Read-only file system") == 2
        assert "/data:\ngone\nkept\n" in found["write"]
    assert found["files"] == "a new\tline\n640 11\n600 0\n"
    options = re.search(r"^\S+ / (\S+) (\S+)", found["mounts"])
    assert options and options[1] == "overlay"
    assert options[2].split(",")[0] == ("rw" if written else "ro")
    assert (
        "tmpfs /not/there tmpfs rw,nosuid,noexec,relatime,size=1024k,mode=1770" in found["mounts"]
    )
    assert found["mode"].split() == ["755", "755", "1770"]
    if way == "in memory":
        assert int(found["space"]) == 64 << 10
    assert (files / form).read_bytes() == before
    if way == "on a disk":
        dumped = ["debugfs", "-R", "cat /upper/etc/secret", str(tmp_path / "layer.ext4")]
        assert subprocess.run(dumped, capture_output=True, text=True).stdout == "written\n"
        facts = subprocess.run(
            ["dumpe2fs", "-h", tmp_path / "layer.ext4"], capture_output=True, text=True
        ).stdout
        assert "needs_recovery" not in facts
        assert re.search(r"Filesystem state: +clean\n", facts)


def test_root_without_a_layer(guest: Guest, files: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A private image, written to; and what of it is hidden."""
    private = tmp_path / "private"
    private.write_bytes((files / "ext4").read_bytes())
    guest.tell("root", "ext4", guest.disk(private, writable=True), "rw,noatime")
    for path in ("/etc/secret", "/old", "/proc/kcore", "/no/such"):
        guest.tell("masked", path)
    for path in ("/data", "/proc/sys", "/no/such"):
        guest.tell("readonly", path)
    guest.tell("sysctl", "net.ipv4.ip_forward", "1")
    guest.tell("sysctl", "kernel/pid_max", "4321")
    found = run_script(
        guest,
        """
        echo "== root"; head -n1 /proc/mounts
        echo "== masked"; cat /etc/secret /proc/kcore; ls -A /old; touch /old/new
        echo "== readonly"; touch /data/new; echo 1 >/proc/sys/kernel/pid_max
        echo "== sysctl"; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/pid_max
        echo "== mounts"; cat /proc/mounts
        echo stays >/stays
        """,
    )
    assert found["root"].startswith("/dev/vda / ext4 rw,noatime")
    assert found["masked"] == "touch: /old/new: Read-only file system\n"
    assert found["readonly"].count("Read-only file system") == 2
    assert found["sysctl"] == "1\n4321\n"
    assert "proc /proc/sys proc ro,nosuid,nodev,noexec,relatime" in found["mounts"]
    dumped = ["debugfs", "-R", "cat /stays", str(private)]
    assert subprocess.run(dumped, capture_output=True, text=True).stdout == "stays\n"


def archive(tmp_path: pathlib.Path) -> pathlib.Path:
    """Volumes and a writable layer, as overlayfs has it, on a disk."""
    tree = tmp_path / "tree"
    for directory in ("layer/data", "layer/old", "layer/dated", "volumes/0/..2024", "volumes/2"):
        (tree / directory).mkdir(parents=True)
    (tree / "layer").chmod(0o751)
    os.mknod(tree / "layer/data/gone", 0o020000, os.makedev(0, 0))
    (tree / "layer/old/new").write_text("only this\n")
    (tree / "layer/added").write_text("added\n")
    os.chown(tree / "layer/added", 1000, 1001)
    (tree / "layer/added").chmod(0o4755)
    os.link(tree / "layer/added", tree / "layer/linked")
    os.utime(tree / "layer/added", (1_100_000_000, 1_100_000_000))
    os.utime(tree / "layer/dated", (1_000_000_000, 1_000_000_000))
    (tree / "volumes/0/..2024/token").write_text("secret")
    (tree / "volumes/0/token").symlink_to("..data/token")
    (tree / "volumes/0/..data").symlink_to("..2024")
    (tree / "volumes/1").write_text("nameserver 10.0.0.1\n")
    (tree / "volumes/2/empty").write_text("")
    path = tmp_path / "archive"
    with path.open("wb") as out:
        top = os.open(tree, os.O_PATH | os.O_DIRECTORY)
        write_tree(out.fileno(), top, "")
        os.close(top)
    return path


VOLUMES_AND_NAMES = """
    echo "== layer"; ls -1 /data /old; cat /old/new /added; stat -c '%a %u %g %Y' /added /dated
    stat -c %a /; [ /added -ef /linked ] && echo same
    echo "== copies"; cat /var/run/secrets/token; touch /var/run/secrets/x; cat /etc/resolv.conf
    echo more >>/etc/resolv.conf && tail -n1 /etc/resolv.conf; ls /elsewhere/reached
    echo "== mounts"; cat /proc/mounts
    echo "== bin"; touch /bin/more && ls -1 /bin/busybox /bin/more
    echo "== disks"; cat /mnt/disk/file; echo kept >/mnt/disk/new
    head -c9 /dev/xvda; echo; echo changed >/dev/xvda
    stat -c '%F %a %g %t:%T' /dev/xvda /opt/log
    echo "== hidden"; ls -A / /dev | grep -e urunc -e modules -e vda -e vport -e init
    echo "== names"; cd /sys/class/net; for name in *; do echo $name $(cat $name/address); done
    echo "== indexes"; cat eth0/ifindex eth1/ifindex
    echo "== addresses"; ip -o -4 addr | sed 's/ *valid_lft.*//'
    echo "== setting"; cat /proc/sys/net/ipv4/conf/net.7/rp_filter
"""


def named(guest: Guest, macs: tuple[str, str, str]) -> None:
    """Three interfaces by their hardware addresses, the last two of which are the same."""
    for number, mac in enumerate(macs):
        guest.devices += ["-netdev", f"hubport,hubid={number},id=net{number}",
                          "-device", f"virtio-net-pci,netdev=net{number},mac={mac}"]  # fmt: skip
    guest.tell("net", "eth0", f"mac={macs[1]}", "addr=10.1.0.2/24")
    guest.tell("net", "eth1", f"mac={macs[2].upper()}", "addr=10.2.0.2/24")
    guest.tell("net", "net.7", f"mac={macs[0]}", "addr=10.3.0.2/24")
    guest.tell("sysctl", "net/ipv4/conf/net.7/rp_filter", "2")


def test_volumes_and_names_of_devices(
    guest: Guest, files: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The layer of a container, copied volumes, tmpfs with and without what was there, disks with
    and without a file system, where the image's links do not lead out.

    Interfaces by their hardware addresses, whatever the kernel called them; two that have the same
    one (as ipvlan devices do) in their order; a parameter finds them by their names."""
    ext4_root(guest, files)
    guest.tell("archive", guest.disk(archive(tmp_path)))
    guest.tell("opaque", "old")
    (tmp_path / "raw").write_bytes(b"raw block" + bytes(4087))
    raw = guest.disk(tmp_path / "raw", writable=True)
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume/file").write_text("on a disk\n")
    image(tmp_path / "volume", "ext4", tmp_path / "volume.ext4")
    volume = guest.disk(tmp_path / "volume.ext4", writable=True)
    for fields in [
        ("copy", "volumes/0", "/var/run/secrets", "ro,nosuid,nodev,noexec"),
        ("copy", "volumes/1", "/etc/resolv.conf", "rbind,rprivate,rw"),
        ("copy", "volumes/2", "/out/reached", ""),
        ("tmpfs", "", "/data/t", "nosuid,size=2m"),
        ("tmpfs", "", "/bin", "tmpcopyup,size=8m,nodev"),
        ("ext4", volume, "/mnt/disk", "rw,noatime"),
        ("device", raw, "/dev/xvda", "mode=0640,gid=6"),
        ("device", "/dev/kmsg", "/opt/log", ""),
    ]:  # fmt: skip
        guest.tell("mount", *fields)
    guest.tell("file", "/var/run/secrets-too", "444", "x")
    macs = ("02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0b")
    named(guest, macs)
    found = run_script(guest, VOLUMES_AND_NAMES)
    assert found["layer"] == (
        "/data:\nkept\nt\n\n/old:\nnew\nonly this\nadded\n"
        "4755 1000 1001 1100000000\n755 0 0 1000000000\n751\nsame\n"
    )
    assert found["copies"].startswith("secrettouch: /var/run/secrets/x: Read-only file system\n")
    assert found["copies"].endswith("nameserver 10.0.0.1\nmore\nempty\n")
    mounts = found["mounts"]
    assert re.search(r"/var/run/secrets tmpfs ro,nosuid,nodev,noexec", mounts)
    assert re.search(r"/etc/resolv.conf tmpfs rw,relatime", mounts)
    assert re.search(r"/data/t tmpfs rw,nosuid,relatime,size=2048k", mounts)
    assert re.search(r"tmpfs /bin tmpfs rw,nodev,relatime,size=8192k,mode=755", mounts)
    assert re.search(r"/dev/vdd /mnt/disk ext4 rw,noatime", mounts)
    assert found["bin"] == "/bin/busybox\n/bin/more\n"
    assert found["disks"].startswith("on a disk\nraw block\nblock special file 640 6 fe:20\n")
    assert "character special file 644 0 1:b" in found["disks"]
    assert found["hidden"] == "xvda\n"
    assert (tmp_path / "raw").read_bytes().startswith(b"changed\n")
    facts = subprocess.run(
        ["dumpe2fs", "-h", tmp_path / "volume.ext4"], capture_output=True, text=True
    )
    assert "needs_recovery" not in facts.stdout
    are_the_names(found, macs)


def are_the_names(found: dict[str, str], macs: tuple[str, str, str]) -> None:
    """See that each interface has its name, its order and its address."""
    names = dict(line.split(" ") for line in found["names"].splitlines())
    assert names == {
        "lo": "00:00:00:00:00:00", "eth0": macs[1], "eth1": macs[2], "net.7": macs[0],
    }  # fmt: skip
    first, second = map(int, found["indexes"].split())
    assert first < second
    for name, number in (("eth0", 1), ("eth1", 2), ("net.7", 3)):
        assert any(
            f"{name} " in line and f"10.{number}.0.2/24" in line
            for line in found["addresses"].splitlines()
        )
    assert found["setting"].strip() == "2"


def test_a_root_in_the_initrd(guest: Guest, files: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Two archives in a row: init's, and the root filesystem below `root`."""
    whole = tmp_path / "initrd"
    with whole.open("wb") as out:
        top = os.open(files / "root", os.O_PATH | os.O_DIRECTORY)
        write_tree(out.fileno(), top, "root")
        os.close(top)
    whole.write_bytes((files / "initrd").read_bytes() + whole.read_bytes())
    guest.initrd = whole
    guest.tell("root", "initrd", "root", "rw")
    guest.tell("mount", "tmpfs", "", "/run", "mode=755")
    found = run_script(
        guest,
        """
        echo "== root"; ls -A /; echo new >/data/kept; cat /data/kept; grep -c . /proc/mounts
        ls -A /proc/self/root/../.. | head -n1
        """,
    )
    assert found["root"].split()[-3:-1] == ["new", "9"]
    assert "modules" not in found["root"]


def test_a_shared_directory(guest: Guest, files: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The root and a volume by virtiofs; what is not mounted of the directory is not to be seen."""
    shared = tmp_path / "shared"
    root_tree(shared / "rootfs")
    (shared / "volume").mkdir()
    (shared / "file").write_text("by itself\n")
    socket = tmp_path / "virtiofs.sock"
    daemon = subprocess.Popen(virtiofs.command(socket, shared), stderr=subprocess.DEVNULL)
    guest.devices = [
        "-object", f"memory-backend-memfd,id=memory,size={guest.memory_mib}M,share=on",
        "-numa", "node,memdev=memory", "-chardev", f"socket,id=share,path={socket}",
        "-device", "vhost-user-fs-pci,chardev=share,tag=files",
    ]  # fmt: skip
    try:
        guest.wait_until(socket.exists)
        guest.tell("share", "virtiofs", "files")
        guest.tell("root", "share", "rootfs", "rw")
        guest.tell("mount", "share", "volume", "/data/volume", "nosuid")
        guest.tell("mount", "share", "file", "/etc/secret", "ro")
        found = run_script(
            guest,
            """
            echo "== files"; cat /etc/secret; echo new >/data/volume/new; echo kept >/root/new
            echo more >/etc/secret
            echo "== mounts"; cat /proc/mounts
            """,
        )
    finally:
        daemon.kill()
        daemon.wait()
    assert "by itself\n" in found["files"]
    assert "Read-only file system" in found["files"]
    assert (shared / "volume/new").read_text() == "new\n"
    assert (shared / "rootfs/root/new").read_text() == "kept\n"
    assert "files / virtiofs rw" in found["mounts"]
    assert "files /data/volume virtiofs rw,nosuid" in found["mounts"]
    assert found["mounts"].count("virtiofs") == 3
