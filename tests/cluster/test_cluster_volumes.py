# SPDX-License-Identifier: Apache-2.0
"""Volumes of pods: what is in them, and what an update of them shows."""

from __future__ import annotations

import pytest

from lib.in_cluster import RUNC, URUNC, Namespace, Way, eventually, image
from lib.places.cluster import Object
from lib.stored import answers

ASKED = {
    "config": "cat /config/key",
    "secret": "cat /secret/key; stat -Lc %a /secret/key",
    "token": "wc -c </token/token | grep -c ....; ls /token",
    "disk": "echo a >/disk/file; cat /disk/file",
    "memory": "echo a >/memory/file; cat /memory/file",
    "sub": "cat /sub/file; ls /sub",
    "node": "cat /node/file",
    "image": "cat /image/www/index.html; touch /image/new",
    "downward": "cat /downward/name",
}
SEEN = {
    "config": "one\n",
    "secret": "hidden\n400\n",
    "token": "1\nca.crt\nnamespace\ntoken\n",
    "disk": "a\n",
    "memory": "a\n",
    "sub": "made before\nfile\n",
    "node": "of the node\n",
    "image": "none\ntouch: /image/new: Read-only file system\n",
    "downward": "app",
}
TOKEN = {
    "sources": [
        {"serviceAccountToken": {"path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {
            "downwardAPI": {
                "items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]
            }
        },
    ]
}


def config(value: str) -> Object:
    """The ConfigMap."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config"},
            "data": {"key": f"{value}\n"}}  # fmt: skip


@pytest.fixture(params=[RUNC, URUNC], ids=lambda way: way.name)
def way(request: pytest.FixtureRequest) -> Way:
    """Linux guests are emulated here: both shims, which have nothing to do with volumes, would only
    take twice the time."""
    found: Way = request.param
    return found


def test_all_kinds(namespace: Namespace, way: Way) -> None:
    """Each kind of volume is there, with its content, its mode, and its rights."""
    namespace.make(
        config("one"),
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "secret"},
         "stringData": {"key": "hidden\n"}},
    )  # fmt: skip
    namespace.cluster.run("sh", "-c", "mkdir -p /opt/of-node; echo of the node >/opt/of-node/file")
    volumes: dict[str, Object] = {
        "config": {"configMap": {"name": "config"}},
        "secret": {"secret": {"secretName": "secret", "defaultMode": 0o400}},
        "token": {"projected": TOKEN},
        "disk": {"emptyDir": {}},
        "memory": {"emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}},
        "whole": {"emptyDir": {}},
        "node": {"hostPath": {"path": "/opt/of-node"}},
        "image": {"image": {"reference": image("box")}},
        "downward": {"downwardAPI": {"items": [
            {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    }  # fmt: skip
    mounts = [{"name": name, "mountPath": f"/{name}"} for name in volumes if name != "whole"]
    mounts.append({"name": "whole", "mountPath": "/sub", "subPath": "below"})
    script = "exec 2>&1\n" + "".join(f"echo '== {name}'; {it}\n" for name, it in ASKED.items())
    first = RUNC.shell("mkdir /whole/below; echo made before >/whole/below/file",
                       name="first-sidecar", memory="32Mi",
                       volumeMounts=[{"name": "whole", "mountPath": "/whole"}])  # fmt: skip
    namespace.make(
        way.pod(
            "app",
            way.shell(script, volumeMounts=mounts, memory="256Mi"),
            initContainers=[first],
            volumes=[{"name": name, **volume} for name, volume in volumes.items()],
            restartPolicy="Never",
        )
    )
    namespace.ended("app")
    assert answers(namespace.kubectl("logs", "app", "--container=app")) == SEEN


def test_an_update(namespace: Namespace, way: Way) -> None:
    """A ConfigMap's new value arrives in a volume of a container that runs; not in a subPath."""
    namespace.make(config("one"))
    script = "while :; do echo $(cat /config/key) $(cat /fixed); sleep 1; done"
    mounts = [
        {"name": "config", "mountPath": "/config"},
        {"name": "config", "mountPath": "/fixed", "subPath": "key"},
    ]
    volumes = [{"name": "config", "configMap": {"name": "config"}}]
    namespace.make(way.pod("app", way.shell(script, volumeMounts=mounts), volumes=volumes))
    namespace.logged("app", "one one")
    namespace.make(config("two"))
    namespace.logged("app", "two one")


def test_a_block_volume(namespace: Namespace, way: Way) -> None:
    """volumeDevices: a device of the node's by a local volume."""
    run = namespace.cluster.run
    run(
        "sh", "-c", "truncate -s 1M /opt/disk; printf 'on a disk\\n' | dd of=/opt/disk conv=notrunc"
    )
    device = run("losetup", "--show", "-f", "/opt/disk").stdout.strip()
    name = f"block-{namespace.name}"
    try:
        namespace.cluster.apply({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"],
                "volumeMode": "Block", "storageClassName": name, "local": {"path": device},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node"]}]}]}},
            },
        })  # fmt: skip
        namespace.make({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "block"},
            "spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Block",
                     "storageClassName": name, "resources": {"requests": {"storage": "1Mi"}}},
        })  # fmt: skip
        devices = [{"name": "block", "devicePath": "/dev/block"}]
        script = "dd if=/dev/block bs=10 count=1 2>/dev/null"
        container = way.shell(script, volumeDevices=devices)
        volumes = [{"name": "block", "persistentVolumeClaim": {"claimName": "block"}}]
        namespace.make(way.pod("app", container, volumes=volumes, restartPolicy="Never"))
        namespace.ended("app")
        assert namespace.kubectl("logs", "app") == "on a disk\n"
        namespace.kubectl("delete", "pod", "app")
        namespace.kubectl("delete", "persistentvolumeclaim", "block")
    finally:
        namespace.cluster("delete", "persistentvolume", name, check=False)
        eventually(lambda: not run("losetup", "-d", device, check=False).returncode, "in use")
