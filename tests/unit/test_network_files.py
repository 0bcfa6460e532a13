# SPDX-License-Identifier: Apache-2.0
"""resolv.conf and the hosts file of a Linux guest with urunc's init: whole, but for what would lead
it nowhere."""

from __future__ import annotations

import pytest
from test_guests import request

from lib.made import interface
from urunc.guests import Process
from urunc.guests.linux_config import config_text
from urunc.net.facts import NOTHING
from urunc.net.share import own_lines
from urunc.record import replace
from urunc.storage.facts import Root

DOCKER = "# by Docker\nnameserver 127.0.0.11\noptions edns0 ndots:0\n"


def files(**changes: object) -> dict[str, str]:
    """Of the configuration, the files by path."""
    process = Process(
        cwd="/", uid=0, gid=0, groups=(), umask=None, capabilities=(), no_new_privileges=False,
        rlimits=(), sysctls={}, masked_paths=(), read_only_paths=(), domainname="", terminal=False,
        own_pids=True, files=("/etc/hosts", "/etc/resolv.conf"),
    )  # fmt: skip
    root = Root(form="cpio", device="", numbers=(), read_only=False, copied=False, reason="")
    text = config_text(request(process=process, root=root, **changes))
    records = [line.split("\t") for line in text.split("\0") if line.startswith("file=")]
    return {
        fields[0].removeprefix("file="): fields[2].replace("\\n", "\n").replace("\\t", "\t")
        for fields in records
    }


@pytest.mark.parametrize(
    ("text", "dns", "expected"),
    [
        ("nameserver 10.0.0.53\n", ("10.0.0.53",), "nameserver 10.0.0.53\n"),
        ("; mine\nsortlist 10.0.0.0", (), "; mine\nsortlist 10.0.0.0"),
        (DOCKER, ("169.254.53.1",), DOCKER.replace("127.0.0.11", "169.254.53.1")),
        (DOCKER, (), DOCKER),
        (
            "nameserver 127.0.0.53\nnameserver 10.0.0.53\n",
            ("10.0.0.53",),
            "nameserver 10.0.0.53\n",
        ),
        (
            "nameserver ::1\nnameserver 127.0.0.1\nsearch a\n",
            ("169.254.53.1",),
            "nameserver 169.254.53.1\nsearch a\n",
        ),
        ("nameserver fe80::1%eth0\n", (), "nameserver fe80::1%eth0\n"),
        ("", (), ""),
    ],
)
def test_resolver(text: str, dns: tuple[str, ...], expected: str) -> None:
    assert files(resolver_file=text, dns=dns)["/etc/resolv.conf"] == expected


def test_hosts() -> None:
    whole = "127.0.0.1 localhost alias\n# said\n"
    assert files(hosts_file=whole)["/etc/hosts"] == whole
    assert files(hosts_file="")["/etc/hosts"] == "", "as it was mounted"
    assert "127.0.0.1\tlocalhost\n" in files()["/etc/hosts"]


def test_the_namespace_s_own_lines() -> None:
    text = "127.0.0.1 localhost\n10.88.0.7\tpod  # 10.88.0.7\n10.88.0.70 other\nfd00::7 pod\n\n"
    found = replace(NOTHING, interfaces=(interface(),), hosts_file=text)
    told = own_lines(found, ("172.16.1.2",))
    assert told == text.replace("10.88.0.7\tpod", "172.16.1.2\tpod")
    assert own_lines(replace(found, hosts_file=None), ("172.16.1.2",)) is None
