# SPDX-License-Identifier: Apache-2.0
"""The three standard streams of a Linux guest by each engine: apart, whole, and with their end, as
those of an ordinary container."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator

import pytest

from lib.engines import NEEDS_OF_PODS, containerd_for_pods, taken_down
from lib.patience import patient, until
from lib.places.containerd import SHIM, Containerd
from lib.places.cri import Cri
from lib.places.docker import Docker
from lib.places.engine import ENVIRONMENT, Engine
from lib.places.podman import Podman
from lib.pods import EXITED, Pod
from lib.stored import AS_LINUX, CONFIG, annotation_words, image
from lib.support import PREFIX, URUNC, need, unchanged

MUCH = 3 << 20
"""More than there is room for between a guest and a client: six times what its queue holds, and 48
times what a pipe does."""
HERE = b"here\n"
BOTH = (
    "/bin/sh",
    "-c",
    "echo here; cat; echo error >&2; echo again >/dev/stderr; echo more >/dev/stdout",
)
SUMS = (
    "/bin/sh",
    "-c",
    f"echo here; busybox head -c {MUCH} /dev/urandom >/tmp-file; busybox sha256sum /tmp-file >&2;"
    "cat /tmp-file & busybox sha256sum >&2; wait;"
    "echo error >&2; echo again >/dev/stderr; echo more >/dev/stdout",
)
ALL_GUESTS = '[ordinary]\nguest = "linux"\n'
NEEDS = ("root", "installed", "linux", "qemu", "images")


def piped(engine: Engine, content: bytes, *words: str, early: bool) -> tuple[bytes, bytes]:
    """What a command of the engine's makes of input that ends: output and errors. The input comes
    before the guest (`early`), or once the guest is there."""
    command = [*engine.prefix, *engine.command(*words)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | ENVIRONMENT,
    )  # fmt: skip
    assert process.stdin and process.stdout
    try:
        if not early:
            assert process.stdout.read(len(HERE)) == HERE
        out, errors = process.communicate(content, timeout=patient(100))
    finally:
        process.kill()
    assert process.returncode == 0, (process.returncode, errors[-2000:], out[-2000:])
    return out.removeprefix(HERE), errors


def check(engine: Engine, *run: str, early: bool = True) -> None:
    """Much both ways at the same time, a few lines, and no end of a line where there is none."""
    content = os.urandom(MUCH) + b"one\ntwo"
    out, errors = piped(engine, content, *run, *SUMS, early=early)
    assert len(out) == MUCH + len(b"more\n")
    assert out.endswith(b"more\n")
    sums = [hashlib.sha256(it).hexdigest() for it in (out[:MUCH], content)]
    assert errors.decode().splitlines() == [
        f"{sums[0]}  /tmp-file", f"{sums[1]}  -", "error", "again",
    ]  # fmt: skip


def check_terminal(engine: Engine, *run: str) -> None:
    """A terminal of the guest's own, with keys."""
    asked = "busybox tty; echo ready; read line; echo got $line; echo error >&2"
    code, shown = engine.on_terminal(
        *run, "/bin/sh", "-c", asked, keys="hello\r", after="ready\r\n"
    )
    assert code == 0, shown
    lines = shown.replace("\r", "").splitlines()
    assert lines[-5:] == ["/dev/pts/0", "ready", "hello", "got hello", "error"]


def test_podman(tmp_path_factory: pytest.TempPathFactory) -> None:
    """By conmon's pipes."""
    need(*NEEDS, "podman")
    with taken_down(Podman(str(URUNC), CONFIG)) as podman:
        podman("load", "--input", str(image(tmp_path_factory.mktemp("images"))))
        podman("run", "--rm", "stored", "/bin/ls")  # a mount for networks stays of the first one
        with unchanged(podman.holds, 10):
            run = ("run", "--rm", "-i", "--runtime", "urunc", *annotation_words("--annotation"))
            check(podman, *run, "stored")
            check_terminal(podman, *run, "-t", "stored")
            run = (
                "run",
                "--runtime",
                "urunc",
                *annotation_words("--annotation"),
                "--name",
                "logged",
            )
            podman(*run, "stored", *BOTH)
            logs = podman("logs", "logged")
            assert (logs.stdout, logs.stderr) == ("here\nmore\n", "error\nagain\n")
            podman("rm", "logged")


def test_docker(tmp_path_factory: pytest.TempPathFactory) -> None:
    """By the pipes of runc's shim."""
    need(*NEEDS, "docker")
    with taken_down(Docker(str(URUNC), linux=CONFIG + ALL_GUESTS)) as docker:
        docker("load", "--input", str(image(tmp_path_factory.mktemp("images"))))
        with unchanged(docker.holds, 10):
            run = ("run", "--rm", "-i", "--runtime", "urunc-linux")
            check(docker, *run, "stored")
            check_terminal(docker, *run, "-t", "stored")
            docker("run", "--runtime", "urunc-linux", "--name", "logged", "stored", *BOTH)
            logs = docker("logs", "logged")
            assert (logs.stdout, logs.stderr) == ("here\nmore\n", "error\nagain\n")
            docker("rm", "logged")


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """containerd with the image, and a registry that has it too."""
    need(*NEEDS, *NEEDS_OF_PODS)
    directory = tmp_path_factory.mktemp("images")
    made = image(directory)
    with containerd_for_pods(CONFIG, directory, made) as place:
        place("images", "import", str(made))
        yield place


def test_containerd(containerd: Containerd) -> None:
    """By the FIFOs of urunc's shim; ctr says when the input ends (CloseIO), but for one that comes
    before the container."""
    with unchanged(containerd.holds, 10):
        options = ("--runtime", SHIM, *annotation_words("--annotation"), "--rm")
        run = ("run", "--cgroup", f"/{containerd.group}/streams", *options)
        check(containerd, *run, "docker.io/library/stored:latest", "streams", early=False)


def test_cri(containerd: Containerd, cri: Cri) -> None:
    """A kubelet's log says of each line which stream it was."""
    pod = Pod(containerd, cri)
    with pod.made():
        given = {"annotations": {PREFIX + key: value for key, value in AS_LINUX.items()}}
        guest = pod.start("guest", "stored", *BOTH, given=given)
        until(lambda: pod.status(guest).state == EXITED, "the guest ends")
        lines = pod.log(guest)
    assert [text for stream, text in lines if stream == "stdout"] == ["here", "more"]
    assert [text for stream, text in lines if stream == "stderr"] == ["error", "again"]
