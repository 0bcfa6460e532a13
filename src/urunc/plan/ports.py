# SPDX-License-Identifier: Apache-2.0
"""The annotation `ports`: which ports of a shared network namespace are a guest's.

    8080  8080/tcp  53/udp  80:8080  8000-8010/tcp  *

separated by commas. Without a protocol, both TCP and UDP. `80:8080` leads port 80 to the guest's
port 8080; `*` is every other port on which no process of the namespace listens. Pure.
"""

from __future__ import annotations

from urunc.errors import ImageError
from urunc.net.facts import Ports

PROTOCOLS = ("tcp", "udp")
LIMIT = 64
HINT = "for example '8080/tcp,53/udp', '80:8080', '8000-8010', '*'"


def parse(text: str) -> tuple[tuple[Ports, ...], bool]:
    """(ports, whether `*` is among them); raises ImageError."""
    found: list[Ports] = []
    others = False
    words = [part.strip() for part in text.split(",")]
    if len(words) > LIMIT:
        raise ImageError(
            f"annotation 'ports': {len(words)} entries are more than {LIMIT}",
            "use ranges, or '*'",
        )
    for word in words:
        if word == "*":
            others = True
            continue
        for ports in _ports(word):
            taken = next((item for item in found if item.meets(ports)), None)
            if taken:
                raise ImageError(
                    f"annotation 'ports': '{word}': overlaps with '{taken.name()}'",
                    "name each port once",
                )
            found.append(ports)
    return tuple(found), others


def _ports(word: str) -> list[Ports]:
    numbers, slash, protocol = word.partition("/")
    outer, colon, target = numbers.partition(":")
    first, dash, last = outer.partition("-")
    if slash and protocol not in PROTOCOLS:
        raise ImageError(f"annotation 'ports': '{word}': unknown protocol '{protocol}'", HINT)
    if colon and dash:
        raise ImageError(f"annotation 'ports': '{word}': a range cannot lead to other ports", HINT)
    low, high = _port(first, word), _port(last if dash else first, word)
    if low > high:
        raise ImageError(f"annotation 'ports': '{word}': {low} is above {high}", HINT)
    to = _port(target, word) if colon else 0
    return [
        Ports(protocol=name, first=low, last=high, target=0 if to == low else to)
        for name in ((protocol,) if slash else PROTOCOLS)
    ]


def _port(text: str, word: str) -> int:
    if not text.isdecimal() or len(text) > 5 or not 0 < int(text) < 65536:
        raise ImageError(f"annotation 'ports': '{word}': '{text}' is not a port (1 to 65535)", HINT)
    return int(text)
