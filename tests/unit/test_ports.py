# SPDX-License-Identifier: Apache-2.0
"""The annotation `ports`, and which ports of others a chain's name claims."""

from __future__ import annotations

import pytest

from urunc.errors import ImageError
from urunc.net.facts import Ports
from urunc.net.rules import claimed, shared_chains
from urunc.plan.ports import parse


def ports(protocol: str, first: int, last: int = 0, target: int = 0) -> Ports:
    return Ports(protocol=protocol, first=first, last=last or first, target=target)


@pytest.mark.parametrize(
    ("text", "expected", "others"),
    [
        ("8080", (ports("tcp", 8080), ports("udp", 8080)), False),
        ("8080/tcp", (ports("tcp", 8080),), False),
        (" 80:8080/tcp , 53/udp ", (ports("tcp", 80, target=8080), ports("udp", 53)), False),
        ("80:80/tcp", (ports("tcp", 80),), False),
        ("8000-8010/udp", (ports("udp", 8000, 8010),), False),
        ("*", (), True),
        ("7/udp,*", (ports("udp", 7),), True),
        ("1-65535/tcp", (ports("tcp", 1, 65535),), False),
    ],
)
def test_parse(text: str, expected: tuple[Ports, ...], others: bool) -> None:
    assert parse(text) == (expected, others)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'': '' is not a port (1 to 65535)"),
        ("80,", "'': '' is not a port (1 to 65535)"),
        ("0", "'0': '0' is not a port (1 to 65535)"),
        ("65536/tcp", "'65536/tcp': '65536' is not a port (1 to 65535)"),
        ("80/sctp", "'80/sctp': unknown protocol 'sctp'"),
        ("80/", "'80/': unknown protocol ''"),
        ("9-8/tcp", "'9-8/tcp': 9 is above 8"),
        ("80-81:90", "'80-81:90': a range cannot lead to other ports"),
        ("80:", "'80:': '' is not a port (1 to 65535)"),
        ("http", "'http': 'http' is not a port (1 to 65535)"),
        (",".join(map(str, range(1, 66))), "65 entries are more than 64"),
        ("80/tcp,70-90/tcp", "'70-90/tcp': overlaps with '80/tcp'"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        parse(text)
    assert caught.value.message == f"annotation 'ports': {message}"


def test_names() -> None:
    assert [item.name() for item in parse("80:8080/tcp,1-2/udp")[0]] == ["80:8080/tcp", "1-2/udp"]


def test_claims_are_read_back() -> None:
    mine = (*parse("80:8080/tcp,1-2/udp")[0],)
    chains = shared_chains("tap3_urunc", ("172.16.4.2",), mine, None, others=True)
    listed = [("urunc_tap3", chain.name) for chain in chains]
    listed += [("filter", "claim_tcp_x"), ("nat", "claim"), ("nat", "INPUT")]
    assert claimed(listed) == [
        ("urunc_tap3", ports("tcp", 80), "tcp"),
        ("urunc_tap3", ports("udp", 1, 2), "udp"),
        ("urunc_tap3", None, "tcp"),
        ("urunc_tap3", None, "udp"),
    ]
