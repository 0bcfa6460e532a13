# SPDX-License-Identifier: Apache-2.0
"""What a Linux guest with urunc's init calls things: its interfaces as the pod does, hosts and name
servers as the container's own files say, to the byte."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from lib.rooted import configure, linux, run, volume
from lib.support import PREFIX, Bundle, Network, Urunc, ip, need

HOSTS = (
    "# of the user's own\n127.0.0.1\tlocalhost db.local\n::1 localhost ip6-localhost\n"
    + "".join(f"10.9.0.{number}\tname-{number} name-{number}.example  # {number}\n"
              for number in range(80))
    + "10.123.0.2\tbox\n"
)  # fmt: skip
RESOLVER = "; by hand\nsearch a.example\nsortlist 10.0.0.0\nnameserver 10.9.9.9\noptions ndots:5\n"


@pytest.fixture
def bundle(urunc: Urunc, tmp_path: pathlib.Path) -> Bundle:
    """A guest that shows its files, with those of the container mounted."""
    need("linux", "qemu", "tun", "images")
    configure(urunc)
    script = """
        for name in hosts resolv.conf; do echo '[['; cat /etc/$name; echo ']]'; done
        cd /sys/class/net; for name in *; do echo $name $(cat $name/address); done
        cat /proc/sys/net/ipv4/conf/net1/rp_filter; echo end
    """
    made = linux(tmp_path / "b", script, rootfs="cpio")
    (tmp_path / "hosts").write_text(HOSTS)
    (tmp_path / "resolv.conf").write_text(RESOLVER)
    made.config["mounts"] = [
        volume(f"/etc/{name}", tmp_path / name) for name in ("hosts", "resolv.conf")
    ]
    return made


def shown(result: subprocess.CompletedProcess[str]) -> tuple[str, str, str]:
    """(hosts, resolv.conf, the rest)."""
    assert result.returncode == 0, result.stdout + result.stderr
    text = result.stdout.replace("\r\n", "\n")
    hosts, resolver = (part.partition("]]\n")[0] for part in text.split("[[\n")[1:3])
    return hosts, resolver, text.rpartition("]]\n")[2]


def test_as_the_pod_has_them(urunc: Urunc, bundle: Bundle, network: Network) -> None:
    """`net1` was there before `eth0`, which is a guest's first device all the same."""
    ip("-n", network.inside, "link", "add", "net1", "type", "veth", "peer", "name", "p1")
    ip("-n", network.inside, "addr", "add", "10.200.0.2/24", "dev", "net1")
    ip("-n", network.inside, "link", "set", "net1", "up")
    network.connect()
    links = {
        name: ip("-n", network.inside, "-br", "link", "show", name).split()[2]
        for name in ("eth0", "net1")
    }
    bundle.network(network.path)
    bundle.config["linux"]["sysctl"] = {"net.ipv4.conf.net1.rp_filter": "2"}
    hosts, resolver, rest = shown(run(urunc, bundle))
    assert hosts == HOSTS
    assert resolver == RESOLVER
    for name, mac in links.items():
        assert f"{name} {mac}\n" in rest
    assert rest.endswith("2\nend\n")


def test_a_shared_namespace(urunc: Urunc, bundle: Bundle, network: Network) -> None:
    """The guest is behind NAT: the pod's own name is its own, all else is as it was."""
    need("nft")
    network.connect()
    bundle.network(network.path)
    bundle.config["annotations"][f"{PREFIX}network"] = "shared"
    hosts, resolver, rest = shown(run(urunc, bundle))
    assert hosts == HOSTS.replace("10.123.0.2\tbox", "172.16.1.2\tbox")
    assert resolver == RESOLVER
    assert "eth0 02:" in rest


def test_without_a_network(urunc: Urunc, bundle: Bundle) -> None:
    """Aliases of the guest's own loopback, and a resolver that it has itself."""
    bundle.config["annotations"][f"{PREFIX}network"] = "none"
    own = RESOLVER.replace("10.9.9.9", "127.0.0.1")
    (bundle.path.parent / "resolv.conf").write_text(own)
    hosts, resolver, _ = shown(run(urunc, bundle))
    assert (hosts, resolver) == (HOSTS, own)
