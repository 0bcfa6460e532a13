# SPDX-License-Identifier: Apache-2.0
"""The engine as a service: whether it is well, and how it is restarted.

Containers outlive the restart of each of these engines. What decides is never the service manager's
word but the engine's own: its socket answers, and containerd's CRI plugin has started.
"""

from __future__ import annotations

import os
import shlex
import signal
import time

from urunc.installer.host import Failure
from urunc.installer.node import Node

CHECK_S = 1.0


def listener(node: Node) -> int:
    """The pid of who listens at the engine's socket; 0 if nobody does, -1 if it is out of sight."""
    return node.host.listener(node.socket)


def ailment(node: Node) -> str:
    """Why the engine is not well; "" if it is: its socket answers, and of containerd no CRI plugin
    has failed."""
    if not listener(node):
        return f"nobody answers at {node.socket}"
    if not node.ctr:
        return ""
    words = (*node.ctr, "--address", node.socket, "plugins", "ls")
    try:
        result = node.host.run(*words, check=False, timeout_s=20)
    except Failure as error:
        return str(error)
    if result.returncode:
        return (result.stderr or result.stdout).strip()[-500:]
    rows = [line.split() for line in result.stdout.splitlines()]
    for row in rows:
        if len(row) >= 4 and row[0].startswith("io.containerd.") and row[1] in ("cri", "runtime"):
            name = f"{row[0]}.{row[1]}"
            if "cri" in name and row[-1] not in ("ok", "skip"):
                return f"containerd's plugin {name}: {row[-1]}"
    return ""


def wait_until_well(node: Node, seconds: float) -> str:
    """Wait until the engine is well, no longer than this: what ails it then, or ""."""
    end = time.monotonic() + seconds
    while True:
        reason = ailment(node)
        if not reason or time.monotonic() > end:
            return reason
        time.sleep(CHECK_S)


def settles(node: Node, *, known: bool) -> bool:
    """Whether the engine has urunc (`known`), or has it no more. One that reads its configuration
    again does that in its own time, and is asked until then."""
    end = time.monotonic() + (node.start_s if node.reloads else 0)
    while node.has_runtime() != known:
        if time.monotonic() >= end:
            return False
        time.sleep(CHECK_S / 5)
    return True


def restart(node: Node, how: str) -> str:
    """Have the engine read its configuration, by SIGHUP where that is enough, else restart it: by a
    command line (`how`), or by `systemd`, `openrc` or `signal`, where `auto` takes the first that
    is there. What was done, in words; raises Failure."""
    host = node.host
    if how not in ("auto", "systemd", "openrc", "signal"):
        host.run(*shlex.split(how), timeout_s=node.start_s)
        return how
    if how == "auto" and node.reloads:
        return _reload(node)
    if how in ("auto", "systemd") and host.exists("/run/systemd/system"):
        for unit in node.units:
            if host.run("systemctl", "is-enabled", unit, check=False).returncode == 0 or (
                host.run("systemctl", "is-active", unit, check=False).returncode == 0
            ):
                host.run("systemctl", "restart", unit, timeout_s=node.start_s)
                return f"systemctl restart {unit}"
    if how in ("auto", "openrc") and host.exists("/run/openrc"):
        for unit in node.units:
            name = unit.removesuffix(".service")
            if host.exists(f"/etc/init.d/{name}"):
                host.run("rc-service", name, "restart", timeout_s=node.start_s)
                return f"rc-service {name} restart"
    if how in ("auto", "signal") and not node.is_rendered:
        return _by_signal(node)
    raise Failure(
        f"no way to restart {node.kind} was found: please give the command (--restart) or "
        "do it yourself (--restart none)"
    )


def _reload(node: Node) -> str:
    """SIGHUP to the engine; raises Failure where it is out of sight."""
    pid = listener(node)
    if pid <= 0:
        raise Failure(f"cannot see the process at {node.socket}")
    os.kill(pid, signal.SIGHUP)
    return f"SIGHUP to {pid}: it reads its configuration again"


def _by_signal(node: Node) -> str:
    """SIGTERM to the engine, for a supervisor that starts it anew; raises Failure where it does not
    end within its time."""
    pid = listener(node)
    if not pid:
        return "nobody listens: waiting for whoever keeps it up"
    if pid < 0:
        raise Failure(f"cannot see the process at {node.socket} (a pod needs hostPID)")
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + node.start_s
    while listener(node) == pid:
        if time.monotonic() > end:
            raise Failure(f"process {pid} does not end")
        time.sleep(0.1)
    return f"SIGTERM to {pid}"
