# SPDX-License-Identifier: Apache-2.0
"""`root.readonly` of Linux guests, in each form of a root filesystem: the guest has what runc's
container has, and writes nowhere but to its mounts. QEMU emulates: Linux does not run on every
nested KVM."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from lib.rooted import by_runc, configure, linux, run, spared, volume
from lib.support import PARTS, Bundle, Urunc, need, nothing_left
from lib.ways import forms
from urunc.storage.initrd import known

FORMS = forms("linux", "qemu")
SIZED = "annotation 'rootfsSize': the root filesystem is read-only"
LOOK = """
exec 2>&1
cat /etc/passwd /data/text /new/file /etc/secret /etc/gone
ls -l /etc/linked | cut -d'>' -f2; ls /opaque /new/scratch; stat -c '%a %u:%g %F' / /etc/secret
stat -f -c %T /new/scratch; pwd
for path in /x /etc/passwd /etc/secret /opaque/x /proc/x /new/x /data/x /new/file /deep/cwd/x; do
    echo over >$path && echo wrote $path
done
rm /etc/passwd; mkdir /d; chmod 777 /; rm -r /opaque
echo mine >/new/scratch/x && cat /new/scratch/x
grep ' / ' /proc/mounts | tail -n 1 | cut -d' ' -f4 | cut -d, -f1
exit 7
"""
"""Denied at each place but the tmpfs; `/new` and `/deep` are no directories of the image's."""


def needed(form: str) -> None:
    """Skip what this machine cannot run."""
    need("root", "linux", "qemu", "images", "runc")
    need(*(("virtiofsd",) if form == "virtiofs" else ()))
    if form == "9p" and not known(str(PARTS / "linux/lib-modules"), ("9p", "9pnet_virtio")):
        pytest.skip("needs a guest's kernel with 9p (KERNEL_PACKAGE=linux-image-amd64)")


def look(urunc: Urunc, bundle: Bundle, directory: pathlib.Path) -> tuple[str, str]:
    """What the guest says, as runc's container does, to its end; what urunc warned of."""
    for name in ("data/text", "file"):
        (directory / "host" / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / "host" / name).write_text(f"{name} of the host\n")
    bundle.config["root"]["readonly"] = True
    bundle.config["process"]["cwd"] = "/deep/cwd"
    bundle.config["mounts"] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        volume("/data", directory / "host/data", "ro"),
        volume("/new/file", directory / "host/file", "ro"),
        {"destination": "/new/scratch", "type": "tmpfs", "source": "t", "options": ["size=64k"]},
    ]
    bundle.args("sh", "-c", LOOK)
    with nothing_left(urunc.root):
        ours = run(urunc, bundle)  # first: runc makes the places of mounts in the bundle
        theirs = by_runc(urunc, bundle)
    assert theirs.returncode == 7, theirs
    assert "wrote" not in theirs.stdout
    assert theirs.stdout.endswith("\nmine\nro\n")
    assert (ours.stdout, ours.returncode) == (theirs.stdout, 7), ours.stderr
    return ours.stdout, ours.stderr


@pytest.mark.parametrize("form", FORMS)
def test_the_image_alone(urunc: Urunc, tmp_path: pathlib.Path, form: str) -> None:
    """A disk for what the guest writes (`rootfsSize`) is of no use to it, which a warning says."""
    needed(form)
    configure(urunc, form)
    bundle = linux(tmp_path / "b", "", rootfs=form, rootfsSize="64Mi")
    said, warned = look(urunc, bundle, tmp_path)
    assert said.startswith("root:x:0:0::/:/bin/sh\ndata/text of the host\nfile of the host\n")
    assert SIZED in warned


@pytest.mark.parametrize("form", FORMS)
def test_with_a_layer_of_the_containers_own(
    urunc: Urunc, tmp_path: pathlib.Path, overlay: pathlib.Path, form: str
) -> None:
    """Files that an engine, or `podman cp`, put above the image's are there, what it took away is
    not, and all of it is to be read alone."""
    needed(form)
    configure(urunc, form, **{"storage.rootfs_size_mib": 64})
    root = overlay / "rootfs"
    (root / "etc/secret").write_text("of one container\n")
    (root / "etc/secret").chmod(0o644)
    (root / "etc/linked").symlink_to("/proc/mounts")
    (root / "etc/gone").unlink()
    shutil.rmtree(root / "opaque")
    (root / "opaque").mkdir()
    (root / "opaque/new").touch()
    root.chmod(0o751)
    bundle = Bundle(overlay, "linux", "qemu", binary="", mountRootfs="true", rootfs=form)
    bundle.config["process"]["env"] = ["PATH=/bin"]
    bundle.config["vm"] = spared()
    del bundle.config["linux"]["resources"]
    said, warned = look(urunc, bundle, tmp_path)
    assert "\nof one container\n" in said
    assert "\n /proc/mounts\n" in said
    assert "\nnew\n" in said
    assert "can't open '/etc/gone'" in said
    assert "751 0:0 directory\n" in said
    assert "rootfsSize" not in warned
