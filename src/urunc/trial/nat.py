# SPDX-License-Identifier: Apache-2.0
"""Root's network for a guest: a namespace with one end of a veth pair, and NAT on this machine.

Runs in the keeper. Nothing has a name that would stay: the namespace is a descriptor of the
keeper's, the pair ends with it, and the rules are a table that its nft(8) owns (flags owner, Linux
5.12), which the kernel removes with that process. Uses ip(8) and nft(8): the other code that
changes networks refuses this machine's own namespace.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from errno import EACCES
from ipaddress import ip_network
from shutil import which

from urunc.errors import HostError, reason
from urunc.jsontext import loads
from urunc.linux import _linux
from urunc.linux.namespaces import CLONE_NEWNET, open_namespace
from urunc.record import record

PREFIX = "utry"
"""Of the names of devices and tables; a number follows."""
SUBNET, SUBNET6 = "10.209", "fd75:7275:6e63:f"
NETWORKS = 256
SWITCHED = "urunc-try-forwarding"
"""The alias of a device of a trial for which forwarding was switched on."""
TUN = "/dev/net/tun"
DEVICES = "/sys/class/net"
FORWARDING = "/proc/sys/net/ipv4/ip_forward"
NO_IPV6 = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
RULES = """table inet {name} {{
  flags owner
  chain postrouting {{
    type nat hook postrouting priority 100;
    ip saddr {v4} oifname != "{name}" masquerade
    ip6 saddr {v6} oifname != "{name}" masquerade
  }}
  chain forward {{
    type filter hook forward priority 0;
    oifname "{name}" ct state new drop
    {others}
  }}
}}
"""
NOT_OURS = f'iifname != "{PREFIX}*" oifname != "{PREFIX}*" drop'
"""Where forwarding is on for our sake alone, this machine is no router for anyone else."""


DROPPED = (
    "this machine's rules drop what is forwarded (iptables: FORWARD has the policy DROP): no way "
    "out for the guest, unless they let {name} through (with Docker: iptables -I DOCKER-USER -i "
    "{name} -j ACCEPT, and the same with -o)"
)


@record
class Made:
    """What the others need to know of a network."""

    namespace: str
    addresses: tuple[str, ...]
    """The guest's."""
    remarks: tuple[str, ...]


def check_tun() -> None:
    """Raise HostError where no TAP device can be made."""
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        hint = "modprobe tun, or --net none"
        if error.errno == EACCES:
            hint = f"as root: chmod 0666 {TUN}, as most distributions have it; or --net none"
        raise HostError(f"'{TUN}': {reason(error)}: the guest can have no network", hint) from None


class Nat:
    """One network; `make` it, and `remove` what the kernel does not."""

    def __init__(self) -> None:
        self.name = ""
        self.forwarding = False
        """Whether it is on for the sake of trials alone."""
        self._rules: subprocess.Popen[str] | None = None
        self._host = self._inner = -1

    def make(self) -> Made:
        """Raises HostError, OSError."""
        if not which("ip"):
            raise HostError(
                "network: ip(8) is not installed", "apt-get install iproute2, or --net none"
            )
        self._host = open_namespace("/proc/self/ns/net")
        _linux.unshare(CLONE_NEWNET)
        self._inner = open_namespace("/proc/self/ns/net")
        number = self._pair()
        v4, v6 = f"{SUBNET}.{number}", f"{SUBNET6}{number:03x}"
        with_v6 = _read(NO_IPV6) == "0"
        self._go(self._inner)
        _ip("link", "set", "lo", "up")
        for address, *more in ((f"{v4}.2/24",), (f"{v6}::2/64", "nodad"))[: 1 + with_v6]:
            _ip("address", "add", address, "dev", "eth0", *more)
        self._go(self._host)
        for address, *more in ((f"{v4}.1/24",), (f"{v6}::1/64", "nodad"))[: 1 + with_v6]:
            _ip("address", "add", address, "dev", self.name, *more)
        _ip("link", "set", self.name, "up")
        self._go(self._inner)
        _ip("link", "set", "eth0", "up")
        for gateway in (f"{v4}.1", f"{v6}::1")[: 1 + with_v6]:
            _ip("-6" if ":" in gateway else "-4", "route", "add", "default", "via", gateway)
        self._go(self._host)
        return Made(
            namespace=f"/proc/{os.getpid()}/fd/{self._inner}",
            addresses=(f"{v4}.2", f"{v6}::2")[: 1 + with_v6],
            remarks=self._translate(f"{v4}.0/24", f"{v6}::/64"),
        )

    def remove(self) -> None:
        """Take it away; the pair and the namespace go when the last who uses them does."""
        if self._rules and self._rules.stdin:
            self._rules.stdin.close()
            self._rules.wait()
        if not self.name:
            return
        with suppress(HostError):
            _ip("link", "delete", self.name)
        if self.forwarding and not any(name.startswith(PREFIX) for name in os.listdir(DEVICES)):
            with suppress(OSError), open(FORWARDING, "w") as file:
                file.write("0")

    def _go(self, namespace: int) -> None:
        _linux.setns(namespace, CLONE_NEWNET)

    def _pair(self) -> int:
        """Make the pair under the first number whose subnet is free here."""
        self._go(self._host)
        routes: list[dict[str, str]] = loads(_ip("-j", "-4", "route", "show", "table", "all"))
        taken = [ip_network(route["dst"], strict=False) for route in routes if "." in route["dst"]]
        for number in range(1, NETWORKS):
            if any(ip_network(f"{SUBNET}.{number}.0/24").overlaps(other) for other in taken):
                continue
            name = f"{PREFIX}{number}"
            self._go(self._inner)
            try:
                _ip(
                    *("link", "add", "eth0", "type", "veth"),
                    *("peer", "name", name, "netns", str(os.getppid())),
                )
            except HostError as error:
                if "exists" in error.message:
                    continue  # another `try` was quicker
                raise
            finally:
                self._go(self._host)
            self.name = name
            return number
        raise HostError(f"network: no subnet of {SUBNET}.0.0/16 is free here", "--net none")

    def _translate(self, v4: str, v6: str) -> tuple[str, ...]:
        """Let the guest reach out; what of it is not to be had, in words."""
        if not which("nft"):
            return ("nft(8) is not installed (apt-get install nftables): no way out for the guest",)
        self.forwarding = _read(FORWARDING) != "1" or _switched()
        text = RULES.format(
            name=self.name, v4=v4, v6=v6, others=NOT_OURS if self.forwarding else ""
        )
        self._rules = subprocess.Popen(
            ["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self._rules.stdin and self._rules.stdout
        lines = "; ".join(text.splitlines()).replace("{;", "{")
        said = ""
        with suppress(BrokenPipeError):
            self._rules.stdin.write(f"{lines}\nlist table inet {self.name}\n")
            self._rules.stdin.flush()
            for line in self._rules.stdout:
                said += line
                if line.startswith("}") or "rror" in line:
                    break
        if not said.endswith("}\n"):
            why = " ".join(said.split())[:200] or "it ended"
            return (f"nft: {why}: no way out for the guest",)
        if self.forwarding:
            _ip("link", "set", self.name, "alias", SWITCHED)
            try:
                with open(FORWARDING, "w") as file:
                    file.write("1")
            except OSError as error:
                return (f"'{FORWARDING}': {reason(error)}: no way out for the guest",)
        return (DROPPED.format(name=self.name),) if _drops() else ()


def _switched() -> bool:
    """Whether another trial has switched forwarding on: the last one switches it off."""
    names = [name for name in os.listdir(DEVICES) if name.startswith(PREFIX)]
    return any(_read(f"{DEVICES}/{name}/ifalias") == SWITCHED for name in names)


def _drops() -> bool:
    """Whether iptables' rules, as Docker sets them, drop what nobody allows to be forwarded."""
    words = ["nft", "list", "chain", "ip", "filter", "FORWARD"]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    return "policy drop" in done.stdout


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().removeprefix("RTNETLINK answers: ") or "no word from ip"
        raise HostError(f"network: ip {' '.join(words)}: {said}", "--net none does without")
    return done.stdout or "[]"


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""
