# SPDX-License-Identifier: Apache-2.0
"""Why a guest does not boot, or does not answer: what there is to be seen of one container from
outside, without asking its monitor, which serves one client at a time."""

from __future__ import annotations

import os
import time

from urunc import guest_channel
from urunc.doctor import console, words
from urunc.doctor.finding import Finding, fine, note, problem
from urunc.linux import cgroups, process
from urunc.linux.files import read_text
from urunc.net.facts import NetFacts
from urunc.plan.model import unflatten
from urunc.state import CREATED, PAUSED, RUNNING, STOPPED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from urunc.plan.model import Plan
    from urunc.state import State

MIB = 1 << 20
SAMPLE_S = 0.5
"""For how long a monitor's processor time is looked at."""
BUSY, IDLE = 0.85, 0.02
"""Shares of a processor's time above and below which a monitor spins or sleeps."""
LINES = 3
"""How many of the last lines are shown."""


def findings(state: State, given: str = "") -> list[Finding]:
    """Of one container; `given` is a file with its console. Raises WrongStatusError where `create`
    is not through, OSError for the file."""
    plan, _ = state.read_by("plan", unflatten)
    status = state.status()
    found = [_guest(state, plan), *_warnings(plan)]
    shown = console.find(state.id, state.pid, state.document["annotations"], given)
    said = guest_channel.last_words(guest_channel.listen(state.directory))
    found.append(_status(status, said))
    if status in (RUNNING, PAUSED):
        found += _monitor(state, plan, paused=status == PAUSED)
        found += _init(plan, said)
        found += _network(state, plan)
    if status != CREATED:
        found += _console(shown, plan, running=status == RUNNING)
    return found


def _guest(state: State, plan: Plan) -> Finding:
    text = f"{plan.guest} on {plan.monitor}, {plan.machine.memory_bytes // MIB} MiB"
    return fine("guest", f"{text}, created {state.created}")


def _warnings(plan: Plan) -> Iterator[Finding]:
    for text in plan.warnings:
        yield note("left out", text)


def _status(status: str, said: guest_channel.Said) -> Finding:
    if status != STOPPED:
        return fine("status", status)
    if said.code is not None:
        return note("status", f"stopped: its application ended with {said.code}")
    return note("status", "stopped", "the console below, or `log.file`, has the reason")


def _monitor(state: State, plan: Plan, *, paused: bool) -> Iterator[Finding]:
    """What its processes do, and whether memory ran out."""
    kills = cgroups.oom_kills(state.group_paths)
    if kills:
        yield problem(
            "memory", f"{kills} processes of its control group were killed for memory (OOM)",
            "a higher memory limit",
        )  # fmt: skip
    if paused:
        yield note("monitor", "it is paused", f"urunc resume {state.id}")
        return
    before = process.cpu_ticks(state.pid)
    time.sleep(SAMPLE_S)
    ticks = process.cpu_ticks(state.pid) - before
    share = ticks / os.sysconf("SC_CLK_TCK") / SAMPLE_S
    text = f"process {state.pid} uses {share * 100:.0f} % of a processor"
    if share >= BUSY:
        yield note("monitor", f"{text}: it works, or spins", "twice the same says which")
    elif share <= IDLE:
        yield fine("monitor", f"{text}: the guest waits for something")
    else:
        yield fine("monitor", text)


def _init(plan: Plan, said: guest_channel.Said) -> Iterator[Finding]:
    if not plan.application.process:
        return
    if said.ready:
        yield fine("application", "urunc's init in the guest has started it")
    else:
        yield problem(
            "application", "urunc's init in the guest has not started it (yet)",
            "the kernel boots, or stands: the console has its last line",
        )  # fmt: skip
    if said.kills:
        yield problem(
            "memory", f"the guest ran out of memory {said.kills} times", "a higher memory limit"
        )


def _network(state: State, plan: Plan) -> Iterator[Finding]:
    """Frames that went through the TAP devices, as the container's namespace counts them."""
    net = state.read("net", NetFacts)
    if not net.interfaces:
        yield note("network", "the guest has no interface")
        return
    counts = _frames(state.pid)
    for item in net.interfaces:
        addresses = ", ".join(one.address for one in (*item.ipv4, *item.ipv6)) or "no address"
        if item.tap not in counts:
            yield problem("network", f"{item.tap} is gone", "was the pod's network removed?")
            continue
        came, went = counts[item.tap]
        text = f"{item.tap} ({addresses}): {came} frames from the guest, {went} to it"
        if came:
            yield fine("network", text)
        else:
            yield problem(
                "network", f"{text}: its driver is not up, or it was told no address",
                "does the kernel have virtio-net for this monitor? `urunc plan` shows its words",
            )  # fmt: skip


def _frames(pid: int) -> dict[str, tuple[int, int]]:
    """Interface → frames from the guest and to it (proc(5), net/dev): a TAP device receives what
    the guest sends."""
    found = {}
    try:
        lines = read_text(f"/proc/{pid}/net/dev").splitlines()[2:]
    except OSError:
        return {}
    for line in lines:
        name, _, numbers = line.partition(":")
        fields = numbers.split()
        found[name.strip()] = (int(fields[1]), int(fields[9]))
    return found


def _console(shown: console.Console, plan: Plan, *, running: bool) -> Iterator[Finding]:
    if shown.text is None:
        yield note("console", f"not seen from here: {shown.where}", "--console FILE shows it to me")
        return
    lines = [line for line in shown.text.splitlines() if line.strip()]
    if not lines:
        advice = "is it a kernel for this monitor, and for a serial console? `urunc image inspect`"
        if plan.guest == "linux":
            advice = "Linux: is 'console=ttyS0' among its words, and does it have that driver?"
        yield problem("console", f"nothing on the console ({shown.where})", advice)
        return
    for meaning in words.meanings("\n".join(lines)):
        level = note if running else problem
        yield level("console", f"{meaning.text}: {meaning.line[:200]}", meaning.advice)
    yield fine("console", f"{shown.where}, last lines:")
    for line in lines[-LINES:]:
        yield fine("", line[:200])
