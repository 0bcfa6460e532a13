# SPDX-License-Identifier: Apache-2.0
"""How an image says that it is a unikernel: annotations, urunc.json, and files that may lead
nowhere else."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import posix
import stat
from typing import Any

import pytest

from lib.made import config, document, elf, pvh_note
from urunc import guests, monitors
from urunc.bundle import image, spec
from urunc.bundle.image import UnikernelImage
from urunc.bundle.pods import PREFIX
from urunc.config import Config
from urunc.errors import ImageError

PLAIN = {
    "unikernelType": "unikraft",
    "hypervisor": "qemu",
    "binary": "/unikernel/app",
    "cmdline": "app --flag",
    "unikernelVersion": "0.17.0",
    "initrd": "/initrd.cpio",
    "block": "disk.img",
    "blkMntPoint": "/mnt",
}
SOURCE = f"config.json: annotation '{PREFIX}"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def in_base64(values: dict[str, str]) -> dict[str, str]:
    return {key: encoded(value) for key, value in values.items()}


@pytest.fixture
def bundle(tmp_path: pathlib.Path) -> pathlib.Path:
    root = tmp_path / "rootfs"
    (root / "unikernel").mkdir(parents=True)
    (root / "unikernel/app").write_bytes(elf(pvh_note()))
    (root / "initrd.cpio").write_bytes(b"070701")
    (root / "disk.img").write_bytes(bytes(2048))
    (tmp_path / "outside").write_bytes(elf())
    return tmp_path


def read(
    bundle: pathlib.Path, values: dict[str, str], given: Config | None = None, /, **more: str
) -> UnikernelImage | None:
    annotations = {PREFIX + key: value for key, value in {**values, **more}.items()}
    parsed = spec.parse(document(annotations=annotations), str(bundle))
    return image.read(parsed, given or config())


def refused(
    bundle: pathlib.Path, values: dict[str, str], given: Config | None = None, /, **more: str
) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read(bundle, values, given, **more)
    return caught.value


def check_whole(found: UnikernelImage | None) -> None:
    assert found
    assert found.initrd and found.blocks
    assert (found.guest, found.monitor) == ("unikraft", "qemu")
    assert found.kernel.path == "/unikernel/app"
    assert found.kernel.inside
    assert (found.binary.format, found.binary.pvh) == ("elf", True)
    assert (found.initrd.path, found.blocks[0].path) == ("/initrd.cpio", "disk.img")
    assert found.blocks[0].size_bytes == 2048
    assert (found.cmdline, found.version) == ("app --flag", "0.17.0")
    assert found.block_mount_points == ("/mnt",)


def test_plain_annotations(bundle: pathlib.Path) -> None:
    check_whole(read(bundle, PLAIN))


def test_base64_annotations(bundle: pathlib.Path) -> None:
    check_whole(read(bundle, in_base64(PLAIN)))


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize("base_64", [True, False])
def test_a_file_in_the_root(bundle: pathlib.Path, prefix: str, base_64: bool) -> None:
    values = in_base64(PLAIN) if base_64 else PLAIN
    whole: dict[str, Any] = {prefix + key: value for key, value in values.items()}
    (bundle / "rootfs/urunc.json").write_text(json.dumps({**whole, "other.key": 1}))
    check_whole(read(bundle, {}))


def test_annotations_come_before_the_file(bundle: pathlib.Path) -> None:
    (bundle / "rootfs/urunc.json").write_text(json.dumps(in_base64({**PLAIN, "cmdline": "other"})))
    check_whole(read(bundle, PLAIN))


def test_what_nobody_knows(bundle: pathlib.Path) -> None:
    """A misspelled key is told of, with the one that it may stand for; a pod's keys are for the
    container of a name, too."""
    more = {"hypervsor": "qemu", "memroy.front": "64", "initrd.front": "/x", "zzz": ""}
    found = read(bundle, {**PLAIN, **more})
    assert found
    assert found.remarks == (
        f"annotation '{PREFIX}hypervsor': unknown, and without effect: is it 'hypervisor'?",
        f"annotation '{PREFIX}memroy.front': unknown, and without effect: is it 'memory'?",
        f"annotation '{PREFIX}zzz': unknown, and without effect",
    )
    (bundle / "rootfs/urunc.json").write_text(json.dumps({**PLAIN, "cmdlin": "x", "memory": "64"}))
    found = read(bundle, {})
    assert found
    assert found.remarks == (
        "urunc.json 'cmdlin': unknown, and without effect: is it 'cmdline'?",
        "urunc.json 'memory': unknown, and without effect",
    )


def test_what_nobody_knows_is_another_container_s(bundle: pathlib.Path) -> None:
    """In a pod, a misspelled key with a name is that container's alone; the pause container has
    nothing to say."""
    name = {"io.kubernetes.cri.container-name": "front"}
    annotations = {PREFIX + "memroy.front": "64", PREFIX + "memroy.back": "64"}
    found = image.strangers({**annotations, **name}, config())
    assert found == [
        f"annotation '{PREFIX}memroy.front': unknown, and without effect: is it 'memory'?"
    ]
    pause = {"io.kubernetes.cri.container-type": "sandbox"}
    assert image.strangers_of({"annotations": {**annotations, **pause}}, config()) == []


def test_what_nobody_knows_is_refused(bundle: pathlib.Path) -> None:
    """Where the administrator says so: a unikernel's, and one that nothing else would make one."""
    given = config(annotations__unknown="refuse")
    for strange in (lambda: read(bundle, {**PLAIN, "memroy": "64"}, given),
                    lambda: image.strangers({PREFIX + "memroy": "64"}, given)):  # fmt: skip
        with pytest.raises(ImageError) as caught:
            strange()
        assert caught.value.message == f"annotation '{PREFIX}memroy': unknown: is it 'memory'?"
        assert caught.value.hint == "annotations.unknown in /etc/urunc/config.toml: refuse"
    assert read(bundle, PLAIN, given)


def claims(bundle: pathlib.Path, **members: object) -> bool:
    return image.claims({"root": {"path": "rootfs"}, **members}, str(bundle), config())


def test_an_ordinary_container(bundle: pathlib.Path) -> None:
    assert not claims(bundle)
    assert not claims(bundle, annotations={"a": "b"}, linux={"intelRdt": {}})
    (bundle / "rootfs/urunc.json").write_text('{"some": "thing"}')
    assert not claims(bundle)
    assert not claims(bundle, root={"path": 5}, annotations=7)


def test_an_ordinary_container_without_a_root(tmp_path: pathlib.Path) -> None:
    assert not claims(tmp_path)


@pytest.mark.parametrize(
    "key", ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"]
)
def test_a_pods_sandbox_is_ordinary(bundle: pathlib.Path, key: str) -> None:
    """Containerd copies a pod's annotations to its pause container, too."""
    ours = {"com.urunc.unikernel.binary": "/x"}
    assert not claims(bundle, annotations={**ours, key: "sandbox"})
    assert claims(bundle, annotations={**ours, key: "container"})


@pytest.mark.parametrize(
    ("annotations", "in_pod"),
    [
        ({}, False),
        ({"io.kubernetes.cri.container-type": "container"}, True),
        ({"io.kubernetes.cri-o.ContainerType": "container"}, True),
        ({"io.kubernetes.cri-o.SandboxID": "1"}, True),  # Podman 5's pods
        (
            {
                "io.kubernetes.cri-o.SandboxID": "1",
                "io.kubernetes.cri-o.ContainerType": "sandbox",
            },
            False,
        ),
    ],
)
def test_who_is_in_a_pod(
    bundle: pathlib.Path, annotations: dict[str, str], *, in_pod: bool
) -> None:
    said = {f"com.urunc.unikernel.{key}": value for key, value in PLAIN.items()}
    parsed = spec.parse(document(annotations={**said, **annotations}), str(bundle))
    assert image.read(parsed, config()).in_pod is in_pod


def test_what_claims_to_be_a_unikernel(bundle: pathlib.Path) -> None:
    assert claims(bundle, annotations={"com.urunc.unikernel.binary": "/x"})
    (bundle / "rootfs/urunc.json").write_text('{"com.urunc.unikernel.binary": "/x"}')
    assert claims(bundle)


def test_a_pods_annotations_for_one_container(bundle: pathlib.Path) -> None:
    """The others of the pod are ordinary ones."""
    pod = {f"com.urunc.unikernel.{key}.front": value for key, value in PLAIN.items()}
    name = "io.kubernetes.cri.container-name"
    assert claims(bundle, annotations={**pod, name: "front"})
    assert not claims(bundle, annotations={**pod, name: "side"})
    parsed = spec.parse(document(annotations={**pod, name: "front"}), str(bundle))
    check_whole(image.read(parsed, config()))


def test_a_source_that_is_half_base64(bundle: pathlib.Path) -> None:
    error = refused(bundle, PLAIN, unikernelType=encoded("unikraft"))
    assert "not both plain text or both base64" in error.message
    error = refused(bundle, in_base64(PLAIN), cmdline="not base64!")
    assert error.message == f"{SOURCE}cmdline': 'not base64!' is not base64, though the others are"


UNKNOWN = [
    ("unikernelType", "beos", "guest", ", ".join(sorted(guests.BUILT_IN))),
    ("hypervisor", "vmware", "monitor", ", ".join(sorted(monitors.BUILT_IN))),
]


@pytest.mark.parametrize(("key", "value", "kind", "known"), UNKNOWN)
def test_unknown_words_name_the_known(
    bundle: pathlib.Path, key: str, value: str, kind: str, known: str
) -> None:
    error = refused(bundle, PLAIN, **{key: value})
    assert error.message.startswith(f"{SOURCE}{key}': unknown {kind} '{value}'")
    assert error.hint == f"known {kind}s: {known}"


@pytest.mark.parametrize(("key", "value", "kind", "known"), UNKNOWN)
def test_unknown_words_in_base64_show_both_readings(
    bundle: pathlib.Path, key: str, value: str, kind: str, known: str
) -> None:
    error = refused(bundle, in_base64(PLAIN), **{key: encoded(value)})
    assert f"unknown {kind} '{encoded(value)}'; as base64 it says '{value}'" in error.message
    assert error.hint == f"known {kind}s: {known}"


@pytest.mark.parametrize("key", ["unikernelType", "hypervisor", "binary"])
@pytest.mark.parametrize("state", ["missing", "empty"])
def test_required_keys(bundle: pathlib.Path, key: str, state: str) -> None:
    values = {name: value for name, value in PLAIN.items() if name != key}
    if state == "empty":
        values[key] = ""
    assert refused(bundle, values).message == f"{SOURCE}{key}': {state}"


def test_a_guest_of_the_configuration_is_known(bundle: pathlib.Path) -> None:
    found = read(bundle, PLAIN, config(guests__beos__cmdline="{args}"), unikernelType="beos")
    assert found
    assert found.guest == "beos"


def test_nul_is_refused(bundle: pathlib.Path) -> None:
    assert (
        "holds a NUL character" in refused(bundle, in_base64(PLAIN), cmdline=encoded("a\0")).message
    )


FILES = {"binary": "binary", "initrd": "initrd", "block": "block"}


@pytest.mark.parametrize("key", FILES)
@pytest.mark.parametrize(
    "path", ["../outside", "/../outside", "unikernel/../../outside", "a/../.."]
)
def test_dots_that_lead_out(bundle: pathlib.Path, key: str, path: str) -> None:
    error = refused(bundle, PLAIN, **{key: path})
    assert error.message.endswith(f"'{key}': '{path}' leads out of the root filesystem")


@pytest.mark.parametrize("key", FILES)
@pytest.mark.parametrize("target", ["../outside", "../../outside", "/outside", "ABSOLUTE"])
def test_links_that_lead_out(bundle: pathlib.Path, key: str, target: str) -> None:
    target = str(bundle / "outside") if target == "ABSOLUTE" else target
    (bundle / "rootfs/link").symlink_to(target)
    error = refused(bundle, PLAIN, **{key: "/link"})
    assert "'/link': no such file or directory" in error.message
    assert "followed inside it only" in error.hint


def test_a_directory_that_is_a_link_out(bundle: pathlib.Path) -> None:
    (bundle / "elsewhere").mkdir()
    (bundle / "elsewhere/app").write_bytes(elf())
    (bundle / "rootfs/directory").symlink_to("../elsewhere")
    assert "no such file" in refused(bundle, PLAIN, binary="directory/app").message


def test_magic_links_are_not_followed(bundle: pathlib.Path) -> None:
    root = bundle / "rootfs"
    (root / "loop").symlink_to("loop")
    assert "'loop': too many levels" in refused(bundle, PLAIN, binary="loop").message


@pytest.mark.parametrize(
    "target", ["unikernel/app", "/unikernel/app", "./unikernel/../unikernel/app"]
)
def test_links_inside_are_followed(bundle: pathlib.Path, target: str) -> None:
    (bundle / "rootfs/link").symlink_to(target)
    found = read(bundle, PLAIN, binary="/link")
    assert found
    assert found.kernel.path == "/link"
    assert found.kernel.inode == (bundle / "rootfs/unikernel/app").stat().st_ino


@pytest.mark.parametrize("key", FILES)
@pytest.mark.parametrize("kind", ["directory", "pipe"])
def test_only_regular_files(bundle: pathlib.Path, key: str, kind: str) -> None:
    if kind == "directory":
        (bundle / "rootfs/odd").mkdir()
    else:
        os.mkfifo(bundle / "rootfs/odd")
    assert refused(bundle, PLAIN, **{key: "odd"}).message.endswith("'odd': not a regular file")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "read 'urunc.json': not JSON: "),
        (b"\xff", "read 'urunc.json': not JSON: "),
        (b"[]", "read 'urunc.json': expected an object of strings"),
        (b'{"binary": 1}', "read 'urunc.json': 'binary': expected a string"),
        (b" " * (image.FILE_LIMIT_BYTES + 1), "read 'urunc.json': larger than"),
    ],
)
def test_a_broken_file_in_the_root(bundle: pathlib.Path, content: bytes, words: str) -> None:
    (bundle / "rootfs/urunc.json").write_bytes(content)
    assert refused(bundle, {}).message.startswith(words)


def test_a_file_in_the_root_that_is_a_directory(bundle: pathlib.Path) -> None:
    (bundle / "rootfs/urunc.json").mkdir()
    assert "not a regular file" in refused(bundle, {}).message


def test_a_host_device_is_refused(bundle: pathlib.Path) -> None:
    error = refused(bundle, PLAIN, block="/dev/null")
    assert "'block': '/dev/null': no such file or directory" in error.message
    assert "annotations.host_devices" in error.hint


@pytest.mark.parametrize(
    ("path", "pattern"),
    [("/dev/../etc/passwd", "/dev/*"), ("/dev/sda", "/dev/sdb"), ("/dev//sda", "/dev/*")],
)
def test_a_host_device_outside_the_patterns(bundle: pathlib.Path, path: str, pattern: str) -> None:
    error = refused(bundle, PLAIN, config(annotations__host_devices=[pattern]), block=path)
    assert "no such file or directory" in error.message


def test_an_allowed_host_device_must_be_one(bundle: pathlib.Path) -> None:
    allowed = config(annotations__host_devices=["/dev/*"])
    error = refused(bundle, PLAIN, allowed, block="/dev/null")
    assert error.message.endswith("host device '/dev/null': not a block device")
    error = refused(bundle, PLAIN, allowed, block="/dev/no-such-device")
    assert "host device '/dev/no-such-device': no such file" in error.message


def test_an_allowed_host_device(bundle: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = os.stat_result((stat.S_IFBLK | 0o660, 5, 6, 1, 0, 6, 0, 0, 0, 0))
    real = posix.stat
    monkeypatch.setattr(posix, "stat", lambda path: facts if path == "/dev/vg/disk" else real(path))
    found = read(
        bundle, PLAIN, config(annotations__host_devices=["/dev/vg/*"]), block="/dev/vg/disk"
    )
    assert found and found.blocks
    assert (found.blocks[0].path, found.blocks[0].inside, found.blocks[0].mode) == (
        "/dev/vg/disk",
        False,
        0o660,
    )


def test_overrides(bundle: pathlib.Path) -> None:
    found = read(bundle, PLAIN, memory="64Mi", vcpus="2")
    assert found
    assert found.overrides == {"memory": "64Mi", "vcpus": "2"}


@pytest.mark.parametrize("key", image.OVERRIDES)
def test_overrides_that_are_not_allowed(bundle: pathlib.Path, key: str) -> None:
    error = refused(bundle, PLAIN, config(annotations__allow=[]), **{key: "1"})
    assert error.message == f"annotation '{PREFIX}{key}': not allowed on this machine"
    assert error.hint == "set in /etc/urunc/config.toml"


@pytest.mark.parametrize("key", ["useDMBlock", "mountRootfs"])
def test_the_root_filesystem_as_a_disk(bundle: pathlib.Path, key: str) -> None:
    assert read(bundle, PLAIN, **{key: "false"})
    assert "is neither true nor false" in refused(bundle, PLAIN, **{key: "yes"}).message
    both = refused(bundle, PLAIN, **{key: "True"}).message
    assert "'mountRootfs': not together with 'initrd' or 'block'" in both
    found = read(bundle, PLAIN, initrd="", block="", **{key: "True"})
    assert found and found.mount_rootfs


def test_a_damaged_unikernel(bundle: pathlib.Path) -> None:
    (bundle / "rootfs/unikernel/app").write_bytes(b"\x7fELF\x02\x01")
    assert "read '/unikernel/app': damaged ELF file" in refused(bundle, PLAIN).message
