# SPDX-License-Identifier: Apache-2.0
"""A guest that cannot be: what `kubectl describe` and events say is enough to mend it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from lib.in_cluster import OWN_SHIM, RUNC, URUNC, Namespace, Way, image
from lib.places.cluster import Object
from lib.support import PREFIX

SAID = {
    "memory": "linux.resources.memory.limit: 4194304 bytes are too few",
    "annotation": "annotation 'vcpus': 'many' is no number above zero",
    "kernel": "annotation 'binary': '/no/such/kernel': no such file or directory",
    "image": "unikernel '/probe': built for Solo5's spt, asked to run on firecracker",
    "kvm": "monitor 'firecracker': needs KVM, but /dev/kvm: ",
}


@pytest.fixture(params=[URUNC, OWN_SHIM], ids=lambda way: way.name)
def way(request: pytest.FixtureRequest) -> Way:
    """Both shims hand on what a runtime says."""
    found: Way = request.param
    return found


@contextlib.contextmanager
def without_kvm(namespace: Namespace) -> Iterator[None]:
    """The node's is a device without a driver."""
    run = namespace.cluster.run
    run("mknod", "/opt/no-driver", "c", "10", "254")
    run("mount", "--bind", "/opt/no-driver", "/dev/kvm")
    try:
        yield
    finally:
        run("umount", "/dev/kvm")
        run("rm", "/opt/no-driver")


def broken(way: Way, name: str) -> Object:
    """A pod that cannot be, in a way with a name."""
    container = way.server()
    annotations = {}
    if name == "memory":
        container["resources"]["limits"]["memory"] = "4Mi"
    elif name == "annotation":
        annotations[f"{PREFIX}vcpus.app"] = "many"
    elif name == "kernel":
        container["image"] = image("box")
        annotations[f"{PREFIX}unikernelType.app"] = "unikraft"
        annotations[f"{PREFIX}hypervisor.app"] = "firecracker"
        annotations[f"{PREFIX}binary.app"] = "/no/such/kernel"
    elif name == "image":
        container["image"] = image("ending")
        annotations[f"{PREFIX}unikernelType.app"] = "unikraft"
        annotations[f"{PREFIX}hypervisor.app"] = "firecracker"
        annotations[f"{PREFIX}binary.app"] = "/probe"
    return way.pod("app", container, annotations=annotations)


def test_a_misspelt_annotation(namespace: Namespace, way: Way) -> None:
    """The container runs, and its log says so; the pod's other container has no word of it."""
    words = f"annotation '{PREFIX}memroy.app': unknown, and without effect: is it 'memory'?"
    idle = RUNC.shell("echo here; sleep 60", name="sidecar", memory="32Mi")
    annotations = {f"{PREFIX}memroy.app": "32"}
    namespace.make(way.pod("app", way.server(), idle, annotations=annotations))
    assert namespace.logged("app", '"serving"').startswith(f"urunc: warning: {words}\n")
    assert namespace.logged("app", "here", "sidecar") == "here\n"


@pytest.mark.parametrize("name", SAID)
def test_broken(namespace: Namespace, way: Way, name: str) -> None:
    """The event says what is wrong, and where."""
    with without_kvm(namespace) if name == "kvm" else contextlib.nullcontext():
        namespace.make(broken(way, name))
        assert SAID[name] in namespace.waiting("app", SAID[name])
