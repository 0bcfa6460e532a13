# SPDX-License-Identifier: Apache-2.0
"""The worlds that tests run in: nothing comes out of them, all of a leak is seen in one, and what
is killed leaves nothing."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest

from lib.patience import until
from lib.support import need
from lib.world import MARK, PREFIX

TESTS = pathlib.Path(__file__).resolve().parent.parent
WORLD = [sys.executable, str(TESTS / "lib/world.py")]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != MARK}
ENVIRONMENT["URUNC_TEST_PATIENCE"] = "1"  # a leak is seen when that time is over
SEEN = """
import json, os, pathlib, socket
mounts = [line.split()[4] for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()]
print(json.dumps({
    "first": os.getppid(), "processes": len([n for n in os.listdir("/proc") if n.isdigit()]),
    "groups": pathlib.Path("/proc/self/cgroup").read_text().splitlines(),
    "links": os.listdir("/sys/class/net"), "tmp": os.listdir("/tmp"), "run": os.listdir("/run"),
    "below": [m for m in mounts if m.startswith(("/run/", "/proc/"))],
}))
"""
LEAKS = {
    "mounts": "subprocess.run(['mount', '-t', 'tmpfs', 'left', '/mnt'], check=True)",
    "links": "subprocess.run(['ip', 'link', 'add', 'left', 'type', 'veth'], check=True)",
    "namespaces": "subprocess.run(['setsid', '-f', 'unshare', '-i', *ASLEEP], check=True)",
    "processes": "subprocess.run(['setsid', '-f', *ASLEEP], check=True)",
    "cgroups": "next(CGROUPS.rglob('cgroup.procs')).parent.joinpath('left').mkdir()",
    "files": "open('/tmp/left', 'w').close()",
    "descriptors": "os.open('/', os.O_RDONLY)",
}


def in_world(*words: str) -> subprocess.CompletedProcess[str]:
    """What a command says that runs in a world."""
    need("root")
    command = [*WORLD, "--", *words]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)


def traces(pid: int) -> list[str]:
    """What there is of the world that a process has made, seen from this one."""
    groups = pathlib.Path("/sys/fs/cgroup").rglob(f"{PREFIX}{pid}-*")
    return [str(path) for path in groups]


def test_what_is_seen() -> None:
    """Nothing of the machine that others change."""
    made = in_world(sys.executable, "-c", SEEN)
    seen = json.loads(made.stdout)
    assert seen["first"] == 1
    assert seen["processes"] == 2
    assert {line.rpartition(":")[2] for line in seen["groups"]} <= {"/", "/tests"}
    assert seen["links"] == ["lo"]
    assert sorted(seen["run"]) == ["lock", "netns"]
    assert len(seen["tmp"]) <= 3
    assert seen["below"] == ["/run/netns"]


def test_status_is_passed_on() -> None:
    assert in_world("sh", "-c", "exit 7").returncode == 7
    assert in_world("sh", "-c", "kill -9 $$").returncode == 128 + 9


@pytest.mark.parametrize("kind", LEAKS)
def test_a_leak_is_seen(kind: str) -> None:
    """The comparison fails on each kind of thing that a test may leave."""
    script = f"""
        import os, pathlib, subprocess, sys
        sys.path[:0] = ["{TESTS}", "{TESTS.parent}/src"]
        from lib.support import nothing_left
        CGROUPS = pathlib.Path("/sys/fs/cgroup")
        ASLEEP = ["sh", "-c", "exec sleep 99 >/dev/null 2>&1"]  # not at our standard error
        with nothing_left(pathlib.Path("/nowhere")):
            {LEAKS[kind]}
    """
    made = in_world(sys.executable, "-c", textwrap.dedent(script))
    assert made.returncode == 1
    assert f'"{kind}": {{' in made.stderr, made.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_ended_by_a_signal(number: signal.Signals, tmp_path: pathlib.Path) -> None:
    """All of it goes with the process that is told: what others started in it, its groups and its
    files."""
    need("root")
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    group = "mkdir $(find /sys/fs/cgroup -name cgroup.procs -printf '%h\\n' | head -n1)/left"
    script = f"{group}; setsid -f sleep 12345; echo ready >{ready}; sleep 12345"
    # who runs the tests may ignore SIGHUP (nohup)
    command = ["env", "--default-signal", *WORLD, "--keep", str(tmp_path), "--", "sh", "-c", script]
    with subprocess.Popen(command, env=ENVIRONMENT) as process:
        assert ready.read_text() == "ready\n"
        assert traces(process.pid)
        process.send_signal(number)
    until(lambda: not traces(process.pid), "groups stay")
    until(lambda: "sleep 12345" not in shown(), shown)


def shown() -> str:
    """All command lines."""
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
