# SPDX-License-Identifier: Apache-2.0
"""How Linux guests with urunc's init end, and what is said of it: exit codes, reasons, events. QEMU
emulates: Linux does not run on every nested KVM. The other guests' are in test_signals.py."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from lib import endings
from lib.patience import patient, until
from lib.rooted import configure, linux
from lib.support import Bundle, Container, Urunc, need, nothing_left
from urunc.linux.process import exit_status

MACHINE = {"capabilities": {kind: ["CAP_SYS_BOOT", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]
                            for kind in ("bounding", "effective", "permitted")}}  # fmt: skip
"""What it takes to end the machine oneself, in place of urunc's init."""

SMALL = {"monitors.qemu.memory_mib": 160}
"""A guest whose memory soon runs out."""
KERNEL = tuple(int(number) for number in platform.release().split("-")[0].split(".")[:2])


def bundle(
    path: pathlib.Path,
    script: str,
    *,
    machine: bool = False,
    own_pids: bool = False,
    **annotations: str,
) -> Bundle:
    made = linux(path, script, **annotations)
    if machine:
        made.config["process"] |= MACHINE
    if machine and not own_pids:
        namespaces = made.config["linux"]["namespaces"]
        made.config["linux"]["namespaces"] = [
            item for item in namespaces if item["type"] != "pid"
        ]  # else reboot(2) is the namespace's own
    return made


class Followed:
    """`events` of a container."""

    def __init__(self, urunc: Urunc, identifier: str) -> None:
        self.process = subprocess.Popen(
            urunc.command("events", "--interval", "200ms", identifier),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout
        self.lines = [self.process.stdout.readline()]

    def all(self) -> list[dict[str, Any]]:
        out, _ = self.process.communicate(timeout=patient(60))
        return [json.loads(line) for line in (*self.lines, *out.splitlines())]


@contextlib.contextmanager
def following(urunc: Urunc, identifier: str) -> Iterator[Followed]:
    """`events` for as long as the block takes."""
    followed = Followed(urunc, identifier)
    try:
        yield followed
    finally:
        followed.process.kill()
        followed.process.wait()


class Ended(NamedTuple):
    """`run`'s exit code, the reason in its log, and the exit code of the monitor (of its supervisor
    where it has one), as who sees that alone: negative for a signal, None where the kernel does not
    tell it (before Linux 6.15); what `events` told last, where it was asked."""

    code: int
    reason: str
    alone: int | None
    event: dict[str, Any]


def ended(urunc: Urunc, made: Bundle, log: pathlib.Path, *, events: bool = False) -> Ended:
    """One `run` to its end, and all that is seen of it; the container is gone then. `events` would
    not see the end of what `run` had deleted, so there it is deleted afterwards."""
    pid_file, identifier = log.with_name("pid"), urunc.new_id()
    command = urunc.command(
        "--log", str(log), "run", *(["--keep"] if events else []), "--bundle", str(made.write()),
        "--pid-file", str(pid_file), identifier,
    )  # fmt: skip
    event: dict[str, Any] = {}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            until(lambda: pid_file.exists() or process.poll() is not None, "a pid file", 60)
            pid = int(pid_file.read_text())
            pidfd = os.pidfd_open(pid)  # it boots, which takes longer than this
            if events:
                with following(urunc, identifier) as followed:
                    event = followed.all()[-1]
            said, _ = process.communicate(timeout=patient(120))
        finally:
            process.kill()
    status = exit_status(pidfd, pid)
    os.close(pidfd)
    if events:
        urunc("delete", identifier)
    reasons = [line for line in log.read_text().splitlines() if "ended: " in line]
    assert len(reasons) == 1, log.read_text() + said.decode(errors="replace")
    return Ended(process.returncode, reasons[0].partition("ended: ")[2].strip('"'), status, event)


@pytest.mark.parametrize("supervised", [False, True], ids=["alone", "supervised"])
@pytest.mark.parametrize("case", endings.CASES, ids=lambda case: case.words)
def test_endings(
    urunc: Urunc, tmp_path: pathlib.Path, case: endings.Ending, *, supervised: bool
) -> None:
    """Each has an exit code of its own, and QEMU one for who sees the monitor alone: a kernel's
    panic, or a reset, is no success. A supervisor tells the container's. Where the machine ends,
    not the application, `events` tell of it, too."""
    need("linux", "qemu", "images")
    configure(urunc, "ext4", **{"monitors.qemu.supervisor": supervised}, **SMALL)
    events = case in endings.CASES[-3:] and not supervised
    made = bundle(
        tmp_path / "b",
        f"trap '' TERM; {case.script}",
        machine=case.machine,
        own_pids=case.own_pids,
    )
    with nothing_left(urunc.root):
        found = ended(urunc, made, tmp_path / "log", events=events)
        if case.script == "tail /dev/zero" and "kernel panic" in found.reason:
            # seen once on a slow machine: with no memory left the guest's kernel ended itself
            again = tmp_path / "again"
            again.mkdir()
            found = ended(urunc, made, again / "log", events=events)
    assert found.code == case.code
    if not supervised:
        assert case.reason in found.reason
    if found.alone is not None or KERNEL >= (6, 15):
        assert found.alone == (case.code if supervised else case.alone)
    if events:
        data = found.event["data"]
        # before Linux 6.15 nobody but the container's parent knows the status
        assert data.get("status", case.alone) == case.alone
        assert case.reason in data["reason"] or "status" not in data


def test_a_kernel_that_panics_at_once(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """Before init runs, that is: `run` and who sees the monitor alone say the same."""
    need("linux", "qemu", "images")
    configure(urunc, "ext4")
    made = bundle(tmp_path / "b", "true")
    with urunc.config.open("a") as file:
        file.write('monitors.qemu.arguments = ["-append", "panic=-1 reboot=k rdinit=/none"]\n')
    with nothing_left(urunc.root):
        found = ended(urunc, made, tmp_path / "log")
    assert (found.code, found.reason[:27]) == (253, "the guest reset its machine")
    assert found.alone in (253, None)


@pytest.fixture
def waiting(urunc: Urunc, tmp_path: pathlib.Path) -> Iterator[Any]:
    """Makes containers that run, and follows their events."""
    made: list[Followed] = []

    def begin(
        script: str,
        *,
        first: str = ":",
        wait: bool = True,
        console: str = "quiet",
        **keys: str | bool | int,
    ) -> tuple[Container, Followed]:
        need("linux", "qemu", "images")
        configure(urunc, "ext4", **keys)
        path = tmp_path / f"b{len(made)}"
        container = urunc.create(bundle(path, f"{first}; echo is up; {script}", console=console))
        container.start()
        made.append(Followed(urunc, container.id))
        if wait:
            container.wait_for("is up", 60)
        return container, made[-1]

    yield begin
    for item in made:
        item.process.kill()
        item.process.wait()


def test_memory_that_runs_out_in_the_guest(urunc: Urunc, waiting: Any) -> None:
    """Of a process beside the application, too: then it lives on."""
    script = "sleep 1; (tail /dev/zero); echo lives; sleep 2; tail /dev/zero"
    with nothing_left(urunc.root):
        for _ in range(3):
            container, followed = waiting(script, **SMALL)
            found = followed.all()
            shown = container.console.read_text()
            container.delete()
            # the kernel looks for another victim if a second did not do to take the first one's
            # memory back (oom_reap_task), and a busy machine may leave the guest little of it
            if "lives" in shown:
                break
        assert "lives" in shown
    assert [event["type"] for event in found if event["type"] in ("oom", "exit")] == [
        "oom", "oom", "exit",
    ]  # fmt: skip
    assert found[-1]["data"]["reason"].endswith("the guest ran out of memory (OOM)")
    assert found[-1]["data"].get("status", 137) == 137


def test_a_stop(urunc: Urunc, waiting: Any) -> None:
    """The code that the application ends with for it is the container's."""
    with nothing_left(urunc.root):
        script = "while :; do sleep 0.1; done"
        container, followed = waiting(script, first="trap 'exit 5' TERM")
        urunc("kill", container.id, "TERM")
        assert followed.all()[-1]["data"]["reason"] == "its application ended with 5"
        container.delete()


@pytest.mark.parametrize("supervised", [False, True], ids=["alone", "supervised"])
def test_a_stop_before_the_guest_has_booted(
    urunc: Urunc, waiting: Any, *, supervised: bool
) -> None:
    """Nobody is there who could be asked, so nobody waits."""
    with nothing_left(urunc.root):
        container, followed = waiting(
            "trap '' TERM; sleep 100", wait=False,
            **{"monitors.qemu.supervisor": supervised, "timeouts.stop_s": 3600},
        )  # fmt: skip
        urunc("kill", container.id, "TERM")
        container.wait_stopped()
        assert followed.all()[-1]["data"]["reason"] == "qemu was ended for signal 15"
        assert "is up" not in container.console.read_text()
        container.delete()


@pytest.mark.parametrize("supervised", [False, True], ids=["alone", "supervised"])
@pytest.mark.parametrize("said", ["Freeing initrd memory", "[vda]"], ids=["middle", "end"])
def test_a_stop_while_the_guest_boots_is_never_lost(
    urunc: Urunc, waiting: Any, said: str, *, supervised: bool
) -> None:
    """Whenever it comes: in the middle of a boot, and while init loads modules, before it
    listens."""
    keys = {"monitors.qemu.supervisor": supervised, "timeouts.stop_s": 3600}
    container, _ = waiting("sleep 100", wait=False, console="boot", **keys)
    container.wait_for(said, 60)
    urunc("kill", container.id, "TERM")
    container.wait_stopped(60)
    container.delete()
