# SPDX-License-Identifier: Apache-2.0
"""A guest that cannot be: what `kubectl describe` and events say is enough to mend it."""

from __future__ import annotations

import pytest

from lib.in_cluster import OWN_SHIM, URUNC, Namespace, Way, image
from lib.places.cluster import Object
from lib.support import PREFIX

NAMES = {
    "memory": "16777216 bytes are too few",
    "annotation": "vcpus",
    "format": "binary",
}


@pytest.fixture(params=[URUNC, OWN_SHIM], ids=lambda way: way.name)
def way(request: pytest.FixtureRequest) -> Way:
    """Both shims hand on what a runtime says."""
    found: Way = request.param
    return found


def broken(way: Way, name: str) -> Object:
    """A pod that cannot be, in a way with a name."""
    container = way.server()
    annotations = {}
    if name == "memory":
        container["resources"]["limits"]["memory"] = "4Mi"
    elif name == "annotation":
        annotations[f"{PREFIX}vcpus.app"] = "many"
    elif name == "monitor":
        annotations[f"{PREFIX}hypervisor.app"] = "xen"
    elif name == "key":
        annotations[f"{PREFIX}memroy.app"] = "64M"
    elif name == "kernel":
        container["image"] = image("box")
        annotations[f"{PREFIX}unikernelType.app"] = "unikraft"
        annotations[f"{PREFIX}hypervisor.app"] = "firecracker"
        annotations[f"{PREFIX}binary.app"] = "/no/such/kernel"
    elif name == "kvm":
        annotations[f"{PREFIX}accelerator.app"] = "tcg"
    elif name == "port":
        annotations[f"{PREFIX}network.app"] = "shared"
        annotations[f"{PREFIX}ports.app"] = "http"
    return way.pod("app", container, annotations=annotations)


@pytest.mark.parametrize(
    "name", ["memory", "annotation", "monitor", "key", "kernel", "kvm", "port"]
)
def test_broken(namespace: Namespace, way: Way, name: str) -> None:
    namespace.make(broken(way, name))
    said = namespace.waiting("app", "Warning")
    print(said)
