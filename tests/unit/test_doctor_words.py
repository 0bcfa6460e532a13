# SPDX-License-Identifier: Apache-2.0
"""What `urunc doctor CONTAINER` makes of a console: what its lines mean, and where they are."""

from __future__ import annotations

import json
import pathlib

import pytest

from urunc.doctor import console
from urunc.doctor.words import meanings

LINES = [
    ("KVM internal error. Suberror: 1", "KVM cannot run"),
    ("emulation failure\nRAX=0 RBX=1", "KVM cannot run"),
    ("[ 1.0] VFS: Unable to mount root fs on unknown-block(0,0)", "no root filesystem"),
    ("[ 1.0] Kernel panic - not syncing: No working init found.", "no program that it can run"),
    ("[ 1.0] Run /init as init process\n[ 1.1] Failed to execute /init (error -8)", "no program"),
    ("[ 1.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100", "panicked"),
    ("[ 9.0] Out of memory: Killed process 82 (tail) total-vm:34520kB", "ran out of memory"),
    ("SeaBIOS (version 1.16)\niPXE\nBooting from ROM...", "the firmware runs"),
    ("qemu: Error loading uncompressed kernel without PVH ELF Note", "no kernel of this kind"),
    ("Could not access KVM kernel module: Permission denied", "cannot use /dev/kvm"),
    ("solo5-hvt: guest: unsupported ABI version 2", "another Solo5"),
    ("CRIT: [libkvmplat] Assertion failure", "error of its own"),
    ("Fatal error: exception Unix.Unix_error", "error of its own"),
    ("bind: Address already in use", "a port is taken"),
    ("sh: /srv/data: Permission denied", "not allowed"),
    ("sh: can't open '/no/such': No such file or directory", "not there"),
]


@pytest.mark.parametrize(("text", "words"), LINES)
def test_what_lines_mean(text: str, words: str) -> None:
    first = meanings(f"the guest's own\n{text}\n")[0]
    assert words in first.text
    assert first.line in text


def test_ordinary_words_mean_nothing() -> None:
    assert meanings("Hello\nserving on port 8080\n") == []
    assert len(meanings("\n".join(text for text, _ in LINES))) == 2


def test_what_engines_write_around_lines(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "log"
    file.write_text(
        json.dumps({"log": "docker's\n", "stream": "stdout"})
        + "\n2026-01-02T03:04:05.6Z stdout F a pod's\nplain one stdout\n"
    )
    shown = console.find("id", 0, {}, str(file))
    assert shown.text == "docker's\na pod's\nplain one stdout"
    assert console.find("id", 0, {"io.kubernetes.cri-o.LogPath": str(file)}).text == shown.text
    missing = console.find("no-such-container", 0, {"io.kubernetes.cri.sandbox-name": "x*"})
    assert missing.text is None and "docker logs" in missing.where
    with pytest.raises(FileNotFoundError):
        console.find("id", 0, {}, str(tmp_path / "none"))


def test_a_long_console(tmp_path: pathlib.Path) -> None:
    """Its end is read."""
    file = tmp_path / "log"
    file.write_bytes(b"x" * 200_000 + b"\xff\nKernel panic - not syncing: x")
    text = console.find("id", 0, {}, str(file)).text or ""
    assert len(text) <= console.TAIL_BYTES and text.endswith("syncing: x")
