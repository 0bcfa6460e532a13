# SPDX-License-Identifier: Apache-2.0
"""A guest that cannot be: what `kubectl describe` and events say is enough to mend it."""

from __future__ import annotations

import pytest

from lib.in_cluster import OWN_SHIM, URUNC, Namespace, Way, image
from lib.places.cluster import Object
from lib.support import PREFIX

SAID = {
    "memory": "linux.resources.memory.limit: 4194304 bytes are too few",
    "annotation": "annotation 'vcpus': 'many' is no number above zero",
    "kernel": "annotation 'binary': '/no/such/kernel': no such file or directory",
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
    elif name == "kernel":
        container["image"] = image("box")
        annotations[f"{PREFIX}unikernelType.app"] = "unikraft"
        annotations[f"{PREFIX}hypervisor.app"] = "firecracker"
        annotations[f"{PREFIX}binary.app"] = "/no/such/kernel"
    return way.pod("app", container, annotations=annotations)


@pytest.mark.parametrize("name", SAID)
def test_broken(namespace: Namespace, way: Way, name: str) -> None:
    """The event says what is wrong, and where."""
    namespace.make(broken(way, name))
    assert SAID[name] in namespace.waiting("app", SAID[name])
