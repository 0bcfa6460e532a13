# SPDX-License-Identifier: Apache-2.0
"""Seccomp: an allow-list of system call names made into a filter by libseccomp, and installed."""

from __future__ import annotations

from urunc.linux import _linux

SCMP_ACT_ALLOW = 0x7FFF0000
SCMP_ACT_ERRNO_ENOSYS = 0x00050000 | 38

install = _linux.set_seccomp


def compile_allow_list(names: tuple[str, ...]) -> bytes:
    """The BPF program that lets these calls through and answers every other with ENOSYS.

    ENOSYS is what a C library falls back on; a killed process would tell an attacker no more and a
    user less. Raises ImportError where libseccomp (libseccomp.so.2) is missing.
    """
    return _linux.compile_seccomp(SCMP_ACT_ERRNO_ENOSYS, SCMP_ACT_ALLOW, names)
