# SPDX-License-Identifier: Apache-2.0
"""Holds a guest or a monitor against its contract, urunc's own and those of other packages.

    from urunc.testing import guest_checks, monitor_checks

    @pytest.mark.parametrize("check", guest_checks(MyGuest), ids=str)
    def test(check):
        check()

Each check is a function without arguments that raises AssertionError with what is wrong and the
input that shows it; `problems` runs all of them and returns the messages. `matches_golden` compares
a result with a file. Nothing here needs pytest, root, a monitor's program or a kernel's file.
"""

from urunc.testing.cases import disk, machine, nic, program, request
from urunc.testing.check import Check, problems
from urunc.testing.golden import launch_text, matches_golden, words_text
from urunc.testing.guest import guest_checks
from urunc.testing.monitor import monitor_checks

__all__ = [
    "Check",
    "disk",
    "guest_checks",
    "launch_text",
    "machine",
    "matches_golden",
    "monitor_checks",
    "nic",
    "problems",
    "program",
    "request",
    "words_text",
]
