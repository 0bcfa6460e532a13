# SPDX-License-Identifier: Apache-2.0
"""`urunc doctor` in set-ups that are broken on purpose: each in a mount namespace of its own."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess

import pytest

from lib.support import URUNC, need, nothing_left

DEVICES = (
    "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mkdir /dev/net"
    " && mknod /dev/net/tun c 10 200"
)
HIDDEN = 'mkdir "$T/empty" && mount --bind "$T/empty"'
DOCKER = f"{HIDDEN} /etc/docker && cat >/etc/docker/daemon.json"
PODMAN = f"{HIDDEN} /etc/containers && cat >/etc/containers/containers.conf"
CONTAINERD = f"{HIDDEN} /etc/containerd && cat >/etc/containerd/config.toml"
CONFIG = 'cat >"$T/config.toml"'
CASES = {
    # what is broken: (commands, what they read, what is found, its level, its words, its advice's)
    "no KVM": (DEVICES, "", "KVM", "note", "there is no /dev/kvm", "modprobe kvm_intel"),
    "KVM is something else": (
        f"{DEVICES} && mknod /dev/kvm c 1 3", "", "KVM", "problem", "inappropriate ioctl", "",
    ),
    "KVM without its driver": (
        f"{DEVICES} && mknod /dev/kvm c 10 250", "", "KVM", "problem", "no such device", "",
    ),
    "no TUN": (
        "mount -t tmpfs none /dev/net", "", "TAP devices", "problem", "no such file",
        "modprobe tun",
    ),
    "TUN without its driver": (
        f"{DEVICES} && rm /dev/net/tun && mknod /dev/net/tun c 10 250", "", "redirects", "problem",
        "guests have no network", "modprobe -a sch_ingress",
    ),
    "no control groups": (
        "mount -t tmpfs none /sys/fs/cgroup", "", "control groups", "problem", "none are mounted",
        "mount -t cgroup2",
    ),
    "no user namespaces": (
        'echo 0 >"$T/zero" && mount --bind "$T/zero" /proc/sys/user/max_user_namespaces', "",
        "user namespaces", "note", "none can be made", "sysctl user.max_user_namespaces",
    ),
    "configuration is no TOML": (
        CONFIG, "[monitors", "configuration", "problem", "config.toml", "",
    ),
    "unknown key": (CONFIG, "[monitor]\nx = 1\n", "configuration", "problem", "monitor", ""),
    "no such monitor": (
        CONFIG, '[monitors.qemu]\npath = "/nowhere"\n', "monitor qemu", "problem",
        "'/nowhere' is no program", "",
    ),
    "monitor is a script": (
        CONFIG, '[monitors.qemu]\npath = "/usr/bin/ldd"\n', "monitor qemu", "problem",
        "not an ELF program", "",
    ),
    "monitor of another version": (
        CONFIG, '[monitors.qemu]\nversion = "99"\n', "monitor qemu", "note", "is not 99", "",
    ),
    "monitor not allowed": (
        CONFIG, "[monitors.spt]\nallowed = false\n", "monitor spt", "note", "not allowed", "",
    ),
    "no monitor": (
        CONFIG,
        "".join(
            f"[monitors.{name}]\nallowed = false\n"
            for name in ("qemu", "hvt", "spt", "firecracker")
        ),
        "monitors", "problem", "no guest runs", "",
    ),
    "no kernel for images": (
        CONFIG, '[guests.linux]\nkernel = "/boot/none"\n', "kernel for images", "problem",
        "there is no '/boot/none'", "set in",
    ),
    "no virtiofsd": (
        CONFIG, '[storage]\nvirtiofsd = "/none"\n', "virtiofsd", "problem", "there is no '/none'",
        "",
    ),
    "no ordinary runtime": (
        CONFIG, '[ordinary]\nruntime = "none"\n', "ordinary containers", "note", "none", "",
    ),
    "Docker does not know urunc": (DOCKER, "{}", "Docker", "note", "does not know urunc", "path"),
    "Docker's file is no JSON": (DOCKER, "{", "Docker", "problem", "daemon.json", "--validate"),
    "Docker's urunc is gone": (
        DOCKER, '{"runtimes": {"urunc": {"path": "/nowhere"}}}', "Docker", "problem",
        "'/nowhere' is no program", "",
    ),
    "Podman's file is no TOML": (PODMAN, "[engine", "Podman", "problem", "containers.conf", ""),
    "Podman's urunc is gone": (
        PODMAN, '[engine.runtimes]\nurunc = ["/nowhere"]\n', "Podman", "problem", "/nowhere", "",
    ),
    "containerd's shim is gone": (
        CONTAINERD,
        'version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.urunc]\n'
        'runtime_type = "io.containerd.urunc.v2"\n',
        "containerd", "problem", "which is not on PATH", "make install",
    ),
    "containerd's file is no TOML": (CONTAINERD, "=", "containerd", "problem", "config.toml", ""),
}  # fmt: skip
NEEDS = {DOCKER: "docker", PODMAN: "podman", CONTAINERD: "containerd"}


def examined(tmp_path: pathlib.Path, setup: str, text: str) -> tuple[int, list[dict[str, str]]]:
    """(exit code, findings) of `urunc doctor` after these commands, which read `text`; without the
    shim on PATH."""
    words = "--config $T/config.toml" if setup == CONFIG else ""
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", f"{setup or ':'}\n{URUNC} {words} doctor --format json"],
        env={"T": str(tmp_path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(tmp_path)},
        input=text, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_broken(tmp_path: pathlib.Path, case: str) -> None:
    """The cause is named, by a finding whose absence is no accident of the machine."""
    setup, text, subject, level, words, advice = CASES[case]
    if setup in NEEDS:
        need(NEEDS[setup])
    with nothing_left():
        code, findings = examined(tmp_path, setup, text)
    (found,) = (item for item in findings if item["subject"].partition(" 1")[0].startswith(subject))
    assert found["level"] == level
    assert words in found["text"]
    assert advice in found["advice"]
    assert code == 1 or level != "problem"


def test_nothing_is_wrong_without_a_reason(tmp_path: pathlib.Path) -> None:
    """Each problem and each note says what to do or why that is all; lines fit a terminal."""
    _, findings = examined(tmp_path, "", "")
    subjects = [item["subject"] for item in findings]
    assert len(subjects) == len(set(subjects))
    for item in findings:
        assert item["text"]
        assert item["level"] in ("fine", "note", "problem")
    done = subprocess.run([URUNC, "doctor"], capture_output=True, text=True, check=False)
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout


def test_an_ordinary_user(tmp_path: pathlib.Path) -> None:
    """What that user may not do is said, and nothing ends in an error."""
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", URUNC, "doctor",
         "--format", "json"],
        env={"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    found = {item["subject"]: item for item in json.loads(done.stdout)}
    assert found["kernel"]["level"] == "fine"
    assert found["redirects"]["level"] in ("fine", "problem")
