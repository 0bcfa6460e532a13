# SPDX-License-Identifier: Apache-2.0
"""The manifest of a saved guest, as an example."""

from __future__ import annotations

from urunc.snapshot.manifest import (
    FREE,
    SAME,
    SAVED,
    Manifest,
    SavedDisk,
    SavedFile,
    SavedInterface,
)

A, B, C = "a" * 64, "b" * 64, "c" * 64
MANIFEST = Manifest(
    schema=1, urunc="0.1.0", created="2026-01-01T00:00:00Z", id="web", image="docker.io/web:1",
    guest="linux", kernel=A, arguments=B, environment=C, monitor="qemu", monitor_version="7.2.22",
    architecture="x86_64", accelerator="kvm", machine=("-m", "64M"), processor="Some CPU",
    features=A, host_kernel="6.1", paused_ms=12,
    interfaces=(
        SavedInterface(
            mac="02:00:00:00:00:01", mtu=1500, tap="tap0_urunc", addresses=("10.0.0.2/24",),
            gateways=("10.0.0.1",),
        ),
    ),
    disks=(
        SavedDisk(
            target="/disk0", read_only=False, kind=SAVED, file="disk-0", size_bytes=7, digest=B
        ),
        SavedDisk(target="/disk1", read_only=True, kind=SAME, file="", size_bytes=9, digest=C),
        SavedDisk(target="/disk2", read_only=True, kind=FREE, file="", size_bytes=9, digest=""),
    ),
    files=(
        SavedFile(name="state", size_bytes=5, digest=A),
        SavedFile(name="disk-0", size_bytes=7, digest=B),
    ),
)  # fmt: skip
