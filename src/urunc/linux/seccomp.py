# SPDX-License-Identifier: Apache-2.0
"""Seccomp: rules for system calls by name made into a program by libseccomp, and installed."""

from __future__ import annotations

from urunc.linux import _linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ALLOW = 0x7FFF0000
ENOSYS = 0x00050000 | 38
"""The action for every other call: what a C library falls back on; a killed process would tell an
attacker no more and a user less."""

install = _linux.set_seccomp


def compile_rules(
    default: int,
    rules: Sequence[tuple[str, int, Sequence[tuple[int, int, int, int]]]],
    architectures: Sequence[int] = (),
) -> bytes:
    """The BPF program of (name, action, conditions) rules, for this machine's architecture and
    further ones (libseccomp's tokens); a call of any other ends the process. Names that none of
    them has are left out. Raises ImportError where libseccomp (libseccomp.so.2) is missing, OSError
    where it refuses."""
    return _linux.compile_seccomp(default, rules, architectures)
