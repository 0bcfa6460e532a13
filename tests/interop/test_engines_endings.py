# SPDX-License-Identifier: Apache-2.0
"""What engines say of how a Linux guest with urunc's init ended: its exit code, and whether memory
ran out. With urunc's own shim (Docker, Kubernetes), with runc's (Docker), with conmon (Podman), and
below the supervisor."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import pytest

from lib.engines import NEEDS_OF_PODS, containerd_for_pods, taken_down
from lib.patience import until
from lib.places.containerd import Containerd
from lib.places.cri import Cri
from lib.places.docker import Docker
from lib.places.engine import Engine
from lib.places.podman import Podman
from lib.pods import EXITED, Pod
from lib.stored import AS_LINUX, COPYING, annotation_words, image
from lib.support import PREFIX, URUNC, need, unchanged

ALL_GUESTS = '[ordinary]\nguest = "linux"\n'
SMALL = COPYING.replace("[monitors.qemu]\n", "[monitors.qemu]\nmemory_mib = 160\n")
"""Guests whose memory soon runs out."""
SUPERVISED = SMALL.replace("[monitors.qemu]\n", "[monitors.qemu]\nsupervisor = true\n")
PANIC = "echo c >/proc/sysrq-trigger; busybox sleep 60"
# script, the exit code as urunc's shim has it, as others have it
ENDINGS = {
    "nothing": ("true", 0, 0),
    "7": ("exit 7", 7, 15),
    "200": ("exit 200", 200, 255),
    "signal": ("busybox kill -SEGV $$", 139, 139),
    "memory": ("busybox tail /dev/zero", 137, 137),
    "panic": (PANIC, 253, 253),
    "reboot": ("busybox reboot -f; busybox sleep 60", 253, 253),
    "power-off": ("busybox poweroff -f; busybox sleep 60", 0, 0),
}
PASSED_ON = ("nothing", "200", "memory", "panic")
"""A good end, the largest code, one that is said of memory, one that QEMU says. Engines other than
urunc's shim are told of an end by a number alone, and make nothing of it; which number it is in
each case is what tests/guest/test_endings.py is about."""


@pytest.fixture(scope="module", params=["shim", "path", "supervised", "podman"])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, str]]:
    """An engine with the image, and which."""
    kind: str = request.param
    engine = "podman" if kind == "podman" else "docker"
    need("root", "installed", engine, "linux", "qemu", "images")
    config = SUPERVISED if kind == "supervised" else SMALL
    place = (
        Podman(str(URUNC), config)
        if kind == "podman"
        else Docker(str(URUNC), config + ALL_GUESTS, shim=kind == "shim")
    )
    with taken_down(place):
        place("load", "--input", str(image(tmp_path_factory.mktemp("images"))))
        if kind == "podman":
            place("run", "--rm", "stored", "/bin/ls")  # a mount for networks stays of the first one
        yield place, kind


@contextlib.contextmanager
def ran(engine: tuple[Engine, str], *words: str) -> Iterator[None]:
    """`run -d` of a guest that is its machine's administrator, as far as the engine goes."""
    place, kind = engine
    marks = annotation_words("--annotation") if kind == "podman" else []
    runtime = "urunc" if kind in ("podman", "shim") else "urunc-configured"
    options = ("--privileged", "--pid", "host", "--name", "ends", "--runtime", runtime)
    try:
        place("run", "-d", *options, *marks, "stored", *words)
        yield
    finally:
        place.remove("ends")


def ended(engine: tuple[Engine, str]) -> tuple[int, bool]:
    """Its exit code, and whether memory ran out, as `inspect` says."""
    place, _ = engine
    place("wait", "ends")
    form = "{{.State.ExitCode}} {{.State.OOMKilled}}"
    code, memory = place("inspect", "--format", form, "ends").stdout.split()
    return int(code), memory == "true"


@pytest.mark.parametrize("name", PASSED_ON)
def test_endings(engine: tuple[Engine, str], name: str) -> None:
    """0 is a good end alone. Whoever looks at control groups sees nothing of the guest's memory."""
    place, kind = engine
    script, exact, other = ENDINGS[name]
    code = other if kind in ("path", "podman") else exact
    with unchanged(place.holds, 10), ran(engine, "/bin/sh", "-c", f"{script}; exit $?"):
        assert ended(engine) == (code, name == "memory" and kind == "shim"), place("logs", "ends")


@pytest.mark.parametrize("engine", ["shim"], indirect=True)
@pytest.mark.parametrize("name", [name for name in ENDINGS if name not in PASSED_ON])
def test_more_endings(engine: tuple[Engine, str], name: str) -> None:
    """Which number it is, urunc's shim finds out itself."""
    test_endings(engine, name)


def test_a_stop_while_it_boots(engine: tuple[Engine, str]) -> None:
    """Long before the engine kills it; runc's shim and conmon see that the monitor was killed."""
    place, kind = engine
    with unchanged(place.holds, 10), ran(engine, "/bin/busybox", "sleep", "100"):
        place("stop", "--time", "3600", "ends")
        assert ended(engine) == (143 if kind in ("shim", "supervised") else 137, False)


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """containerd with a registry that has the image and `pause`."""
    need(*NEEDS_OF_PODS, "linux", "qemu", "images")
    directory = tmp_path_factory.mktemp("images")
    with containerd_for_pods(SMALL, directory, image(directory)) as place:
        yield place


def test_a_pod(containerd: Containerd, cri: Cri) -> None:
    """`kubectl describe`'s reasons: OOMKilled, Error, Completed."""
    pod = Pod(containerd, cri)
    given = {"annotations": {PREFIX + key: value for key, value in AS_LINUX.items()}}
    reasons = {"memory": "OOMKilled", "7": "Error", "nothing": "Completed"}
    with pod.made():
        for name, reason in reasons.items():
            script, code, _ = ENDINGS[name]
            words = ("/bin/sh", "-c", f"{script}; exit $?")
            guest = pod.start(name, "stored", *words, given=given)
            ended = functools.partial(lambda guest: pod.status(guest).state == EXITED, guest)
            until(ended, name, 60)
            status = pod.status(guest)
            assert (status.exit_code, status.reason) == (code, reason), pod.log(guest)
            pod.remove(guest)
        guest = pod.start("stopped", "stored", "/bin/busybox", "sleep", "100", given=given)
        pod.stop(guest)
        assert pod.status(guest).exit_code == 143
