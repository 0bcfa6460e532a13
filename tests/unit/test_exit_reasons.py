# SPDX-License-Identifier: Apache-2.0
"""Exit codes and reasons, from what each side knows."""

from __future__ import annotations

from typing import Any

import pytest

from urunc.guest_channel import Said
from urunc.lifecycle import exit_reason
from urunc.monitors.firecracker import Firecracker
from urunc.monitors.qemu import Qemu
from urunc.state import PlanFacts

UP = Said(ready=True)


def planned(channel: str, **more: Any) -> PlanFacts:
    machine = {"memory_bytes": 1, "overhead_bytes": 1, "stop_signal": 9, "stop_order": ""}
    return PlanFacts({"monitor": "qemu", "channel": channel, **machine, **more})


TELLING = planned("virtio", tells_resets=True)
OLD = planned("virtio")
BARE = planned("")
SUPERVISED = planned("vsock", supervisor="/x")


@pytest.mark.parametrize(
    ("plan", "status", "said", "stop", "code", "reason"),
    [
        (TELLING, 0, Said(ready=True, code=0), 0, 0, "its application ended with 0"),
        (TELLING, 15, Said(ready=True, code=7), 0, 7, "its application ended with 7"),
        (TELLING, 15, Said(ready=True, code=7), 15, 7, "its application ended with 7"),
        (TELLING, -9, Said(ready=True, code=7), 0, 7, "its application ended with 7"),
        (
            TELLING, 137, Said(ready=True, code=137, kills=1), 0, 137,
            "its application ended with 137: the guest ran out of memory (OOM)",
        ),
        (TELLING, 3, Said(code=1, kills=1), 0, 1, "its application ended with 1"),
        (TELLING, -9, UP, 15, 143, "qemu was ended for signal 15"),
        (TELLING, -9, UP, 0, 137, "qemu was killed by signal 9"),
        (TELLING, 253, UP, 0, 253, "the guest reset its machine (a kernel panic, or a reboot)"),
        (TELLING, 0, UP, 0, 0, "the guest shut down or reset, or qemu was told to stop"),
        (
            TELLING, 0, Said(), 0, 253,
            "the guest ended without its application's exit code: it panicked, or was reset",
        ),
        (
            OLD, 0, UP, 0, 253,
            "the guest ended without its application's exit code: it panicked, or was reset",
        ),
        (BARE, 0, Said(), 0, 0, "the guest shut down or reset, or qemu was told to stop"),
        (BARE, 11, Said(), 0, 11, "the guest ended with 5 (isa-debug-exit)"),
        (BARE, -9, Said(), 2, 130, "qemu was ended for signal 2"),
    ],
)  # fmt: skip
def test_endings(
    plan: PlanFacts, status: int, said: Said, stop: int, code: int, reason: str
) -> None:
    assert exit_reason.exit_code(plan, status, said, stop) == code
    assert exit_reason.reason(plan, Qemu(), status, said, stop) == reason


def test_what_the_supervisor_has_judged() -> None:
    """It knows what the guest said; the rest does not, for it has heard all of it."""
    for status in (0, 7, 253):
        assert exit_reason.exit_code(SUPERVISED, status, Said(), 0) == status


@pytest.mark.parametrize(
    ("plan", "status", "reason"),
    [
        (BARE, 11, "the guest ended with 5 (isa-debug-exit)"),
        (TELLING, 253, "the guest reset its machine (a kernel panic, or a reboot)"),
        (BARE, 1, "the guest shut down"),  # 0 by that device, not QEMU's own failure
        (BARE, 0, "the guest shut down"),
        (BARE, -6, "the guest shut down"),
    ],
)
def test_an_event_that_says_less_than_the_exit_code(
    plan: PlanFacts, status: int, reason: str
) -> None:
    """From QEMU 9.1 on isa-debug-exit is a shutdown like others to who hears of it."""
    assert exit_reason.reason(plan, Qemu(), status, Said(), told="the guest shut down") == reason


def test_a_status_that_nobody_knows() -> None:
    """What the monitor told is what there is, or what the guest did not say."""
    assert (
        exit_reason.reason(BARE, Firecracker(), None, Said())
        == "unknown: this kernel does not tell"
    )
    assert (
        exit_reason.reason(BARE, Qemu(), None, Said(), told="the guest reset") == "the guest reset"
    )
    silent = "the guest ended without its application's exit code"
    assert exit_reason.reason(TELLING, Qemu(), None, UP).startswith(silent)
