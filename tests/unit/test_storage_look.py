# SPDX-License-Identifier: Apache-2.0
"""What is found of a container's mounts and devices, before anything is decided."""

from __future__ import annotations

import os
import pathlib
from types import SimpleNamespace

import pytest

from lib.made import config, document, image
from urunc import guests
from urunc.bundle import spec
from urunc.storage import look
from urunc.storage.facts import DEVICE, VolumeSource

NODE = "/volumes/node"
STAT = os.stat


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block device 8:0 at NODE, which takes root to make."""

    def stat(path: str) -> object:
        if path != NODE:
            return STAT(path)
        return SimpleNamespace(st_mode=0o060600, st_rdev=os.makedev(8, 0))

    monkeypatch.setattr("posix.stat", stat)


def volumes(options: list[str], *devices: dict[str, object], access: str) -> list[VolumeSource]:
    bound = {"destination": "/node", "type": "bind", "source": NODE, "options": options}
    rules = [{"allow": False, "access": "rwm"}, {"allow": True, "access": "m", "type": "b"}]
    rules += [{"allow": True, "type": "b", "major": 8, "minor": 0, "access": access}] * len(devices)
    linux = {"devices": list(devices), "resources": {"devices": rules}}
    parsed = spec.parse(document(mounts=[bound], linux=linux), "/bundle")
    found = look.read_storage(
        parsed, image("linux", "qemu"), guests.load("linux", config()), config()
    )
    return [volume for volume in found.volumes if volume.destination == "/node"]


@pytest.mark.usefixtures("node")
def test_a_bound_node_is_no_device_of_the_containers() -> None:
    """A container with CAP_MKNOD can make a node of the host's disk in a volume that a guest has,
    too."""
    (volume,) = volumes(["rbind", "rw"], access="")
    assert volume.kind == "a block device that linux.devices does not name"
    other = {"path": "/dev/x", "type": "b", "major": 8, "minor": 1}
    assert volumes(["rbind"], other, access="rw")[0].kind == volume.kind
    character = {"path": "/dev/x", "type": "c", "major": 8, "minor": 0}
    assert volumes(["rbind"], character, access="rw")[0].kind == volume.kind


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    ("options", "access", "read_only"),
    [
        (["rbind"], "rw", False),
        (["rbind"], "rm", True),
        (["rbind", "ro"], "rw", True),
        (["rbind", "rro"], "rw", True),
    ],
)
def test_a_bound_node_of_a_device_that_is_given(
    options: list[str], access: str, *, read_only: bool
) -> None:
    device = {"path": "/dev/x", "type": "b", "major": 8, "minor": 0}
    (volume,) = volumes(options, device, access=access)
    assert (volume.kind, volume.device, volume.read_only) == (DEVICE, (8, 0), read_only)


ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "path",
    [
        f"/var/lib/docker/volumes/{ID}/_data",
        f"/srv/data/docker/100000.100000/volumes/{ID}/_data/",
        f"/home/me/.local/share/containers/storage/volumes/{ID}/_data",
        f"/var/lib/nerdctl/1935db59/volumes/default/{ID}/_data",
        f"/var/lib/containerd/io.containerd.grpc.v1.cri/containers/{ID[::-1]}/volumes/{ID}",
        f"/run/containers/storage/overlay-containers/{ID[::-1]}/userdata/mounts/{ID}",
    ],
)
def test_directories_that_engines_make_for_an_images_volumes(path: str) -> None:
    assert look.is_anonymous(path)


@pytest.mark.parametrize(
    "path",
    [
        "/var/lib/docker/volumes/database/_data",
        f"/var/lib/docker/volumes/{ID[1:]}/_data",
        f"/var/lib/docker/volumes/{ID.upper()}/_data",
        f"/srv/{ID}/_data",
        f"/srv/{ID}",
        f"/srv/volumes/{ID}",
        f"/srv/mounts/{ID}",
        "/_data",
        "_data",
        "/",
        "",
    ],
)
def test_directories_of_the_users(path: str) -> None:
    assert not look.is_anonymous(path)


@pytest.mark.parametrize(("options", "returned"), [(["bind"], True), (["bind", "ro"], False)])
def test_a_file_is_given_back_that_may_be_written_to(
    tmp_path: pathlib.Path, options: list[str], *, returned: bool
) -> None:
    """The guest, which is not trusted, would write to what it has to be read alone."""
    file = tmp_path / "pods/1/containers/app/0123abcd"
    file.parent.mkdir(parents=True)
    file.write_text("")
    bound = {"destination": "/end", "type": "bind", "source": str(file), "options": options}
    parsed = spec.parse(document(mounts=[bound]), "/bundle")
    found = look.read_storage(
        parsed, image("linux", "qemu"), guests.load("linux", config()), config()
    )
    assert bool(found.volumes[0].returned) == returned
