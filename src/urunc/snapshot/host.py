# SPDX-License-Identifier: Apache-2.0
"""This machine as far as a saved guest depends on it: the processor that a guest sees with KVM, and
the line of the kernel whose KVM saved the state. Looks only."""

from __future__ import annotations

import posix

from urunc.linux.files import read_text
from urunc.record import record
from urunc.snapshot.files import digest_of_words

MODEL = (
    *("vendor_id", "cpu family", "model", "model name", "stepping"),  # x86
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision"),  # Arm
)
FEATURES = ("flags", "Features")
"""Keys of /proc/cpuinfo."""


@record
class Host:
    """What is compared of a machine."""

    processor: str
    features: str
    """The digest of the features' names."""
    kernel: str
    """MAJOR.MINOR."""


EMULATED = Host(processor="", features="", kernel="")
"""For a guest of TCG: it sees nothing of them."""


def host_for(accelerator: str) -> Host:
    """What of this machine a guest depends on."""
    if accelerator != "kvm":
        return EMULATED
    return host_of(read_text("/proc/cpuinfo"), posix.uname().release)


def host_of(cpuinfo: str, release: str) -> Host:
    """Of the texts that the kernel has (proc(5)): the first processor's."""
    values: dict[str, str] = {}
    for line in cpuinfo.split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        values[key.strip()] = value.strip()
    words = sorted(word for key in FEATURES for word in values.get(key, "").split())
    return Host(
        processor=" ".join(values[key] for key in MODEL if key in values)[:256] or "unknown",
        features=digest_of_words(*words),
        kernel=".".join(release.split(".")[:2]),
    )
