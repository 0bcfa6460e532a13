# SPDX-License-Identifier: Apache-2.0
"""Guests that tests save and restore."""

from __future__ import annotations

import json
import pathlib
import subprocess
from typing import Any

from lib.patience import patient, until
from lib.support import PARTS, Bundle, Container, Urunc, need

MONITORS = ("firecracker", "qemu")


def probe(path: pathlib.Path, monitor: str, *words: str) -> Bundle:
    """A bundle of the probe, or a skip."""
    need("root", "tun", "installed", "probe", monitor)
    if monitor == "firecracker":
        need("kvm")
    annotations = {"accelerator": "tcg"} if monitor == "qemu" else {}
    bundle = Bundle(path, "unikraft", monitor, **annotations)
    bundle.add("unikernel", PARTS / "probe.pvh")
    bundle.args("app", *words)
    bundle.config["linux"]["resources"]["memory"]["limit"] = 140 << 20
    return bundle


def beating(urunc: Urunc, bundle: Bundle) -> Container:
    """A container whose guest tells that its clock goes on."""
    container = urunc.create(bundle)
    container.start()
    container.event("beat")
    return container


def goes_on(container: Container) -> None:
    """It runs, and its clock, too."""
    assert container.status() == "running"
    size = len(container.shown())
    until(lambda: len(container.shown()) > size, "it does not go on")


def save(container: Container, image: pathlib.Path, *options: str) -> dict[str, Any]:
    """`checkpoint`; the manifest."""
    container.urunc("checkpoint", "--image-path", str(image), *options, container.id)
    found: dict[str, Any] = json.loads((image / "guest/manifest.json").read_text())
    assert [path.name for path in image.iterdir()] == ["guest"]
    return found


def restore(
    urunc: Urunc, bundle: Bundle, image: pathlib.Path, identifier: str, *options: str
) -> Container:
    """`restore --detach`, with the guest's console in a file of its own."""
    console = bundle.path / f"{identifier}.restored"
    words = ("restore", "--detach", "--bundle", str(bundle.path), "--image-path", str(image))
    with console.open("wb") as out:
        done = subprocess.run(
            urunc.command(*words, *options, identifier),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=patient(60),
        )
    assert done.returncode == 0, console.read_text()
    return Container(urunc, identifier, console)
