# SPDX-License-Identifier: Apache-2.0
"""Parts of config.json that few containers have, in a real Linux guest: what urunc's init sets for
the application, as runc does for a process of the host's."""

from __future__ import annotations

import pathlib
import re

import pytest

from lib import rooted
from lib.support import PARTS, Urunc, need, nothing_left

PERMIT = "SCMP_ACT_ALLOW"


@pytest.fixture
def linux(urunc: Urunc) -> Urunc:
    """The urunc of the tests with a Linux kernel."""
    need("root", "qemu", "linux")
    rooted.configure(urunc, "ext4", "cpio")
    return urunc


@pytest.mark.parametrize("kept", [False, True])
def test_what_init_sets(linux: Urunc, tmp_path: pathlib.Path, *, kept: bool) -> None:
    """linux.seccomp's filter, of another architecture's calls too, with and without
    noNewPrivileges; the personality; the clocks; parameters of the kernel, one with a blank."""
    script = """
        uname -m
        cut -d. -f1 /proc/uptime
        grep Seccomp: /proc/self/status
        mkdir /tmp/a || echo mkdir failed
        chmod 700 /tmp && echo chmod works
        cat /proc/cmdline
    """
    bundle = rooted.linux(tmp_path / "b", script)
    bundle.config["process"]["noNewPrivileges"] = kept
    bundle.config["linux"] |= {
        "personality": {"domain": "LINUX32"},
        "timeOffsets": {"boottime": {"secs": 1_000_000, "nanosecs": 1}, "monotonic": {"secs": 7}},
        "seccomp": {
            "defaultAction": PERMIT,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
                {"names": ["no_such_call", "socketcall"], "action": "SCMP_ACT_ERRNO"},
            ],
        },
    }
    bundle.config["linux"]["namespaces"].append({"type": "time"})
    kernel = {"path": str(PARTS / "linux/vmlinux")}
    bundle.config["vm"] = {
        "kernel": {**kernel, "parameters": ["mitigations=off", "note=two words"]}
    }
    del bundle.config["annotations"]["com.urunc.unikernel.binary"]
    with nothing_left(linux.root):
        result = rooted.run(linux, bundle)
        assert result.returncode == 0, result.stdout + result.stderr
    said = (result.stdout + result.stderr).replace("\r", "").splitlines()
    assert said[0] == "i686"
    assert 1_000_000 <= int(said[1]) < 1_000_600
    assert said[2].split() == ["Seccomp:", "2"]
    assert "mkdir: can't create directory '/tmp/a': No space left on device" in said
    assert "mkdir failed" in said
    assert "chmod works" in said
    (line,) = (line for line in said if "urunc.config=" in line)
    assert ' mitigations=off "note=two words" ' in line


def test_what_is_not_allowed(linux: Urunc, tmp_path: pathlib.Path) -> None:
    """A profile that names what is allowed; defaultErrnoRet for the rest; two bits of an argument.
    maskedPaths and readonlyPaths."""
    script = """
        mkdir /tmp/a
        chmod 4700 /tmp || echo no set-user-ID
        chmod 700 /tmp && echo chmod works
        cat /secret/key
        touch /fixed/new
    """
    bundle = rooted.linux(tmp_path / "b", script)
    bundle.add("secret/key", b"a secret")
    bundle.add("fixed/old", b"")
    header = pathlib.Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").read_text()
    names = [line.split()[1][5:] for line in header.splitlines() if " __NR_" in line]
    set_user_id = {"value": 0o4000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    bundle.config["linux"] |= {
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 28,
            "syscalls": [
                {
                    "names": [
                        name for name in names if "mkdir" not in name and "chmod" not in name
                    ],
                    "action": PERMIT,
                },
                {"names": ["chmod"], "action": PERMIT, "args": [{"index": 1, **set_user_id}]},
                {"names": ["fchmodat"], "action": PERMIT, "args": [{"index": 2, **set_user_id}]},
            ],
        },
        "maskedPaths": ["/secret"],
        "readonlyPaths": ["/fixed"],
    }
    result = rooted.run(linux, bundle)
    said = (result.stdout + result.stderr).replace("\r", "").splitlines()
    assert "mkdir: can't create directory '/tmp/a': No space left on device" in said
    assert "chmod: /tmp: No space left on device" in said
    assert "no set-user-ID" in said
    assert "chmod works" in said
    assert "cat: can't open '/secret/key': No such file or directory" in said
    assert "touch: /fixed/new: Read-only file system" in said


def test_what_init_is_told_is_shown_by_the_plan(linux: Urunc, tmp_path: pathlib.Path) -> None:
    """A record a line, without what ends or fills it up; of a program of numbers its size."""
    bundle = rooted.linux(tmp_path / "b", "true")
    bundle.config["process"]["env"] = ["A=b\x1bc", "PATH=/bin"]
    rule = {"names": ["mount", "umount2", "reboot", "chroot"], "action": "SCMP_ACT_ERRNO"}
    bundle.config["linux"]["seccomp"] = {"defaultAction": PERMIT, "syscalls": [rule]}
    shown = linux("plan", "--bundle", str(bundle.write())).stdout
    assert all(letter.isprintable() for letter in shown.replace("\n", ""))
    _, _, records = shown.partition("file /run/guest.config:\n")
    lines = records.splitlines()
    assert lines[0] == "  urunc-guest 1"
    assert "  env=A=b\\x1bc" in lines
    assert "  env=PATH=/bin" in lines
    (program,) = [line for line in lines if line.startswith("  seccomp=0 ")]
    assert re.fullmatch(r"  seccomp=0 \(\d+ bytes\)", program)
    assert all(line.strip() and "\\x00" not in line for line in lines)


def test_what_an_own_init_is_not_told(linux: Urunc, tmp_path: pathlib.Path) -> None:
    """Where the image's own program is init, a warning names what does not hold, and what cannot be
    passed over is refused."""
    bundle = rooted.linux(tmp_path / "b", "true", initrd="/initrd")
    del bundle.config["annotations"]["com.urunc.unikernel.mountRootfs"]
    bundle.add("initrd", b"none")
    bundle.config["process"] |= {"noNewPrivileges": True, "cwd": "/srv"}
    bundle.config["linux"] |= {
        "seccomp": {"defaultAction": PERMIT}, "sysctl": {"net.ipv4.ip_forward": "1"},
    }  # fmt: skip
    bundle.config["domainname"] = "example"
    shown = " ".join(linux("plan", "--bundle", str(bundle.write())).stdout.split())
    for words in (
        "the image's first program has every right in it: process.noNewPrivileges, linux.seccomp",
        "process.cwd: linux is not told '/srv'",
        "domainname: linux is not told 'example'",
        "linux.sysctl: set in the container's namespaces, not in the guest's kernel: net.ipv4.",
    ):
        assert words in shown
    for change, words in (
        ({"personality": {"domain": "LINUX32"}}, "linux.personality.domain: 'LINUX32'"),
        ({"seccomp": {"defaultAction": PERMIT, "listenerPath": "/run/a"}}, "linux.seccomp.listene"),
    ):
        before = dict(bundle.config["linux"])
        bundle.config["linux"] |= change
        refused = linux("plan", "--bundle", str(bundle.write()), check=False)
        assert refused.returncode == 1
        assert words in refused.stderr
        bundle.config["linux"] = before
