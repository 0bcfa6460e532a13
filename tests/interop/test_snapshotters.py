# SPDX-License-Identifier: Apache-2.0
"""Mounts that snapshotters of containerd 2 leave to the shim: layers that are EROFS images, files
with a file system, and layers with other ids for a container with a user namespace."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lib import busybox
from lib.engines import bare_probe, containerd_with
from lib.images import archive
from lib.places.containerd import RUNC, SHIM, Containerd
from lib.support import TOOLS, URUNC, need, unchanged

RUNTIMES = [SHIM, RUNC]
IDS = ("--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536", "--remap-labels")


@pytest.fixture(scope="module")
def containerd(urunc_config: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    need("root", "installed", "runc", "containerd", "containerd2", "probe", "solo5", "images")
    directory = tmp_path_factory.mktemp("images")
    box = busybox.files("sh", "cat", "echo", "stat", "touch", "grep", "sleep")
    # mount points of a root filesystem that nobody can write to
    box |= {f"{name}/.keep": b"" for name in ("dev", "proc", "run", "sys")}
    images = [archive(directory / "box.tar", "box", box, ["/bin/sh"]), bare_probe(directory)]
    with containerd_with(Containerd(str(URUNC), urunc_config, str(TOOLS)), *images) as place:
        for image in images:
            place("images", "import", "--local", "--snapshotter", "erofs", str(image))
        yield place


@pytest.fixture(autouse=True)
def nothing_stays(containerd: Containerd) -> Iterator[None]:
    """The place holds after a test what it held before it, loop devices and mounts too."""
    with unchanged(containerd.holds, 10):
        yield


def said(containerd: Containerd, runtime: str, *options: str, script: str) -> list[str]:
    done = containerd.launch(
        "one", "box", "/bin/sh", "-c", script, runtime=runtime, options=("--rm", *options),
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + containerd.log()
    return done.stdout.splitlines()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_erofs(containerd: Containerd, runtime: str) -> None:
    """An overlay of layers that containerd has mounted."""
    script = "touch /new && stat -c '%u %n' /new /bin/sh; grep ' / / ' /proc/self/mountinfo"
    new, shell, root = said(containerd, runtime, "--snapshotter", "erofs", script=script)
    assert (new, shell) == ("0 /new", "0 /bin/sh")
    assert " - overlay " in root


def test_erofs_alone(containerd: Containerd) -> None:
    """A view of one layer: a mount that is the shim's, because it says that it takes it; runc's
    shim finds an empty root filesystem. Nothing of it is left."""
    options = ("--snapshotter", "erofs", "--read-only")
    script = "touch /new || grep ' / / ' /proc/self/mountinfo"
    words = ("docker.io/library/box:latest", "view", "/bin/sh", "-c", script)
    snapshots = ("snapshots", "--snapshotter", "erofs")
    containerd("containers", "create", "--runtime", SHIM, *options, *words)
    parent = containerd(*snapshots, "ls").stdout.split("view", 1)[1].split()[0]
    containerd(*snapshots, "rm", "view")
    containerd(*snapshots, "view", "view", parent)
    done = containerd("tasks", "start", "view", check=False)
    assert done.returncode == 0, done
    assert " - erofs /dev/loop" in done.stdout
    containerd("containers", "delete", "view")
    containerd(*snapshots, "rm", "view", check=False)
    containerd.remove_group("tests")


def test_a_guest_of_erofs(containerd: Containerd) -> None:
    """Its kernel is read from the layers."""
    options = ("--rm", "--snapshotter", "erofs")
    done = containerd.launch("guest", "spt", "probe.exit=7", options=options, check=False)
    assert done.returncode == 7, done.stderr
    assert '"cmdline"' in done.stdout


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_layers_with_other_ids(containerd: Containerd, runtime: str) -> None:
    """A user namespace: its root owns the files, which nobody has copied to that end."""
    script = (
        "touch /new && stat -c '%u %g %n' /new /bin/sh; cat /proc/self/uid_map; "
        "grep ' / / ' /proc/self/mountinfo"
    )
    for snapshotter in ("overlayfs", "erofs"):
        new, shell, ids, root = said(
            containerd, runtime, "--snapshotter", snapshotter, *IDS, script=script
        )
        assert runtime == RUNC or "lowerdir=idmapped-0" in root
        assert (new, shell) == ("0 0 /new", "0 0 /bin/sh")
        assert ids.split() == ["0", "100000", "65536"]


def test_a_guest_with_other_ids(containerd: Containerd) -> None:
    done = containerd.launch("guest", "spt", "probe.exit=7", options=("--rm", *IDS), check=False)
    assert done.returncode == 7, done.stderr
    assert '"cmdline"' in done.stdout
