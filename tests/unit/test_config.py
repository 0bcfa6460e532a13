# SPDX-License-Identifier: Apache-2.0
"""The administrator's configuration: what wins, where a value came from, and errors with their
line."""

from __future__ import annotations

import pathlib

import pytest

from urunc import config
from urunc.config import SCHEMA, Config
from urunc.errors import ConfigError


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "config.toml"


def refused(file: pathlib.Path, text: str) -> ConfigError:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.load(str(file))
    return caught.value


def test_built_in_values() -> None:
    made = Config()
    assert made.get("monitors.qemu.memory_mib") == 256
    assert made.get("monitors.anything.vcpus") == 1
    assert made.get("guests.anything.allowed") is True
    assert made.get("users.first") == 2_000_000_000
    assert made.source("users.first") == "built in"
    with pytest.raises(KeyError):
        made.get("monitors.qemu.colour")


def test_drop_ins_come_after_the_file_by_name(file: pathlib.Path) -> None:
    directory = file.parent / "config.d"
    directory.mkdir()
    file.write_text("[monitors.qemu]\nmemory_mib = 1\nvcpus = 1\n[users]\nfirst = 5\n")
    (directory / "20.toml").write_text("monitors.qemu.vcpus = 3\n")
    (directory / "10.toml").write_text("[monitors.qemu]\nvcpus = 2\nmemory_mib = 2\n")
    (directory / "30.txt").write_text("not TOML")
    made = config.load(str(file))
    expected = {
        "monitors.qemu.vcpus": (3, f"{directory}/20.toml"),
        "monitors.qemu.memory_mib": (2, f"{directory}/10.toml"),
        "users.first": (5, str(file)),
        "monitors.hvt.vcpus": (1, "built in"),
    }
    assert {key: (made.get(key), made.source(key)) for key in expected} == expected


def test_every_key_can_be_set_to_its_built_in_value(file: pathlib.Path) -> None:
    from urunc.jsontext import dumps

    lines = [f"{key.replace('*', 'name')} = {dumps(value)}" for key, value in SCHEMA.items()]
    file.write_text("\n".join(lines))
    made = config.load(str(file))
    assert {key: made.get(key.replace("*", "name")) for key in SCHEMA} == SCHEMA
    assert len(made.values) == len(SCHEMA)


def test_names(file: pathlib.Path) -> None:
    file.write_text('[guests.b]\ncmdline = "{args}"\n[guests.a]\nallowed = false\n')
    made = config.load(str(file))
    assert (made.names("guests"), made.names("monitors")) == (["a", "b"], [])


@pytest.mark.parametrize(
    ("text", "line", "words", "hint"),
    [
        ("[monitors.qemu]\n\nvcpu = 1\n", 3, "unknown key 'monitors.qemu.vcpu'", "vcpus"),
        ("# first\nuser.first = 3\n", 2, "unknown key 'user.first'", "users"),
        ("\n\n[network]\nkind = 1\n", 4, "unknown key 'network.kind'", "shared_subnets"),
        ("colour = 1\n", 1, "unknown key 'colour'", "known sections: annotations, guests"),
        ("[monitors]\nqemu = true\n", 2, "unknown key 'monitors.qemu'", "accelerator"),
        ("[log]\nfile.name = 'x'\n", 2, "unknown key 'log.file.name'", ""),
    ],
)
def test_unknown_keys(file: pathlib.Path, text: str, line: int, words: str, hint: str) -> None:
    error = refused(file, text)
    assert error.message == f"configuration '{file}:{line}': {words}"
    assert hint in error.hint


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[users]\ncount = '9'\n", 2, "'users.count' takes a whole number"),
        ("[users]\nfirst = 1\ncount = true\n", 3, "'users.count' takes a whole number"),
        ("[users]\ncount = 1.0\n", 2, "'users.count' takes a whole number"),
        ("monitors.qemu.allowed = 1\n", 1, "'monitors.qemu.allowed' takes true or false"),
        ("[monitors.'qemu']\npath = 1\n", 2, "'monitors.qemu.path' takes a string"),
        ("[annotations]\nallow = 'all'\n", 2, "'annotations.allow' takes strings"),
        (
            "[annotations]\nunknown = 'no'\n",
            2,
            "'annotations.unknown': 'no' is none of warn, refuse",
        ),
        ("[annotations]\nallow = ['vcpus', 1]\n", 2, "'annotations.allow' takes strings"),
        ("[log]\nfile = {}\n", 2, "'log.file' takes a string"),
        # right type, wrong value
        ("[users]\ncount = 0\n", 2, "'users.count': 0 is not above zero"),
        ("[users]\nfirst = 4294967295\n", 2, "'users.first': 4294967295 is not a user id"),
        ("[timeouts]\n# s\nkill_s = -1\n", 3, "'timeouts.kill_s': -1 is not above zero"),
        ("[monitors.hvt]\nmemory_mib = 0\n", 2, "'monitors.hvt.memory_mib': 0 is not above zero"),
        (
            "[monitors.qemu]\naccelerator = 'xen'\n",
            2,
            "'monitors.qemu.accelerator': 'xen' is none of auto, kvm, tcg",
        ),
        (
            "[monitors.qemu]\nfirmware = 'ovmf'\n",
            2,
            "'monitors.qemu.firmware': 'ovmf' is none of auto, qboot, seabios",
        ),
        (
            "[network]\nmode = 'bridge'\n",
            2,
            "'network.mode': 'bridge' is none of auto, dynamic, pod, shared, none",
        ),
        (
            "[network]\nshared_subnets = ['10.0.0.0/8', '10.0.0.1/16']\n",
            2,
            "'network.shared_subnets': '10.0.0.1/16' is not an IPv4 network of /8 to /24 "
            "(172.16.0.0/16)",
        ),
        ("[storage]\nrootfs_size_mib = 8\n", 2, "'storage.rootfs_size_mib': 8 is below 16"),
        ("[monitors.spt]\npath = 'a/b'\n", 2, "'monitors.spt.path': 'a/b' is not an absolute path"),
        (
            "[annotations]\nallow = ['vcpus', 'vcpu']\n",
            2,
            "'annotations.allow': unknown 'vcpu', known: accelerator, console, disks, memory, "
            "network, ports, ready, rootfs, rootfsSize, start, vcpus, volumes",
        ),
    ],
)
def test_wrong_values(file: pathlib.Path, text: str, line: int, words: str) -> None:
    assert refused(file, text).message == f"configuration '{file}:{line}': {words}"


@pytest.mark.parametrize(
    "text", ["a = ", "[a", "a = 1\na = 2", "\u0000", "a = {b = 1", "[[users]]\n[users]\n"]
)
def test_what_is_not_toml(file: pathlib.Path, text: str) -> None:
    assert refused(file, text).message.startswith(f"read configuration '{file}': ")


def test_toml_errors_have_their_line(file: pathlib.Path) -> None:
    assert "line 3" in refused(file, "[log]\n\nfile = x\n").message


def test_not_utf8(file: pathlib.Path) -> None:
    file.write_bytes(b"# \xff\n")
    with pytest.raises(ConfigError, match="utf-8"):
        config.load(str(file))


def test_a_named_file_must_exist(file: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="no such file or directory"):
        config.load(str(file))


def test_drop_ins_are_checked_too(file: pathlib.Path) -> None:
    (file.parent / "config.d").mkdir()
    (file.parent / "config.d/a.toml").write_text("colour = 1\n")
    with pytest.raises(ConfigError, match=r"config\.d/a\.toml:1': unknown key 'colour'"):
        file.write_text("")
        config.load(str(file))
