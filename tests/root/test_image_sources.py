# SPDX-License-Identifier: Apache-2.0
"""What an image of a root filesystem is made from is known by a key: layers of real overlays,
directories, files, block devices."""

from __future__ import annotations

import ctypes
import os
import pathlib
import subprocess
import time

import pytest

from lib.places.layers import Place, image_place, native
from urunc.storage import images, trees
from urunc.storage.layers import identify

place = pytest.fixture(image_place)


def test_one_key_for_the_same_layers(place: Place) -> None:
    """Whatever is in the upper directory; another order, another layer, another option are
    others."""
    a, b, c = (place.directory(name, file=name) for name in "abc")
    place.directory("a/very/deep/inside", file="1")
    first = identify(str(place.overlay("c1", a, b)))
    second_root = place.overlay("c2", a, b)
    (second_root / "file").write_text("changed")
    second = identify(str(second_root))
    assert first.kind == second.kind == "layers"
    assert first.lowers == (str(a), str(b))
    assert second.upper == str(place.path / "c2/fs")
    others = [
        place.overlay("c3", b, a),
        place.overlay("c4", a),
        place.overlay("c5", a, b, c),
        place.overlay("c6", a, b, options=",redirect_dir=on,metacopy=on"),
    ]
    keys = [first.key, *(identify(str(root)).key for root in others)]
    assert second.key == first.key
    assert len(set(keys)) == len(keys)


def test_a_changed_layer_is_another(place: Place) -> None:
    """An engine that fills a directory anew gives it another inode, or another time."""
    a, b = place.directory("a", file="1"), place.directory("b", file="2")
    before = identify(str(place.overlay("c1", a, b))).key
    facts = os.stat(b)
    (b / "more").write_text("3")
    os.utime(b, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # as if it had not been
    assert identify(str(place.overlay("c2", a, b))).key != before


def init_layer(place: Place, name: str) -> pathlib.Path:
    """As Docker makes it for each container (overlay2)."""
    made = place.directory(name)
    for directory in ("dev/pts", "dev/shm", "proc", "sys", "etc"):
        (made / directory).mkdir(parents=True)
    for file in (".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf"):
        (made / file).write_text("")
    (made / "etc/mtab").symlink_to("/proc/mounts")
    return made


def test_a_layer_of_mount_points_is_known_by_its_listing(place: Place) -> None:
    image = place.directory("image", file="x")
    (image / "etc").mkdir()
    first, second, content, mode, opaque, many = (
        init_layer(place, f"{name}-init") for name in "123456"
    )
    (content / "etc/hostname").write_text("h")
    (mode / "dev/console").chmod(0o600)
    os.setxattr(opaque / "etc", "trusted.overlay.opaque", b"y")
    for number in range(64):
        (many / f"empty-{number}").write_text("")
    keys = [
        identify(str(place.overlay(f"c{number}", layer, image))).key
        for number, layer in enumerate((first, second, content, mode, opaque, many))
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 5
    image_of_first = place.obtain(place.path / "c0/rootfs")
    assert place.obtain(place.path / "c1/rootfs").path == image_of_first.path
    assert (place.look(image_of_first) / "etc/mtab").is_symlink()


@pytest.mark.parametrize("absolute_upper", (True, False))
def test_layers_by_relative_names(place: Place, absolute_upper: bool) -> None:
    """containerd and Docker name many layers from a directory that they are in."""
    for name in ("10/fs", "9/fs"):
        place.directory(f"store/{name}", **{f"of-{name[0]}": name})
    store = place.path / "store"
    point = place.directory("store/12/merged")
    place.directory("store/12/fs"), place.directory("store/12/work")
    before = f"{store}/" if absolute_upper else ""
    options = f"lowerdir=10/fs:9/fs,upperdir={before}12/fs,workdir={before}12/work"
    place.mount("-t", "overlay", "overlay", "-o", options, point, where=store)
    source = identify(str(point))
    assert (source.kind, source.lowers) == ("layers", (f"{store}/10/fs", f"{store}/9/fs"))
    assert source.upper == f"{store}/12/fs"
    assert sorted(os.listdir(place.look(place.obtain(source)))) == ["of-1", "of-9"]


def test_odd_names_of_layers(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As mount(2) takes them, each with its own way to write a colon."""
    names = ["a:b", "c,d", "e f", "g\\h", "ü\udcff"]
    lowers = [place.directory(name, **{f"of-{n}": ""}) for n, name in enumerate(names)]
    place.directory("up,per"), place.directory("work")
    point = place.directory("mer ged\\x:y,z")
    lowerdir = ":".join(
        str(lower).replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,") for lower in lowers
    )
    options = f"lowerdir={lowerdir},upperdir={place.path}/up\\,per,workdir={place.path}/work"
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"o", os.fsencode(point), b"overlay", 0, os.fsencode(options)) == 0
    place.mounted.append(point)
    source = identify(str(point))
    assert source.lowers == tuple(map(str, lowers))
    assert source.upper == str(place.path / "up,per")
    assert len(os.listdir(place.look(place.obtain(source)))) == len(names)
    older_kernel(monkeypatch)
    assert identify(str(point)) == source


def older_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without statmount(2): what it says is read from the table."""

    def refuse(*_: object) -> bytes:
        raise OSError(38, "no such system call")

    monkeypatch.setattr("urunc.linux._linux.statmount", refuse)


def test_layers_that_were_added_one_by_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new mount interface's `lowerdir+` (Linux 6.7), whose values nothing is escaped in."""
    lowers = [place.directory("a:b", x="1"), place.directory("c", y="2")]
    point = place.directory("merged")
    libc = ctypes.CDLL(None, use_errno=True)
    fsopen, fsconfig, fsmount, move_mount = 430, 431, 432, 429
    context = libc.syscall(fsopen, b"overlay", 0)
    for lower in lowers:
        if libc.syscall(fsconfig, context, 1, b"lowerdir+", os.fsencode(lower), 0):
            os.close(context)
            pytest.skip("this kernel has no lowerdir+")
    assert libc.syscall(fsconfig, context, 6, None, None, 0) == 0
    tree = libc.syscall(fsmount, context, 0, 0)
    assert libc.syscall(move_mount, tree, b"", -100, os.fsencode(point), 4) == 0
    place.mounted.append(point)
    for fd in (tree, context):
        os.close(fd)
    source = identify(str(point))
    assert source.lowers == tuple(map(str, lowers))
    older_kernel(monkeypatch)
    assert identify(str(point)) == source


def test_layers_with_notes_of_overlay(place: Place) -> None:
    """Where an engine has metacopy and redirect_dir, a layer may hold a file's mode alone, and a
    directory's new name."""
    bottom = place.directory("bottom", program="text")
    (bottom / "old").mkdir()
    (bottom / "old/file").write_text("inside")
    options = ",metacopy=on,redirect_dir=on"
    root = place.overlay("c1", bottom, options=options)
    (root / "program").chmod(0o755)
    (root / "old").rename(root / "new")
    place.umount(root)
    image = place.obtain(place.overlay("c2", place.path / "c1/fs", bottom, options=options))
    seen = place.look(image)
    assert sorted(os.listdir(seen)) == ["new", "program"]
    assert (seen / "program").read_text() == "text"
    assert (seen / "program").stat().st_mode & 0o777 == 0o755
    assert (seen / "new/file").read_text() == "inside"


def test_many_layers(place: Place) -> None:
    """More than fit into the page of options that mount(2) takes, by their whole names."""
    store = place.directory("store-of-a-long-name-" * 5)
    for number in range(100):
        (store / str(number)).mkdir()
        (store / str(number) / f"of-{number}").write_text("")
    place.directory("up"), place.directory("work")
    point = place.directory("merged")
    names = ":".join(str(number) for number in range(100))
    options = f"lowerdir={names},upperdir=../up,workdir=../work"
    place.mount("-t", "overlay", "overlay", "-o", options, point, where=store)
    source = identify(str(point))
    assert source.kind == "tree"  # nothing says which directory they are relative to
    assert len(os.listdir(place.look(place.obtain(source)))) == 100
    place.umount(point)
    options = f"lowerdir={names},upperdir={place.path}/up,workdir={place.path}/work"
    inside = place.directory(f"{store.name}/c/merged")
    place.mount("-t", "overlay", "overlay", "-o", options, inside, where=store)
    source = identify(str(inside))
    assert (source.kind, len(source.lowers)) == ("layers", 100)
    assert len(os.listdir(place.look(place.obtain(source)))) == 100


def test_directories_are_known_by_what_they_hold(place: Place) -> None:
    """The same files have one image, wherever they lie. Other contents with the same name, size,
    mode, owner and times do not find it."""
    first = place.obtain(native(place, "one"))
    same = place.obtain(native(place, "two"))
    forged = place.obtain(native(place, "three", "xyz"))
    assert (first.built, same.built, forged.built) == (True, False, True)
    assert same.path == first.path
    assert (place.look(forged) / "program").read_text() == "xyz"
    (place.path / "two/program").chmod(0o755)
    assert place.obtain(place.path / "two").built


def test_a_directory_is_read_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel has seen no change of is what it was."""
    root = native(place, "one")
    time.sleep(0.2)  # until the kernel's clock of changes has gone on
    first = place.obtain(root)
    with monkeypatch.context() as patch:
        patch.delattr(trees, "_content")
        assert place.obtain(root).path == first.path
    (root / "program").write_text("xyz")
    os.utime(root / "program", ns=(10**18, 10**18))
    assert place.obtain(root).path != first.path


def test_what_is_mounted_in_a_directory_is_not_its(place: Place) -> None:
    root = native(place, "one")
    before = place.obtain(root)
    place.mount("-t", "tmpfs", "tmpfs", root / "etc")
    (root / "etc/token").write_text("a token")
    assert place.obtain(root).path == before.path
    private = images.build_private(str(root), "ext4", str(place.path / "own"), place.config)
    assert os.listdir(place.look(private) / "etc") == []


def test_a_block_device_of_its_own(place: Place) -> None:
    """A loop device stands for a snapshot of devmapper's."""
    image = place.path / "snapshot"
    subprocess.run(["mkfs.ext4", "-q", image, "16m"], check=True)
    root = place.look(image, "rw")
    (root / "file").write_text("x")
    source = identify(str(root))
    assert (source.kind, source.device_filesystem) == ("device", "ext4")
    found = subprocess.run(["losetup", "-j", image], capture_output=True, text=True).stdout
    assert source.device == found.partition(":")[0]
    assert (place.look(place.obtain(source)) / "file").read_text() == "x"
    bundle = place.directory("bundle")
    place.mount("--bind", root / "lost+found", bundle)
    assert identify(str(bundle)).kind == "tree"  # a part of a filesystem


def test_layers_in_files_are_known_by_the_files(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an erofs image inodes and times are its author's."""
    lowers = []
    for name in ("good", "evil"):
        place.directory(name, program=name)
        words = ["mkfs.erofs", "-T1", f"{place.path}/{name}.erofs", str(place.path / name)]
        subprocess.run(words, check=True, capture_output=True)
        lowers.append(place.look(place.path / f"{name}.erofs"))
    good, evil = map(os.stat, lowers)
    assert (good.st_ino, good.st_ctime_ns) == (evil.st_ino, evil.st_ctime_ns)
    sources = [identify(str(place.overlay(f"c{n}", lower))) for n, lower in enumerate(lowers)]
    assert [source.kind for source in sources] == ["layers", "layers"]
    for point in [*reversed(place.mounted)]:
        place.umount(point)  # the same loop device for the other image
    again = [place.look(place.path / f"{name}.erofs") for name in ("evil", "good")]
    second = [identify(str(place.overlay(f"d{n}", lower))) for n, lower in enumerate(again)]
    keys = {source.key for source in sources}
    assert keys.isdisjoint({second[0].key}) or second[0].key == sources[1].key
    assert place.obtain(second[1]).path != place.obtain(second[0]).path
    older_kernel(monkeypatch)
    assert identify(second[0].root) == second[0]


def test_a_layer_that_is_not_there_any_more(place: Place) -> None:
    """An engine's mount over a directory that lasts no longer than its mount(2) (Podman's mapped
    layers): what is at the path now is not the layer."""
    real, empty = place.directory("real", file="x"), place.directory("mapped")
    place.mount("--bind", real, empty)
    root = place.overlay("c", empty)
    place.umount(empty)
    image = place.obtain(root)
    assert os.listdir(place.look(image)) == ["file"]
