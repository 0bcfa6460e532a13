# SPDX-License-Identifier: Apache-2.0
"""Mounts mean in a guest what they mean to runc: the same bundle is run by both, and what is only
read is read-only on the host, whatever the guest does."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from lib.pods import eventually
from lib.rooted import by_runc, configure, linux, run, volume
from lib.support import PARTS, Urunc, need, nothing_left
from urunc.storage.initrd import known

KIND = "virtiofs"
PROC = {"destination": "/proc", "type": "proc", "source": "proc"}
"""runc needs it; a guest has its own."""


@contextlib.contextmanager
def bound(source: pathlib.Path, target: pathlib.Path, *options: str) -> Iterator[None]:
    """A mount of the host's, below a volume's source."""
    subprocess.run(["mount", "--bind", str(source), str(target)], check=True)
    try:
        if options:
            words = ["mount", "-o", ",".join(("remount", "bind", *options)), str(target)]
            subprocess.run(words, check=True)
        yield
    finally:
        subprocess.run(["umount", str(target)], check=True)


def answers(output: str) -> dict[str, str]:
    """What a script printed after each line `== NAME`; the rest is a guest's and runc's own."""
    return {
        name: text.replace("\r\n", "\n")
        for name, _, text in (part.partition("\n") for part in output.split("== ")[1:])
    }


READ_ONLY = """
    write() { echo "== $1"; (echo guest >$1/new) 2>&1 | grep -o 'Read-only.*'; ls -1 $1; }
    for name in all all/below top top/below top/kept bind file_in again; do write /$name; done
    echo "== file"; (echo guest >/single) 2>&1 | grep -o 'Read-only.*'; cat /single
"""
INSIST = """
    for name in all all/below top single; do mount -o remount,bind,rw /$name; done
    mount -o remount,rw /all
    grep -c " /all .* rw," /proc/mounts
    touch /all/by-force /all/below/by-force /top/by-force; echo guest >/single
    mkdir /raw; mount -t virtiofs share /raw && touch /raw/volumes/0/by-force
"""


def test_read_only_on_the_hosts_side(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """rro is for all that is below, ro for the mount alone, rrw for what the host has read-only;
    and a root that mounts it anew in the guest writes nothing."""
    need("root", "linux", "qemu", "virtiofsd", "runc")
    configure(urunc, KIND)
    bundle = linux(tmp_path / "b", READ_ONLY, rootfs=KIND)
    names = (
        "all/below",
        "top/below",
        "top/kept",
        "bind/below",
        "file_in",
        "again",
        "mounted",
        "other",
    )
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "single").write_text("a file\n")
    bundle.config["mounts"] = [
        PROC,
        volume("/all", tmp_path / "all", "rro"),
        volume("/top", tmp_path / "top", "ro"),
        {**volume("/bind", tmp_path / "bind"), "options": ["bind", "rro", "rprivate"]},
        volume("/file_in", tmp_path / "file_in", "rro", "rw"),
        volume("/again", tmp_path / "again", "ro", "rrw"),
        volume("/single", tmp_path / "single", "rro"),
    ]
    with contextlib.ExitStack() as stack:
        for point in ("all/below", "top/below"):
            stack.enter_context(bound(tmp_path / "mounted", tmp_path / point))
        stack.enter_context(bound(tmp_path / "mounted", tmp_path / "top/kept", "ro"))
        stack.enter_context(bound(tmp_path / "other", tmp_path / "again", "ro"))
        with nothing_left(urunc.root):
            theirs = by_runc(urunc, bundle)
        assert answers(theirs.stdout)["/top/below"] == "new\n", theirs.stdout + theirs.stderr
        for made in ("mounted/new", "other/new"):
            (tmp_path / made).unlink()
        with nothing_left(urunc.root):
            ours = run(urunc, bundle)
        assert answers(ours.stdout) == answers(theirs.stdout), ours.stdout + ours.stderr
        assert (tmp_path / "mounted/new").exists()
        bundle.args("sh", "-c", INSIST)
        tried = run(urunc, bundle)
        said = tried.stdout + tried.stderr
        assert said.count("Read-only file system") == 5, said
    assert (tmp_path / "single").read_text() == "a file\n"
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("by-force")}
    assert written == set()


def test_what_was_mounted_below_is_gone(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """Between create and start; the others are writable still."""
    need("root", "linux", "qemu", "virtiofsd")
    configure(urunc, KIND)
    script = "for name in /top/kept /top/n*; do touch $name/new; done; ls -1 /top"
    bundle = linux(tmp_path / "b", script, rootfs=KIND)
    odd = pathlib.Path(os.fsdecode(b"no-text-\xff"))
    for name in ("top/gone", "top/kept", "mounted", "top" / odd, "other"):
        (tmp_path / name).mkdir(parents=True)
    bundle.config["mounts"] = [volume("/top", tmp_path / "top", "ro", "rslave")]
    with contextlib.ExitStack() as stack:
        stack.enter_context(bound(tmp_path / "top", tmp_path / "top"))
        subprocess.run(["mount", "--make-shared", tmp_path / "top"], check=True)
        stack.enter_context(bound(tmp_path / "mounted", tmp_path / "top/kept"))
        stack.enter_context(bound(tmp_path / "other", tmp_path / "top" / odd))
        with bound(tmp_path / "mounted", tmp_path / "top/gone"):
            container = urunc.create(bundle)
        (tmp_path / "top/gone").rename(tmp_path / "top/other")
        container.start()
        container.wait_stopped(60)
        said = container.console.read_bytes().split()
        assert said[-3:] == [b"kept", b"no-text-?", b"other"]  # busybox writes it so
        container.delete()
    assert (tmp_path / "mounted/new").exists()
    assert (tmp_path / "other/new").exists()


MEANT = """
    echo "== suid"; stat -c %a /strict/suid
    echo "== exec"; /strict/program 2>&1 | grep -o 'Permission denied'
    /lax/program
    echo "== link"; cat /strict/link 2>&1 | grep -o 'symbolic link.*'; cat /lax/link
    echo "== flags"; for name in strict lax; do
        words=$(grep " /$name " /proc/mounts | cut -d' ' -f4)
        for word in nosuid nodev noexec nosymfollow noatime nodiratime; do
            case ,$words, in *,$word,*) echo $name $word;; esac
        done
    done
    echo "== read"; cat /strict/text /lax/text /often/text
"""


def test_the_other_options(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """Programs, links, devices and set-user-ID bits by the guest's mounts; when a file was read
    last by the host's. A source without a slash before it is in the bundle."""
    need("root", "linux", "qemu", "virtiofsd", "runc")
    configure(urunc, KIND)
    bundle = linux(tmp_path / "b", MEANT, rootfs=KIND)
    for name in ("strict", "lax", "often"):
        directory = bundle.path / name
        directory.mkdir()
        (directory / "text").write_text(f"{name}\n")
        (directory / "program").write_text("#!/bin/sh\necho it runs\n")
        (directory / "program").chmod(0o755)
        (directory / "suid").touch()
        (directory / "suid").chmod(0o4755)
        (directory / "link").symlink_to("text")

    def mounted(name: str, *options: str) -> dict[str, object]:
        return {**volume(f"/./{name}/", pathlib.Path(name), *options)}

    bundle.config["mounts"] = [
        PROC,
        mounted("strict", "rnosuid", "rnodev", "rnoexec", "rnosymfollow", "noatime", "rnodiratime"),
        mounted("lax", "nosuid", "nodev", "noexec", "rsuid", "rdev", "rexec"),
        mounted("often", "rstrictatime"),
    ]
    with nothing_left(urunc.root):
        theirs = answers(by_runc(urunc, bundle).stdout)
    assert theirs["exec"] == "Permission denied\nit runs\n", theirs
    assert "strict nosymfollow" in theirs["flags"]
    times = {}
    for name in ("strict", "lax", "often"):
        path = bundle.path / name / "text"
        now = path.stat().st_mtime_ns
        os.utime(path, ns=(now + 10**9, now))  # read after it was written: relatime is content
        times[name] = path.stat().st_atime_ns
    result = run(urunc, bundle)
    assert answers(result.stdout) == theirs, result.stdout + result.stderr
    assert result.stderr == ""
    changed = {
        name for name, before in times.items()
        if (bundle.path / name / "text").stat().st_atime_ns != before
    }  # fmt: skip
    assert changed == {"often"}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["rbind", "rshared"], "what a guest mounts cannot appear on the host"),
        (["rbind", "remount", "rw"], "there is nothing to mount anew"),
        (["size=x"], "no size that tmpfs knows"),
        (["mode=888"], "no mode that tmpfs knows"),
        (["mpol=bind:0"], "a guest's memory is not on the host's nodes"),
        (["no-such-option"], "tmpfs knows no such option"),
    ],
)
def test_what_cannot_be(urunc: Urunc, tmp_path: pathlib.Path, options: list[str], why: str) -> None:
    need("root", "linux", "qemu")
    configure(urunc, KIND)
    bundle = linux(tmp_path / "b", "echo no", rootfs=KIND)
    kind = "bind" if "rbind" in options else "tmpfs"
    mount = {"destination": "/x", "source": str(tmp_path), "type": kind, "options": options}
    bundle.config["mounts"] = [mount]
    with nothing_left(urunc.root):
        result = run(urunc, bundle)
    assert result.returncode == 1
    assert f"mounts: '/x': option '{options[-1 if kind == 'tmpfs' else 1]}': {why}" in result.stderr


def test_an_option_that_a_bind_mount_has_no_use_for(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """As with runc it is no error; it is not silent either."""
    need("root", "linux", "qemu", "virtiofsd", "runc")
    configure(urunc, KIND)
    bundle = linux(tmp_path / "b", "cat /x/text", rootfs=KIND)
    (tmp_path / "x").mkdir()
    (tmp_path / "x/text").write_text("in x\n")
    bundle.config["mounts"] = [PROC, volume("/x", tmp_path / "x", "no-such-option", "sync")]
    assert by_runc(urunc, bundle).stdout == "in x\n"
    result = run(urunc, bundle)
    assert result.stdout.replace("\r", "") == "in x\n", result.stdout + result.stderr
    assert "mount '/x': options that a bind mount has no use for: no-such-option" in result.stderr


def tree(directory: pathlib.Path) -> dict[str, tuple[int, bytes]]:
    """What there is below a directory: type and mode, and the content of files."""
    return {
        str(path.relative_to(directory)): (
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in directory.rglob("*")
    }


def test_what_is_mounted_is_not_written_to(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """A volume on /etc keeps its files, as the image does: the guest's own are above them. On the
    host there is after it what runc makes there, no more."""
    need("root", "linux", "qemu", "virtiofsd", "runc")
    configure(urunc, KIND)
    script = """
        echo '== hosts'; grep -c localhost /etc/hosts; echo '== name'; cat /etc/hostname
        echo '== mine'; cat /etc/resolv.conf
        echo '== write'; echo added >>/etc/hosts && grep added /etc/hosts; pwd
        echo '== own'; cat /etc/own /etc/below/text
    """
    bundle = linux(tmp_path / "b", script, rootfs=KIND)
    (bundle.root / "etc/hosts").write_text("of the image\n")
    for name, text in (("volume/own", "own\n"), ("volume/hosts", "the volume's\n"),
                       ("volume/resolv.conf", "mine\n"), ("below/text", "below\n"),
                       ("hosts", "127.0.0.1 localhost\n"),
                       ("volume/hostname", "its\n")):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    bundle.config["hostname"] = "a-name"  # which no engine has mounted a file with
    bundle.config["process"]["cwd"] = "/etc/made/here"
    bundle.config["mounts"] = [
        PROC,
        volume("/etc", tmp_path / "volume"),
        volume("/etc/below", tmp_path / "below"),
        volume("/etc/hosts", tmp_path / "hosts"),
    ]
    subprocess.run(["cp", "-a", tmp_path / "volume", tmp_path / "volume.before"], check=True)
    theirs = answers(by_runc(urunc, bundle).stdout)
    expected = tree(tmp_path / "volume")
    subprocess.run(["rm", "-r", tmp_path / "volume"], check=True)
    subprocess.run(["mv", tmp_path / "volume.before", tmp_path / "volume"], check=True)
    (bundle.root / "sys").mkdir()
    before = tree(bundle.root)
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    with nothing_left(urunc.root):
        result = run(urunc, bundle)
    ours = answers(result.stdout)
    assert ours.pop("hosts", "0") > "0\n", result.stdout + result.stderr
    del theirs["hosts"]
    assert ours == theirs
    assert tree(tmp_path / "volume") == expected
    assert tree(bundle.root) == before
    assert (tmp_path / "hosts").read_text() == "127.0.0.1 localhost\n"


def test_the_files_of_an_image_stay(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """Also where no engine mounts any: a root filesystem by virtiofs is the host's own."""
    need("root", "linux", "qemu", "virtiofsd")
    configure(urunc, KIND)
    bundle = linux(tmp_path / "b", "cat /etc/hosts /etc/hostname", rootfs=KIND)
    for name in ("hosts", "hostname", "resolv.conf"):
        (bundle.root / "etc" / name).write_text("of the image\n")
    bundle.config["hostname"] = "a-name"
    result = run(urunc, bundle)
    assert "localhost" in result.stdout, result.stdout + result.stderr
    assert result.stdout.endswith("a-name\r\n") or result.stdout.endswith("a-name\n")
    for name in ("hosts", "hostname", "resolv.conf"):
        assert (bundle.root / "etc" / name).read_text() == "of the image\n"


def test_a_mount_on_the_root_is_refused(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    need("root", "linux", "qemu", "virtiofsd")
    configure(urunc, KIND)
    bundle = linux(tmp_path / "b", "true", rootfs=KIND)
    bundle.config["mounts"] = [volume("/..//", tmp_path)]
    with nothing_left(urunc.root):
        result = run(urunc, bundle)
    assert result.returncode == 1
    assert "mount '/'" in result.stderr
    assert "it would hide the container's root filesystem" in result.stderr


@pytest.mark.parametrize("propagation", ["rslave", "rprivate"])
def test_what_is_mounted_on_the_host_later(
    urunc: Urunc, tmp_path: pathlib.Path, propagation: str
) -> None:
    """A pod's mountPropagation: HostToContainer; others see nothing of it."""
    need("root", "linux", "qemu", "virtiofsd")
    configure(urunc, KIND)
    script = """
        ls /data/later; echo up; while [ ! -e /data/go ]; do sleep 0.1; done
        sleep 2; echo "found $(ls /data/later)"; touch /data/later/by-guest; echo end
    """
    bundle = linux(tmp_path / "b", script, rootfs=KIND)
    for name in ("data/later", "mounted"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "mounted/news").touch()
    bundle.config["mounts"] = [volume("/data", tmp_path / "data", propagation)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(bound(tmp_path / "data", tmp_path / "data"))
        subprocess.run(["mount", "--make-shared", tmp_path / "data"], check=True)
        with nothing_left(urunc.root):
            container = urunc.create(bundle)
            container.start()
            container.wait_for("up\n", 60)
            with bound(tmp_path / "mounted", tmp_path / "data/later"):
                (tmp_path / "data/go").touch()
                container.wait_for("end\n")
                container.wait_stopped()
            container.delete()
    appears = propagation == "rslave"
    text = container.console.read_text().replace("\r", "")
    assert text.endswith(f"up\nfound {'news' if appears else ''}\nend\n")
    assert (tmp_path / "mounted/by-guest").exists() == appears
    assert (tmp_path / "data/later/by-guest").exists() != appears


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
    configure(urunc, KIND)
    bundle = linux(tmp_path / "b", IN_MEMORY, rootfs=KIND)
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
    assert sorted(os.listdir(bundle.root / "up")) == ["file", "directory"]


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


KUBELET = "var/lib/kubelet/pods/0b5cdf5c-1b2f/containers/app/3f2a91bc"


@pytest.mark.parametrize("filesystem", ["erofs", "virtiofs"])
@pytest.mark.parametrize("verb", ["state", "delete"])
def test_a_termination_message(
    urunc: Urunc, tmp_path: pathlib.Path, filesystem: str, verb: str
) -> None:
    """What the guest has written where terminationMessagePath says is in kubelet's file once the
    container is seen to have stopped: its last 4096 bytes, or with virtiofs all of it."""
    need("root", "linux", "qemu", "images", "virtiofsd")
    path = tmp_path / KUBELET
    path.parent.mkdir(parents=True)
    path.write_text("there before\n")
    path.chmod(0o666)
    configure(urunc, filesystem)
    script = """
        cat /var/message; i=0; while [ $i -lt 1000 ]; do echo $i; i=$((i + 1)); done >/var/message
        umount /var/message; echo covered >/var/message; exit 3
    """
    bundle = linux(tmp_path / "b", script, rootfs=filesystem)
    bundle.config["mounts"] = [volume("/var/message", path, "rprivate", "rw")]
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        container.wait_stopped(60)
        assert "there before" in container.console.read_text()
        if verb == "state":
            assert urunc.state(container.id)["status"] == "stopped"
        else:
            container.delete()
        content = path.read_text()
        if verb == "state":
            path.write_text("read\n")  # it is given back once
            assert urunc.state(container.id)["status"] == "stopped"
            container.delete()
            assert path.read_text() == "read\n"
    expected = "".join(f"{number}\n" for number in range(1000))
    assert content == (expected if filesystem == "virtiofs" else expected[-4 << 10 :])
    assert path.stat().st_mode & 0o777 == 0o666


def test_a_termination_message_of_a_guest_that_is_killed(
    urunc: Urunc, tmp_path: pathlib.Path
) -> None:
    """Nobody in it can say any more what it had written last; so that has been said before, also
    what came shortly after something else."""
    need("root", "linux", "qemu", "images")
    path = tmp_path / KUBELET
    path.parent.mkdir(parents=True)
    path.touch()
    configure(urunc, "erofs")
    script = "echo one >/var/message; sleep 0.05; echo two >>/var/message; echo done; sleep 600"
    bundle = linux(tmp_path / "b", script, rootfs="erofs")
    bundle.config["mounts"] = [volume("/var/message", path, "rprivate", "rw")]
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        container.wait_for("done\n", 60)
        state = json.loads((urunc.root / container.id / "state.json").read_text())
        storage = state["storage"]
        disk = pathlib.Path(storage["disks"][storage["returned"]]["source"])
        eventually(lambda: b"two\n" in disk.read_bytes(), "the last of it is on the disk", 60)
        urunc("kill", container.id, "KILL")
        container.wait_stopped(60)
        container.delete()
        assert path.read_text() == "one\ntwo\n"


def test_a_message_goes_to_no_other_file(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """A link in its place leads nowhere."""
    need("root", "linux", "qemu", "images")
    configure(urunc, "erofs")
    path, other = tmp_path / KUBELET, tmp_path / "other"
    path.parent.mkdir(parents=True)
    path.touch()
    other.write_text("another's\n")
    bundle = linux(tmp_path / "b", "echo out >/dev/termination-log; echo done", rootfs="erofs")
    bundle.config["mounts"] = [volume("/dev/termination-log", path)]
    container = urunc.create(bundle)
    path.unlink()
    path.symlink_to(other)
    container.start()
    container.wait_for("done\n", 60)
    container.wait_stopped(60)
    container.delete()
    assert other.read_text() == "another's\n"


NODES = """
    nodes() { stat -c '%n %a %u %g %t:%T' /dev/null /dev/fuse /dev/net/tun /dev/lost/loops; }
    echo '== nodes'; nodes; echo '== pipe'; stat -c '%F %a' /dev/pipe
    echo '== bound'; stat -c '%n %a %t:%T' /etc/dev/zero /data/full
    echo '== open'; echo x >/dev/null && echo null; (: <>/dev/net/tun) && echo tun
    (: <>/dev/fuse) && echo fuse; dd if=/etc/dev/zero bs=3 count=1 2>/dev/null | wc -c
    (echo x >/data/full) 2>&1 | grep -o 'No space.*'
    echo '== others'; ls /dev/kvm /dev/sound 2>/dev/null | wc -l
"""


def test_nodes_of_the_kernels_own(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """What linux.devices names, with its mode and owner, by the guest's kernel, which loads what it
    needs; what it cannot have is in a warning. On the host no node appears."""
    need("root", "linux", "qemu", "virtiofsd", "runc")
    if not known(str(PARTS / "linux/lib-modules"), ("tun", "loop")) >= {"tun", "loop"}:
        pytest.skip("needs a guest's kernel with these modules (make parts)")
    configure(urunc, KIND)
    bundle = linux(tmp_path / "b", NODES, rootfs=KIND)
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
    for name in ("nodes", "pipe", "others"):
        assert ours[name] == theirs[name], result.stdout + result.stderr
    assert ours["bound"] == "/etc/dev/zero 666 1:5\n/data/full 666 1:7\n"
    assert ours["open"] == "null\ntun\nfuse\n3\nNo space left on device\n"
    assert "devices that the guest does not have: /dev/kvm, /dev/sound\n" in result.stderr
    for path in (tmp_path / "data/full", bundle.root / "etc/dev/zero"):
        assert path.is_file()
        assert path.stat().st_size == 0


def test_a_node_that_is_bound(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """hostPath of type CharDevice, and rootless Podman's `--device`."""
    need("root", "linux", "qemu", "virtiofsd")
    configure(urunc, KIND)
    script = "stat -c '%a %t:%T' /dev/own; dd if=/dev/own bs=3 count=1 2>/dev/null | wc -c"
    bundle = linux(tmp_path / "b", script, rootfs=KIND)
    bundle.config["mounts"] = [volume("/dev/own", pathlib.Path("/dev/zero"))]
    result = run(urunc, bundle)
    assert result.stdout.replace("\r", "") == "666 1:5\n3\n", result.stdout + result.stderr


def test_huge_pages_are_refused(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    need("root", "linux", "qemu", "virtiofsd")
    configure(urunc, KIND)
    bundle = linux(tmp_path / "b", "true", rootfs=KIND)
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
