# SPDX-License-Identifier: Apache-2.0
"""Each guest's words, to the letter: with and without network, disk, initrd, environment and
arguments."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lib.made import binary, config, solo5
from urunc import guests
from urunc.errors import ConfigError, ImageError
from urunc.guests import Devices, Disk, Nic, Request, Words
from urunc.guests.linux_line import ARGUMENT_LIMIT, ENVIRONMENT_LIMIT, LINE_LIMIT_BYTES
from urunc.net.facts import Route


def nic(**changes: Any) -> Nic:
    values: dict[str, Any] = {
        "name": "",
        "mac": "02:42:ac:11:00:02",
        "mtu": 1500,
        "ipv4": "10.88.0.7",
        "ipv4_prefix": 16,
        "ipv4_subnet": 16,
        "ipv4_gateway": "10.88.0.1",
        "ipv6": "",
        "ipv6_prefix": 0,
        "ipv6_gateway": "",
        "more": (),
        "routes": (Route(destination="0.0.0.0/0", gateway="10.88.0.1", metric=0),),
    }
    return Nic(**{**values, **changes})


def disk(*, read_only: bool = False, mount_point: str = "/data") -> Disk:
    return Disk(name="rootfs", read_only=read_only, mount_point=mount_point)


def request(**changes: Any) -> Request:
    values: dict[str, Any] = {
        "args": (),
        "env": (),
        "hostname": "",
        "version": "",
        "console": "ttyS0",
        "initrd": False,
        "nics": (),
        "disks": (),
        "dns": (),
        "search": (),
        "hosts": (),
    }
    return Request(**{**values, **changes})


def words(guest: str, **changes: Any) -> Words:
    return guests.load(guest, config()).words(request(**changes))


NO_ADDRESS = {"ipv4": "", "ipv4_prefix": 0, "ipv4_subnet": 0, "ipv4_gateway": "", "routes": ()}
OFF_LINK = {
    "ipv4": "10.1.2.3",
    "ipv4_prefix": 32,
    "ipv4_subnet": 32,
    "ipv4_gateway": "169.254.1.1",
    "routes": (
        Route(destination="169.254.1.1/32", gateway="", metric=0),
        Route(destination="0.0.0.0/0", gateway="169.254.1.1", metric=0),
    ),
}
SECOND = {"ipv4": "10.2.0.1", "ipv4_prefix": 31, "ipv4_gateway": "", "routes": ()}
SIX = {
    "ipv6": "fd00::7",
    "ipv6_prefix": 64,
    "ipv6_gateway": "fe80::1",
    "routes": (
        Route(destination="0.0.0.0/0", gateway="10.88.0.1", metric=0),
        Route(destination="::/0", gateway="fe80::1", metric=1024),
    ),
}
ONLY_SIX = {
    **SIX,
    **NO_ADDRESS,
    "routes": (Route(destination="::/0", gateway="fe80::1", metric=1024),),
}
NO_GATEWAY = {"ipv4_gateway": "", "routes": ()}

RUMPRUN_NET = '"net":{"if":"ukvmif0","cloner":"True","type":"inet","method":"static",'
RUMPRUN = [
    ({}, '{"cmdline":""}'),
    ({"args": ("app", "-v", "8080")}, '{"cmdline":"app -v 8080"}'),
    ({"args": ('say "hi"\\',)}, '{"cmdline":"say \\"hi\\"\\\\"}'),
    (
        {"args": ("app",), "env": ("A=1", "B=two words")},
        '{"cmdline":"app","env":"A=1","env":"B=two words"}',
    ),
    (
        {"nics": (nic(),)},
        '{"cmdline":"",' + RUMPRUN_NET + '"addr":"10.88.0.7","mask":"16","gw":"10.88.0.1"}}',
    ),
    (
        {"nics": (nic(**OFF_LINK),)},
        '{"cmdline":"",' + RUMPRUN_NET + '"addr":"10.1.2.3","mask":"1","gw":"169.254.1.1"}}',
    ),
    (
        {"nics": (nic(**NO_GATEWAY),)},
        '{"cmdline":"",' + RUMPRUN_NET + '"addr":"10.88.0.7","mask":"16"}}',
    ),
    ({"nics": (nic(**NO_ADDRESS),)}, '{"cmdline":""}'),
    (  # as CNI's ptp leaves it: the subnet holds the gateway, though nothing else of it is near
        {"nics": (nic(ipv4_prefix=32),)},
        '{"cmdline":"",' + RUMPRUN_NET + '"addr":"10.88.0.7","mask":"16","gw":"10.88.0.1"}}',
    ),
    (
        {"nics": (nic(**ONLY_SIX),)},
        '{"cmdline":"",'
        + RUMPRUN_NET.replace("inet", "inet6")
        + '"addr":"fd00::7","mask":"64","gw":"fe80::1"}}',
    ),
    (
        {"disks": (disk(mount_point="/srv"),)},
        '{"cmdline":"","blk":{"source":"etfs","path":"/dev/ld0a","fstype":"blk","mountpoint":"/srv"}}',
    ),
]


@pytest.mark.parametrize(("request_", "expected"), RUMPRUN)
def test_rumprun(request_: dict[str, Any], expected: str) -> None:
    assert words("rumprun", **request_) == Words(program="", words=(expected,))
    json.loads(expected)


def test_rumprun_in_whole_is_in_the_order_of_its_parser() -> None:
    (line,) = words("rumprun", args=("app",), env=("A=1",), nics=(nic(),), disks=(disk(),)).words
    assert list(json.loads(line)) == ["cmdline", "env", "net", "blk"]


KERNEL = "panic=-1 console=ttyS0 reboot=k"
LINUX = [
    ({}, KERNEL),
    ({"console": "ttyAMA0"}, "panic=-1 console=ttyAMA0 reboot=k"),
    ({"initrd": True}, f"{KERNEL} root=/dev/ram0 rw"),
    ({"disks": (disk(),)}, f"{KERNEL} root=/dev/vda rw"),
    ({"disks": (disk(read_only=True),)}, f"{KERNEL} root=/dev/vda ro"),
    (
        {"nics": (nic(),), "hostname": "box"},
        f"{KERNEL} ip=10.88.0.7::10.88.0.1:255.255.0.0:box:eth0:off",
    ),
    (
        {"nics": (nic(), nic(**SECOND))},
        f"{KERNEL} ip=10.88.0.7::10.88.0.1:255.255.0.0:urunc:eth0:off "
        "ip=10.2.0.1:::255.255.255.254:urunc:eth1:off",
    ),
    (  # a gateway that is not on the link: the kernel's `ip=` cannot say how it is reached
        {"nics": (nic(**OFF_LINK),)},
        f"{KERNEL} ip=10.1.2.3::169.254.1.1:255.255.255.255:urunc:eth0:off "
        "urunc.eth0=route=169.254.1.1/32,route=0.0.0.0/0@169.254.1.1",
    ),
    (  # of two gateways the better one is the kernel's
        {
            "nics": (
                nic(routes=(Route(destination="0.0.0.0/0", gateway="10.88.0.1", metric=50),)),
                nic(
                    ipv4="10.2.0.1",
                    ipv4_gateway="10.2.0.9",
                    routes=(Route(destination="0.0.0.0/0", gateway="10.2.0.9", metric=20),),
                ),
            )
        },
        f"{KERNEL} ip=10.88.0.7:::255.255.0.0:urunc:eth0:off "
        "urunc.eth0=route=0.0.0.0/0@10.88.0.1%50 "
        "ip=10.2.0.1::10.2.0.9:255.255.0.0:urunc:eth1:off",
    ),
    (
        {"nics": (nic(mtu=1400, more=("10.88.0.8/16", "fd00::8/64"), **SIX),)},
        f"{KERNEL} ip=10.88.0.7::10.88.0.1:255.255.0.0:urunc:eth0:off "
        "urunc.eth0=mtu=1400,addr=fd00::7/64,addr=10.88.0.8/16,addr=fd00::8/64,"
        "route=::/0@fe80::1",
    ),
    ({"nics": (nic(**ONLY_SIX),)}, f"{KERNEL} urunc.eth0=addr=fd00::7/64,route=::/0@fe80::1"),
    (
        {
            "nics": (nic(),),
            "dns": ("10.0.0.53", "10.0.0.54"),
            "search": ("a.example", "b.example"),
            "options": ("ndots:5", "timeout:2"),
            "hosts": ("10.0.0.9 db db.example",),
        },
        f"{KERNEL} ip=10.88.0.7::10.88.0.1:255.255.0.0:urunc:eth0:off:10.0.0.53:10.0.0.54 "
        "urunc.search=a.example,b.example urunc.options=ndots:5,timeout:2 "
        "urunc.hosts=10.0.0.9@db@db.example",
    ),
    (
        {"nics": (nic(),), "dns": ("fd00::53", "10.0.0.53")},
        f"{KERNEL} ip=10.88.0.7::10.88.0.1:255.255.0.0:urunc:eth0:off:10.0.0.53 "
        "urunc.dns=fd00::53,10.0.0.53",
    ),
    (  # options of no name server
        {"nics": (nic(**NO_GATEWAY),), "options": ("ndots:5",)},
        f"{KERNEL} ip=10.88.0.7:::255.255.0.0:urunc:eth0:off",
    ),
    ({"nics": (nic(**NO_ADDRESS),)}, KERNEL),
    ({"env": ("A=1", "B=two words", "C=")}, f'{KERNEL} A=1 "B=two words" C='),
    ({"args": ("/app",), "disks": (disk(),)}, f"{KERNEL} root=/dev/vda rw init=/app"),
    ({"args": ("/app",), "initrd": True}, f"{KERNEL} root=/dev/ram0 rw rdinit=/app"),
    (
        {"args": ("/app",), "initrd": True, "disks": (disk(),)},
        f"{KERNEL} root=/dev/vda rw init=/app",
    ),
    (
        {"args": ("/app", "-c", "a b", "", "it's")},
        f'{KERNEL} init=/app -- -c "a b" "" it\'s',
    ),
]


@pytest.mark.parametrize(("request_", "expected"), LINUX)
def test_linux(request_: dict[str, Any], expected: str) -> None:
    assert words("linux", **request_) == Words(program="", words=(expected,))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"args": ("/app", 'a"b')}, "process.args[1]: a double quote or a line feed"),
        ({"args": ("/a\nb",)}, "process.args[0]: a double quote or a line feed"),
        ({"env": ('A="',)}, "process.env 'A': a double quote or a line feed"),
        ({"env": ("init=/bin/sh",)}, "process.env: 'init' would be taken as a kernel parameter"),
        ({"env": ("panic=0",)}, "process.env: 'panic' would be taken as a kernel parameter"),
        ({"env": ("usbcore.x=1",)}, "process.env: 'usbcore.x' would be taken as"),
    ],
)
def test_linux_refuses(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageError) as caught:
        words("linux", **request_)
    assert caught.value.message.startswith(message)


def test_limits_of_linux() -> None:
    assert (ENVIRONMENT_LIMIT, ARGUMENT_LIMIT, LINE_LIMIT_BYTES) == (30, 31, 2047)
    variables = tuple(f"V{number}=1" for number in range(ENVIRONMENT_LIMIT + 1))
    words("linux", env=variables[:-1])
    with pytest.raises(ImageError, match=r"31 variables are more than the kernel takes \(30\)"):
        words("linux", env=variables)
    args = ("/app", *("x" * (ARGUMENT_LIMIT + 1)))
    words("linux", args=args[:-1])
    with pytest.raises(ImageError, match=r"32 arguments are more than the kernel takes \(31\)"):
        words("linux", args=args)


def test_the_modules_of_linux() -> None:
    """The checksum comes before what asks for it by its algorithm: nothing in the guest loads it
    then."""
    names = guests.load("linux", config()).modules(("erofs", "ext2"))
    assert names.index("crc32c_generic") < names.index("erofs") < names.index("ext4")


@pytest.mark.parametrize("letter", ["x", "é"])
def test_the_line_of_linux_is_counted_in_bytes(letter: str) -> None:
    room = LINE_LIMIT_BYTES - len(f"{KERNEL} A=")
    size = len(letter.encode())
    value = letter * (room // size)
    assert words("linux", env=(f"A={value}",)).words[0].endswith(value)
    with pytest.raises(ImageError, match="bytes are more than 2047"):
        words("linux", env=(f"A={value}{letter}",))


HOSTS = tuple(f"10.0.1.{number} host{number} host{number}.some.example" for number in range(60))
NAMES = {"search": ("a.example",), "options": ("ndots:5",), "hosts": HOSTS, "dns": ("10.0.0.53",)}


def told_linux(**changes: Any) -> tuple[str, list[str]]:
    """(the line of Linux, what it leaves out)."""
    asked = request(nics=(nic(),), **changes)
    guest = guests.load("linux", config())
    return guest.words(asked).words[0], guest.omissions(asked)


def test_linux_leaves_names_out() -> None:
    """The hosts file's lines first, then search domains and options; nothing where all fits."""
    no_room = "kernel command line: no room in 2047 bytes for {}: linux gets none"
    line, omissions = told_linux(**{**NAMES, "hosts": HOSTS[:40]})
    assert line.count("@host") == 2 * 40
    assert omissions == []
    line, omissions = told_linux(**NAMES)
    assert "urunc.hosts" not in line
    assert line.endswith(":10.0.0.53 urunc.search=a.example urunc.options=ndots:5")
    assert omissions == [no_room.format("60 lines of the hosts file")]
    room = LINE_LIMIT_BYTES - len(line.encode()) - len(" A=")
    line, omissions = told_linux(**NAMES, env=("A=" + "x" * room,))
    assert len(line) == LINE_LIMIT_BYTES
    assert "urunc.search=a.example urunc.options=ndots:5 A=x" in line
    line, omissions = told_linux(**NAMES, env=("A=" + "x" * (room + 1),))
    assert "urunc." not in line
    assert omissions == [
        no_room.format(what)
        for what in ("60 lines of the hosts file", "1 search domains", "1 DNS options")
    ]
    assert guests.load("unikraft", config()).omissions(request(nics=(nic(),), **NAMES)) == []


def test_linux_says_what_its_network_takes() -> None:
    words_of_network = "ip=10.88.0.7::10.88.0.1:255.255.0.0:urunc:eth0:off:10.0.0.53"
    with pytest.raises(ImageError, match="bytes are more than 2047") as caught:
        told_linux(**NAMES, env=("A=" + "x" * 2000,))
    assert caught.value.hint.endswith(f"they take {len(words_of_network)} bytes")
    with pytest.raises(ImageError) as caught:
        words("linux", env=("A=" + "x" * 2047,))
    assert caught.value.hint.endswith("shorten the arguments or the environment")


MIRAGE = [
    ({}, ()),
    ({"nics": (nic(),)}, ("--ipv4=10.88.0.7/16", "--ipv4-gateway=10.88.0.1")),
    ({"nics": (nic(**NO_GATEWAY),)}, ("--ipv4=10.88.0.7/16",)),
    ({"nics": (nic(**NO_ADDRESS),)}, ()),
    (
        {"nics": (nic(),), "args": ("-l", "two words", '"')},
        ("--ipv4=10.88.0.7/16", "--ipv4-gateway=10.88.0.1", "-l", "two words", '"'),
    ),
]


@pytest.mark.parametrize(("request_", "expected"), MIRAGE)
def test_mirage(request_: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert words("mirage", **request_) == Words(program="", words=expected)


MEWZ = [
    ({}, ()),
    ({"nics": (nic(),)}, ("ip=10.88.0.7/16", "gateway=10.88.0.1")),
    ({"nics": (nic(**NO_GATEWAY),)}, ("ip=10.88.0.7/16",)),
    ({"nics": (nic(**NO_ADDRESS),)}, ()),
]


@pytest.mark.parametrize(("request_", "expected"), MEWZ)
def test_mewz(request_: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert words("mewz", **request_) == Words(program="", words=expected)


LINE = (
    "{args} env={env} addr={ip}/{prefix} m={mask} gw={gateway} dns={dns} h={hostname} mac={mac} -x"
)
LINE_SIX = "a={ipv6}/{ipv6_prefix} g={ipv6_gateway} mtu={mtu} d={dns2} s={search}"
TEMPLATE = [
    ({}, ("-x",)),
    (
        {"args": ("a", "b"), "env": ("K=V",), "hostname": "box", "dns": ("10.0.0.53",)},
        ("a b", "env=K=V", "dns=10.0.0.53", "h=box", "-x"),
    ),
    (
        {"nics": (nic(**NO_GATEWAY),)},
        ("addr=10.88.0.7/16", "m=255.255.0.0", "mac=02:42:ac:11:00:02", "-x"),
    ),
    ({"nics": (nic(**NO_ADDRESS),)}, ("mac=02:42:ac:11:00:02", "-x")),
]


def template(line: str, request_: dict[str, Any]) -> Words:
    guest = guests.load("mine", config(guests__mine__cmdline=line))
    whole: dict[str, Any] = {"args": (), "env": (), "hostname": "", "version": "", "dns": ()}
    whole |= {"search": (), "hosts": ()}
    whole |= {"console": "ttyS0", "initrd": False, "nics": (), "disks": (), **request_}
    return guest.words(Request(**whole))


@pytest.mark.parametrize(("request_", "expected"), TEMPLATE)
def test_template(request_: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert template(LINE, request_) == Words(program="", words=expected)


def test_template_ipv6() -> None:
    request = {"nics": (nic(**SIX),), "dns": ("10.0.0.53", "fd00::53"), "search": ("a", "b")}
    expected = ("a=fd00::7/64", "g=fe80::1", "mtu=1500", "d=fd00::53", "s=a,b")
    assert template(LINE_SIX, request).words == expected
    assert guests.load("mine", config(guests__mine__cmdline=LINE_SIX)).takes_ipv6
    assert not guests.load("mine", config(guests__mine__cmdline=LINE)).takes_ipv6


def test_template_refuses() -> None:
    with pytest.raises(ConfigError, match=r"unknown field in '\{colour\}'") as caught:
        template("{colour}", {})
    assert "known: args, env, ip" in caught.value.hint
    with pytest.raises(ImageError, match="the argument 'a b' is empty or holds blanks"):
        template("{args}", {"args": ("a b",)})


def test_template_storage_is_the_configuration_s() -> None:
    made = guests.load(
        "mine", config(guests__mine__cmdline="{args}", guests__mine__storage=["block"])
    )
    assert (made.name, made.storage) == ("mine", frozenset(("block",)))


@pytest.mark.parametrize("name", guests.BUILT_IN)
def test_every_guest_loads_by_its_name(name: str) -> None:
    assert guests.load(name, config()).name == name
    with pytest.raises(ImageError, match=f"guest '{name}': not allowed") as caught:
        guests.load(name, config(**{f"guests__{name}__allowed": False}))
    assert caught.value.hint == "set in /etc/urunc/config.toml"


def test_an_unknown_guest() -> None:
    with pytest.raises(ImageError, match="guest 'beos': unknown"):
        guests.load("beos", config())


@pytest.mark.parametrize("name", guests.BUILT_IN)
def test_declared_devices(name: str) -> None:
    guest = guests.load(name, config())
    assert guest.devices(binary()) == Devices(nets=None, blocks=None)
    declared = solo5("hvt", ("rootfs", "block"), ("tap", "net"), ("tap1", "net"))
    assert guest.devices(declared) == Devices(nets=("tap", "tap1"), blocks=("rootfs",))
