# SPDX-License-Identifier: Apache-2.0
"""Which mount becomes the disk of which declared device, and that what engines mount by themselves
becomes none."""

from __future__ import annotations

from typing import Any

import pytest

from lib.made import config, document, found, host, image, image_file, solo5, source
from urunc import guests, monitors
from urunc.bundle import spec
from urunc.errors import ImageError
from urunc.plan.decide import decide
from urunc.plan.declared_disks import match, parse_disks
from urunc.plan.model import Plan
from urunc.storage.facts import DIRECTORY, FILE, TMPFS, VolumeSource

ENGINES = {
    "kubelet": ("/dev/shm", "/dev/termination-log",
                "/var/run/secrets/kubernetes.io/serviceaccount"),
    "injected": ("/var/run/secrets/eks.amazonaws.com/serviceaccount",
                 "/run/secrets/kubernetes.io/serviceaccount"),
    "docker": ("/dev/shm", "/dev/mqueue", "/run/secrets/word"),
    "podman": ("/dev/shm", "/run/.containerenv", "/run/secrets", "/run/secrets/word",
               "/etc/localtime", "/etc/passwd", "/etc/group"),
}  # fmt: skip
"""What was seen in config.json of Kubernetes, Docker 20.10 and Podman 4.3."""
FILES = ("/dev/termination-log", "/run/.containerenv", "/run/secrets/word",
         "/etc/localtime", "/etc/passwd", "/etc/group")  # fmt: skip


def mounts(names: tuple[str, ...]) -> list[VolumeSource]:
    return [source(name, FILE if name in FILES else DIRECTORY) for name in names]


def planned(
    *sources: VolumeSource,
    declares: tuple[str, ...] = (),
    guest: str = "rumprun",
    args: tuple[str, ...] = ("app",),
    given_mounts: tuple[dict[str, Any], ...] = (),
    **changes: Any,
) -> Plan:
    """On spt, with a manifest of these block devices."""
    configuration = document(process={"args": list(args), "cwd": "/"}, mounts=list(given_mounts))
    binary = solo5("spt", *((name, "block") for name in declares))
    return decide(
        "box",
        spec.parse(configuration, "/bundle"),
        image(guest, "spt", **{"binary": binary, **changes}),
        guests.load(guest, config()),
        monitors.load("spt", config()),
        host(),
        config(),
        found(*sources),
    )


def refused(*sources: VolumeSource, **changes: Any) -> ImageError:
    with pytest.raises(ImageError) as caught:
        planned(*sources, **changes)
    return caught.value


def given(plan: Plan) -> dict[str, str]:
    """device → where its directory is mounted."""
    return dict(zip(plan.storage.disk_names, plan.storage.disk_mount_points, strict=True))


@pytest.mark.parametrize("guest", ["rumprun", "mirage"])
@pytest.mark.parametrize("engine", ENGINES)
def test_what_engines_mount_is_no_disk(guest: str, engine: str) -> None:
    """A guest without devices starts, with one warning."""
    plan = planned(*mounts(ENGINES[engine]), guest=guest)
    assert (plan.storage.volumes, plan.storage.disk_names) == ((), ())
    names = ", ".join(ENGINES[engine])
    assert plan.warnings == (f"mounts that the guest does not see: {names}",)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_engines_mount_is_nobody_s_data(engine: str) -> None:
    """A guest with one device and nothing for it does not start; with a volume it has that one."""
    error = refused(*mounts(ENGINES[engine]), declares=("storage",))
    assert error.message == (
        "unikernel '/unikernel': declares the block devices 'storage', but 0 given"
    )
    engines = ", ".join(ENGINES[engine])
    assert error.hint == (
        "name a block image by the annotation 'block', or mount a directory (what engines mount is "
        f"none: {engines})"
    )
    volume = source("/data", read_only=True)
    plan = planned(*mounts(ENGINES[engine]), volume, declares=("storage",))
    assert given(plan) == {"storage": "/data"}
    plan = planned(*mounts(ENGINES[engine]), declares=("storage",), blocks=(image_file("/disk"),))
    assert given(plan) == {"storage": "/data"}  # Rumprun's own place
    assert plan.storage.volumes == ()


def test_a_volume_without_a_device_is_named() -> None:
    error = refused(source("/data"))
    assert error.message == (
        "mount '/data' of '/host/data': the unikernel '/unikernel' declares no block device for it"
    )
    assert "volumes: ignore" in error.hint
    error = refused(
        source("/data", read_only=True), source("/more", read_only=True), declares=("storage",)
    )
    assert error.message == (
        "mount '/more' of '/host/more': the unikernel '/unikernel' declares 'storage', and each "
        "has its disk"
    )
    error = refused(source("/data"), guest="mirage", declares=())
    assert error.message == "mount '/data' of '/host/data': mirage takes no volumes"
    assert error.hint == "leave it out; or the annotation 'volumes: ignore' leaves all mounts out"


def test_ignore_leaves_every_mount_out() -> None:
    said: dict[str, Any] = {"overrides": {"volumes": "ignore"}}
    plan = planned(source("/data", read_only=True), source("/tmp", TMPFS), **said)
    assert plan.storage.volumes == ()
    assert plan.warnings == ("mounts that the guest does not see: /data, /tmp",)
    error = refused(source("/data", read_only=True), declares=("storage",), **said)
    assert "declares the block devices 'storage', but 0 given" in error.message


def test_devices_by_name() -> None:
    """By the last part of the path; the rest in order; disks in the manifest's order."""
    plan = planned(
        source("/var/log", read_only=True),
        source("/first", read_only=True),
        source("/srv/data/", read_only=True),
        declares=("data", "other", "log"),
    )
    assert given(plan) == {"data": "/srv/data/", "other": "/first", "log": "/var/log"}
    assert [volume.destination for volume in plan.storage.volumes] == [
        "/srv/data/",
        "/first",
        "/var/log",
    ]


def test_devices_by_annotation() -> None:
    said: dict[str, Any] = {"overrides": {"disks": "log=/data , data=/var/log/"}}
    both = (source("/data", read_only=True), source("/var/log", read_only=True))
    assert given(planned(*both, declares=("data", "log"), **said)) == {
        "data": "/var/log", "log": "/data",
    }  # fmt: skip
    # what is asked for by name may be an engine's
    account = source("/var/run/secrets/kubernetes.io/serviceaccount", read_only=True)
    said = {"overrides": {"disks": f"token={account.destination}"}}
    assert given(planned(account, declares=("token",), **said)) == {"token": account.destination}


def test_the_image_s_disks_have_the_first_devices() -> None:
    volume = source("/first", read_only=True)
    plan = planned(volume, declares=("first", "second"), blocks=(image_file("/disk"),))
    assert given(plan) == {"first": "/data", "second": "/first"}
    plan = planned(volume, declares=("first", "second"), mount_rootfs=True)
    assert given(plan) == {"first": "/data", "second": "/first"}
    error = refused(volume, declares=(), mount_rootfs=True, overrides={"volumes": "ignore"})
    assert error.message == (
        "root filesystem (mountRootfs): the unikernel '/unikernel' declares no block device"
    )


def test_what_somebody_asked_for_goes_before_an_image_s_volume() -> None:
    own = source("/var/lib/app", anonymous=True)
    plan = planned(own, source("/config", read_only=True), declares=("storage",))
    assert given(plan) == {"storage": "/config"}
    assert plan.warnings == ("mounts that the guest does not see: /var/lib/app",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("storage", "'storage' is no disk"),
        ("storage=data", "'storage=data' is no disk"),
        ("=/data", "'=/data' is no disk"),
        ("storage=/", "'storage=/' is no disk"),
        ("storage=/data,storage=/more", "'storage=/more' comes twice"),
        ("storage=/data,other=/data/", "'other=/data/' comes twice"),
        ("data=/data", "'data=/data': the unikernel declares no such block device"),
        ("rootfs=/data", "'rootfs=/data': the device has a disk of the image's"),
        ("storage=/more", "'storage=/more': no directory is mounted there that can be a disk"),
    ],
)
def test_annotations_that_name_nothing(text: str, words: str) -> None:
    error = refused(
        source("/data", read_only=True),
        source("/more", FILE, read_only=True),
        declares=("rootfs", "storage"),
        blocks=(image_file("/disk"),),
        overrides={"disks": text},
    )
    assert error.message.startswith(f"annotation 'disks': {words}")


def test_two_of_one_name() -> None:
    error = refused(
        source("/a/data", read_only=True),
        source("/b/data", read_only=True),
        declares=("data", "more"),
    )
    assert "'/a/data' and '/b/data': both are called as the block device 'data'" in error.message
    sources = [source("/a/data"), source("/b/data")]
    assert match(sources, ("data", "more"), 0, parse_disks("data=/b/data")) == {
        0: "more",
        1: "data",
    }


@pytest.mark.parametrize(
    "program", ["/sbin/docker-init", "/run/podman-init", "/dev/init", "/sbin/tini"]
)
def test_an_engine_s_init(program: str) -> None:
    """It is neither mounted nor run, and the guest has the words behind it."""
    mount = {"destination": program, "source": "/usr/bin/docker-init", "options": ["bind", "ro"]}
    there = source(program, FILE, read_only=True)
    words = (program, "--", "app", "--", "word")
    plan = planned(there, args=words, given_mounts=(mount,))
    assert plan.application.args == ("app", "--", "word")
    assert plan.warnings == ("--init has no meaning for a guest: it is left out",)
    # the image's own program of that name is its own
    assert planned(args=words).application.args == words
