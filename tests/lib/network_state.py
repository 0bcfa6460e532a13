# SPDX-License-Identifier: Apache-2.0
"""What a network namespace holds, to be compared before and after."""

from __future__ import annotations

import contextlib
import re
import subprocess

from lib.patience import tried
from lib.support import unchanged


def network_state(path: str) -> dict[str, set[str]]:
    """What the network namespace at a path holds, by the command that shows it: to be compared, as
    `kernel`'s. Counters and what else changes by itself are left out."""

    def show(command: str) -> set[str]:
        enter = ["nsenter", f"--net={path}", *command.split()]
        result = subprocess.run(enter, capture_output=True, text=True)
        lines = (result.stdout + result.stderr).splitlines()
        # ip(8) looks for the names of peers' namespaces in /run/netns, where others may be making
        # one: a file that is none yet
        lines = [line for line in lines if line != "Error: Peer netns reference is invalid."]
        return {re.sub(r"_timer +[0-9.]+", "_timer", line.rstrip()) for line in lines}

    commands = (
        "ip -d link",
        "ip addr",
        "ip rule",
        "ip -6 rule",
        "ip -4 route show table all",
        "ip -6 route show table all",
        "ip neigh show nud permanent",
        "ip neigh show proxy",
        "tc qdisc",
        "nft list ruleset",
        "sysctl --all --ignore --pattern ^net",
    )
    shown = {command: show(command) for command in commands}
    settings = shown[commands[-1]]
    settings -= {line for line in settings if "conntrack_count" in line or "stable_secret" in line}
    devices = [re.match(r"\d+: ([^@:]+)", line) for line in shown[commands[0]]]
    for device in filter(None, devices):
        for where in ("root", "ingress", "egress"):
            command = f"tc filter show dev {device[1]} {where}"
            shown[command] = show(command)
    return shown


def network_unchanged(path: str) -> contextlib.AbstractContextManager[None]:
    """Compare the network namespace at a path before and after the block: what it is once its
    devices have found their peers, and its addresses have their routes, which a busy kernel sees to
    in its own time."""

    def show(command: str) -> str:
        enter = ["nsenter", f"--net={path}", "ip", *command.split()]
        return subprocess.run(enter, capture_output=True, text=True, check=True).stdout

    def settled() -> bool:
        if "NO-CARRIER" in show("link"):
            return False
        addresses = re.findall(r"inet6 ([0-9a-f:]+)", show("-6 addr show up"))
        if not addresses:
            return True
        routes = show("-6 route show table local")
        return all(f"local {address} " in routes for address in addresses)

    tried(settled, 2)
    return unchanged(lambda: network_state(path))
