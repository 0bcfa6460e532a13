# SPDX-License-Identifier: Apache-2.0
"""Our messages to nf_tables, read back by nft(8): it must show each rule in its own language."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from lib.support import Network, ip, need
from urunc.linux import nftables
from urunc.linux.nftables import (
    DSTNAT,
    FILTER,
    FORWARD,
    INET,
    INGRESS,
    INPUT,
    LAST,
    NETDEV,
    NFPROTO_IPV6,
    OUTPUT,
    POSTROUTING,
    PREROUTING,
    RAW,
    SRCNAT,
    TCP,
    UDP,
    Chain,
    Nftables,
    accept,
    answer_arp,
    arp_request,
    arp_request_for,
    destination,
    destination_port,
    dnat,
    dnat_as_is,
    drop,
    family,
    frame_for,
    frame_from,
    group,
    interface,
    is_new,
    marked,
    masquerade,
    of_this_namespace,
    protocol,
    quoted,
    set_destination,
    set_quoted,
    set_source,
    socket_listens,
    source,
    to_this_host,
    was_translated,
)

MAC, OTHER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
RULES = [
    (
        ("nat", PREROUTING, DSTNAT),
        interface("eth0")
        + of_this_namespace()
        + protocol(TCP)
        + destination_port(80, 90)
        + dnat("172.16.1.2", 8080),
        'iifname "eth0" fib daddr type local tcp dport 80-90 dnat ip to 172.16.1.2:8080',
    ),
    (
        ("nat", OUTPUT, DSTNAT),
        destination("169.254.53.1") + protocol(UDP) + destination_port(53) + dnat("127.0.0.11", 9),
        "ip daddr 169.254.53.1 udp dport 53 dnat ip to 127.0.0.11:9",
    ),
    (
        ("nat", PREROUTING, DSTNAT + 1),
        group(7, other=True) + socket_listens() + accept(),
        "iifgroup != 7 socket wildcard >= 0 accept",
    ),
    (
        ("nat", PREROUTING, DSTNAT),
        family(NFPROTO_IPV6) + dnat("fd00::2"),
        "meta nfproto ipv6 dnat ip6 to fd00::2",
    ),
    (
        ("nat", POSTROUTING, SRCNAT),
        interface("eth0", out=True) + source("127.0.0.0", 8) + masquerade(),
        'oifname "eth0" ip saddr 127.0.0.0/8 masquerade',
    ),
    (("nat", POSTROUTING, SRCNAT), source("fd00::", 64) + masquerade(),
     "ip6 saddr fd00::/64 masquerade"),
    (("filter", INPUT, FILTER), was_translated(other=True) + drop(), "ct status ! dnat drop"),
    (("filter", INPUT, FILTER), was_translated() + accept(), "ct status dnat accept"),
    (("filter", FORWARD, FILTER), group(7, other=True) + is_new() + drop(),
     "iifgroup != 7 ct state new drop"),
    (("filter", PREROUTING, RAW), source("10.0.0.2", other=True) + drop(),
     "ip saddr != 10.0.0.2 drop"),
    (("filter", PREROUTING, RAW), source("::") + accept(), "ip6 saddr :: accept"),
    (("filter", FORWARD, FILTER), group(7) + group(8, out=True) + drop(),
     "iifgroup 7 oifgroup 8 drop"),
    (
        ("filter", POSTROUTING, LAST),
        destination("169.254.53.2") + set_destination("10.0.0.2"),
        "ip daddr 169.254.53.2 ip daddr set 10.0.0.2",
    ),
    (
        ("netdev", INGRESS, FILTER),
        frame_for("169.254.53.1") + to_this_host() + set_source("169.254.53.2"),
        "ip daddr 169.254.53.1 meta pkttype set host ip saddr set 169.254.53.2",
    ),
    (
        ("netdev", INGRESS, FILTER),
        frame_from("fd00::2") + quoted("fd00::2", source_of=False)
        + set_quoted("fd00::3", source_of=False) + set_source("fd00::3"),
        "ip6 saddr fd00::2 icmpv6 type 1-4 "
        "@nh,576,128 0xfd000000000000000000000000000002 @nh,576,128 set "
        "0xfd000000000000000000000000000003 ip6 saddr set fd00::3",
    ),
    (
        ("filter", POSTROUTING, LAST),
        destination("10.0.0.3") + quoted("10.0.0.3", source_of=True)
        + set_quoted("10.0.0.2", source_of=True),
        "ip daddr 10.0.0.3 icmp type & 247 == destination-unreachable @nh,320,32 0xa000003 "
        "@nh,320,32 set 0xa000002",
    ),
    (
        ("nat", PREROUTING, DSTNAT - 1),
        family(NFPROTO_IPV6) + of_this_namespace(other=True) + dnat_as_is(ipv6=True),
        "fib daddr type != local dnat ip6 to ip6 daddr",
    ),
    (
        ("filter", POSTROUTING, LAST),
        marked(7) + interface("lo", out=True, other=True) + drop(),
        'meta mark 0x00000007 oifname != "lo" drop',
    ),
    (("netdev", INGRESS, FILTER), arp_request() + drop(), "arp operation request drop"),
    (
        ("netdev", INGRESS, FILTER),
        arp_request_for("10.0.0.2", other=True) + answer_arp(MAC, OTHER_MAC, 1),
        "arp operation request arp daddr ip != 10.0.0.2 arp saddr ip set arp daddr ip "
        "arp daddr ip set arp saddr ip @ll,0,48 set 0x20000000002 @ll,48,48 set 0x20000000001 "
        f'arp operation set reply arp saddr ether set {MAC} arp daddr ether set {OTHER_MAC} '
        'fwd to "lo"',
    ),
]  # fmt: skip


class Nft:
    """nft(8) in a network's namespace."""

    def __init__(self, network: Network) -> None:
        self.path = network.path
        self._enter = ("ip", "netns", "exec", network.inside)

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self._enter, "nft", *words], capture_output=True, text=True)


@pytest.fixture
def tables() -> Iterator[Nft]:
    need("root", "nft")
    network = Network()
    network.connect()
    yield Nft(network)
    network.remove()


def add(path: str, its_family: int, *chains: Chain) -> None:
    nftables.ask(path, lambda socket: socket.add_table(its_family, "mine", chains))


@pytest.mark.parametrize(("hook", "rule", "expected"), RULES, ids=[row[2][:40] for row in RULES])
def test_nft_reads_it(
    tables: Nft,
    hook: tuple[str, int, int],
    rule: tuple[bytes, ...],
    expected: str,
) -> None:
    kind, number, priority = hook
    netdev = kind == "netdev"
    chain = Chain(
        name="c", kind="filter" if netdev else kind, hook=number, priority=priority,
        device="eth0" if netdev else "", rules=(rule,),
    )  # fmt: skip
    add(tables.path, NETDEV if netdev else INET, chain)
    shown = tables("list", "ruleset")
    assert shown.returncode == 0, shown.stderr
    assert expected in [line.strip() for line in shown.stdout.splitlines()], shown.stdout


def test_a_table_is_made_whole_or_not_at_all(tables: Nft) -> None:
    path = tables.path
    wrong = Chain(name="c", kind="nat", hook=FORWARD, rules=())  # no such hook for nat
    with pytest.raises(OSError):
        add(path, INET, Chain(name="a", rules=()), wrong)
    assert tables("list", "ruleset").stdout == ""
    add(path, INET, Chain(name="a", rules=()), Chain(name="b", rules=()))
    with pytest.raises(FileExistsError):
        add(path, INET)
    found = nftables.ask(path, lambda socket: Nftables.chains(socket, INET))
    assert found == [("mine", "a"), ("mine", "b")]
    nftables.ask(path, lambda socket: socket.delete_table(INET, "mine"))
    with pytest.raises(FileNotFoundError):
        nftables.ask(path, lambda socket: socket.delete_table(INET, "mine"))
    assert tables("list", "ruleset").stdout == ""
    assert "eth0" in ip("-n", path.rpartition("/")[2], "link")
