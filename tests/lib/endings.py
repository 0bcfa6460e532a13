# SPDX-License-Identifier: Apache-2.0
"""How guests may end: what is done, what urunc tells of it, and what one sees who sees the monitor
alone. Cases of the tests, and tables of docs/monitors.md."""

from __future__ import annotations

from typing import NamedTuple


class Ending(NamedTuple):
    """Of a Linux guest with urunc's init on QEMU: `script` is the shell's, with `machine` under the
    capabilities that end a machine; `code` is the one that `run`, urunc's shim and the supervisor
    have, `alone` QEMU's own. With `own_pids` it is PID 1 of a namespace of its own, as under every
    engine that is not told otherwise."""

    words: str
    script: str
    code: int
    alone: int
    reason: str
    machine: bool = False
    own_pids: bool = False


_PANIC = "mount -o remount,rw /proc/sys; mount -t proc p /tmp; echo c >/tmp/sysrq-trigger; sleep 60"

CASES = (
    Ending("the application ends with 0", "true", 0, 0, "its application ended with 0"),
    Ending("the application ends with 7", "exit 7", 7, 15, "its application ended with 7"),
    Ending(
        "the application is not found", "exec nobody", 127, 255, "its application ended with 127",
    ),
    Ending("the application ends with 200", "exit 200", 200, 255, "its application ended with 200"),
    Ending(
        "SIGTERM ends the application", "trap - TERM; kill -TERM $$", 143, 143,
        "its application ended with 143", machine=True,
    ),
    Ending(
        "SIGABRT ends the application", "kill -ABRT $$", 134, 255, "its application ended with 134",
        machine=True,
    ),
    Ending(
        "the guest's memory runs out", "tail /dev/zero", 137, 137,
        "its application ended with 137: the guest ran out of memory (OOM)",
    ),
    Ending(
        "it powers its PID namespace off and gets SIGINT", "poweroff -f; sleep 60", 130,
        255, "its application ended with 130", machine=True, own_pids=True,
    ),
    Ending(
        "it resets its PID namespace and gets SIGHUP", "reboot -f; sleep 60", 129, 129,
        "its application ended with 129", machine=True, own_pids=True,
    ),
    Ending(
        "it powers the machine off", "poweroff -f; sleep 60", 0, 0, "the guest shut down",
        machine=True,
    ),
    Ending(
        "it resets the machine", "reboot -f; sleep 60", 253, 253,
        "the guest reset its machine (a kernel panic, or a reboot)",
        machine=True,
    ),
    Ending(
        "the kernel panics", _PANIC, 253, 253,
        "the guest reset its machine (a kernel panic, or a reboot)", machine=True,
    ),
)  # fmt: skip


class Probe(NamedTuple):
    """Of another guest: the probe is told `guest`, or its container is sent a signal; `status` is
    the monitor's exit code."""

    monitor: str
    words: str
    guest: tuple[str, ...]
    signal: str
    status: int
    reason: str


_EXIT = ("probe.burn=1500", "probe.exit=5")
_FAULT = ("probe.burn=1500", "probe.triple-fault")
_HANG = ("probe.hang",)
_SHUT_DOWN = (
    "the guest shut down or reset, or KVM could not run it: then the container's log says "
    "KVM_EXIT_INTERNAL_ERROR"
)

PROBES = (
    Probe("qemu", "it ends with 5 (isa-debug-exit)", _EXIT, "", 11, "the guest ended with 5"),
    Probe("qemu", "a triple fault", _FAULT, "", 0, "the guest reset"),
    Probe("qemu", "SIGTERM", _HANG, "TERM", 137, "qemu was ended for signal 15"),
    Probe("qemu", "SIGINT", _HANG, "INT", 137, "qemu was ended for signal 2"),
    Probe("qemu", "SIGKILL", _HANG, "KILL", 137, "qemu was killed by signal 9"),
    Probe("firecracker", "it ends with 5", _EXIT, "", 0, _SHUT_DOWN),
    Probe("firecracker", "a triple fault", _FAULT, "", 0, _SHUT_DOWN),
    Probe("firecracker", "SIGTERM", _HANG, "TERM", 137, "firecracker was ended for signal 15"),
    Probe("firecracker", "SIGKILL", _HANG, "KILL", 137, "firecracker was killed by signal 9"),
    Probe("spt", "SIGTERM", _HANG, "TERM", 137, "spt was ended for signal 15"),
    Probe("spt", "SIGKILL", _HANG, "KILL", 137, "spt was killed by signal 9"),
)
