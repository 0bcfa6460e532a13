# SPDX-License-Identifier: Apache-2.0
"""A guest without code: `guests.NAME.cmdline` in the configuration, a line with fields in braces.

Fields: {args} {env} {ip} {prefix} {mask} {gateway} {ipv6} {ipv6_prefix} {ipv6_gateway} {mtu} {dns}
{dns2} {search} {hostname} {mac}. A word that holds a field without a value is left out.
"""

from __future__ import annotations

from urunc.errors import ConfigError
from urunc.guests import Guest, Request, Words, host_name, joined
from urunc.net.ipv4 import dotted_mask

FIELDS = (
    "args", "env", "ip", "prefix", "mask", "gateway", "ipv6", "ipv6_prefix", "ipv6_gateway", "mtu",
    "dns", "dns2", "search", "hostname", "mac",
)  # fmt: skip


class Template(Guest):
    """A guest made from its line in the configuration."""

    def __init__(
        self, name: str, line: str, storage: list[str], *, assigns_resources: bool = False
    ) -> None:
        self.name = name
        self.line = line
        self.storage = frozenset(storage)
        self.assigns_resources = assigns_resources
        self.takes_arguments = "{args}" in line
        self.takes_environment = "{env}" in line
        self.takes_hostname = "{hostname}" in line
        self.takes_ipv6 = "{ipv6}" in line

    def words(self, request: Request) -> Words:
        nic = request.nics[0] if request.nics else None
        addressed = nic if nic and nic.ipv4 else None
        addressed6 = nic if nic and nic.ipv6 else None
        values = {
            "args": joined(request.args, self.name),
            "env": joined(request.env, self.name),
            "ip": addressed.ipv4 if addressed else "",
            "prefix": str(addressed.ipv4_prefix) if addressed else "",
            "mask": dotted_mask(addressed.ipv4_prefix) if addressed else "",
            "gateway": addressed.ipv4_gateway if addressed else "",
            "ipv6": addressed6.ipv6 if addressed6 else "",
            "ipv6_prefix": str(addressed6.ipv6_prefix) if addressed6 else "",
            "ipv6_gateway": addressed6.ipv6_gateway if addressed6 else "",
            "mtu": str(nic.mtu) if nic else "",
            "dns": request.dns[0] if request.dns else "",
            "dns2": request.dns[1] if len(request.dns) > 1 else "",
            "search": ",".join(request.search),
            "hostname": host_name(request.hostname),
            "mac": nic.mac if nic else "",
        }
        return Words(
            program="",
            words=tuple(filter(None, (self._word(word, values) for word in self.line.split()))),
        )

    def _word(self, word: str, values: dict[str, str]) -> str:
        # a value is not looked at again: it may hold braces of its own
        text = ""
        while "{" in word and "}" in word.partition("{")[2]:
            before, _, rest = word.partition("{")
            name, _, word = rest.partition("}")
            if name not in FIELDS:
                raise ConfigError(
                    f"guests.{self.name}.cmdline: unknown field in '{before}{{{name}}}{word}'",
                    f"known: {', '.join(FIELDS)}",
                )
            if not values[name]:
                return ""
            text += before + values[name]
        return text + word


GUEST = Template
