# SPDX-License-Identifier: Apache-2.0
"""Signals, pauses and endings of guests on real monitors: who is asked to stop, who is ended, how
soon, and what is said of it afterwards."""

from __future__ import annotations

import json
import math
import pathlib
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lib import endings
from lib.patience import patient, until
from lib.support import PARTS, Bundle, Container, Urunc, need, nothing_left

QUIET = ("WINCH", "HUP", "USR1", "SIGUSR2", "CONT", "URG", "PIPE", "ALRM", "RTMIN+3", "34", "0")


def probe(tmp_path: pathlib.Path, monitor: str, *words: str, **annotations: str) -> Bundle:
    """The probe on a monitor; `qemu` emulates, `qemu-kvm` does not."""
    need("probe", *{"qemu-kvm": ("qemu", "kvm"), "firecracker": ("firecracker", "kvm")}.get(
        monitor, (("solo5",) if monitor == "spt" else (monitor,))))  # fmt: skip
    name = monitor.partition("-")[0]
    extra = {"accelerator": "tcg"} if monitor == "qemu" else {}
    guest = "rumprun" if monitor == "spt" else "unikraft"
    made = Bundle(tmp_path / monitor, guest, name, **extra, **annotations)
    made.add("unikernel", PARTS / ("probe-bare.spt" if monitor == "spt" else "probe.pvh"))
    made.args("app", *words)
    return made


def running(urunc: Urunc, bundle: Bundle) -> Container:
    container = urunc.create(bundle)
    container.start()
    container.wait_for('"cmdline"')
    return container


def never(urunc: Urunc) -> None:
    """A guest that does not stop would be killed after an hour: no test waits for it."""
    with urunc.config.open("a") as file:
        file.write("[timeouts]\nstop_s = 3600\n")


@pytest.mark.parametrize("monitor", ["qemu", "firecracker", "spt"])
def test_what_means_nothing_to_a_guest_does_not_hurt_it(
    urunc: Urunc, tmp_path: pathlib.Path, monitor: str
) -> None:
    container = running(urunc, probe(tmp_path, monitor, "probe.hang"))
    for name in QUIET:
        urunc("kill", container.id, name)
    time.sleep(0.1)  # for a signal that would end it
    assert container.status() == "running"
    for name in ("NOPE", "99", "RTMIN+99", "-1"):
        refused = urunc("kill", container.id, name, check=False)
        assert refused.returncode == 1
    container.delete("--force")


@pytest.mark.parametrize("monitor", ["qemu", "firecracker", "spt"])
@pytest.mark.parametrize("name", ["TERM", "SIGINT", "3"])
def test_a_guest_that_cannot_be_asked_is_ended_at_once(
    urunc: Urunc, tmp_path: pathlib.Path, monitor: str, name: str
) -> None:
    """Nobody waits for a time limit for nothing."""
    never(urunc)
    container = running(urunc, probe(tmp_path, monitor, "probe.hang"))
    urunc("kill", container.id, name)
    container.wait_stopped()
    refused = urunc("kill", container.id, check=False)
    assert "container not running" in refused.stderr
    assert urunc("kill", "--all", container.id).returncode == 0
    container.delete()


ASKED = [
    ("qemu", "ctrl-alt-del", "probe.ctrl-alt-del=3"),
    ("qemu", "acpi-power-button", "probe.power-button=3"),
    ("qemu-kvm", "ctrl-alt-del,acpi-power-button", "probe.power-button=3"),
    ("firecracker", "ctrl-alt-del", "probe.ctrl-alt-del=3"),
]


@pytest.mark.parametrize(("monitor", "listens", "word"), ASKED)
def test_a_guest_that_listens_is_asked(
    urunc: Urunc, tmp_path: pathlib.Path, monitor: str, listens: str, word: str
) -> None:
    """By the gentlest way that both know; it ends by itself, with its own exit code."""
    never(urunc)
    container = running(urunc, probe(tmp_path, monitor, word, "probe.hang", stopsOn=listens))
    urunc("kill", container.id, "TERM")
    container.wait_stopped()
    watching = ["pgrep", "-f", f"kill {container.id}"]
    until(lambda: not subprocess.run(watching, capture_output=True).stdout, "it watches on")
    text = container.console.read_text()
    how = "acpi-power-button" if "power" in word else "ctrl-alt-del"
    assert f'"event":"stop","how":"{how}"' in text
    assert '"event":"exit","code":3' in text
    container.delete()


def test_a_guest_that_was_asked_before_it_looked(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """It is asked again: a press of a button that nobody has turned on is void."""
    never(urunc)
    words = ("probe.power-button=3", "probe.hang")
    container = urunc.create(probe(tmp_path, "qemu", *words, stopsOn="acpi-power-button"))
    container.start()
    socket = pathlib.Path(f"/proc/{container.pid}/root/run/qmp.sock")
    until(socket.exists)
    urunc("kill", container.id, "TERM")
    container.wait_stopped()
    assert '"event":"exit","code":3' in container.console.read_text()
    container.delete()


def test_a_guest_that_does_not_stop_is_killed_at_the_deadline(
    urunc: Urunc, tmp_path: pathlib.Path
) -> None:
    stop_s = math.ceil(patient(1))  # `state` below has to be sooner
    with urunc.config.open("a") as file:
        file.write(f"[timeouts]\nstop_s = {stop_s}\n")
    bundle = probe(tmp_path, "qemu", "probe.hang", stopsOn="ctrl-alt-del")
    container = running(urunc, bundle)
    log = tmp_path / "log"
    urunc("--log", str(log), "kill", container.id, "INT")
    assert container.status() == "running"  # kill does not wait for the guest
    container.wait_stopped(stop_s + 30)
    until(lambda: f"did not stop within {stop_s} s: killed" in log.read_text(), log.read_text)
    container.delete()


def test_a_monitor_that_does_not_answer(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """One that is asked in vain (stopped by SIGSTOP here) is ended, after a short while."""
    bundle = probe(tmp_path, "qemu", "probe.hang", stopsOn="ctrl-alt-del")
    container = running(urunc, bundle)
    urunc("kill", container.id, "STOP")
    said = urunc("kill", container.id, "TERM")
    assert "no answer within 2 s: its monitor is ended" in said.stderr.replace(" (", ": ")
    container.wait_stopped()
    container.delete()


@pytest.mark.parametrize("monitor", ["qemu", "firecracker", "spt"])
@pytest.mark.parametrize(("number", "code"), [(15, 143), (2, 130)])
def test_the_exit_code_of_a_stopped_guest(
    urunc: Urunc, tmp_path: pathlib.Path, monitor: str, number: int, code: int
) -> None:
    """As of a process that the signal ended, whatever the monitor makes of it."""
    bundle, name = probe(tmp_path, monitor, "probe.hang"), urunc.new_id()
    with nothing_left(urunc.root), (tmp_path / "out").open("wb") as out:
        command = urunc.command("run", "--bundle", str(bundle.write()), name)
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )
        until(lambda: b'"cmdline"' in (tmp_path / "out").read_bytes())
        process.send_signal(number)
        assert process.wait(patient(20)) == code


def test_stops_on_what(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    bundle = probe(tmp_path, "qemu", "probe.hang", stopsOn="a loud noise")
    refused = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    assert "'stopsOn': 'a loud noise' is unknown" in refused.stderr


def beats(container: Container) -> list[int]:
    found = []
    for line in container.console.read_text().splitlines():
        if '"beat"' in line and line.endswith("}"):
            found.append(json.loads(line)["ms"])
    return found


@pytest.mark.parametrize("monitor", ["qemu", "firecracker", "spt"])
def test_pause_and_resume(urunc: Urunc, tmp_path: pathlib.Path, monitor: str) -> None:
    """A paused guest does nothing, and goes on afterwards; each at its time only."""
    bundle = probe(tmp_path, monitor, "probe.beat=50", "probe.hang")
    with nothing_left(urunc.root):
        container = running(urunc, bundle)
        refused = urunc("resume", container.id, check=False)
        assert "container not paused" in refused.stderr
        urunc("pause", container.id)
        assert container.status() == "paused"
        text = container.console.read_text()
        time.sleep(0.5)  # ten beats' worth
        assert container.console.read_text() == text
        refused = urunc("pause", container.id, check=False)
        assert "container not running" in refused.stderr
        refused = urunc("delete", container.id, check=False)
        assert "container is paused, not stopped" in refused.stderr
        urunc("resume", container.id)
        assert container.status() == "running"
        if monitor != "spt":  # the tenders' double has no heart
            seen = len(beats(container))
            until(lambda: len(beats(container)) > seen)
        urunc("pause", container.id)
        urunc("kill", container.id, "KILL")  # reaches the frozen, too
        container.wait_stopped()
        container.delete()


def test_a_paused_guest_s_clock_does_not_jump(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """Between two beats it is not later than the host's says of the time in which it ran."""
    container = running(urunc, probe(tmp_path, "qemu", "probe.beat=50", "probe.hang"))
    begun_s, number = time.monotonic(), len(beats(container))
    until(lambda: len(beats(container)) > number + 1)
    before = beats(container)[number + 1]  # the one before it may have been on its way
    urunc("pause", container.id)
    ran_s = time.monotonic() - begun_s
    last = beats(container)[-1]
    time.sleep(1 + ran_s)
    resumed_s = time.monotonic()
    urunc("resume", container.id)
    after = until(lambda: [ms for ms in beats(container) if ms > last])[0]
    ran_s += time.monotonic() - resumed_s
    assert after - before <= ran_s * 1000 + 1  # a beat is in whole milliseconds
    container.delete("--force")


class Followed:
    """`events` of a container, in a process of its own."""

    def __init__(self, urunc: Urunc, container: Container) -> None:
        self.path = container.console.with_suffix(".events")
        with self.path.open("wb") as out:
            self.process = subprocess.Popen(
                urunc.command("events", "--interval", "200ms", container.id),
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        until(lambda: self.path.stat().st_size)
        time.sleep(0.3)  # until it listens to the monitor too

    def all(self) -> list[dict[str, Any]]:
        assert self.process.wait(patient(30)) == 0, self.path.read_text()
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@pytest.fixture
def follow(urunc: Urunc) -> Iterator[list[Followed]]:
    made: list[Followed] = []
    yield made
    for item in made:
        item.process.kill()
        item.process.wait()


@pytest.mark.parametrize("case", endings.PROBES, ids=lambda case: f"{case.monitor} {case.words}")
def test_why_it_ended(
    urunc: Urunc, tmp_path: pathlib.Path, follow: list[Followed], case: endings.Probe
) -> None:
    """`events` says it, with the exit code that an engine would see."""
    bundle = probe(tmp_path, case.monitor, *case.guest)
    if case.monitor == "qemu":  # as one whose QEMU has a port for its exit code
        bundle.config["annotations"]["com.urunc.unikernel.unikernelType"] = "linux"
    container = running(urunc, bundle)
    followed = Followed(urunc, container)
    follow.append(followed)
    if case.signal:
        urunc("kill", container.id, case.signal)
    found = followed.all()
    assert found[0]["type"] == "stats"
    assert found[0]["data"]["memory"]["usage"]["usage"] > 0
    assert found[-1]["type"] == "exit"
    assert found[-1]["data"]["status"] == case.status
    assert case.reason in found[-1]["data"]["reason"]
    refused = urunc("events", container.id, check=False)
    assert "container not running" in refused.stderr
    container.delete()


def test_kvm_that_cannot_go_on(
    urunc: Urunc, tmp_path: pathlib.Path, follow: list[Followed]
) -> None:
    """QEMU stays, with a guest that will never run again; `events` says so before it is killed."""
    container = running(urunc, probe(tmp_path, "qemu-kvm", "probe.burn=1500", "probe.stray"))
    followed = Followed(urunc, container)
    follow.append(followed)
    until(
        lambda: "internal error" in followed.path.read_text(),
        container.console.read_text,
        timeout_s=20,
    )
    assert container.status() == "running"
    urunc("kill", container.id, "KILL")
    data = followed.all()[-1]["data"]
    assert data["reason"].startswith("KVM cannot run the guest (internal error)")
    assert data.get("status", 137) == 137
    container.delete()


def test_a_firecracker_whose_kvm_cannot_go_on(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """It ends by itself, with 1 or 0: its threads race for it."""
    container = running(urunc, probe(tmp_path, "firecracker", "probe.stray"))
    container.wait_stopped()
    assert "Received KVM_EXIT_INTERNAL_ERROR" in container.console.read_text()
    container.delete()


def test_out_of_memory(urunc: Urunc, tmp_path: pathlib.Path, follow: list[Followed]) -> None:
    """A monitor that the kernel kills for its memory: an event, a reason, and a line in delete's
    log. (The limit is made smaller behind urunc's back: urunc would not.)"""
    bundle = probe(tmp_path, "qemu", "probe.serve=1000", "probe.hang")
    container = running(urunc, bundle)
    limit = pathlib.Path(f"/sys/fs/cgroup/memory/urunc-{container.id}/memory.limit_in_bytes")
    if not limit.exists():
        limit = pathlib.Path(f"/sys/fs/cgroup/urunc-{container.id}/memory.max")
    followed = Followed(urunc, container)
    follow.append(followed)
    hog = subprocess.Popen(
        ["python3", "-c", "import sys; sys.stdin.read(1); a = bytearray(1 << 28)"],
        stdin=subprocess.PIPE,
    )
    (limit.parent / "cgroup.procs").write_text(str(hog.pid))
    assert hog.stdin
    hog.stdin.write(b".")
    hog.stdin.close()
    hog.wait()
    container.wait_stopped() if container.status() == "stopped" else urunc(
        "kill", container.id, "KILL"
    )
    found = followed.all()
    assert "oom" in [event["type"] for event in found]
    assert found[-1]["data"]["reason"] == "killed: out of memory (OOM)"
    container.wait_stopped()
    removed = urunc("delete", container.id)
    assert "its memory limit was reached: killed (OOM)" in removed.stderr
