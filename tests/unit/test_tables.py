# SPDX-License-Identifier: Apache-2.0
"""The documentation's tables are those of tables.py, and the guests are as theirs says."""

from __future__ import annotations

import pytest

from lib import tables
from lib.cluster_items import ITEMS, Item
from lib.made import config
from lib.tables import PROJECT
from urunc import guests
from urunc.guests import BUILT_IN, Nic, Request


@pytest.mark.parametrize("table", tables.TABLES, ids=lambda table: table.name)
def test_a_page(table: tables.Table) -> None:
    """`make tables` writes it."""
    assert table.shown() == table.text()


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.test)
def test_an_item_of_a_cluster(item: Item) -> None:
    """Each row names the test that shows it."""
    module, _, name = item.test.partition("::")
    text = (PROJECT / f"tests/cluster/test_cluster_{module}.py").read_text()
    assert f"\ndef test_{name}(" in text


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_guest_is_told_what_it_takes(name: str) -> None:
    """What it says that it takes is in its words, and nothing else is."""
    guest = guests.load(name, config())
    nic = Nic(
        name="",
        mac="02:42:ac:11:00:02",
        mtu=1500,
        ipv4="10.88.0.7",
        ipv4_prefix=16,
        ipv4_subnet=16,
        ipv4_gateway="",
        ipv6="",
        ipv6_prefix=0,
        ipv6_gateway="",
        more=(),
        routes=(),
    )
    request = Request(
        args=("app", "argument"),
        env=("VARIABLE=1",),
        hostname="box",
        version="",
        console="ttyS0",
        initrd=False,
        nics=(nic,),
        disks=(),
        dns=(),
        search=(),
        hosts=(),
    )
    line = " ".join(guest.words(request).words)
    assert ("argument" in line) == guest.takes_arguments
    assert ("VARIABLE" in line) == guest.takes_environment
    assert ("box" in line) == guest.takes_hostname
