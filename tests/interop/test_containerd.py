# SPDX-License-Identifier: Apache-2.0
"""containerd with urunc's own shim, by ctr: ordinary containers and guests in their whole lives."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import json
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from typing import IO

import pytest

from lib import busybox
from lib.engines import bare_probe, containerd_with
from lib.images import archive
from lib.patience import patient, until
from lib.places.containerd import RUNC, SHIM, Containerd
from lib.support import PARTS, TOOLS, URUNC, need, unchanged

RUNTIMES = [SHIM, RUNC]
"""Ours, and containerd's own: what an ordinary container does is the same under both."""


@pytest.fixture(scope="module", params=["containerd", "containerd2"])
def containerd(
    request: pytest.FixtureRequest, urunc_config: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Containerd]:
    """containerd with an ordinary image, `box`, and the probe on spt, Firecracker and QEMU: the
    distribution's, and the one of `make tools`."""
    need("root", "tun", "installed", "runc", "containerd", "probe", "solo5", request.param)
    programs = str(TOOLS) if request.param == "containerd2" else "/usr/bin"
    directory = tmp_path_factory.mktemp("images")
    box = busybox.files(
        *("sh", "cat", "echo", "sleep", "env", "grep", "pwd", "true", "stty", "tty", "dd", "tr")
    )
    images = [
        archive(directory / "box.tar", "box", box, ["/bin/sh"]),
        bare_probe(directory),
        archive(directory / "fc.tar", "fc", {"probe": PARTS / "probe.pvh"}, ["app", "probe.hang"],
                unikernelType="unikraft", hypervisor="firecracker", binary="/probe"),
        archive(directory / "qemu.tar", "qemu", {"probe": PARTS / "probe.pvh"},
                ["app", "probe.hang"],
                unikernelType="unikraft", hypervisor="qemu", binary="/probe"),
    ]  # fmt: skip
    with containerd_with(Containerd(str(URUNC), urunc_config, programs), *images) as place:
        yield place


@pytest.fixture(autouse=True)
def nothing_stays(containerd: Containerd) -> Iterator[None]:
    """containerd's place holds after a test what it held before it."""
    with unchanged(containerd.holds, 10):
        yield
        for task in containerd("tasks", "ls", "-q", check=False).stdout.split():
            containerd("tasks", "kill", "-s", "KILL", task, check=False)
            containerd("tasks", "delete", "--force", task, check=False)
        for container in containerd("containers", "ls", "-q", check=False).stdout.split():
            containerd("containers", "delete", container, check=False)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_ordinary_run(containerd: Containerd, runtime: str) -> None:
    """Output, errors, exit code, environment, working directory. It stays a moment: of a container
    that has ended before ctr opens its streams, ctr shows nothing, whatever the shim."""
    script = "echo out; echo err >&2; env | grep A=; pwd; sleep 1; exit 42"
    options = ("--rm", "--env", "A=1 2", "--cwd", "/bin")
    done = containerd.launch("one", "box", "/bin/sh", "-c", script, runtime=runtime,
                             options=options, check=False)  # fmt: skip
    assert done.returncode == 42
    assert done.stdout.splitlines() == ["out", "A=1 2", "/bin"]
    assert done.stderr == "err\n"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_ordinary_life(containerd: Containerd, runtime: str) -> None:
    """Detached: listed, executed in, paused, measured, stopped, removed."""
    containerd.launch("two", "box", "/bin/sleep", "100", runtime=runtime, options=("-d",))
    assert "RUNNING" in containerd("tasks", "ls").stdout
    done = containerd("tasks", "exec", "--exec-id", "e1", "two", "/bin/sh", "-c", "echo in; exit 3",
                      check=False)  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "in\n")
    containerd("tasks", "pause", "two")
    assert "PAUSED" in containerd("tasks", "ls").stdout
    containerd("tasks", "resume", "two")
    listed = containerd("tasks", "ps", "two").stdout.splitlines()
    assert len(listed) == 2
    metrics = json.loads(containerd("tasks", "metrics", "--format", "json", "two").stdout)
    assert metrics["pids"]["current"] == 1
    containerd("tasks", "kill", "-s", "KILL", "two")
    wait_stopped(containerd, "two")
    assert "exit code 137" in containerd("tasks", "delete", "two").stderr


def test_end_of_a_shared_pid_namespace(containerd: Containerd) -> None:
    """What its init leaves is killed before the container's end is told."""
    slow = '#!/bin/sh\ncase "$*" in *" --all "*) sleep 1;; esac\nexec runc "$@"\n'
    containerd.run("sh", "-c", "cat >/run/slow-runc && chmod +x /run/slow-runc", stdin=slow)
    drop_in = '[ordinary]\nruntime = "/run/slow-runc"\n'
    directory = "/etc/urunc/config.d"
    containerd.run("sh", "-c", f"mkdir {directory} && cat >{directory}/slow.toml", stdin=drop_in)
    try:
        script = "sleep 4321 & sleep 4322"
        options = ("-d", "--with-ns", "pid:/proc/1/ns/pid")
        containerd.launch("shared", "box", "/bin/sh", "-c", script, options=options)
        containerd.run("sh", "-c", "until pgrep -f 'sleep [4]321'; do sleep 0.1; done")
        containerd("tasks", "kill", "-s", "KILL", "shared")
        wait_stopped(containerd, "shared")
        assert not containerd.run("pgrep", "-f", "sleep 432[12]", check=False).stdout
    finally:
        containerd.run("rm", "-r", directory, "/run/slow-runc")


def test_slice_without_systemd(containerd: Containerd) -> None:
    """A name for systemd, where there is none, is a path: what runc makes of it (critest's)."""
    name = f"{containerd.group}.slice:cri-containerd:slice"
    groups = []
    for runtime in RUNTIMES:
        options = ("-d", "--cgroup", name)
        containerd.launch("slice", "box", "/bin/sleep", "100", runtime=runtime, options=options)
        pid = containerd("tasks", "ls").stdout.split()[-2]
        groups.append(containerd.run("cat", f"/proc/{pid}/cgroup").stdout)
        containerd("tasks", "kill", "-s", "KILL", "slice")
        wait_stopped(containerd, "slice")
        deleted = containerd("tasks", "delete", "slice", check=False)
        assert "exit code 137" in deleted.stderr
        containerd("containers", "delete", "slice")
    assert groups[0] == groups[1]
    assert f"/{name}\n" in groups[0]


def test_features(containerd: Containerd) -> None:
    """containerd 2 asks what the runtime can do, and reads the answer."""
    words = ("plugins", "inspect-runtime", "--runtime", SHIM)
    if "inspect-runtime" not in containerd("plugins", "--help").stdout:
        pytest.skip("needs containerd 2: this one does not ask")
    found = json.loads(containerd(*words).stdout)
    assert found["Name"] == SHIM
    assert found["Features"]["annotations"]["com.urunc.monitors"]
    assert "rbind" in found["Features"]["mountOptions"]
    assert found["Annotations"]["containerd.io/runtime-allow-mounts"] == "erofs"


@pytest.mark.parametrize("image", ["spt", "fc", "qemu"])
def test_guest_life(containerd: Containerd, image: str) -> None:
    need(*{"spt": ("solo5",), "fc": ("firecracker", "kvm"), "qemu": ("qemu",)}[image])
    containerd.launch("three", image, options=("-d",))
    assert "RUNNING" in containerd("tasks", "ls").stdout
    done = containerd("tasks", "exec", "--exec-id", "e1", "three", "/bin/sh", check=False)
    assert done.returncode != 0
    assert "a unikernel has no processes" in done.stderr
    containerd("tasks", "pause", "three")
    assert "PAUSED" in containerd("tasks", "ls").stdout
    containerd("tasks", "resume", "three")
    assert len(containerd("tasks", "ps", "three").stdout.splitlines()) >= 2
    metrics = json.loads(containerd("tasks", "metrics", "--format", "json", "three").stdout)
    assert metrics["memory"]["usage"]["usage"] > 0
    containerd("tasks", "kill", "three")
    wait_stopped(containerd, "three")
    assert "exit code 143" in containerd("tasks", "delete", "three", check=False).stderr


def test_guest_run(containerd: Containerd) -> None:
    """The guest's console is the output, and its exit code the task's. Of one that has ended before
    ctr opens its streams, ctr shows nothing, whatever the shim."""
    for _ in range(5):
        done = containerd.launch("four", "spt", "probe.exit=7", options=("--rm",), check=False)
        assert done.returncode == 7, done.stderr
        if done.stdout:
            break
    assert '"cmdline"' in done.stdout


MANY = 40
"""Of guests that start at once: ten times as many as there are processors to start them. Each is
a client, a shim and a monitor of its own: what they share is containerd, urunc's root directory and
its user ids, and all of them wait for these as soon as a few do."""


def wait_stopped(containerd: Containerd, identifier: str) -> None:
    until(lambda: "STOPPED" in containerd("tasks", "ls").stdout)


def shims(containerd: Containerd) -> list[int]:
    """The pids of urunc's shims, in the place."""
    found = containerd.run(
        "pgrep", "-f", "/containerd-shim-urunc-v2 -namespace", check=False
    ).stdout
    return [int(pid) for pid in found.split()]


def restart(containerd: Containerd) -> None:
    """Kill containerd, and wait for the one that comes after it."""
    containerd.run("pkill", "-KILL", "-x", "containerd")
    until(lambda: not containerd("version", check=False).returncode, timeout_s=20)


def test_ends_without_containerd(containerd: Containerd) -> None:
    """What ends while containerd is away is known to the next one, with its exit code."""
    script = "while [ ! -e /gone ]; do sleep 0.05; done; exit 5"
    containerd.launch("away", "box", "/bin/sh", "-c", script, options=("-d",))
    pid = containerd("tasks", "ls").stdout.split()[-2]
    stopped = (
        "pkill -STOP -x containerd; touch /proc/$0/root/gone; while [ -e /proc/$0 ]; do :; done"
    )
    containerd.run("timeout", f"{patient(10):.0f}", "sh", "-c", stopped, pid)
    restart(containerd)
    wait_stopped(containerd, "away")
    assert "exit code 5" in containerd("tasks", "delete", "away", check=False).stderr


@pytest.mark.parametrize("image", ["box", "spt"])
def test_containerd_restarts(containerd: Containerd, image: str) -> None:
    """Containers go on without it, and are its own again when it is back."""
    command = ("/bin/sleep", "100") if image == "box" else ()
    containerd.launch("five", image, *command, options=("-d",))
    before = shims(containerd)
    restart(containerd)
    assert "RUNNING" in containerd("tasks", "ls").stdout
    assert shims(containerd) == before
    containerd("tasks", "kill", "-s", "KILL", "five")
    wait_stopped(containerd, "five")
    assert "exit code 137" in containerd("tasks", "delete", "five").stderr


@pytest.mark.parametrize("image", ["box", "spt"])
def test_shim_is_killed(containerd: Containerd, image: str) -> None:
    """Nothing of the container is left, and its end is 137."""
    command = ("/bin/sleep", "100") if image == "box" else ()
    containerd.launch("six", image, *command, options=("-d",))
    # the clean-up after the one before is a shim, too
    until(lambda: len(shims(containerd)) == 1)
    containerd.run("kill", "-KILL", str(shims(containerd)[0]))
    until(lambda: "six" not in containerd("tasks", "ls").stdout)


def test_monitor_is_killed(containerd: Containerd) -> None:
    """Its end is known at once."""
    containerd.launch("seven", "spt", options=("-d",))
    pid = containerd("tasks", "ls").stdout.splitlines()[1].split()[1]
    containerd.run("kill", "-KILL", pid)
    wait_stopped(containerd, "seven")
    assert "exit code 137" in containerd("tasks", "delete", "seven").stderr


def test_many_at_once(containerd: Containerd, measured: Callable[[str], None]) -> None:
    """None is lost."""
    names = [f"many{number}" for number in range(MANY)]
    script = "".join(
        f"{' '.join(containerd.command('run', '-d', '--runtime', SHIM))} "
        f"--cgroup /{containerd.group}/{name} docker.io/library/spt:latest {name} & "
        for name in names
    )
    before = time.monotonic()
    containerd.run("sh", "-c", f"{script} wait", timeout_s=300)
    took_s = time.monotonic() - before
    listed = containerd("tasks", "ls").stdout
    assert listed.count("RUNNING") == len(names)
    needed = sum(pss_mib(containerd, pid) for pid in shims(containerd))
    measured(
        f"{len(names)} guests at once: none lost, {took_s:.1f} s, their shims {needed:.0f} MiB"
    )


def pss_mib(containerd: Containerd, pid: int) -> float:
    """The proportional set size of a process of the place."""
    text = containerd.run("cat", f"/proc/{pid}/smaps_rollup").stdout
    (line,) = (line for line in text.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) / 1024


def test_memory_of_a_shim(containerd: Containerd, measured: Callable[[str], None]) -> None:
    """With one container; runc's beside it."""
    needed = {}
    for runtime, image, command in ((SHIM, "spt", ()), (RUNC, "box", ("/bin/sleep", "100"))):
        containerd.launch("eleven", image, *command, runtime=runtime, options=("-d",))
        program = f"/containerd-shim-{runtime.split('.')[2]}-v2"
        (pid,) = containerd.run("pgrep", "-f", program).stdout.split()
        if runtime == SHIM:  # it gives memory back once it has been quiet for a second
            small = functools.partial(lambda pid: pss_mib(containerd, pid) < 8, int(pid))
            until(small, "it keeps its memory")
        needed[runtime] = pss_mib(containerd, int(pid))
        containerd("tasks", "kill", "-s", "KILL", "eleven")
        wait_stopped(containerd, "eleven")
        deleted = containerd("tasks", "delete", "eleven", check=False)
        assert "exit code 137" in deleted.stderr
        containerd("containers", "delete", "eleven")
    measured(f"a shim with one container: {needed[SHIM]:.1f} MiB, runc's {needed[RUNC]:.1f} MiB")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_input(containerd: Containerd, runtime: str) -> None:
    """What a client writes, and the end of it (CloseIO)."""
    command = containerd.command(
        "run", "--rm", "--runtime", runtime, "--cgroup", f"/{containerd.group}/eight",
        "docker.io/library/box:latest", "eight", "/bin/cat",
    )  # fmt: skip
    with subprocess.Popen(
        [*containerd.prefix, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdin and client.stdout
        client.stdin.write("some text\n")
        client.stdin.flush()
        assert client.stdout.readline() == "some text\n"
        client.stdin.close()  # ctr forgets an end that comes before its container
        assert client.wait(patient(20)) == 0


@pytest.mark.parametrize("image", ["box", "spt"])
def test_terminal(containerd: Containerd, image: str) -> None:
    """A terminal of the container's own, with the client's size."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 33, 77, 0, 0))
    # ctr tells the size once the container has started; without one stty has an error
    size = "while [ -z $size ]; do size=$(stty size 2>/dev/null | tr ' ' x); done"
    script = f"{size}; tty; echo $size; exit 5"
    words = ("/bin/sh", "-c", script) if image == "box" else ("probe.exit=5",)
    command = containerd.command(
        "run", "--rm", "-t", "--runtime", SHIM, "--cgroup", f"/{containerd.group}/nine",
        f"docker.io/library/{image}:latest", "nine", *words,
    )  # fmt: skip
    with subprocess.Popen(
        [*containerd.prefix, *command], stdin=slave, stdout=slave, stderr=slave
    ) as process:
        os.close(slave)
        said = b""
        with contextlib.suppress(OSError):  # EIO: the client has ended
            while part := os.read(master, 4096):
                said += part
        assert process.wait(patient(20)) == 5, said
    os.close(master)
    lines = said.replace(b"\r", b"").splitlines()
    if image == "box":
        assert lines == [b"/dev/pts/0", b"33x77"]
    else:
        assert b'"cmdline"' in said


def test_pod(containerd: Containerd) -> None:
    """Containers of a group share a shim, which ends with the last of them."""
    options = ("-d", "--annotation", "io.containerd.runc.v2.group=pod")
    for identifier, image, command in (
        ("pause", "box", ("/bin/sleep", "100")),
        ("guest", "spt", ()),
        ("sidecar", "box", ("/bin/sleep", "100")),
    ):
        containerd.launch(identifier, image, *command, options=options)
    assert len(shims(containerd)) == 1
    assert containerd("tasks", "ls").stdout.count("RUNNING") == 3
    done = containerd("tasks", "exec", "--exec-id", "e", "sidecar", "/bin/echo", "beside")
    assert done.stdout == "beside\n"
    for identifier in ("guest", "sidecar", "pause"):
        containerd("tasks", "kill", "-s", "KILL", identifier)
        containerd("tasks", "delete", "--force", identifier)
    until(lambda: not shims(containerd), timeout_s=5)


def listening(containerd: Containerd, events: subprocess.Popen[str]) -> IO[str]:
    """The output of `ctr events`, once it shows a namespace's event."""
    assert events.stdout
    for turn in itertools.count():
        containerd("namespaces", "label", "tests", f"turn={turn}")
        if select.select([events.stdout], [], [], 0.1)[0]:
            return events.stdout
    raise AssertionError


def test_memory_runs_out(containerd: Containerd) -> None:
    """An event, and 137."""
    with subprocess.Popen(
        [*containerd.prefix, *containerd.command("events")], stdout=subprocess.PIPE, text=True
    ) as events:
        heard = listening(containerd, events)
        script = "exec dd if=/dev/zero of=/dev/null bs=200M count=1"  # one process, killed once
        options = ("--rm", "--memory-limit", str(32 << 20))
        done = containerd.launch(
            "ten", "box", "/bin/sh", "-c", script, options=options, check=False
        )
        assert done.returncode == 137
        said = ""
        while "/tasks/delete" not in said:
            said += heard.readline()
        events.terminate()
    topics = [word for line in said.splitlines() for word in line.split() if "/tasks/" in word]
    assert topics == ["/tasks/create", "/tasks/start", "/tasks/oom", "/tasks/exit", "/tasks/delete"]
