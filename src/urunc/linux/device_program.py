# SPDX-License-Identifier: Apache-2.0
"""The device controller of cgroup v2: a BPF program that decides on each open (bpf(2), Linux
4.15)."""

from __future__ import annotations

import posix

from urunc.linux import _linux

BPF_PROG_TYPE_CGROUP_DEVICE = 15


def attach(directory: str, program: bytes) -> None:
    """Make a program decide for a group and those below it; raises OSError.

    It holds beside those of the groups above: all must agree.
    """
    loaded = _linux.load_program(BPF_PROG_TYPE_CGROUP_DEVICE, program)
    try:
        group = posix.open(directory, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
        try:
            _linux.attach_device_program(group, loaded)
        finally:
            posix.close(group)
    finally:
        posix.close(loaded)
