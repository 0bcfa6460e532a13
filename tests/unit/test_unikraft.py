# SPDX-License-Identifier: Apache-2.0
"""Unikraft's words, to the letter, and by version; what its parser makes of quotes; what it warns
of. The rules are Unikraft's own (lib/ukargparse, lib/uklibparam), seen on kernels of 0.13 to
0.20."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_guests import NO_ADDRESS, OFF_LINK, SECOND, nic, request, words

from lib.made import config
from urunc import guests
from urunc.errors import ImageError
from urunc.guests import Setting, Words
from urunc.guests.unikraft import DIALECTS, dialect_of
from urunc.record import replace

NO_GATEWAY = {"ipv4_gateway": "", "routes": ()}
MOUNTED = 'vfs.fstab=[ "none:/:ramfs" "initrd0:/:extract" ]'
RAMFS = 'vfs.fstab=[ "initrd0:/:extract::ramfs=2:" ]'
INITRD = 'vfs.fstab=[ "initrd0:/:initrd" ]'


UNIKRAFT = [
    ({}, "unikernel", ()),
    ({"args": ("app",)}, "app", ()),
    ({"args": ("app", "-v", "8080")}, "app", ("-v 8080",)),
    ({"args": ("app", "-v"), "env": ("A=1",)}, "app", ("env.vars=[ A=1 ]", "--", "-v")),
    (
        {"args": ("app", "-v"), "env": ("A=1", "B=2 3")},
        "app",
        ("env.vars=[ A=1 'B=2 3' ]", "--", "-v"),
    ),
    ({"nics": (nic(),)}, "unikernel", ("netdev.ip=10.88.0.7/16:10.88.0.1", "--")),
    (
        {"nics": (nic(),), "dns": ("fd00::1", "10.0.0.53", "10.0.0.54")},
        "unikernel",
        ("netdev.ip=10.88.0.7/16:10.88.0.1:10.0.0.53:10.0.0.54", "--"),
    ),
    (
        {"nics": (nic(), nic(**NO_ADDRESS), nic(**SECOND)), "dns": ("10.0.0.53",)},
        "unikernel",
        ("netdev.ip=10.88.0.7/16:10.88.0.1:10.0.0.53", "netdev.ip=", "netdev.ip=10.2.0.1/31", "--"),
    ),
    (
        {"nics": (nic(),), "hostname": "box", "search": ("a.example", "b.example")},
        "unikernel",
        ("netdev.ip=10.88.0.7/16:10.88.0.1:::box:a.example", "--"),
    ),
    (
        {"nics": (nic(**OFF_LINK),)},
        "unikernel",
        ("netdev.ip=10.1.2.3/32:169.254.1.1", "--"),
    ),
    (
        {"nics": (nic(**NO_GATEWAY),), "dns": ("10.0.0.53",)},
        "unikernel",
        ("netdev.ip=10.88.0.7/16::10.0.0.53", "--"),
    ),
    ({"nics": (nic(**NO_GATEWAY),)}, "unikernel", ("netdev.ip=10.88.0.7/16", "--")),
    ({"nics": (nic(**NO_ADDRESS),)}, "unikernel", ()),
    ({"initrd": True}, "unikernel", ('vfs.fstab=[ "initrd0:/:extract::ramfs=2:" ]', "--")),
    (
        {
            "args": ("app", "-v"),
            "env": ("A=1",),
            "initrd": True,
            "nics": (nic(),),
            "dns": ("10.0.0.53",),
        },
        "app",
        (
            "env.vars=[ A=1 ]",
            "netdev.ip=10.88.0.7/16:10.88.0.1:10.0.0.53",
            'vfs.fstab=[ "initrd0:/:extract::ramfs=2:" ]',
            "--",
            "-v",
        ),
    ),
]


@pytest.mark.parametrize(
    "version", ["0.16.2", "v0.17.0", "0.18.0-abc", "0.17.0~484ff209", "0.19.1"]
)
@pytest.mark.parametrize(("request_", "program", "expected"), UNIKRAFT)
def test_unikraft(
    request_: dict[str, Any], program: str, expected: tuple[str, ...], version: str
) -> None:
    assert words("unikraft", version=version, **request_) == Words(program=program, words=expected)


PARAMETERS = (
    "netdev.ipv4_addr=10.88.0.7",
    "netdev.ipv4_gw_addr=10.88.0.1",
    "netdev.ipv4_subnet_mask=255.255.252.0",
)
DNS = "netdev.ipv4_dns0_addr=10.0.0.53"
LIST = "netdev.ip=10.88.0.7/22:10.88.0.1:10.0.0.53"
ENVIRONMENT = "env.vars=[ A=1 ]"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.8.0", (*PARAMETERS, "vfs.rootfs=initrd")),
        ("v0.12.0", (*PARAMETERS, "vfs.rootfs=initrd")),
        ("0.13.1", (ENVIRONMENT, *PARAMETERS, "vfs.rootfs=initrd")),
        ("0.14", (ENVIRONMENT, *PARAMETERS, INITRD)),
        ("0.15.0", (ENVIRONMENT, *PARAMETERS, INITRD)),
        ("0.16.0", (ENVIRONMENT, *PARAMETERS, DNS, INITRD)),
        ("0.16", (ENVIRONMENT, *PARAMETERS, DNS, INITRD)),
        ("0.16.1", (ENVIRONMENT, LIST, MOUNTED)),
        ("0.16.2", (ENVIRONMENT, LIST, RAMFS)),
        ("0.19.1~b6ef03c8", (ENVIRONMENT, LIST, RAMFS)),
        ("0.20.0", (ENVIRONMENT, LIST, MOUNTED)),
        ("1.0", (ENVIRONMENT, LIST, MOUNTED)),
        ("", (ENVIRONMENT, LIST, MOUNTED)),
    ],
)
def test_dialects(version: str, expected: tuple[str, ...]) -> None:
    found = words(
        "unikraft",
        version=version,
        args=("app", "-v"),
        env=("A=1",),
        initrd=True,
        nics=(nic(ipv4_prefix=22),),
        dns=("10.0.0.53",),
    )
    assert found.words == (*expected, "--", "-v")


def test_the_table_is_in_order() -> None:
    since = [dialect.since for dialect in DIALECTS]
    assert since == sorted(set(since))


def told(**changes: Any) -> list[str]:
    """The words as the guest has them, by a parser with the same rules for what is quoted."""
    found = words("unikraft", **changes)
    return shlex.split(" ".join((found.program, *found.words)))


@pytest.mark.parametrize(
    "argument",
    [
        "two words",
        " ",
        "it's",
        '"',
        "'\"'",
        "back\\slash",
        "a -- b",
        "' -- '",
        "]",
        "tab\tend",
        "\n",
    ],
)
@pytest.mark.parametrize("version", ["", "0.12", "0.17.0"])
def test_arguments_arrive_as_they_are(argument: str, version: str) -> None:
    assert told(args=(argument, argument, "x"), version=version) == [argument, argument, "x"]
    line = " ".join(words("unikraft", args=("app", argument), version=version).words)
    assert " -- " not in line


@given(st.lists(st.text("ab '\"\\-]\t", min_size=1), min_size=1))
def test_any_arguments(arguments: list[str]) -> None:
    found = told(args=("app", *arguments), env=("A=1",))
    assert found[found.index("--") + 1 :] == arguments


def test_variables_that_would_end_the_list_have_words_of_their_own() -> None:
    found = words("unikraft", env=("A=x]y", "B=x]", "C=two ] words", "D= ]"))
    assert found.words == (
        "env.vars=[ A=x]y 'C=two ] words' ]",
        "env.vars=B=x]",
        "'env.vars=D= ]'",
        "--",
    )
    assert words("unikraft", env=("B=x]",)).words == ("env.vars=B=x]", "--")


def test_an_argument_of_two_hyphens_does_not_hide_those_before_it() -> None:
    assert words("unikraft", args=("app", "a", "--", "b")).words == ("urunc", "--", "a -- b")
    assert words("unikraft", args=("app", "--", "b"), env=("A=1",)).words[-1] == "-- b"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"args": ("app", "x", "")}, "process.args[2]: unikraft drops an empty argument"),
        ({"args": ("app", "two words"), "version": "0.11"}, "is empty or holds blanks"),
        ({"version": "latest"}, "annotation 'unikernelVersion': 'latest' is not a version"),
    ],
)
def test_unikraft_refuses(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageError) as caught:
        words("unikraft", **request_)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("request_", "warning"),
    [
        ({"env": ("A=1",), "version": "0.12"}, "process.env: unikraft 0.12 takes none"),
        (
            {"env": tuple(f"V{index}=1" for index in range(10))},
            "process.env: unikraft drops all variables but 8, unless it is built for more: V8, V9",
        ),
        ({"args": ("a",) * 61}, "drops all words but 60 of these 61"),
        ({"args": ("a", "b" * 4096)}, "4098 bytes are more than the 4096"),
        ({"nics": (nic(), nic(**SECOND)), "version": "0.15"}, "interfaces: unikraft 0.15 takes"),
    ],
)
def test_what_a_default_build_drops_is_said(request_: dict[str, Any], warning: str) -> None:
    (found,) = guests.load("unikraft", config()).omissions(request(**request_))
    assert warning in found


@pytest.mark.parametrize(
    "request_",
    [
        {"env": tuple(f"V{index}=1" for index in range(8))},
        {"args": ("a",) * 60},
        {"args": ("a",) * 57, "env": ("A=1",), "version": "0.12"},
        {"nics": (nic(), nic(**SECOND))},
    ],
)
def test_what_a_default_build_takes(request_: dict[str, Any]) -> None:
    left_out = guests.load("unikraft", config()).omissions(request(**request_))
    assert [line for line in left_out if "takes none" not in line] == []


SETTING = Setting(
    version="0.17.0",
    release="",
    monitor="qemu",
    monitor_version="1.7.0",
    architecture="x86_64",
    accelerator="kvm",
    memory_bytes=64 << 20,
)


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({}, ""),
        ({"memory_bytes": 2815 << 20}, ""),
        ({"memory_bytes": 2816 << 20}, "memory: unikraft uses 2048 MiB of 2816 on qemu"),
        ({"memory_bytes": 4 << 30, "architecture": "aarch64"}, ""),
        ({"monitor": "firecracker", "memory_bytes": 3328 << 20}, ""),
        (
            {"monitor": "firecracker", "memory_bytes": 3329 << 20},
            "memory: unikraft uses 3328 MiB of 3329 on firecracker",
        ),
        (
            {"monitor": "firecracker", "monitor_version": "1.8.0", "version": "0.16.3"},
            "unikraft 0.16.3 does not start on Firecracker 1.8",
        ),
        ({"monitor": "firecracker", "monitor_version": "1.7.0", "version": "0.16.3"}, ""),
        (
            {"monitor": "firecracker", "monitor_version": "1.12.1"},
            "unikraft 0.17.0 does not start on Firecracker 1.8 and newer (this is 1.12.1)",
        ),
        (
            {"monitor": "firecracker", "monitor_version": "1.12.1", "release": "0.17.0~484ff209"},
            "unikraft 0.17.0~484ff209 does not start",
        ),
        (
            {"monitor": "firecracker", "monitor_version": "1.12.1", "release": "0.17.0~eaf6fda1"},
            "",
        ),
        ({"monitor": "firecracker", "monitor_version": "1.12.1", "version": "0.18.0"}, ""),
        ({"monitor": "firecracker", "monitor_version": "1.12.1", "version": ""}, ""),
        ({"monitor": "firecracker", "monitor_version": ""}, ""),
        (
            {"accelerator": "tcg", "monitor_version": "7.2.22"},
            "unikraft 0.17.0 wants the processor's RDSEED, which QEMU emulates from 8.1.3 on",
        ),
        ({"accelerator": "tcg", "monitor_version": "8.1.3"}, ""),
        ({"accelerator": "tcg", "monitor_version": "7.2.22", "version": "0.18.0"}, ""),
        ({"accelerator": "tcg", "monitor_version": "7.2.22", "version": ""}, ""),
        ({"accelerator": "tcg", "monitor_version": "7.2.22", "architecture": "aarch64"}, ""),
        ({"version": "0.16.1", "release": "0.16.1~30540358"}, ""),
        ({"version": "0.16.1", "release": "0.17.0~484ff209"}, "but the kernel's file says"),
    ],
)
def test_cautions(changes: dict[str, Any], warning: str) -> None:
    found = guests.load("unikraft", config()).cautions(replace(SETTING, **changes))
    assert len(found) == bool(warning)
    assert warning in "".join(found)


def test_a_kernel_of_an_unknown_version_has_the_newest_dialect() -> None:
    assert dialect_of("") == DIALECTS[-1]
