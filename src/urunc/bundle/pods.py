# SPDX-License-Identifier: Apache-2.0
"""What annotations of engines say of a container's place in its pod, and which of ours are its."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

PREFIX = "com.urunc.unikernel."
"""Of our own annotations."""
CONTAINER_TYPES = ("io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType")
"""How containerd and CRI-O tell a pod's own container; Podman before 5.0 says it as CRI-O does."""
POD = "io.kubernetes.cri-o.SandboxID"
"""The pod's id: all that Podman says from 5.0 on."""
CONTAINER_NAMES = ("io.kubernetes.cri.container-name", "io.kubernetes.container.name")
"""How containerd and CRI-O tell a container's name in its pod."""


def is_sandbox(annotations: Mapping[str, Any]) -> bool:
    """Whether it is a pod's pause container, which has the pod's annotations."""
    return "sandbox" in map(annotations.get, CONTAINER_TYPES)


def is_in_pod(annotations: Mapping[str, str]) -> bool:
    """Whether it is a container in a pod, and not the pod's own."""
    said = [annotations[key] for key in CONTAINER_TYPES if key in annotations]
    return "container" in said if said else POD in annotations


def container_name(annotations: Mapping[str, str]) -> str:
    """Its name in the pod, "" if it has none."""
    return next((annotations[key] for key in CONTAINER_NAMES if key in annotations), "")


def annotated(annotations: Mapping[str, str], keys: tuple[str, ...]) -> dict[str, str]:
    """What annotations say to a container. Those of a pod are those of all its containers:
    `KEY.NAME` is for the container of a name alone, and goes before `KEY`."""
    own_name = container_name(annotations)
    found = {}
    for key in keys:
        for name in (f"{key}.{own_name}", key) if own_name else (key,):
            if PREFIX + name in annotations:
                found[key] = annotations[PREFIX + name]
                break
    return found
