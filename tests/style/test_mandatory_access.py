# SPDX-License-Identifier: Apache-2.0
"""The profiles for AppArmor and SELinux in deploy/, by the tools that load them. What they come to
is not tried: that takes a kernel with these modules."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import pytest

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
APPARMOR = PROJECT / "deploy/apparmor/urunc-monitor"
SELINUX = PROJECT / "deploy/selinux/urunc_monitor.te"


def tool(name: str) -> str:
    """A program, which may be where only root looks; skips the test where there is none."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if not found:
        pytest.skip(f"needs {name}")
    return found


def parsed(text: str, directory: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """What AppArmor's parser says of a profile."""
    profile = directory / "profile"
    profile.write_text(text)
    words = ["-Q", "-K", "-T", "-d", "--base", str(directory), str(profile)]
    return subprocess.run([tool("apparmor_parser"), *words], capture_output=True, text=True)


def test_apparmor(tmp_path: pathlib.Path) -> None:
    done = parsed(APPARMOR.read_text(), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "urunc-monitor" in done.stdout
    for wrong in ("/run/** rwk,", "signal receive,"):
        broken = APPARMOR.read_text().replace(wrong, wrong.replace(",", " nonsense,"))
        assert parsed(broken, tmp_path).returncode != 0


def test_apparmor_gives_no_more_than_is_needed() -> None:
    """No capability, no mount, no network, nothing that is written to and run."""
    lines = [line.split("#")[0].strip() for line in APPARMOR.read_text().splitlines()]
    rules = [line.rstrip(",").split() for line in lines if line.endswith(",")]
    assert len(rules) > 20
    assert not {"capability", "mount", "network", "ptrace", "pivot_root", "change_profile"} & {
        rule[0] for rule in rules
    }
    files = [rule[-2:] for rule in rules if len(rule) > 1 and rule[-2].startswith("/")]
    assert len(files) > 15
    assert not [
        path for path, access in files if "w" in access and ("m" in access or "x" in access)
    ]


def test_selinux(tmp_path: pathlib.Path) -> None:
    """Compiled and packed, as one would load it."""
    module, package = tmp_path / "urunc_monitor.mod", tmp_path / "urunc_monitor.pp"
    compiling = [tool("checkmodule"), "-M", "-m", "-o", str(module)]
    done = subprocess.run([*compiling, str(SELINUX)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / "urunc_monitor.te"
    broken.write_text(SELINUX.read_text().replace("type kvm_device_t;", ""))
    refused = subprocess.run([*compiling, str(broken)], capture_output=True, text=True)
    assert refused.returncode != 0 and "kvm_device_t" in refused.stdout + refused.stderr
    packing = [tool("semodule_package"), "-o", str(package), "-m", str(module)]
    subprocess.run(packing, check=True)
    assert package.stat().st_size > 1000
