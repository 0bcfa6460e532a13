# SPDX-License-Identifier: Apache-2.0
"""Each cell of the tables of docs/storage.md: what ways.py says is what a guest has. Linux on QEMU
and the probe are booted; Linux on Firecracker, which needs KVM on hardware, is created."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from lib import ways
from lib.rooted import configure, linux, populate, run, volume
from lib.support import PARTS, Bundle, Container, Urunc, need, nothing_left
from lib.ways import CONTENTS, LEFT_OUT, REFUSED, SETTINGS, Content, Setting, way
from urunc.storage.facts import DEVICE, DIRECTORY, DISKS, SHARES, TMPFS
from urunc.storage.initrd import known

LINUX = [setting for setting in SETTINGS if setting.rooted]
OTHERS = [setting for setting in SETTINGS if not setting.rooted]
CELLS = [(setting, content) for setting in OTHERS for content in CONTENTS]


def needed(name: str, monitor: str, shares: tuple[str, ...] = ()) -> None:
    """Skip what this machine cannot run."""
    need("root", "images", "probe", *(("linux",) if name == "linux" else ()))
    need({"hvt": "solo5", "spt": "solo5"}.get(monitor, monitor))
    need(*(("kvm",) if monitor in ("hvt", "firecracker") else ()))
    need(*(("virtiofsd",) if "virtiofs" in shares else ()))
    modules = str(PARTS / "linux/lib-modules")
    if name == "linux" and shares == ("9p",) and not known(modules, ("9p", "9pnet_virtio")):
        pytest.skip("needs a guest's kernel with 9p (KERNEL_PACKAGE=linux-image-amd64)")


def unikernel(path: pathlib.Path, name: str, monitor: str, *, disk: bool, **more: str) -> Bundle:
    """The probe in a guest's place; on Solo5 it declares a block device where it shall have one."""
    emulated = {"accelerator": "tcg"} if monitor == "qemu" else {}
    made = Bundle(path, name, monitor, **emulated, **more)
    own = "pvh" if monitor in ("qemu", "firecracker") else monitor
    bare = "-bare" if own == monitor and not disk else ""
    made.add("unikernel", PARTS / f"probe{bare}.{own}")
    made.args("app", "probe.hang")
    return made


def mounted(bundle: Bundle, content: Content, directory: pathlib.Path, device: str) -> None:
    """What a container's config.json says of it, and what there is to mount: a file `text`, or one
    with the same in it."""
    mounts = bundle.config.setdefault("mounts", [])
    if content.kind == DEVICE:
        numbers = os.stat(device).st_rdev
        bundle.config["linux"]["devices"] = [
            {"path": content.destination, "type": "b", "major": os.major(numbers),
             "minor": os.minor(numbers)}
        ]  # fmt: skip
    elif content.kind == TMPFS:
        mounts.append({"destination": content.destination, "type": "tmpfs", "source": "tmpfs"})
    else:
        path = place(directory, content)
        text = path / "text" if content.kind == DIRECTORY else path
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("of the host\n")
        path.chmod(0o777)
        text.chmod(0o666)
        mounts.append(volume(content.destination, path, *(["ro"] if content.read_only else ())))


def place(directory: pathlib.Path, content: Content) -> pathlib.Path:
    """Where it is on the host."""
    kind = "kubernetes.io~empty-dir" if content.scratch else "volumes"
    return directory / kind / content.destination.strip("/").replace("/", "-")


def has(container: Container, given: str, name: str) -> None:
    """A unikernel sees what it was given in one of the ways; files have this name in an archive."""
    report = container.report()
    entries = [entry["name"] for entry in (report.get("initrd") or {"entries": []})["entries"]]
    disks = [disk["name"] for disk in report["disks"]]
    tags = [other["tag"] for other in report.get("others", []) if other.get("tag")]
    assert bool(tags) == (given == "9p"), report
    assert bool(disks) == (given in DISKS), report
    assert (name in entries) == (given in ("initrd", "cpio")), report


def tells(urunc: Urunc, bundle: Bundle) -> str:
    """`plan` of it, which warns or refuses."""
    result = urunc("plan", "--bundle", str(bundle.write()), check=False)
    return f"{result.returncode}\n{result.stdout}{result.stderr}"


@pytest.mark.parametrize(
    ("setting", "content"),
    CELLS,
    ids=[f"{setting.name}-{content.words}" for setting, content in CELLS],
)
def test_a_volume_of_a_unikernel(
    urunc: Urunc, tmp_path: pathlib.Path, device: str, setting: Setting, content: Content
) -> None:
    needed(setting.guest, setting.monitor)
    configure(urunc)
    given = way(setting, content)
    bundle = unikernel(tmp_path / "b", setting.guest, setting.monitor, disk=given in DISKS)
    mounted(bundle, content, tmp_path, device)
    told = tells(urunc, bundle)
    if given == REFUSED:
        assert told.startswith("1\n") and content.destination in told, told
        return
    missing = f"mounts that the guest does not see: {content.destination}"
    assert (missing in told) == (given == LEFT_OUT), told
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        name = content.destination.strip("/") + ("/text" if content.kind == DIRECTORY else "")
        has(container, given, name)
        container.delete("--force")


@pytest.mark.parametrize("setting", LINUX, ids=lambda setting: setting.name)
def test_volumes_of_linux(
    urunc: Urunc, tmp_path: pathlib.Path, device: str, setting: Setting
) -> None:
    """All that a guest can have at once; the rest, each alone, is refused."""
    needed(setting.guest, setting.monitor, setting.shares)
    configure(urunc, "ext4", *setting.shares, **_kernel(setting.monitor))
    given: dict[str, tuple[Content, str]] = {}
    script = "cat /proc/mounts; "
    bundle = linux(tmp_path / "b", "")
    bundle.config["annotations"]["com.urunc.unikernel.hypervisor"] = setting.monitor
    bundle.config["annotations"]["com.urunc.unikernel.rootfs"] = "ext4"
    for content in CONTENTS:
        told = way(setting, content)
        if told == REFUSED:
            alone = linux(tmp_path / content.destination.strip("/"), "true", rootfs="ext4")
            alone.config["annotations"] = bundle.config["annotations"]
            mounted(alone, content, tmp_path, device)
            assert f"mount '{content.destination}' of" in (said := tells(urunc, alone)), said
            continue
        given[content.destination] = content, told
        mounted(bundle, content, tmp_path, device)
        if content.kind == DEVICE:
            script += f"[ -b {content.destination} ] && echo a disk at {content.destination}; "
        elif content.kind != TMPFS:
            file = content.destination + ("/text" if content.kind == DIRECTORY else "")
            script += f"echo {content.destination}: $(cat {file}); echo guest >>{file}; "
    bundle.args("sh", "-c", script)
    if setting.monitor == "firecracker":
        with nothing_left(urunc.root):
            container = urunc.create(bundle)
            found = {item["destination"]: item["way"] for item in container.plan()["volumes"]}
            assert found == {destination: told for destination, (_, told) in given.items()}
            container.delete("--force")
        return
    with nothing_left(urunc.root):
        done = run(urunc, bundle)
    kinds = {line.split()[1]: line.split()[2] for line in done.stdout.splitlines()
             if len(line.split()) == 6}  # fmt: skip
    for destination, (content, told) in given.items():
        if content.kind == DEVICE:
            assert f"a disk at {destination}\n" in done.stdout, done
        elif content.kind == TMPFS:
            assert kinds[destination] == "tmpfs", done
        else:
            assert f"{destination}: of the host\n" in done.stdout, done
            seen = kinds.get(destination, "")
            assert (seen if seen in SHARES else "") == (told if told in SHARES else ""), done
            path = place(tmp_path, content)
            text = (path / "text" if content.kind == DIRECTORY else path).read_text()
            written = told in SHARES and not content.read_only
            assert text == ("of the host\nguest\n" if written else "of the host\n"), said


def _kernel(monitor: str) -> dict[str, Any]:
    """Firecracker takes no compressed one."""
    kernel = {"guests.linux.kernel": str(PARTS / "linux/vmlinux")}
    return kernel if monitor == "firecracker" else {}


ROOTS = [
    (*setup, form)
    for setup in ways.ROOTED
    for form in ways.forms(*setup)
    if setup != ("linux", "qemu")  # test_storage and test_sharing boot those
]


@pytest.mark.parametrize(("name", "monitor", "form"), ROOTS)
def test_a_root(urunc: Urunc, tmp_path: pathlib.Path, name: str, monitor: str, form: str) -> None:
    needed(name, monitor)
    if name == "linux":
        configure(urunc, form, **_kernel(monitor))
        bundle = linux(tmp_path / "b", "true", rootfs=form)
        bundle.config["annotations"]["com.urunc.unikernel.hypervisor"] = monitor
    else:
        configure(urunc)
        more = {"mountRootfs": "true", "rootfs": form}
        bundle = unikernel(tmp_path / "b", name, monitor, disk=form in DISKS, **more)
        populate(bundle.root)
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        assert container.plan()["root_way"]["form"] == form
        if name != "linux":
            container.start()
            has(container, form, "etc/passwd")
        container.delete("--force")


FILESYSTEMS = [(*setup, form) for setup in ways.ROOTED for form in ways.devices(*setup)]


@pytest.fixture
def snapshot(
    urunc: Urunc, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> Iterator[Bundle]:
    """A bundle whose root filesystem is alone on a block device."""
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("needs loop devices")
    name, monitor, form = request.param
    needed(name, monitor)
    tree, image = tmp_path / "tree", tmp_path / "image"
    populate(tree)
    if name != "linux":
        (tree / "unikernel").write_bytes((PARTS / f"probe.{monitor}").read_bytes())
    make = {
        "erofs": ["mkfs.erofs", "--quiet", str(image), str(tree)],
        "squashfs": ["mksquashfs", str(tree), str(image), "-quiet", "-no-progress"],
    }.get(form, ["mke2fs", "-q", "-t", form, "-d", str(tree), str(image), "64M"])
    subprocess.run(make, check=True)
    bundle = Bundle(tmp_path / "b", name, monitor, mountRootfs="true")
    if name == "linux":
        bundle.config["annotations"]["com.urunc.unikernel.binary"] = ""
    command = ["losetup", "--find", "--show", str(image)]
    device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        with nothing_left(urunc.root):
            mount = subprocess.run(["mount", "-t", form, device, str(bundle.root)], check=False)
            if f"\t{form}\n" not in pathlib.Path("/proc/filesystems").read_text():
                pytest.skip(f"needs a kernel that mounts {form}")
            assert mount.returncode == 0
            yield bundle
    finally:
        if os.path.ismount(bundle.root):
            subprocess.run(["umount", str(bundle.root)], check=True)
        subprocess.run(["losetup", "-d", device], check=True)


@pytest.mark.parametrize("snapshot", FILESYSTEMS, indirect=True, ids="-".join)
def test_a_device(urunc: Urunc, snapshot: Bundle) -> None:
    """The guest has it, and the host has let go of it."""
    name, monitor = (
        snapshot.config["annotations"][f"com.urunc.unikernel.{key}"]
        for key in ("unikernelType", "hypervisor")
    )
    configure(urunc, *ways.devices(name, monitor), **_kernel(monitor))
    snapshot.args(*(("cat", "/etc/passwd", "/proc/mounts") if name == "linux" else ("app",)))
    snapshot.config["process"]["env"] = ["PATH=/bin"] if name == "linux" else []
    snapshot.config["linux"].pop("resources")
    container = urunc.create(snapshot)
    assert container.plan()["root_way"]["device"].startswith("/dev/loop")
    assert not os.path.ismount(snapshot.root)
    if name != "linux":
        container.start()
        has(container, "ext2", "")
    elif monitor == "qemu":
        container.start()
        container.wait_for("root:x:0:0", 100)
    container.delete("--force")
