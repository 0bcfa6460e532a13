# SPDX-License-Identifier: Apache-2.0
"""What tests with container engines share: the guest that they make, and the look at what an
engine's place leaves."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from lib import busybox
from lib.images import archive
from lib.places.containerd import Containerd
from lib.places.engine import Engine
from lib.places.registry import registry
from lib.support import PARTS, SHARED, URUNC, nothing_left

PAGE = "a page of the ordinary container\n"

SERVE = "echo guest >/www/index.html; httpd -f -h /www"
"""What makes a Linux guest a web server with a page of its own."""
END = "\nend of script\n"
"""What `echo end of script` prints; the kernel shows the command itself, but not so."""

EngineType = TypeVar("EngineType", bound=Engine)


def load(place: Engine, images: Iterable[pathlib.Path], *names: str) -> None:
    """Have Docker or Podman load those of the images that have one of these names."""
    found = {archive.stem: archive for archive in images}
    for name in names:
        place("load", "--input", str(found[name]))


@contextlib.contextmanager
def taken_down(place: EngineType) -> Iterator[EngineType]:
    """Be in a place, and see that nothing of it is left afterwards."""
    with contextlib.nullcontext() if SHARED else nothing_left():
        with place:
            yield place
        assert place.remains() == []


NEEDS_OF_PODS = ("root", "tun", "installed", "runc", "containerd", "cni", "nft")


@contextlib.contextmanager
def containerd_for_pods(
    config: str, directory: pathlib.Path, *images: pathlib.Path, programs: str = "/usr/bin"
) -> Iterator[Containerd]:
    """Be where containerd is, beside a registry that has these images and `pause`, which is made in
    the directory; `programs` is where containerd is."""
    with (
        taken_down(Containerd(str(URUNC), config, programs)) as place,
        registry(place.network, [busybox.pause(directory), *images]),
    ):
        yield place


@contextlib.contextmanager
def containerd_with(place: Containerd, *images: pathlib.Path) -> Iterator[Containerd]:
    """Be there, with these images."""
    with taken_down(place):
        for image in images:
            place("images", "import", str(image))
        yield place


def bare_probe(directory: pathlib.Path) -> pathlib.Path:
    """The archive of the image `spt`: the probe on Solo5's spt, without any device."""
    return archive(
        directory / "spt.tar", "spt", {"probe": PARTS / "probe-bare.spt"}, ["probe.hang"],
        unikernelType="rumprun", hypervisor="spt", binary="/probe",
    )  # fmt: skip


def guest(engine: Engine, verb: str, *words: str, image: str = "linux", script: str = "") -> None:
    """Make (`create`, `run -d`) the guest `guest`; `script` is what a Linux one does."""
    command = ("/init", "/bin/sh", "-c", script) if script else ()
    engine(*verb.split(), "--runtime", "urunc", "--name", "guest", *words, image, *command)


def reports(engine: Engine) -> list[dict[str, Any]]:
    """What the probe `guest` says of itself, once for each start; the monitor's lines are none of
    it."""
    return [report for report in _said(engine) if "cmdline" in report]


def resolved(engine: Engine) -> list[str | None]:
    """The address that the probe `guest` got for the name it asked for, once for each start."""
    return [event["address"] for event in _said(engine) if event.get("event") == "resolved"]


def _said(engine: Engine) -> list[dict[str, Any]]:
    lines = engine("logs", "guest").stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]
