# SPDX-License-Identifier: Apache-2.0
"""Mounts mean in a guest what they mean to runc: the same bundle is run by both, and what is only
read is read-only on the host, whatever the guest does."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from lib.rooted import PROC, answers, by_runc, configure, linux, run, volume
from lib.support import Urunc, need, nothing_left


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


READ_ONLY = """
    write() { echo "== $1"; (echo guest >$1/new) 2>&1 | grep -o 'Read-only.*'; ls -1 $1; }
    for name in all all/below top top/below top/kept bind file_in again; do write /$name; done
    echo "== file"; (echo guest >/single) 2>&1 | grep -o 'Read-only.*'; cat /single
"""
INSIST = """
    echo "== insist"
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
    configure(urunc, "virtiofs")
    bundle = linux(tmp_path / "b", READ_ONLY, rootfs="virtiofs")
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
        bundle.args("sh", "-c", READ_ONLY + INSIST)
        with nothing_left(urunc.root):
            ours = run(urunc, bundle)
        said = answers(ours.stdout)
        insisted = said.pop("insist", "") + ours.stderr
        assert said == answers(theirs.stdout), ours.stdout + ours.stderr
        assert (tmp_path / "mounted/new").exists()
        # from Linux 6.12 on what is mounted anew may be a mount below the share's root
        elsewhere = insisted.count("/raw/volumes/0/by-force: No such file")
        assert insisted.count("Read-only file system") + elsewhere == 5, insisted
    assert (tmp_path / "single").read_text() == "a file\n"
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("by-force")}
    assert written == set()


def test_what_was_mounted_below_is_gone(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """Between create and start; the others are writable still."""
    need("root", "linux", "qemu", "virtiofsd")
    configure(urunc, "virtiofs")
    script = "for name in /top/kept /top/n*; do touch $name/new; done; ls -1 /top"
    bundle = linux(tmp_path / "b", script, rootfs="virtiofs")
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
        assert said[-3:] in (
            [b"kept", b"no-text-?", b"other"],  # busybox writes it so, up to 1.37
            [b"kept", b"no-text-\xff", b"other"],
        )
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
    configure(urunc, "virtiofs")
    bundle = linux(tmp_path / "b", MEANT, rootfs="virtiofs")
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
    configure(urunc, "virtiofs")
    bundle = linux(tmp_path / "b", "echo no", rootfs="virtiofs")
    kind = "bind" if "rbind" in options else "tmpfs"
    mount = {"destination": "/x", "source": str(tmp_path), "type": kind, "options": options}
    bundle.config["mounts"] = [mount]
    with nothing_left(urunc.root):
        result = run(urunc, bundle)
    assert result.returncode == 1
    assert f"mounts: '/x': option '{options[-1 if kind == 'tmpfs' else 1]}': {why}" in result.stderr


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
    configure(urunc, "virtiofs")
    script = """
        echo '== hosts'; grep -c localhost /etc/hosts; echo '== name'; cat /etc/hostname
        echo '== mine'; cat /etc/resolv.conf
        echo '== write'; echo added >>/etc/hosts && grep added /etc/hosts; pwd
        echo '== own'; cat /etc/own /etc/below/text
    """
    bundle = linux(tmp_path / "b", script, rootfs="virtiofs")
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
    """Also where no engine mounts any: a root filesystem by virtiofs is the host's own. An option
    that a bind mount has no use for is no error, as with runc before 1.2; it is not silent."""
    need("root", "linux", "qemu", "virtiofsd", "runc")
    configure(urunc, "virtiofs")
    bundle = linux(tmp_path / "b", "cat /x/text", rootfs="virtiofs")
    (tmp_path / "x").mkdir()
    (tmp_path / "x/text").write_text("in x\n")
    bundle.config["mounts"] = [PROC, volume("/x", tmp_path / "x", "no-such-option", "sync")]
    theirs = by_runc(urunc, bundle)
    assert (
        theirs.stdout == "in x\n" or "filesystem-specific options" in theirs.stderr
    )  # from 1.2 on
    for name in ("hosts", "hostname", "resolv.conf"):
        (bundle.root / "etc" / name).write_text("of the image\n")
    bundle.config["hostname"] = "a-name"
    bundle.args("sh", "-c", "cat /x/text /etc/hosts /etc/hostname")
    result = run(urunc, bundle)
    assert result.stdout.startswith("in x\n"), result.stdout + result.stderr
    assert "mount '/x': options without effect on a bind mount: no-such-option" in result.stderr
    assert "localhost" in result.stdout, result.stdout + result.stderr
    assert result.stdout.endswith("a-name\r\n") or result.stdout.endswith("a-name\n")
    for name in ("hosts", "hostname", "resolv.conf"):
        assert (bundle.root / "etc" / name).read_text() == "of the image\n"


def test_a_mount_on_the_root_is_refused(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    need("root", "linux", "qemu", "virtiofsd")
    configure(urunc, "virtiofs")
    bundle = linux(tmp_path / "b", "true", rootfs="virtiofs")
    bundle.config["mounts"] = [volume("/..//", tmp_path)]
    with nothing_left(urunc.root):
        result = run(urunc, bundle)
    assert result.returncode == 1
    assert "mount '/'" in result.stderr
    assert "it would hide the container's root filesystem" in result.stderr


def test_what_is_mounted_on_the_host_later(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """A pod's mountPropagation: HostToContainer; others see nothing of it."""
    need("root", "linux", "qemu", "virtiofsd")
    configure(urunc, "virtiofs")
    script = """
        ls /rslave/later /rprivate/later | grep -v :; echo up
        while [ ! -e /rslave/go ]; do sleep 0.1; done; sleep 2
        for name in rslave rprivate; do
            echo "$name $(ls /$name/later)"; touch /$name/later/by-guest
        done; echo end
    """
    bundle = linux(tmp_path / "b", script, rootfs="virtiofs")
    places = [tmp_path / name for name in ("rslave", "rprivate")]
    for place in places:
        for name in ("later", "mounted"):
            (place / name).mkdir(parents=True)
        (place / "mounted/news").touch()
    bundle.config["mounts"] = [volume(f"/{place.name}", place, place.name) for place in places]
    with contextlib.ExitStack() as stack:
        for place in places:
            stack.enter_context(bound(place, place))
            subprocess.run(["mount", "--make-shared", place], check=True)
        with nothing_left(urunc.root):
            container = urunc.create(bundle)
            container.start()
            container.wait_for("up\n", 60)
            with contextlib.ExitStack() as later:
                for place in places:
                    later.enter_context(bound(place / "mounted", place / "later"))
                (tmp_path / "rslave/go").touch()
                container.wait_for("end\n")
                container.wait_stopped()
            container.delete()
    text = container.console.read_text().replace("\r", "")
    assert text.endswith("up\nrslave news\nrprivate \nend\n"), text
    for place in places:
        appears = place.name == "rslave"
        assert (place / "mounted/by-guest").exists() == appears
        assert (place / "later/by-guest").exists() != appears
