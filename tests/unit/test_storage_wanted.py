# SPDX-License-Identifier: Apache-2.0
"""Which way a root filesystem and volumes take to a guest, and what cannot be given."""

from __future__ import annotations

from typing import Any

import pytest

from lib.made import config, document, found, image, image_file, solo5, source
from lib.made import host as machine
from urunc import guests, monitors
from urunc.bundle import spec
from urunc.errors import ImageError
from urunc.net.facts import NO_NETWORK
from urunc.plan.decide import decide
from urunc.plan.model import Plan
from urunc.plan.realize import realize
from urunc.record import replace
from urunc.storage.disks import expected
from urunc.storage.facts import (
    DEVICE,
    FILE,
    TMPFS,
    StorageFound,
    volume_mounts,
)
from urunc.storage.termination_message import is_read_back


def planned(
    guest: str, monitor: str, there: StorageFound, *, readonly: bool = False, **changes: Any
) -> Plan:
    given = changes.pop("given", config())
    values: dict[str, Any] = {"mount_rootfs": True}
    if guest == "rumprun":
        values["binary"] = solo5("hvt", ("rootfs", "block"))
    root = {"path": "rootfs", "readonly": readonly}
    return decide(
        "box",
        spec.parse(document(root=root), "/bundle"),
        image(guest, monitor, **{**values, **changes}),
        guests.load(guest, given),
        monitors.load(monitor, given),
        machine(),
        given,
        there,
    )


def refused(*arguments: Any, **changes: Any) -> ImageError:
    with pytest.raises(ImageError) as caught:
        planned(*arguments, **changes)
    return caught.value


@pytest.mark.parametrize(
    ("guest", "monitor", "there", "form"),
    [
        ("linux", "qemu", found(), "erofs"),
        ("linux", "qemu", found(builders=("ext4", "cpio")), "ext4"),
        ("linux", "qemu", found(builders=("cpio",)), "virtiofs"),
        ("linux", "qemu", found(builders=("cpio",), virtiofsd=""), "9p"),
        ("linux", "firecracker", found(builders=("cpio",)), "cpio"),
        # which takes ten times as long to build as the others
        ("linux", "qemu", found(builders=("squashfs", "cpio")), "virtiofs"),
        ("linux", "firecracker", found(builders=("squashfs", "cpio")), "squashfs"),
        ("linux", "qemu", found(filesystems=("ext4",)), "ext4"),
        ("unikraft", "qemu", found(), "cpio"),
        ("unikraft", "firecracker", found(), "cpio"),
        ("rumprun", "hvt", found(), "ext2"),
    ],
)
def test_the_first_form_that_all_have(
    guest: str, monitor: str, there: StorageFound, form: str
) -> None:
    plan = planned(guest, monitor, there)
    assert plan.storage.root_way
    assert (plan.storage.root_way.form, plan.storage.root_way.device) == (form, "")
    assert (plan.application.process is not None) == (guest == "linux")


def test_a_device_that_is_there_is_taken() -> None:
    there = found(
        device="/dev/mapper/a", device_numbers=(253, 1), device_filesystem="ext4", builders=()
    )
    way = planned("linux", "qemu", there).storage.root_way
    assert way and (way.form, way.device, way.copied) == ("ext4", "/dev/mapper/a", False)


def test_who_decides_the_form() -> None:
    def form(**changes: Any) -> tuple[str, str]:
        way = planned("linux", "qemu", found(), **changes).storage.root_way
        assert way
        return way.form, way.reason

    ordered = config(storage__rootfs=["9p", "ext4"])
    assert form(given=ordered) == ("9p", "the first that fits, in the order of "
                                         "/etc/urunc/config.toml")  # fmt: skip
    assert form(given=ordered, rootfs="ext4")[0] == "ext4"
    asked = {"rootfs": "cpio"}
    assert form(given=ordered, rootfs="ext4", overrides=asked)[0] == "cpio"
    assert form(overrides={"rootfs": "auto"})[0] == "erofs"


def test_only_what_writes_gets_a_copy() -> None:
    rumprun = planned("rumprun", "hvt", found()).storage.root_way
    assert rumprun and rumprun.copied
    # a tender opens for writing even what is only read
    reader = planned("rumprun", "hvt", found(), readonly=True).storage.root_way
    assert reader and reader.copied and reader.read_only
    layered = planned("linux", "qemu", found()).storage.root_way
    assert layered and not layered.copied


def test_forms_in_place_of_one_that_cannot_hold_all() -> None:
    """The other disks that fit, where the form is not asked for."""

    def others(there: StorageFound, guest: str = "linux", **changes: Any) -> tuple[str, ...]:
        monitor = "hvt" if guest == "rumprun" else "qemu"
        way = planned(guest, monitor, there, **changes).storage.root_way
        assert way
        return way.others

    assert others(found()) == ("ext4", "squashfs", "ext2")
    assert others(found(builders=("erofs", "squashfs"))) == ("squashfs",)
    assert others(found(filesystems=("erofs",))) == ()
    assert others(found(), overrides={"rootfs": "erofs"}) == ()
    assert others(found(), given=config(storage__rootfs=["9p", "ext4"])) == ()
    assert others(found(), guest="rumprun") == ()
    device = found(device="/dev/dm-1", device_numbers=(253, 1), device_filesystem="ext4")
    assert others(device) == ()


def test_no_form() -> None:
    error = refused("mewz", "qemu", found())
    assert error.message == "root filesystem: mewz takes none of the container's"
    error = refused("rumprun", "hvt", found(builders=("cpio",)))
    assert "ext2: this machine has no program to make it" in error.message
    error = refused("linux", "firecracker", found(), overrides={"rootfs": "virtiofs"})
    assert "virtiofs: firecracker shares no directories by it" in error.message
    error = refused("linux", "qemu", found(), overrides={"rootfs": "ntfs"})
    assert error.message == "annotation 'rootfs': 'ntfs' is unknown"


def sized(guest: str, monitor: str, there: StorageFound, **changes: Any) -> tuple[str, int, bool]:
    asked = {"rootfsSize": "1Gi", **changes.pop("overrides", {})}
    way = planned(guest, monitor, there, overrides=asked, **changes).storage.root_way
    assert way
    return way.form, way.size_mib, way.layer_on_disk


def test_a_disk_for_what_the_guest_writes() -> None:
    """The first form that has one, where the container asks for it."""
    device = found(device="/dev/dm-1", device_numbers=(253, 1), device_filesystem="ext4")
    assert sized("linux", "qemu", found()) == ("erofs", 1024, True)
    assert sized("linux", "firecracker", device) == ("erofs", 1024, True)
    assert sized("linux", "qemu", found(builders=("ext4", "cpio"))) == ("ext4", 1024, True)
    assert sized("linux", "qemu", found(), overrides={"rootfs": "9p"}) == ("9p", 1024, True)
    assert sized("linux", "qemu", found(), overrides={"rootfs": "cpio"}) == ("cpio", 1024, True)
    assert sized("rumprun", "hvt", found()) == ("ext2", 1024, False)
    plan = planned("linux", "qemu", found(), overrides={"rootfsSize": "100M"})
    assert plan.storage.filesystems == ("erofs", "ext4", "overlay")
    made = expected(plan)
    assert (made.upper, made.disks[made.upper].read_only) == (1, False)
    line = realize(
        plan, NO_NETWORK, guests.load("linux", config()), monitors.load("qemu", config()), made
    )
    assert any("overlay=ext4\t/dev/vdb\tnoinit_itable\0" in text for text in line.files.values())


def test_no_disk_for_what_the_guest_writes() -> None:
    asked = {"rootfsSize": "64Mi"}
    error = refused("linux", "qemu", found(), overrides={**asked, "rootfs": "virtiofs"})
    assert "virtiofs: the guest writes to the container's root filesystem itself" in error.message
    error = refused("unikraft", "qemu", found(), overrides=asked)
    assert "cpio: what unikraft writes stays in its memory" in error.message
    error = refused("linux", "qemu", found(filesystems=("erofs",)), overrides=asked)
    assert "erofs: the kernel is not known to mount ext4" in error.message
    error = refused("linux", "qemu", found(), overrides=asked, mount_rootfs=False)
    assert error.message.startswith("annotation 'rootfsSize': the container's root filesystem")
    plan = planned("linux", "qemu", found(), overrides=asked, readonly=True)
    assert plan.storage.root_way and not plan.storage.root_way.size_mib
    assert plan.warnings == ("annotation 'rootfsSize': the root filesystem is read-only",)


@pytest.mark.parametrize("form", ["erofs", "squashfs", "ext4", "ext2", "cpio"])
def test_a_root_that_is_only_read(form: str) -> None:
    """A layer of the container's own needs an overlay, which is read-only as soon as it is
    there."""
    guest, monitor = guests.load("linux", config()), monitors.load("qemu", config())
    plan = planned("linux", "qemu", found(), overrides={"rootfs": form}, readonly=True)
    for layer in (False, True):
        made = replace(expected(plan), layer=layer)
        (text,) = realize(plan, NO_NETWORK, guest, monitor, made).files.values()
        records = text.split("\0")
        assert ("overlay=tmpfs\t" in records) == layer
        assert ("readonly=/" in records) == layer
        (root,) = (record for record in records if record.startswith("root="))
        assert root.endswith("\tro")


def test_the_administrators_disk_for_what_guests_write() -> None:
    """Where the form has room for one."""
    given = config(storage__rootfs_size_mib=200)
    for form, size in (("erofs", 200), ("virtiofs", 0)):
        asked = {"rootfs": form}
        way = planned("linux", "qemu", found(), given=given, overrides=asked).storage.root_way
        assert way and (way.form, way.size_mib) == (form, size)
    way = planned("unikraft", "qemu", found(), given=given).storage.root_way
    assert way and (way.form, way.size_mib) == ("cpio", 0)


def test_ways_of_volumes() -> None:
    there = found(
        source("/data"),
        source("/etc/app.conf", FILE, read_only=True),
        source("/tmp", TMPFS, source="", options=("size=1m",)),
        source("/dev/xvda", DEVICE),
    )
    plan = planned("linux", "qemu", there)
    ways = [volume.way for volume in plan.storage.volumes]
    assert ways == ["virtiofs", "virtiofs", TMPFS, DEVICE]
    assert "virtiofs" in plan.storage.filesystems
    copied = found(
        source("/secret", read_only=True), source("/cache", scratch=True),
    )  # fmt: skip
    plan = planned("linux", "firecracker", copied)
    assert [volume.way for volume in plan.storage.volumes] == ["archive", "archive"]
    plan = planned("unikraft", "firecracker", found(source("/conf", read_only=True)))
    assert [volume.way for volume in plan.storage.volumes] == ["initrd"]


def test_a_volume_whose_writes_would_be_lost() -> None:
    there = found(source("/data"))
    error = refused("linux", "firecracker", there)
    assert error.message == (
        "mount '/data' of '/host/data': can be copied only, and what linux writes to the copy "
        "would be lost"
    )
    plan = planned("linux", "firecracker", there, overrides={"volumes": "copy"})
    assert [volume.way for volume in plan.storage.volumes] == ["archive"]
    plan = planned("linux", "firecracker", there, overrides={"volumes": "ignore"})
    assert plan.storage.volumes == ()
    assert plan.warnings == ("mounts that the guest does not see: /data",)


def test_a_volume_that_the_image_asks_for() -> None:
    """VOLUME of an image: the guest has it as a copy, and its end is said."""
    there = found(source("/data", anonymous=True), source("/cache", scratch=True))
    plan = planned("linux", "firecracker", there)
    assert [volume.way for volume in plan.storage.volumes] == ["archive", "archive"]
    assert plan.warnings == (
        "mounts that are copied: what the guest writes to /data, /cache does not reach the "
        "engine's volume and is lost at its end",
    )
    shared = planned("linux", "qemu", there)
    assert [volume.way for volume in shared.storage.volumes] == ["virtiofs", "virtiofs"]
    assert shared.warnings == ()
    plan = planned("mewz", "qemu", found(source("/data", anonymous=True)), mount_rootfs=False)
    assert plan.warnings == ("mounts that the guest does not see: /data",)


def test_a_filesystem_of_a_block_device() -> None:
    """The host has it mounted: what else there is to do."""
    error = refused("linux", "firecracker", found(source("/data", mounted="/dev/sdb")))
    assert "can be copied only" in error.message
    assert "block device '/dev/sdb', which the host has mounted" in error.hint
    assert "'volumeMode: Block'" in error.hint


def test_what_a_guest_has_no_way_to() -> None:
    error = refused("mirage", "hvt", found(source("/data")), mount_rootfs=False,
                    binary=solo5("hvt"))  # fmt: skip
    assert "mount '/data' of '/host/data': mirage takes no volumes" in error.message
    error = refused("linux", "qemu", found(source("/data")), mount_rootfs=False)
    assert "by urunc's init, with mountRootfs" in error.message
    error = refused("linux", "qemu", found(source("/run/x", "neither a file nor a directory")))
    assert "it is neither a file nor a directory" in error.message


def test_what_engines_always_mount_is_a_warning() -> None:
    mounts = [
        {"destination": path, "source": "/h", "options": ["bind"]}
        for path in ("/dev/shm", "/run/secrets", "/etc/hosts")
    ]
    parsed = spec.parse(document(mounts=mounts), "/bundle")
    given = volume_mounts(parsed, init=False, tmpfs=False)
    there = found(*(source(mount.destination) for mount in given))
    plan = planned("mewz", "qemu", there, mount_rootfs=False)
    assert plan.warnings == ("mounts that the guest does not see: /dev/shm, /run/secrets",)
    plan = planned("mewz", "qemu", found(source("/run", TMPFS)), mount_rootfs=False)
    assert plan.warnings == ("mounts that the guest does not see: /run",)
    assert (
        "mount '/run'" in refused("mewz", "qemu", found(source("/run")), mount_rootfs=False).message
    )


def test_disks_of_a_manifest() -> None:
    there = found(source("/more", read_only=True))
    two = solo5("hvt", ("rootfs", "block"), ("data", "block"))
    plan = planned("rumprun", "hvt", there, binary=two)
    assert plan.storage.disk_names == ("rootfs", "data")
    assert plan.storage.disk_mount_points == ("/data", "/more")
    images = (image_file("/a"), image_file("/b"))
    points = ("/a", "/b")
    plan = planned(
        "rumprun", "hvt", found(), binary=two, mount_rootfs=False, blocks=images,
        block_mount_points=points,
    )  # fmt: skip
    assert (plan.storage.disk_names, plan.storage.disk_mount_points) == (("rootfs", "data"), points)
    plan = planned("linux", "qemu", found(), block_mount_points=points[:1])
    assert plan.storage.disk_mount_points == ("/",)
    assert any("'blkMntPoint': without effect" in warning for warning in plan.warnings)


def test_more_than_the_guest_can_be_told() -> None:
    """The configuration's disk has to fit into the monitor's /run."""
    plan = planned("linux", "qemu", found())
    guest, monitor = guests.load("linux", config()), monitors.load("qemu", config())

    def told(argument: str) -> int:
        long = replace(plan, application=replace(plan.application, args=("app", argument)))
        launch = realize(long, NO_NETWORK, guest, monitor, expected(long))
        return max(len(text) for text in launch.files.values())

    assert told("x" * (1 << 20)) % 512 == 0
    with pytest.raises(
        ImageError, match="arguments, environment and the rest of the guest's configuration"
    ):
        told("x" * (2 << 20))


def test_shared_memory() -> None:
    """An engine's is the guest's own; what the user has put there is shared where that can be."""
    size = ("mode=1777", "size=1048576")
    engines = source("/dev/shm", shm=size)
    chosen = source("/dev/shm", shm=size, scratch=True)
    (volume,) = planned("linux", "qemu", found(engines)).storage.volumes
    assert (volume.way, volume.options, volume.source) == (TMPFS, size, "")
    (volume,) = planned("linux", "qemu", found(chosen)).storage.volumes
    assert volume.way == "virtiofs"
    (volume,) = planned("linux", "qemu", found(chosen, virtiofsd="")).storage.volumes
    assert (volume.way, volume.options) == (TMPFS, size)
    (volume,) = planned("linux", "firecracker", found(chosen)).storage.volumes
    assert (volume.way, volume.options) == (TMPFS, size)
    assert not planned("unikraft", "firecracker", found(engines)).storage.volumes[0].options


def test_a_file_that_is_given_back() -> None:
    """A pod's termination message, wherever it is mounted; where it is shared nothing is needed."""
    message = source("/var/message", FILE, returned=(1, 2))
    shared = planned("linux", "qemu", found(message))
    assert [volume.returned for volume in shared.storage.volumes] == [()]
    assert expected(shared).returned == -1
    copied = planned("linux", "firecracker", found(message))
    (volume,) = copied.storage.volumes
    assert (volume.way, volume.returned) == ("archive", (1, 2))
    storage = expected(copied)
    assert not storage.disks[storage.returned].read_only
    launch = realize(
        copied,
        NO_NETWORK,
        guests.load("linux", config()),
        monitors.load("firecracker", config()),
        storage,
    )
    assert "returned=/dev/vdc\tvolumes/0\0" in launch.files["/run/guest.config"]
    assert not planned("unikraft", "firecracker", found(message)).storage.volumes[0].returned


@pytest.mark.parametrize("path", ["/proc", "/proc/version", "/proc/self/fd"])
def test_a_guests_own_proc_stays(path: str) -> None:
    """runc refuses such mounts; lxcfs' files it takes."""
    with pytest.raises(ImageError, match=f"'{path}'.*what is the guest's kernel's"):
        planned("linux", "qemu", found(source(path)))
    assert planned("linux", "qemu", found(source("/proc/meminfo", FILE))).storage.volumes


@pytest.mark.parametrize(
    ("path", "is_so"),
    [
        ("/var/lib/kubelet/pods/1-2/containers/app/0123abcd", True),
        ("/elsewhere/pods/1-2/containers/app/0123abcd", True),
        ("/var/lib/kubelet/pods/1-2/containers/app/0123abc", False),
        ("/var/lib/kubelet/pods/1-2/volumes/app/0123abcd", False),
        ("/0123abcd", False),
    ],
)
def test_whose_file_is_a_termination_message(path: str, is_so: bool) -> None:
    assert is_read_back(path) == is_so
