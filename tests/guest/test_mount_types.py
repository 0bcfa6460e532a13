# SPDX-License-Identifier: Apache-2.0
"""Mounts that are no bind mounts: of the guest's own kernel as they are asked for, overlays and
other file systems mounted on the host first, and what is refused."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from lib.rooted import configure, linux, run
from lib.support import Urunc, need

SAFE = ["nosuid", "noexec", "nodev"]
READ_ONLY = ["ro", *SAFE]
TESTING = """
mount | sed -n 's/ type / /; s/^[^ ]* on //; /^.proc2\\|^.sys \\|^.sys.fs\\|mqueue\\|pts\\|^.fs /p'
for f in /sys/kernel/notes.urunc /sys/fs/cgroup/mine /queues/one /fs/two /proc2/1/comm; do
  case $f in */mine) mkdir $f ;; *comm) cat $f ;; *) touch $f ;; esac && echo made $f
done 2>/dev/null
"""


def mount(destination: str, kind: str, *options: str, source: str = "") -> dict[str, object]:
    """A mount of config.json."""
    return {
        "destination": destination, "type": kind, "source": source or kind,
        "options": list(options),
    }  # fmt: skip


def mounted(said: str) -> dict[str, set[str]]:
    """Place → type and options, of mount(8)'s lines."""
    lines = (line.split(" ") for line in said.splitlines() if "(" in line)
    return {words[0]: {words[1], *words[2].strip("()").split(",")} for words in lines}


def test_of_the_guests_kernel(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """The options that are asked for hold at the usual places, and there are others."""
    need("linux", "qemu", "images")
    configure(urunc, "ext4")
    bundle = linux(tmp_path / "b", TESTING, "sh")
    for name in ("queues", "fs", "proc2"):
        (bundle.root / name).mkdir()
    bundle.config["mounts"] = [
        mount("/proc", "proc", "hidepid=2", *SAFE),
        mount("/dev/pts", "devpts", "newinstance", "ptmxmode=0666", "mode=0600", "nosuid"),
        mount("/dev/mqueue", "mqueue", *READ_ONLY),
        mount("/sys", "sysfs", "rw", *SAFE),
        mount("/sys/fs/cgroup", "cgroup", "rw", "relatime", *SAFE),
        mount("/queues", "mqueue"),
        mount("/fs", "ramfs", "mode=700", "noexec"),
        mount("/proc2", "proc", *READ_ONLY),
    ]
    found = run(urunc, bundle)
    assert found.returncode == 0, found.stdout + found.stderr
    there = mounted(found.stdout)
    assert {"devpts", "mode=600", "ptmxmode=666", "nosuid"} <= there["/dev/pts"]
    assert "noexec" not in there["/dev/pts"]
    assert {"mqueue", "ro"} <= there["/dev/mqueue"]
    assert {"sysfs", "rw", "nosuid"} <= there["/sys"]
    assert {"cgroup2", "rw"} <= there["/sys/fs/cgroup"]
    assert {"mqueue", "rw"} <= there["/queues"]
    assert {"ramfs", "mode=700", "noexec"} <= there["/fs"]
    assert {"proc", "ro"} <= there["/proc2"]
    made = [line for line in found.stdout.splitlines() if line.startswith("made")]
    assert made == ["made /sys/fs/cgroup/mine", "made /queues/one", "made /fs/two",
                    "made /proc2/1/comm"]  # fmt: skip


def test_as_usual(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """What engines say of every container changes nothing: to be read alone, what is the
    kernel's."""
    need("linux", "qemu", "images")
    configure(urunc, "ext4")
    bundle = linux(tmp_path / "b", TESTING, "sh")
    bundle.config["mounts"] = [
        mount("/proc", "proc"),
        mount("/dev/pts", "devpts", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        mount("/dev/mqueue", "mqueue", *SAFE),
        mount("/sys", "sysfs", *READ_ONLY),
        mount("/sys/fs/cgroup", "cgroup", "relatime", *READ_ONLY),
    ]
    found = run(urunc, bundle)
    there = mounted(found.stdout)
    assert "ro" in there["/sys"]
    assert "ro" in there["/sys/fs/cgroup"]
    assert {"rw", "mode=620", "gid=5"} <= there["/dev/pts"]
    assert "made" not in found.stdout


def test_that_the_guests_kernel_has_not(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    need("linux", "qemu", "images")
    configure(urunc, "ext4")
    bundle = linux(tmp_path / "b", "true", "sh")
    bundle.config["mounts"] = [mount("/x", "selinuxfs")]
    found = run(urunc, bundle)
    assert found.returncode != 0
    assert "the kernel has no file system selinuxfs, for /x" in found.stdout + found.stderr


@pytest.fixture
def layers(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory with a comma and a colon in its name, below an overlay."""
    directory = tmp_path / "a,b:c"
    for name in ("lower", "more", "upper", "work"):
        (directory / name).mkdir(parents=True)
    (directory / "lower/text").write_text("lower\n")
    (directory / "more/other").write_text("more\n")
    return directory


def escaped(path: pathlib.Path) -> str:
    """As an overlay's options have it (overlayfs.rst): twice, where mount(2) splits them too."""
    return str(path).replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


ASK = "cat /in/text /in/other; echo guest >/in/text; cat /in/text; touch /in/new && echo new"


@pytest.mark.parametrize("form", ["virtiofs", "ext4"])
def test_an_overlay(urunc: Urunc, tmp_path: pathlib.Path, layers: pathlib.Path, form: str) -> None:
    """Podman's `:O`: what the guest writes goes to the upper directory, or is a copy's; never to
    the lower ones."""
    need("linux", "qemu", "images", *(("virtiofsd",) if form == "virtiofs" else ()))
    configure(urunc, form)
    lower = ":".join(escaped(layers / name) for name in ("lower", "more"))
    options = [f"lowerdir={lower}", f"upperdir={escaped(layers / 'upper')}",
               f"workdir={escaped(layers / 'work')}", "private"]  # fmt: skip
    bundle = linux(tmp_path / "b", ASK, "sh", volumes="copy")
    bundle.config["mounts"] = [mount("/in", "overlay", *options)]
    before = pathlib.Path("/proc/self/mountinfo").read_text().count(str(layers.parent.name))
    found = run(urunc, bundle)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.replace("\r", "") == "lower\nmore\nguest\nnew\n"
    assert (layers / "lower/text").read_text() == "lower\n"
    upper = sorted(path.name for path in (layers / "upper").iterdir())
    assert upper == (["new", "text"] if form == "virtiofs" else [])
    after = pathlib.Path("/proc/self/mountinfo").read_text().count(str(layers.parent.name))
    assert after == before


@pytest.mark.parametrize("form", ["virtiofs", "ext4"])
def test_an_overlay_to_read(
    urunc: Urunc, tmp_path: pathlib.Path, layers: pathlib.Path, form: str
) -> None:
    """Podman's `--mount type=image`: lower directories alone, which nobody writes to."""
    need("linux", "qemu", "images", *(("virtiofsd",) if form == "virtiofs" else ()))
    configure(urunc, form)
    lower = ":".join(escaped(layers / name) for name in ("lower", "more"))
    bundle = linux(tmp_path / "b", ASK, "sh")
    bundle.config["mounts"] = [mount("/in", "overlay", f"lowerdir={lower}")]
    found = run(urunc, bundle)
    assert "lower\nmore\n" in found.stdout, found.stdout + found.stderr
    assert "Read-only file system" in found.stderr
    assert "new" not in found.stdout.splitlines()


def test_a_file_system_of_a_block_device(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """As runc mounts it: on the host, and the directory is shared."""
    need("linux", "qemu", "virtiofsd")
    configure(urunc, "virtiofs")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/text").write_text("on a disk\n")
    disk = tmp_path / "disk"
    words = ["mke2fs", "-q", "-t", "ext4", "-d", str(tmp_path / "tree"), str(disk), "16M"]
    subprocess.run(words, check=True)
    words = ["losetup", "--show", "-f", str(disk)]
    device = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    try:
        bundle = linux(tmp_path / "b", "cat /in/text; echo guest >/in/new", "sh")
        bundle.config["mounts"] = [mount("/in", "ext4", "noatime", source=device)]
        found = run(urunc, bundle)
        assert found.stdout == "on a disk\n", found.stderr
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
    words = ["debugfs", "-R", "cat /new", str(disk)]
    assert "guest" in subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (
            mount("/in", "overlay", "lowerdir=/nowhere", "ro"),
            "mount '/in': mount overlay 'overlay' on the host: no such file or directory",
        ),
        (
            mount("/in", "nosuchfs"),
            "mount '/in': mount nosuchfs 'nosuchfs' on the host: no such device",
        ),
        (mount("/in", "", source="/tmp"), "it is of no type, and no bind mount"),
        (mount("/in", "proc", "remount"), "option 'remount': there is nothing to mount anew"),
        (mount("/in", "proc", "idmap"), "option 'idmap': only a bind mount can show other ids"),
    ],
)
def test_refused(
    urunc: Urunc, tmp_path: pathlib.Path, asked: dict[str, object], complaint: str
) -> None:
    need("root", "linux", "qemu", "virtiofsd", "images")
    configure(urunc, "ext4", "virtiofs")
    bundle = linux(tmp_path / "b", "true", "sh")
    bundle.config["mounts"] = [asked]
    found = run(urunc, bundle)
    assert found.returncode == 1
    assert complaint in found.stderr
    assert not urunc.root.exists() or list(urunc.root.iterdir()) == []
