# SPDX-License-Identifier: Apache-2.0
"""guest-init while the application runs and when it ends: signals, orphans, exit codes, the
console, what an application cannot reach."""

from __future__ import annotations

import os
import pathlib
import re
import time

import pytest

from lib.linux_guest import PATH, Guest, ext4_root, run_script, sections

DOCKER = "00000000a80425fb"
"""The capabilities of Docker's default; CAP_MKNOD is one of them, CAP_SYS_PTRACE is not."""


ORPHANS = """
    (sh -c 'echo $$ >/orphan; while [ ! -e /seen ]; do sleep 0.1; done' & ) ; sleep 0.1
    echo "== parent"; awk '{print $4}' /proc/$(cat /orphan)/stat; echo >/seen
    sleep 2
    echo "== zombies"; cat /proc/[0-9]*/stat 2>/dev/null | awk '$3 == "Z" {print $2}'
    trap 'echo "== usr1"' USR1
    trap 'echo "== term"; exit 9' TERM
    echo "== waiting"
    while :; do sleep 0.1; done
"""


def test_orphans_and_signals(guest: Guest, files: pathlib.Path) -> None:
    """Init takes care of whom nobody waits for, hands on what the host says, and is deaf to the
    application."""
    ext4_root(guest, files)
    guest.application("sh", "-c", "kill -TERM 1; kill -INT 1; kill -KILL 1; " + ORPHANS)
    guest.start()
    guest.wait_for("== waiting")
    guest.say("signal 10")
    guest.wait_for("== usr1")
    guest.say("nonsense")
    guest.say("signal 15")
    assert guest.wait() == 2 * 9 + 1
    assert guest.hear() == "ready\nexit 9\n"
    found = sections(guest.output())
    assert found["parent"] == "1\n"
    assert found["zombies"] == ""
    assert "term" in found
    assert "urunc-init: what the host says is not understood: nonsense" in guest.output()


def test_a_namespace_of_its_own(guest: Guest, files: pathlib.Path) -> None:
    """The application is PID 1, and sees its own processes alone; a signal that it handles is
    handled, one that it ignores does nothing, and another ends it without a word."""
    ext4_root(guest, files)
    guest.tell("pid_namespace", "1")
    script = """
        echo "== pids"; echo $$ /proc/[0-9]*; sleep 1000 & sleep 0.2
        echo "== zombies"; cat /proc/[0-9]*/stat 2>/dev/null | awk '$3 == "Z" {print $2}'
        trap '' HUP; trap 'echo "== usr1"' USR1
        echo "== waiting"; while :; do sleep 0.1; done
    """
    guest.application("sh", "-c", script)
    guest.start()
    guest.wait_for("== waiting")
    guest.say("signal 1")
    guest.say("signal 10")
    guest.wait_for("== usr1")
    guest.say("signal 15")  # which nobody handles, and the kernel keeps from any PID 1
    assert guest.wait() == 143
    assert guest.hear() == "ready\nexit 143\n"
    found = sections(guest.output())
    assert found["pids"] == "1 /proc/1\n"
    assert found["zombies"] == ""


ENDINGS = {
    "not in PATH": (
        ["nobody"], 'error exec: "nobody": executable file not found in $PATH\nexit 127\n', 255,
    ),
    "not there": (["/no"], 'error exec: "/no": No such file or directory\nexit 127\n', 255),
    "not executable": (
        ["/etc/passwd"], 'error exec: "/etc/passwd": Permission denied\nexit 126\n', 253,
    ),
    "no program": (["/etc/plain"], 'error exec: "/etc/plain": Exec format error\nexit 126\n', 253),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
def test_endings(guest: Guest, files: pathlib.Path, name: str) -> None:
    """Why the application did not start. What one ends with that did: test_endings.py."""
    arguments, said, code = ENDINGS[name]
    ext4_root(guest, files)
    guest.application(*arguments)
    assert guest.run() == code
    assert guest.hear() == said
    for line in said.splitlines():
        if line.startswith("error "):
            assert f"urunc-init: {line[6:]}" in guest.output()


def test_a_panic_before_init(guest: Guest, files: pathlib.Path) -> None:
    """Without a root there is no first program."""
    empty = guest.directory / "empty"
    empty.write_bytes(b"")
    guest.initrd = empty
    assert guest.run() == 253
    assert "Kernel panic" in guest.output()
    assert guest.hear() == ""


BROKEN: dict[str, tuple[list[tuple[str, ...]], str]] = {
    "no disk": ([("root", "ext4", "/dev/vdx", "ro")], "there is no /dev/vdx"),
    "other file system": (
        [("root", "squashfs", "/dev/vda", "ro")],
        "cannot mount /dev/vda (squashfs)",
    ),
    "a tmpfs on a file": (
        [
            ("root", "ext4", "/dev/vda", "ro"), ("overlay", "tmpfs"),
            ("mount", "tmpfs", "", "/etc/passwd", "rw,size=1m"),
        ],
        "cannot mount tmpfs at /etc/passwd, options size=1m: Not a directory",
    ),
    "no device": (
        [("root", "ext4", "/dev/vda", "ro"), ("overlay", "tmpfs"), ("net", "eth7", "mtu=1")],
        "there is no /sys/class/net/eth7",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_set_up(guest: Guest, files: pathlib.Path, name: str) -> None:
    """Nothing runs then, and the host is told why."""
    records, reason = BROKEN[name]
    guest.disk(files / "ext4")
    guest.records += records
    guest.tell("word", "of another version")
    guest.application("echo", "it runs")
    assert guest.run() == 253
    assert guest.hear().startswith(f"error {reason}")
    assert guest.hear().endswith("\nexit 126\n")
    assert f"urunc-init: {reason}" in guest.output()
    assert "unknown key of the configuration: word" in guest.output()
    assert "it runs" not in guest.output()


def test_without_a_channel_and_a_port(guest: Guest, files: pathlib.Path) -> None:
    """Then the monitor ends as after any reset, whatever the code."""
    guest.records = [PATH]
    ext4_root(guest, files)
    guest.application("sh", "-c", "exit 3")
    assert guest.run() == 253
    assert guest.hear() == ""


def test_what_root_cannot_reach(guest: Guest, files: pathlib.Path) -> None:
    """An application that is root with a container's usual capabilities (mknod is one) cannot
    forge its exit code nor read init's memory."""
    ext4_root(guest, files)
    guest.tell("capabilities", DOCKER, DOCKER, "0", DOCKER, "0")
    found = run_script(
        guest,
        """
        cd /root
        echo "== port"
        for port in /sys/class/virtio-ports/*; do
            mknod ${port##*/} c $(tr : ' ' <$port/dev); echo "exit 0" >${port##*/}; cat ${port##*/}
        done
        echo "== init"
        for file in environ maps mem auxv; do cat /proc/1/$file; done
        ls /proc/1/root/ /proc/1/fd/ /proc/1/cwd/; echo "exit 0" >/proc/1/fd/3
        echo "== machine"; reboot -f; mount -t devtmpfs dev /root; mount -o remount,rw /sys
        echo "== end"; exit 5
        """,
        5,
    )
    assert re.findall("(Device or resource busy|not permitted)", found["port"]) == 2 * [
        "Device or resource busy"
    ]
    assert len(re.findall("Permission denied", found["init"])) == 7
    assert len(found["init"].splitlines()) == 9  # /proc/1/fd can be listed
    assert found["machine"].count("ermission denied") + found["machine"].count("not permitted") == 3


def test_terminal(guest: Guest, files: pathlib.Path) -> None:
    """The console as a terminal: its size, its line discipline, the keys that are signals."""
    ext4_root(guest, files)
    guest.tell("terminal", "1", "33", "111")
    guest.application(
        "sh", "-c",
        "tty; stty size; stty -a | grep -o ' echo '; exec 3</dev/tty && echo mine;"
        "trap 'stty size; exit 4' INT; echo ready; while :; do sleep 0.1; done",
    )  # fmt: skip
    reader, writer = os.pipe()
    guest.input = reader
    guest.start()
    os.close(reader)
    guest.wait_for("ready\r\n")
    guest.say("window 40 120")
    time.sleep(0.5)
    os.write(writer, b"\x03")
    assert guest.wait() == 9
    os.close(writer)
    assert guest.output().split("\r\n") == [
        "/dev/console", "33 111", " echo ", "mine", "ready", "^C40 120", "",
    ]  # fmt: skip


def test_input(guest: Guest, files: pathlib.Path) -> None:
    """What comes in arrives byte by byte, and is not echoed."""
    ext4_root(guest, files)
    guest.application("sh", "-c", "echo ready; head -c6 | od -An -tx1")
    reader, writer = os.pipe()
    guest.input = reader
    guest.start()
    os.close(reader)
    guest.wait_for("ready\n")
    os.write(writer, b"\x03\r\n\x04a\x11")
    assert guest.wait() == 0
    os.close(writer)
    assert guest.output() == "ready\n 03 0d 0a 04 61 11\n"
