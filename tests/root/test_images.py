# SPDX-License-Identifier: Apache-2.0
"""Images of root filesystems: layers of real overlays, the filesystems' own programs, and what is
in the images in the end."""

from __future__ import annotations

import ctypes
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from lib.places.layers import Place, contents
from lib.support import need
from urunc.bundle.namespaces import IdMapping
from urunc.errors import HostError
from urunc.ids import IdMap
from urunc.storage import images, mkfs, trees, writable_layer
from urunc.storage.layers import identify
from urunc.storage.ownership import Owners

FORMS = ("ext2", "ext4", "erofs", "squashfs")
SECRET = "correct-horse-battery-staple"
MIB = 1 << 20


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Iterator[Place]:
    need("root", "images")
    descriptors = sorted(os.listdir("/proc/self/fd"))
    made = Place(tmp_path)
    yield made
    made.clean()
    assert sorted(os.listdir("/proc/self/fd")) == descriptors


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
    os.close(tree), os.close(context)
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


@pytest.mark.parametrize("form", FORMS)
def test_layers_become_an_image(place: Place, form: str) -> None:
    """What lower directories hold together. Nothing of the upper one, nothing that is mounted: not
    as a file, and not as bytes in free blocks."""
    bottom = place.directory("bottom", kept="kept", changed="old", gone="gone")
    top = place.directory("top", changed="new")
    for directory in ("volume", "memory"):
        (bottom / directory).mkdir()
    os.mknod(top / "gone", 0o600 | 0o020000, 0)  # overlay's sign for "removed"
    root = place.overlay("c1", top, bottom)
    (root / "secret").write_text(SECRET)
    (root / "kept").write_text(SECRET)
    place.mount("--bind", place.directory("secrets", token=SECRET), root / "volume")
    place.mount("-t", "tmpfs", "tmpfs", root / "memory")
    (root / "memory/token").write_text(SECRET)
    first = place.obtain(root, form)
    assert first.built
    again = place.obtain(place.overlay("c2", top, bottom), form)
    assert (again.path, again.built) == (first.path, False)
    assert (again.size_bytes, again.key) == (os.stat(first.path).st_size, first.key)
    assert SECRET.encode() not in pathlib.Path(first.path).read_bytes()
    seen = place.look(first)
    assert sorted(os.listdir(seen)) == ["changed", "kept", "memory", "volume"]
    assert (seen / "kept").read_text() == "kept"
    assert (seen / "changed").read_text() == "new"
    assert os.listdir(seen / "volume") == os.listdir(seen / "memory") == []


def fill(root: pathlib.Path) -> None:
    """One of everything that a root filesystem can hold."""
    for path, content in {
        "bin/su": "setuid", "etc/shadow": "x", "empty": "", "large": "0123456789" * 50_000,
        "a name\twith ü\n": "odd", "lost+found/found": "y", "etc/lost+found.txt": "z",
    }.items():  # fmt: skip
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(content)
    (root / "bin/su").chmod(0o6755)
    (root / "etc/shadow").chmod(0)
    os.chown(root / "etc/shadow", 100_000, 3_000_000_000)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    for name, mode, major, minor in (
        ("null", 0o020666, 1, 3), ("sda", 0o060660, 8, 0), ("pipe", 0o010600, 0, 0),
    ):  # fmt: skip
        os.mknod(root / name, mode, os.makedev(major, minor))
        os.chmod(root / name, mode & 0o7777)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(root / "sock"))
    os.link(root / "large", root / "etc/large")
    (root / "away").symlink_to("/etc/passwd")
    (root / "long").symlink_to("x" * 300)
    os.setxattr(
        root / "bin/su", "security.capability", bytes.fromhex("0100000200040000" + "0" * 24)
    )
    os.setxattr(root / "etc", "user.note", b"n" * 200)
    with (root / "sparse").open("wb") as file:
        file.seek(3 * MIB)
        file.write(b"end")
    with open(os.fsencode(root) + b"/\xff\xfe", "wb") as file:
        file.write(b"no UTF-8")
    for name in ("bin/su", "large"):
        os.utime(root / name, (1_000_000_000, 1_000_000_001))
    root.chmod(0o751)
    os.chown(root, 7, 8)


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_file_is_data(place: Place, form: str) -> None:
    """Modes, owners, links, nodes, holes and attributes are as they are in the tree."""
    layer = place.directory("layer")
    fill(layer)
    image = place.obtain(place.overlay("c", layer), form)
    wanted = contents(layer)
    found = contents(place.look(image))
    if form == "erofs" and found != wanted:  # its program leaves these out until 1.6
        wanted = {path: fact for path, fact in wanted.items() if b"lost+found" not in path}
        (said,) = image.omitted
        assert "'lost+found' and 1 more" in said or "'etc/lost+found.txt' and 1 more" in said
    else:
        assert not image.omitted
    assert found == wanted
    if form.startswith("ext"):
        subprocess.run(["e2fsck", "-fn", image.path], check=True, capture_output=True)


OWNERS = Owners(
    users=IdMap(ranges=(
        IdMapping(container=0, host=100_000, size=65_536),
        IdMapping(container=70_000, host=7, size=1),
    )),
    groups=IdMap(ranges=(IdMapping(container=200_000, host=0, size=10_000),)),
)  # fmt: skip


def test_owners() -> None:
    """As /proc/self/uid_map has it; what is not mapped is nobody's."""
    assert [OWNERS.user(uid) for uid in (100_000, 165_535, 7)] == [0, 65_535, 70_000]
    assert {OWNERS.user(uid) for uid in (0, 6, 8, 99_999, 165_536)} == {65_534}
    assert OWNERS.group(8) == 200_008
    assert OWNERS.group(3_000_000_000) == 65_534
    assert OWNERS.name == "u0:100000+65536 u70000:7+1 g200000:0+10000"


@pytest.mark.parametrize("form", FORMS)
def test_owners_in_a_user_namespace(place: Place, form: str) -> None:
    """All is as in the tree, but that files belong to the container's ids."""
    layer = place.directory("layer")
    fill(layer)
    for number in range(300):  # more than a block of a directory or a table of inodes holds
        file = layer / f"tmp/{'x' * 40}{number}"
        file.touch()
        os.chown(file, 100_000 + number, number)
    root = place.overlay("c", layer)
    owners = OWNERS
    if form == "squashfs":  # has one table for users and groups
        with pytest.raises(HostError, match="cannot tell apart: choose another form"):
            place.obtain(root, form, OWNERS)
        owners = Owners(users=OWNERS.users, groups=OWNERS.users)
    wanted = {
        path: [mode, owners.user(uid), owners.group(gid), *rest]
        for path, (mode, uid, gid, *rest) in contents(layer).items()
        if form != "erofs" or b"lost+found" not in path
    }
    image = place.obtain(root, form, owners)
    assert contents(place.look(image)) == wanted
    if form.startswith("ext"):
        subprocess.run(["e2fsck", "-fn", image.path], check=True, capture_output=True)
    elif form == "erofs":
        subprocess.run(["fsck.erofs", image.path], check=True, capture_output=True)
    plain = place.obtain(root, form)
    assert plain.built
    assert plain.path != image.path
    assert not place.obtain(root, form, owners).built


@pytest.mark.parametrize(("form", "prefix"), (("cpio", "."), ("root-cpio", "root")))
def test_an_archive(place: Place, form: str, prefix: str) -> None:
    """As the kernel unpacks it; of what newc cannot hold each container is told."""
    layer = place.directory("layer")
    fill(layer)
    root = place.overlay("c", layer)
    image = place.obtain(root, form)
    unpacked = place.directory("unpacked")
    with open(image.path, "rb") as archive:
        words = ["cpio", "-idm", "--quiet"]
        subprocess.run(words, stdin=archive, cwd=unpacked, check=True)
        archive.seek(0)
        words = ["cpio", "-tvn", "--quiet"]
        listed = subprocess.run(words, stdin=archive, capture_output=True, check=True).stdout
    for name in ("etc", "bin/su"):
        for attribute in os.listxattr(layer / name):
            os.removexattr(layer / name, attribute)
    found, wanted = contents(unpacked / prefix), contents(layer)
    if prefix == ".":  # cpio(1) leaves a directory that is there as it is; the kernel does not
        assert listed.split()[:4] == [b"drwxr-x--x", b"2", b"7", b"8"]
        del found[b"/."], wanted[b"/."]
    assert found == wanted
    assert any("security.capability" in omission for omission in image.omitted)
    again = place.obtain(root, form)
    assert (again.built, again.omitted) == (False, image.omitted)


def native(place: Place, name: str, content: str = "abc") -> pathlib.Path:
    """A root filesystem without layers; all copies look the same from outside."""
    root = place.directory(name, program=content)
    (root / "etc").mkdir()
    os.utime(root / "program", ns=(10**18, 10**18))
    return root


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
    (root / "etc/token").write_text(SECRET)
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


def test_an_image_to_write_to(place: Place) -> None:
    """A private copy has free room, keeps holes, and leaves the shared image as it is."""
    place.config.values["storage.slack_mib"] = 64
    image = place.obtain(place.overlay("c", place.directory("layer", file="x")))
    before = pathlib.Path(image.path).read_bytes()
    target = place.path / "copy"
    images.private_copy(image.path, str(target))
    assert target.read_bytes() == before
    assert target.stat().st_blocks <= os.stat(image.path).st_blocks + 8
    seen = place.look(target, "rw")
    (seen / "more").write_bytes(bytes(60 * MIB))
    place.umount(seen)
    subprocess.run(["e2fsck", "-fn", target], check=True, capture_output=True)
    assert pathlib.Path(image.path).read_bytes() == before
    with pytest.raises(HostError, match="file exists"):
        images.private_copy(image.path, str(target))


def test_a_copy_of_a_given_size(place: Place) -> None:
    """Larger than the image or smaller, as long as it holds the files."""
    place.config.values["storage.slack_mib"] = 64
    layer = place.directory("layer", file="x")
    (layer / "noise").write_bytes(os.urandom(8 * MIB))
    image = place.obtain(place.overlay("c", layer), "ext2")
    for size_mib in (300, 24):
        target = place.path / f"copy{size_mib}"
        images.private_copy(image.path, str(target))
        writable_layer.resize(str(target), size_mib)
        assert target.stat().st_size == size_mib * MIB
        assert target.stat().st_blocks * 512 < 16 * MIB
        subprocess.run(["e2fsck", "-fn", target], check=True, capture_output=True)
        seen = place.look(target, "rw")
        assert (seen / "noise").read_bytes() == (layer / "noise").read_bytes()
        (seen / "more").write_bytes(bytes((size_mib - 12) * MIB))
        with pytest.raises(OSError, match="No space left on device"):
            (seen / "too-much").write_bytes(bytes(12 * MIB))
        place.umount(seen)
    target = place.path / "small"
    images.private_copy(image.path, str(target))
    with pytest.raises(HostError, match="6 MiB are too few"):
        writable_layer.resize(str(target), 6)
    assert not target.exists()


def test_a_disk_for_what_a_guest_writes(place: Place) -> None:
    """Empty, sparse, and whole; on a full disk nothing of it stays."""
    target = place.path / "layer.ext4"
    writable_layer.make_layer(str(target), 5000)
    assert target.stat().st_size == 5000 * MIB
    assert target.stat().st_blocks * 512 < 4 * MIB
    subprocess.run(["e2fsck", "-fn", target], check=True, capture_output=True)
    seen = place.look(target, "rw")
    (seen / "file").write_bytes(bytes(MIB))
    place.umount(seen)
    small = place.directory("small")
    place.mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", small)
    with pytest.raises(HostError, match=r"no space|mke2fs ended with"):
        writable_layer.make_layer(f"{small}/layer", 5000)
    assert os.listdir(small) == []


def test_no_room_for_a_copy(place: Place) -> None:
    layer = place.directory("layer")
    (layer / "noise").write_bytes(os.urandom(4 * MIB))
    image = place.obtain(place.overlay("c", layer))
    small = place.directory("small")
    place.mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", small)
    with pytest.raises(HostError, match="no space left on device"):
        images.private_copy(image.path, f"{small}/copy")
    assert os.listdir(small) == []


def test_an_image_of_one_container(place: Place) -> None:
    """With what the container has written, and outside the cache."""
    root = place.overlay("c", place.directory("layer", file="x"))
    (root / "mine").write_text("y")
    target = place.path / "own.ext4"
    image = images.build_private(str(root), "ext4", str(target), place.config)
    assert (image.path, image.size_bytes) == (str(target), target.stat().st_size)
    assert sorted(os.listdir(place.look(image))) == ["file", "mine"]
    assert place.files() == []


def test_huge_and_sparse(place: Place) -> None:
    """A hole takes nothing where the form keeps it; where not, it counts."""
    layer = place.directory("layer")
    with (layer / "disk").open("wb") as file:
        file.seek(100 << 30)
        file.write(b"end")
    root = place.overlay("c", layer)
    image = place.obtain(root, "ext4")
    assert os.stat(image.path).st_blocks * 512 < 40 * MIB
    with (place.look(image) / "disk").open("rb") as file:
        file.seek(100 << 30)
        assert file.read() == b"end"
    for form in ("erofs", "squashfs", "cpio"):
        with pytest.raises(HostError, match="102400 MiB of files with their holes, and 16384"):
            place.obtain(root, form)
    place.config.values["storage.image_limit_mib"] = 1
    (layer / "large").write_bytes(os.urandom(2 * MIB))
    with pytest.raises(HostError, match="2 MiB of files, and 1 are the limit"):
        place.obtain(place.overlay("c2", layer), "ext4")
    assert [name for name in place.files() if image.key not in name] == []


def test_many_small_files(place: Place) -> None:
    """An ext image has inodes and directories' blocks enough, without any free room asked for."""
    place.config.values["storage.slack_mib"] = 0
    layer = place.directory("layer")
    for number in range(200):
        directory = layer / f"directory-{number}"
        directory.mkdir()
        for file in range(60):
            (directory / f"a-file-of-some-{'x' * (file * 3)}").write_text(str(file))
    for form in ("ext2", "ext4"):
        image = place.obtain(place.overlay(form, layer), form)
        assert contents(place.look(image)) == contents(layer)


LOOKING = """#!/bin/sh
cat /proc/self/mountinfo >{out}/mounts
grep -c : /proc/self/net/dev >{out}/devices
grep Cap /proc/self/status >{out}/capabilities
echo "it is all wrong" >&2
exit 3
"""


def program(place: Place, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> pathlib.Path:
    """A program in place of a filesystem's own."""
    directory = place.directory("bin")
    (directory / name).write_text(text.format(out=directory))
    (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def test_what_a_builder_sees(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tree read-only and as data, no network; what it complains about is told."""
    out = program(place, monkeypatch, "mkfs.erofs", LOOKING)
    root = place.overlay("c", place.directory("layer", file="x"))
    for source in (root, native(place, "directory")):
        with pytest.raises(HostError, match=r"mkfs\.erofs ended with 3: it is all wrong"):
            place.obtain(source, "erofs")
        mounts = (out / "mounts").read_text().splitlines()
        (line,) = [line for line in mounts if line.split()[4] == f"{place.cache}/mnt/root"]
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(line.split()[5].split(","))
        assert (out / "devices").read_text() == "1\n"  # lo
        words = (out / "capabilities").read_text().split()
        sets = dict(zip(words[::2], (int(word, 16) for word in words[1::2]), strict=True))
        dac_override, dac_read_search = 1 << 1, 1 << 2
        assert sets["CapPrm:"] == sets["CapEff:"] == dac_override | dac_read_search
    assert place.files() == []
    assert str(place.cache) not in pathlib.Path("/proc/self/mountinfo").read_text()


def test_a_builder_that_hangs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    out = program(place, monkeypatch, "mke2fs", "#!/bin/sh\necho $$ >{out}/pid\nexec sleep 60\n")
    place.config.values["storage.build_timeout_s"] = 1
    with pytest.raises(HostError, match="not done within 1 s"):
        place.obtain(place.overlay("c", place.directory("layer")))
    assert place.files() == []
    pid = int((out / "pid").read_text())
    end = time.monotonic() + 5
    while pathlib.Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert not pathlib.Path(f"/proc/{pid}").exists()


def test_a_missing_program(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    root = place.overlay("c", place.directory("layer"))
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        patch.setattr(mkfs, "DEFAULT_PATH", str(place.path))
        with pytest.raises(HostError, match=r"'mkfs\.erofs' is not installed .*erofs-utils"):
            place.obtain(root, "erofs")


def test_a_hit_imports_nothing_that_builds(place: Place) -> None:
    root = place.overlay("c", place.directory("layer"))
    place.obtain(root)
    code = (
        "import sys\n"
        "from urunc.config import Config\n"
        "from urunc.storage import images\n"
        "from urunc.storage.layers import identify\n"
        "config = Config()\n"
        "config.values['storage.cache'] = sys.argv[1]\n"
        "image = images.obtain(identify(sys.argv[2]), 'ext4', config)\n"
        "assert not image.built\n"
        "slow = {'hashlib', 'os', 're', 'urunc.storage.build_image', 'urunc.storage.trees'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
    )
    source = pathlib.Path(images.__file__).parent.parent.parent
    words = [sys.executable, "-S", "-c", code, str(place.cache), str(root)]
    environment = {"PYTHONPATH": str(source), "PYTHONSAFEPATH": "1"}
    bare = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "import sys; print('os' in sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    answer = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout == ("['os']\n" if bare == "True\n" else "[]\n")
