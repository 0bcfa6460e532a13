# SPDX-License-Identifier: Apache-2.0
"""Pods with an ordinary image as a Linux guest, and the volumes that a kubelet gives them: shared
by virtiofs, and as copies."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from lib.engines import NEEDS_OF_PODS, containerd_for_pods
from lib.patience import until
from lib.places.containerd import Containerd
from lib.places.cri import Cri
from lib.pods import EXITED, Pod
from lib.stored import (
    AS_LINUX,
    CONFIG,
    CONTENT,
    COPYING,
    DENIED,
    KEEP,
    KEPT,
    Volumes,
    answers,
    image,
    script,
)
from lib.support import PREFIX, need

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
TIME = "..2026_11_25"
"""The directory in which a kubelet has one state of a volume."""


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """containerd with a registry that has the image and `pause`."""
    need(*NEEDS_OF_PODS, "linux", "qemu", "images")
    directory = tmp_path_factory.mktemp("images")
    images = (image(directory), image(directory, "declaring", "/data"))
    with containerd_for_pods(CONFIG, directory, *images) as place:
        yield place


class Kubelet:
    """The directory that a kubelet has for a pod, as the node sees it."""

    def __init__(self, node: Containerd, uid: str) -> None:
        self.node = node
        self.path = f"/var/lib/kubelet/pods/{uid}"
        self.mounts: list[dict[str, Any]] = []

    def file(self, name: str, content: str, mode: int = 0o644) -> pathlib.Path:
        """A file below the directory, as the tests see it."""
        path = pathlib.Path(self.node.seen(f"{self.path}/{name}"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(mode)
        return path

    def mount(self, name: str, target: str, *, read_only: bool) -> None:
        """Have it mounted in the container."""
        source = name if name.startswith("/") else f"{self.path}/{name}"
        self.mounts.append({"container_path": target, "host_path": source, "readonly": read_only})

    def published(self, kind: str, target: str, mode: int, **contents: str) -> None:
        """A volume whose files are links through `..data` to the directory of one time."""
        volume = f"volumes/kubernetes.io~{kind}"
        for name, content in contents.items():
            file = self.file(f"{volume}/{TIME}/{name}", content, mode)
            os.symlink(f"..data/{name}", file.parent.parent / name)
        os.symlink(TIME, file.parent.parent / "..data")
        self.mount(volume, target, read_only=True)


ASKED = {
    "image": "cat /etc/image",
    "config": "cat /config/key; readlink /config/..data; readlink /config/key",
    "secret": "cat /secret/word; stat -Lc %a /secret/word",
    "token": f"cat {ACCOUNT}/token",
    "one": "cat /etc/one.conf",
    "path": "cat /path/file; echo guest >/path/file",
    "empty": "echo guest >/empty/new; cat /empty/new",
    "log": "echo why >/dev/termination-log; cat /dev/termination-log",
    "device": "dd if=/dev/xvda bs=10 count=1 2>/dev/null",
    "change": "echo by the guest | dd of=/dev/xvda bs=512 conv=fsync 2>/dev/null",
    "name": "cat /etc/hostname /proc/sys/kernel/hostname",
    "names": "cat /etc/resolv.conf; grep alias /etc/hosts",
}
SEEN = {
    "image": CONTENT,
    "config": f"a setting\n{TIME}\n..data/key\n",
    "secret": "a word\n400\n",
    "token": "a token\n",
    "one": "one file\n",
    "path": "of the host\n" + DENIED.format("/path/file"),
    "empty": "guest\n",
    "log": "why\n",
    "device": "on a disk\n",
    "change": "",
    "name": "pod\npod\n",
    "names": "search a.example\nnameserver 192.0.2.54\n192.0.2.9\tdb alias\n",
}


@pytest.mark.parametrize("config", [CONFIG, COPYING], ids=["shared", "copied"])
def test_volumes(containerd: Containerd, cri: Cri, tmp_path: pathlib.Path, config: str) -> None:
    """ConfigMap, Secret, service account, a file by subPath, hostPath, emptyDir, the termination
    log, a block device, names; the exit code is the application's."""
    pathlib.Path(containerd.seen("/etc/urunc/config.toml")).write_text(config)
    volumes = Volumes(tmp_path)
    pod = Pod(containerd, cri)
    pod.config["dns_config"] = {"servers": ["192.0.2.54"], "searches": ["a.example"]}
    home = Kubelet(containerd, pod.config["metadata"]["uid"])
    home.published("configmap/settings", "/config", 0o644, key="a setting\n", more="more\n")
    home.published("secret/word", "/secret", 0o400, word="a word\n")
    home.published("projected/kube-api-access", ACCOUNT, 0o644, token="a token\n")
    home.file("volume-subpaths/one/guest/0", "one file\n")
    home.mount("volume-subpaths/one/guest/0", "/etc/one.conf", read_only=True)
    home.file("path/file", "of the host\n")
    home.mount("path", "/path", read_only=True)
    empty = home.file("volumes/kubernetes.io~empty-dir/empty/old", "").parent
    home.mount("volumes/kubernetes.io~empty-dir/empty", "/empty", read_only=False)
    log = home.file("containers/guest/0a1b2c3d", "")
    home.mount("containers/guest/0a1b2c3d", "/dev/termination-log", read_only=False)
    home.file("etc-hosts", "127.0.0.1\tlocalhost\n192.0.2.9\tdb alias\n")
    home.mount("etc-hosts", "/etc/hosts", read_only=False)
    with pod.made(), volumes.device() as device:
        given = {
            "annotations": {PREFIX + key: value for key, value in AS_LINUX.items()},
            "mounts": home.mounts,
            "devices": [{"container_path": "/dev/xvda", "host_path": device, "permissions": "mrw"}],
        }
        guest = pod.start("guest", "stored", *script(ASKED, code=7), given=given)
        until(lambda: pod.status(guest).state == EXITED, "the guest ends")
        assert pod.status(guest).exit_code == 7
        lines = "".join(f"{text}\n" for _, text in pod.log(guest))
    assert answers(lines) == SEEN
    shared = config == CONFIG
    assert {path.name for path in empty.iterdir()} == {"old", *(("new",) if shared else ())}
    assert log.read_text() == "why\n"


@pytest.mark.parametrize("config", [CONFIG, COPYING], ids=["shared", "copied"])
def test_volumes_of_an_image(containerd: Containerd, cri: Cri, config: str) -> None:
    """VOLUME: the directory that CRI makes where it can be shared, else a copy of it."""
    pathlib.Path(containerd.seen("/etc/urunc/config.toml")).write_text(config)
    pod = Pod(containerd, cri)
    with pod.made():
        given = {"annotations": {PREFIX + key: value for key, value in AS_LINUX.items()}}
        guest = pod.start("guest", "declaring", *script(KEEP, code=7), given=given)
        until(lambda: pod.status(guest).state == EXITED, "the guest ends")
        assert pod.status(guest).exit_code == 7
        assert answers("".join(f"{text}\n" for _, text in pod.log(guest))) == KEPT
