# SPDX-License-Identifier: Apache-2.0
"""Root filesystems from containerd's mounts, with the real kernel; in the tests' own mount
namespace or not, nothing is left."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from lib.patience import until
from lib.support import need
from urunc.errors import HostError
from urunc.shim.rootfs import mount_all
from urunc.shim.unmount import unmount_all

LONG = "snapshots-of-a-long-name-" * 6


def mounted(path: pathlib.Path) -> list[str]:
    """The mounts at a path and below: `OPTIONS TYPE OPTIONS-OF-THE-FILESYSTEM`, in order."""
    found = []
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        words = before.split()
        if words[4] == str(path) or words[4].startswith(f"{path}/"):
            found.append(f"{words[5]} {after.split()[0]} {after.split()[2]}")
    return found


def loops(file: pathlib.Path) -> str:
    answer = subprocess.run(["losetup", "-j", str(file)], capture_output=True, text=True)
    return answer.stdout


@pytest.fixture
def bundle(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    need("root")
    before = sorted(os.listdir("/proc/self/fd")), os.getcwd()
    path = tmp_path / "bundle"
    path.mkdir()
    yield path
    subprocess.run(["umount", "-qR", path], check=False)
    assert mounted(path) == []
    assert (sorted(os.listdir("/proc/self/fd")), os.getcwd()) == before


def mount(kind: str, source: object, *options: str, target: str = "") -> dict[str, Any]:
    return {"type": kind, "source": str(source), "target": target, "options": list(options)}


def layers(directory: pathlib.Path, count: int) -> list[str]:
    found = []
    for number in range(count):
        path = directory / str(number) / "fs"
        path.mkdir(parents=True)
        (path / f"of-{number}").write_text(str(number))
        (path / "same").write_text(str(number))
        found.append(str(path))
    return found


def test_bind_with_flags(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Read-only and more, for this mount alone; the source stays as it is."""
    source = tmp_path / "source"
    source.mkdir()
    root = bundle / "rootfs"
    mount_all([mount("bind", source, "rbind", "ro", "nosuid", "nodev", "noexec")], str(root))
    with pytest.raises(OSError, match="Read-only"):
        (root / "x").write_text("")
    for word in ("ro", "nosuid", "nodev", "noexec"):
        assert word in mounted(root)[0].split()[0].split(",")
    (source / "x").write_text("")
    unmount_all(str(root))
    assert list(root.iterdir()) == []
    unmount_all(str(root))


def test_bind_keeps_the_flags_of_its_source(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nosuid,nodev", "t", source], check=True)
    try:
        mount_all([mount("", source, "bind", "ro")], str(bundle / "rootfs"))
        flags = mounted(bundle / "rootfs")[0].split()[0].split(",")
        assert {"ro", "nosuid", "nodev"} <= set(flags)
        unmount_all(str(bundle / "rootfs"))
    finally:
        subprocess.run(["umount", source], check=True)


def test_overlay_of_a_hundred_layers(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """More than a page of options: by names relative to the snapshots' directory."""
    lower = layers(tmp_path / LONG, 100)
    for name in ("upper", "work"):
        (tmp_path / LONG / name).mkdir()
    root = bundle / "rootfs"
    options = (
        "index=off",
        f"workdir={tmp_path / LONG / 'work'}",
        f"upperdir={tmp_path / LONG / 'upper'}",
        "lowerdir=" + ":".join(lower),
    )
    mount_all([mount("overlay", "overlay", *options)], str(root))
    assert {f"of-{number}" for number in range(100)} < set(os.listdir(root))
    assert (root / "same").read_text() == "0"
    (root / "new").write_text("x")
    assert (tmp_path / LONG / "upper/new").read_text() == "x"
    unmount_all(str(root))


def test_what_no_page_holds(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    lower = [f"/{number}{tmp_path / LONG}" for number in range(40)]
    options = ("lowerdir=" + ":".join(lower),)
    with pytest.raises(HostError, match="bytes of options, and mount"):
        mount_all([mount("overlay", "overlay", *options)], str(bundle / "rootfs"))


def test_stacked_and_below(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Later mounts stand on earlier ones, targets within; one call takes all of it away."""
    root = bundle / "rootfs"
    source = tmp_path / "source"
    (source / "in").mkdir(parents=True)
    (source / "in/file").write_text("x")
    wanted = [
        mount("tmpfs", "tmpfs", "size=1m", "nosuid"),
        mount("bind", source, "bind"),
        mount("tmpfs", "tmpfs", "size=1m", target="/in"),
        mount("tmpfs", "tmpfs", "remount", "size=2m", "nodev", target="in"),
    ]
    mount_all(wanted, str(root))
    assert len(mounted(root)) == 3
    assert "size=2048k" in mounted(root)[2]
    unmount_all(str(root))
    assert mounted(root) == []
    assert (source / "in/file").read_text() == "x"


def test_targets_stay_inside(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A link in a layer leads nowhere outside of it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "away").symlink_to(outside)
    (source / "up").symlink_to("../../../inner")
    root = bundle / "rootfs"
    good = [mount("bind", source, "bind"), mount("tmpfs", "t", target="up")]
    mount_all(good, str(root))
    assert mounted(root / "inner")
    unmount_all(str(root))
    with pytest.raises(HostError, match="no such file or directory"):
        mount_all([mount("bind", source, "bind"), mount("tmpfs", "t", target="away")], str(root))
    assert mounted(root) == mounted(outside) == []
    root.rmdir()
    root.symlink_to(outside)
    with pytest.raises(HostError):
        mount_all(good, str(root))
    assert mounted(outside) == []


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (mount("tmpfs", "tmpfs", "size=no"), "mount 'tmpfs' \\(tmpfs\\) at .*invalid argument"),
        (mount("nosuchfs", "x"), "no such device"),
        (mount("bind", "/nowhere", "bind", "ro"), "no such file or directory"),
        (mount("ext4", "/dev/null"), "block device required"),
        (mount("overlay", "overlay", "X-containerd.mkfs"), "not known to this shim"),
        (mount("fuse3.fuse-overlayfs", "overlay"), "no FUSE helper"),
        (mount("ext4", "/nowhere", "loop"), "loop device for '/nowhere': no such file"),
    ],
)  # fmt: skip
def test_a_failure_leaves_nothing(bundle: pathlib.Path, bad: dict[str, Any], said: str) -> None:
    root = bundle / "rootfs"
    with pytest.raises(HostError, match=said):
        mount_all([mount("tmpfs", "tmpfs"), mount("tmpfs", "tmpfs"), bad], str(root))
    assert mounted(root) == []


def test_a_propagation_that_fails_takes_its_mount_along(bundle: pathlib.Path) -> None:
    wanted = [mount("tmpfs", "tmpfs", "rprivate"), mount("tmpfs", "tmpfs", "shared", "shared")]
    mount_all(wanted, str(bundle / "rootfs"))
    text = pathlib.Path("/proc/self/mountinfo").read_text()
    lines = [line for line in text.splitlines() if f" {bundle}/rootfs " in line]
    assert ["shared:" in line for line in lines] == [False, True]
    unmount_all(str(bundle / "rootfs"))


def test_loop_device(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A file with a filesystem; the device is free again with the mount."""
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("needs loop devices")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    root = bundle / "rootfs"
    mount_all([mount("ext4", image, "loop")], str(root))
    (root / "file").write_text("x")
    assert loops(image)
    unmount_all(str(root))
    mount_all([mount("ext4", image, "loop", "ro")], str(root))
    assert (root / "file").read_text() == "x"
    assert mounted(root)[0].startswith("ro,")
    device = loops(image).partition(":")[0]
    assert pathlib.Path(f"/sys/block/{device[5:]}/ro").read_text() == "1\n"
    unmount_all(str(root))
    until(lambda: loops(image) == "")


def test_block_device(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """As the snapshotters of block devices name it: no word of a loop."""
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("needs loop devices")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    made = subprocess.run(
        ["losetup", "--show", "-f", image], check=True, capture_output=True, text=True
    )
    device = made.stdout.strip()
    try:
        options = ("rw", "noatime", "errors=remount-ro")
        mount_all([mount("ext4", device, *options)], str(bundle / "rootfs"))
        assert (bundle / "rootfs/lost+found").is_dir()
        unmount_all(str(bundle / "rootfs"))
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def test_unmount_what_is_in_use(bundle: pathlib.Path) -> None:
    root = bundle / "rootfs"
    mount_all([mount("tmpfs", "tmpfs"), mount("tmpfs", "tmpfs", "ro")], str(root))
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        unmount_all(str(root))
        assert mounted(root) == []
    finally:
        os.close(descriptor)


def test_unmount_of_a_root_of_the_bundle(bundle: pathlib.Path) -> None:
    """What somebody mounted into a root that is no mount itself; odd names, too."""
    odd = bundle / "rootfs/a b\\c/d"
    odd.mkdir(parents=True)
    for path in (odd.parent, odd.parent / "e"):
        path.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "t", path], check=True)
    unmount_all(str(bundle / "rootfs"))
    assert odd.is_dir()


def test_nothing_to_unmount(bundle: pathlib.Path) -> None:
    unmount_all(str(bundle / "rootfs"))
    (bundle / "rootfs").write_text("a file")
    unmount_all(str(bundle / "rootfs"))
    mount_all([], str(bundle / "other"))
    assert not (bundle / "other").exists()


MAPS = ("uidmap=0:700000:65536", "gidmap=0:800000:65536")


def owners(*paths: pathlib.Path) -> list[tuple[int, int]]:
    return [(facts.st_uid, facts.st_gid) for facts in map(os.stat, paths)]


def test_an_overlay_with_mapped_ids(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """What containerd's overlay snapshotter says for a container with a user namespace: the lower
    directories show other ids, the upper one has them."""
    root = bundle / "rootfs"
    odd = tmp_path / "a:b"
    lowers = [*layers(odd, 3), *layers(tmp_path / LONG, 60)]
    upper, work = tmp_path / "upper", tmp_path / "work"
    upper.mkdir()
    work.mkdir()
    os.chown(upper, 700_000, 800_000)
    os.chown(pathlib.Path(lowers[0]) / "same", 7, 8)
    names = ":".join(lower.replace(":", "\\:") for lower in lowers)
    options = (f"lowerdir={names}", f"upperdir={upper}", f"workdir={work}", *MAPS)
    mount_all([mount("overlay", "overlay", *options)], str(root))
    assert owners(root, root / "of-59", root / "same") == [
        (700_000, 800_000), (700_000, 800_000), (700_007, 800_008),
    ]  # fmt: skip
    assert (root / "same").read_text() == "0"
    assert owners(pathlib.Path(lowers[0]) / "same") == [(7, 8)]
    (root / "new").write_text("")
    assert (upper / "new").exists()
    unmount_all(str(root))
    assert list(root.iterdir()) == []


def test_other_mounts_with_mapped_ids(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A view of one layer, which is bound."""
    root = bundle / "rootfs"
    (lower,) = layers(tmp_path, 1)
    mount_all([mount("bind", lower, "rbind", "ro", *MAPS)], str(root))
    assert owners(root / "same") == [(700_000, 800_000)]
    with pytest.raises(OSError, match="Read-only"):
        (root / "x").write_text("")
    unmount_all(str(root))
    mount_all([mount("tmpfs", "tmpfs", "size=1m", "uid=5", *MAPS)], str(root))
    assert owners(root) == [(700_005, 800_000)]
    unmount_all(str(root))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("rbind", MAPS[0]), "mount option 'uidmap=': not without the other one"),
        (("rbind", "uidmap=0:x:1", MAPS[1]), "no uidmap of CONTAINER:HOST:SIZE"),
        (("rbind", "uidmap=0:5:10,5:90:10", MAPS[1]), "ranges must not overlap"),
    ],
)
def test_mappings_that_are_none(
    bundle: pathlib.Path, tmp_path: pathlib.Path, options: tuple[str, ...], complaint: str
) -> None:
    (lower,) = layers(tmp_path, 1)
    with pytest.raises(HostError) as caught:
        mount_all([mount("bind", lower, *options)], str(bundle / "rootfs"))
    assert complaint in f"{caught.value.message} {caught.value.hint}"


def test_what_cannot_be_mapped(bundle: pathlib.Path) -> None:
    with pytest.raises(HostError, match="map ids") as caught:
        mount_all([mount("bind", "/proc", "bind", *MAPS)], str(bundle / "rootfs"))
    assert "maps no ids with this kernel" in caught.value.hint
