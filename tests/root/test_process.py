# SPDX-License-Identifier: Apache-2.0
"""The specification's process as it applies to a guest's monitor (config.md, Process; POSIX
process; Linux Process): user, limits, scheduling, terminal, seccomp; kernel parameters, mounts."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import pty
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from typing import Any

import pytest

from lib.patience import until
from lib.support import PARTS, Bundle, Network, Urunc, need, nothing_left

KINDS = ("bounding", "effective", "inheritable", "permitted", "ambient")


def facts(pid: int) -> dict[str, str]:
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def started(urunc: Urunc, bundle: Bundle) -> int:
    container = urunc.create(bundle)
    container.start()
    container.wait_for('"cmdline"')
    return container.pid


def test_user_groups_and_umask(urunc: Urunc, bundle: Bundle) -> None:
    """A user that the specification names is the monitor's, with its groups; root is not: then it
    is one that no other container has."""
    bundle.config["process"]["user"] = {
        "uid": 1234, "gid": 2345, "additionalGids": [3456, 4567], "umask": 0o27,
    }  # fmt: skip
    found = facts(started(urunc, bundle))
    assert found["Uid"].split() == ["1234"] * 4
    assert found["Gid"].split() == ["2345"] * 4
    assert found["Groups"] == "3456 4567"
    assert found["Umask"] == "0027"


def test_capabilities_are_an_application_s(urunc: Urunc, bundle: Bundle) -> None:
    """Whatever process.capabilities and noNewPrivileges say: a monitor has none, and gets none."""
    every = ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_CHOWN"]
    bundle.config["process"] |= {
        "capabilities": dict.fromkeys(KINDS, every),
        "noNewPrivileges": False,
    }
    found = facts(started(urunc, bundle))
    assert {int(found[name], 16) for name in found if name.startswith("Cap")} == {0}
    assert found["NoNewPrivs"] == "1"


def test_limits_scheduling_and_oom_score(urunc: Urunc, bundle: Bundle) -> None:
    """rlimits, oomScoreAdj, ioPriority, scheduler are the monitor's when it runs."""
    bundle.config["process"] |= {
        "rlimits": [
            {"type": "RLIMIT_NOFILE", "soft": 333, "hard": 444},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ],
        "oomScoreAdj": 321,
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6},
        "scheduler": {"policy": "SCHED_BATCH", "nice": 7},
    }
    pid = started(urunc, bundle)
    limits = pathlib.Path(f"/proc/{pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if "open files" in line).split()[3:5] == [
        "333", "444",
    ]  # fmt: skip
    assert pathlib.Path(f"/proc/{pid}/oom_score_adj").read_text() == "321\n"
    shown = subprocess.run(["ionice", "-p", str(pid)], capture_output=True, text=True).stdout
    assert shown.strip() == "best-effort: prio 6"
    assert os.sched_getscheduler(pid) == os.SCHED_BATCH
    assert os.getpriority(os.PRIO_PROCESS, pid) == 7


def test_a_deadline(urunc: Urunc, bundle: Bundle) -> None:
    """The scheduler's times and flags (sched_setattr(2))."""
    bundle.config["process"]["scheduler"] = {
        "policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK"],
        "runtime": 10_000_000, "deadline": 20_000_000, "period": 30_000_000,
    }  # fmt: skip
    pid = started(urunc, bundle)
    shown = subprocess.run(["chrt", "-p", str(pid)], capture_output=True, text=True).stdout
    assert "SCHED_DEADLINE|SCHED_RESET_ON_FORK" in shown
    assert shown.splitlines()[-1].split()[-1] == "10000000/20000000/30000000"


def test_an_oom_score_that_the_host_forbids(urunc: Urunc, bundle: Bundle) -> None:
    """Lowering it takes CAP_SYS_RESOURCE; where the host has it not, the container runs all the
    same, as with runc."""
    bundle.config["process"]["oomScoreAdj"] = -900
    pid = started(urunc, bundle)
    assert pathlib.Path(f"/proc/{pid}/oom_score_adj").read_text().strip() in ("-900", "0")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rlimits": [{"type": "RLIMIT_CORE", "soft": 5, "hard": 4}]}, "above the hard limit"),
        ({"scheduler": {"policy": "SCHED_FIFO", "priority": 0}}, "process.scheduler: SCHED_FIFO"),
        ({"scheduler": {"policy": "SCHED_ISO"}}, "process.scheduler: SCHED_ISO"),
    ],
)
def test_what_the_kernel_refuses(
    urunc: Urunc, bundle: Bundle, change: dict[str, Any], words: str
) -> None:
    bundle.config["process"] |= change
    with nothing_left(urunc.root):
        refused = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    assert refused.returncode == 1
    assert words in refused.stderr


def test_labels_that_nobody_enforces(urunc: Urunc, bundle: Bundle) -> None:
    """Without AppArmor or SELinux a label is refused; with it, the kernel is told (config.md, Linux
    Process)."""
    for key, value, module in (
        ("apparmorProfile", "no-such-profile", "/sys/module/apparmor"),
        ("selinuxLabel", "system_u:system_r:container_t:s0", "/sys/fs/selinux/enforce"),
        ("mountLabel", "system_u:object_r:container_file_t:s0", "/sys/fs/selinux/enforce"),
    ):
        if pathlib.Path(module).exists():
            continue
        section = "linux" if key == "mountLabel" else "process"
        bundle.config[section] = {**bundle.config[section], key: value}
        refused = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
        assert refused.returncode == 1
        assert f"{section}.{key}" in refused.stderr
        assert "this machine has no" in refused.stderr
        del bundle.config[section][key]


def test_hostname_and_domainname(urunc: Urunc, bundle: Bundle) -> None:
    bundle.config |= {"hostname": "box", "domainname": "example"}
    pid = started(urunc, bundle)
    enter = ["nsenter", "-t", str(pid), "-u"]
    assert subprocess.check_output([*enter, "hostname"], text=True) == "box\n"
    domain = subprocess.check_output([*enter, "cat", "/proc/sys/kernel/domainname"], text=True)
    assert domain == "example\n"


def test_kernel_parameters(urunc: Urunc, bundle: Bundle, network: Network) -> None:
    """linux.sysctl, by either separator, in the container's own namespaces and nowhere else."""
    before = pathlib.Path("/proc/sys/kernel/msgmax").read_text()
    network.connect("a.b")
    bundle.network(network.path)
    bundle.config["linux"]["sysctl"] = {
        "net.ipv4.ip_unprivileged_port_start": "77",
        "net/ipv4/conf/a.b/forwarding": "1",
        "kernel.msgmax": "4096",
    }
    pid = started(urunc, bundle)
    enter = ["nsenter", "-t", str(pid), "-n", "-i", "cat"]
    for name, value in (
        ("net/ipv4/ip_unprivileged_port_start", "77"),
        ("net/ipv4/conf/a.b/forwarding", "1"),
        ("kernel/msgmax", "4096"),
    ):
        assert subprocess.check_output([*enter, f"/proc/sys/{name}"], text=True) == f"{value}\n"
    assert pathlib.Path("/proc/sys/kernel/msgmax").read_text() == before


@pytest.mark.parametrize("kind", ["private", "slave", "shared", "unbindable"])
def test_root_propagation(urunc: Urunc, bundle: Bundle, kind: str) -> None:
    """linux.rootfsPropagation is that of the monitor's root; nothing of it reaches the host."""
    bundle.config["linux"]["rootfsPropagation"] = kind
    with nothing_left(urunc.root):
        container = urunc.create(bundle)
        container.start()
        lines = pathlib.Path(f"/proc/{container.pid}/mountinfo").read_text().splitlines()
        (root,) = [line for line in lines if line.split()[4] == "/"]
        optional = root.split(" - ")[0].split()[6:]
        assert bool([word for word in optional if word.startswith("shared:")]) == (kind == "shared")
        assert ("unbindable" in optional) == (kind == "unbindable")
        container.delete("--force")


def test_devices_are_an_application_s(urunc: Urunc, bundle: Bundle) -> None:
    """linux.devices are not made for a monitor, whose machine has what devices the guest has; the
    user is told."""
    bundle.config["linux"]["devices"] = [
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}
    ]
    container = urunc.create(bundle)
    assert "warning: devices that the guest does not have: /dev/fuse" in (
        container.console.read_text()
    )
    root = pathlib.Path(f"/proc/{container.pid}/root")
    assert sorted(item.name for item in (root / "dev").iterdir()) == ["net"]
    container.delete("--force")


def test_the_specification_s_seccomp_is_not_stacked(urunc: Urunc, bundle: Bundle) -> None:
    """A profile for an application that would kill the monitor does not, unless the administrator
    asks for it."""
    bundle.config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["write", "writev"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5,
             "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
        ],
    }  # fmt: skip
    bundle.args("probe.exit=9")

    def said() -> str:
        """What a guest wrote until its end."""
        container = urunc.create(bundle)
        container.start()
        container.wait_stopped()
        return container.console.read_text()

    assert "cmdline" in said()
    with urunc.config.open("a") as file:
        file.write("[monitors.spt]\nspec_seccomp = true\n")
    assert "cmdline" not in said()  # it could not write
    bundle.config["linux"]["seccomp"]["syscalls"][0]["action"] = "SCMP_ACT_NOTIFY"
    refused = urunc("create", "--bundle", str(bundle.write()), urunc.new_id(), check=False)
    assert "linux.seccomp.syscalls[0].action: 'SCMP_ACT_NOTIFY'" in refused.stderr


def receive(listener: socket.socket) -> int:
    connection, _ = listener.accept()
    with connection:
        name, fds, _, _ = socket.recv_fds(connection, 4096, 1)
    assert name
    return fds[0]


def read_until(fd: int, text: str, timeout_s: float = 20) -> str:
    seen = b""

    def more() -> bool:
        nonlocal seen
        if select.select([fd], [], [], 0.1)[0]:
            with contextlib.suppress(OSError):  # nobody has the other end open any more
                seen += os.read(fd, 4096)
        return text.encode() in seen

    until(more, lambda: f"no {text!r} in {seen!r}", timeout_s)
    return seen.decode()


def test_terminal(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """process.terminal: the engine gets the terminal through --console-socket, of the size asked
    for; the guest's console is on it (runtime.md, create; config.md, consoleSize)."""
    need("qemu", "probe")
    bundle = Bundle(tmp_path / "q", "unikraft", "qemu", accelerator="tcg")
    bundle.add("unikernel", PARTS / "probe.pvh")
    bundle.args("app", "probe.hang")
    bundle.config["process"] |= {"terminal": True, "consoleSize": {"height": 33, "width": 99}}
    path = f"/tmp/urunc-test-{os.getpid()}.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with nothing_left(urunc.root):
            container = urunc.create(bundle, "--console-socket", path)
            master = receive(listener)
            size = struct.unpack("HHHH", fcntl.ioctl(master, termios.TIOCGWINSZ, bytes(8)))
            assert size[:2] == (33, 99)
            container.start()
            read_until(master, '"cmdline"')
            mine = os.readlink(f"/proc/{container.pid}/fd/0")
            assert mine.startswith("/dev/pts/") or mine == "/0", mine
            stat = (
                pathlib.Path(f"/proc/{container.pid}/stat").read_text().rpartition(")")[2].split()
            )
            assert int(stat[4]) != 0  # it has a controlling terminal
            os.write(master, b"\x03")  # Ctrl-C is a key for the guest, not the end of its monitor
            time.sleep(0.3)
            assert container.status() == "running"
            container.delete("--force")
            os.close(master)
    os.unlink(path)


def test_terminal_without_anybody_to_take_it(urunc: Urunc, bundle: Bundle) -> None:
    bundle.config["process"]["terminal"] = True
    path = str(bundle.write())
    with nothing_left(urunc.root):
        refused = urunc("create", "--bundle", path, urunc.new_id(), check=False)
        assert "cannot allocate tty without a console socket" in refused.stderr
        words = ("create", "--console-socket", "/no/such.sock", "--bundle", path)
        refused = urunc(*words, urunc.new_id(), check=False)
        assert "console socket '/no/such.sock': no such file" in refused.stderr
    bundle.config["process"]["terminal"] = False
    words = ("create", "--console-socket", "/x.sock", "--bundle", str(bundle.write()))
    refused = urunc(*words, urunc.new_id(), check=False)
    assert "config.json asks for no terminal" in refused.stderr


def test_run_with_a_terminal(urunc: Urunc, bundle: Bundle) -> None:
    """`run` in the foreground passes the user's terminal on, gives it back as it was, and ends with
    the monitor's code."""
    bundle.config["process"]["terminal"] = True
    bundle.args("probe.exit=9")
    identifier = urunc.new_id()
    pid, master = pty.fork()
    if pid == 0:
        words = urunc.command("run", "--bundle", str(bundle.write()), identifier)
        os.execv(words[0], words)
    read_until(master, '"cmdline":"')
    ended = os.pidfd_open(pid)

    def done() -> bool:
        if select.select([master], [], [], 0)[0]:
            with contextlib.suppress(OSError):  # nobody has the other end open any more
                os.read(master, 4096)
        return bool(select.select([ended], [], [], 0)[0])

    try:
        until(done, "run did not end")
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(ended)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    os.close(master)
    assert json.loads(urunc("list", "--format", "json").stdout) == []
