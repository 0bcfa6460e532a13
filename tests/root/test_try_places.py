# SPDX-License-Identifier: Apache-2.0
"""`urunc try` where something is missing (root, /dev/net/tun, KVM, a way out), and what leaves the
guest by its network: on a machine of namespaces, with another machine next to it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lib.patience import patient
from lib.support import PARTS, RUN, URUNC, need

PVH = str(PARTS / "probe.pvh")
HOST, WORLD = f"{RUN}trh", f"{RUN}trw"
USER = 12_345
TRY = [str(URUNC), "try", "--guest", "unikraft"]
LISTEN = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("192.0.2.1", 53))
    server.settimeout(float(sys.argv[1]))
    print("ready", flush=True)
    query, asker = server.recvfrom(512)
    server.sendto(query[:2] + b"\\x81\\x83" + query[4:], asker)
    print(asker[0], flush=True)
"""
"""A name server that knows no name, and says who asks it."""
AS_USER = """
set -eu
mount -t tmpfs tmpfs "$1"
mkdir -m 700 "$1/home" "$1/tmp"
chown "$2:$2" "$1/home" "$1/tmp"
mknod -m "$3" "$1/tun" c 10 200
mount --bind "$1/tun" /dev/net/tun
[ -z "$4" ] || mount --bind /dev/null "$4"
where=$1 user=$2
shift 4
exec setpriv --reuid="$user" --regid="$user" --clear-groups \\
    env -u USER HOME="$where/home" XDG_RUNTIME_DIR="$where/home" TMPDIR="$where/tmp" "$@"
"""
ENDED = '{"probe":1,"event":"exit"'
AFTERWARDS = 'code=0; "$@" || code=$?; ls "$TMPDIR"; ls "$HOME/urunc"; exit "$code"'


def ip(*words: str) -> None:
    """Run ip(8)."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def machine() -> Iterator[list[str]]:
    """Words before a command that is to run on a machine with a neighbour, its router and name
    server 192.0.2.1."""
    need("root")
    configured = pathlib.Path(f"/etc/netns/{HOST}")
    with contextlib.ExitStack() as undo:
        for name in (HOST, WORLD):
            ip("netns", "add", name)
            undo.callback(ip, "netns", "del", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", HOST, "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", WORLD)
        for name, address in ((HOST, "192.0.2.2/24"), (WORLD, "192.0.2.1/24")):
            ip("-n", name, "addr", "add", address, "dev", "up0")
            ip("-n", name, "link", "set", "up0", "up")
        ip("-n", HOST, "route", "add", "default", "via", "192.0.2.1")
        created = not configured.parent.exists()
        configured.mkdir(parents=True)
        if created:
            undo.enter_context(contextlib.suppress(OSError))  # another worker's are there
            undo.callback(configured.parent.rmdir)
        undo.callback(shutil.rmtree, configured)
        (configured / "resolv.conf").write_text("nameserver 127.0.0.53\nnameserver 192.0.2.1\n")
        yield ["ip", "netns", "exec", HOST]


@contextlib.contextmanager
def name_server() -> Iterator[subprocess.Popen[str]]:
    """The neighbour's."""
    words = [sys.executable, "-c", LISTEN, str(patient(30))]
    with subprocess.Popen(
        ["ip", "netns", "exec", WORLD, *words], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield process


def as_user(directory: pathlib.Path, *, tun: str = "666", hide: str = "") -> list[str]:
    """Words before a command that is to run as an ordinary user with a home of its own; then it
    lists what is left of it. `tun` is the mode of /dev/net/tun, `hide` a program that is missing.
    """
    need("root", "rootless")
    return [
        *("unshare", "--mount", "--propagation", "private", "sh", "-c", AS_USER, "sh"),
        *(str(directory), str(USER), tun, hide, "sh", "-c", AFTERWARDS, "sh"),
    ]


@pytest.fixture
def home() -> Iterator[pathlib.Path]:
    """A directory that is not below one that is closed to the user, as pytest's are."""
    directory = pathlib.Path(f"/var/tmp/{RUN}-try-{os.getpid()}")
    directory.mkdir(mode=0o755)
    yield directory
    directory.rmdir()


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        env=os.environ | environment, timeout=patient(60),
    )  # fmt: skip


def test_the_way_out(machine: list[str], tmp_path: pathlib.Path) -> None:
    """Root's guest is seen outside as this machine; all is as it was afterwards."""
    need("tun", "qemu", "nft", "probe")
    forwarding = [*machine, "cat", "/proc/sys/net/ipv4/ip_forward"]
    assert run(*forwarding).stdout == "0\n"
    with name_server() as server:
        done = run(*machine, *TRY, PVH, "--", "a", "probe.resolve=x", TMPDIR=str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert '"dns":["192.0.2.1"]' in done.stdout
        assert server.stdout and server.stdout.read() == "192.0.2.2\n"
    assert "no way out" not in done.stderr
    assert run(*forwarding).stdout == "0\n"
    assert run(*machine, "nft", "list", "tables").stdout == ""
    assert "utry" not in run(*machine, "ip", "link").stdout
    assert not list(tmp_path.iterdir())


def test_a_firewall(machine: list[str], tmp_path: pathlib.Path) -> None:
    """Rules that drop what is forwarded are named; the guest runs all the same."""
    need("tun", "qemu", "nft", "probe")
    chain = "type filter hook forward priority 0; policy drop;"
    for words in (
        ["table", "ip", "filter"],
        ["chain", "ip", "filter", "FORWARD", f"{{ {chain} }}"],
    ):
        assert run(*machine, "nft", "add", *words).returncode == 0
    done = run(*machine, *TRY, PVH, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "FORWARD has the policy DROP): no way out for the guest" in done.stderr


def test_without_root(machine: list[str], home: pathlib.Path) -> None:
    """The same for an ordinary user, by pasta."""
    need("pasta", "qemu", "nft", "probe")
    with name_server() as server:
        done = run(*machine, *as_user(home), *TRY, PVH, "--", "a", "probe.resolve=x")
        assert done.returncode == 0, done.stderr
        assert server.stdout and server.stdout.read() == "192.0.2.2\n"
    assert "no way out" not in done.stderr
    assert done.stdout.splitlines()[-1].startswith(ENDED), done.stdout


def test_ports_without_root(machine: list[str], home: pathlib.Path) -> None:
    """They work without pasta, too; what it would be for is said, and how to install it."""
    need("pasta", "qemu", "nft", "probe")
    words = (*TRY, "-p", "80", PVH, "--", "a", "probe.serve", "probe.http", "probe.page=here")
    before = [*machine, *as_user(home, hide=shutil.which("pasta") or "")]
    with subprocess.Popen(
        [*before, *words], stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr and process.stdout
        said: list[str] = []
        while "[::1]" not in "".join(said):
            said.append(process.stderr.readline())
            assert said[-1], said
        url = said[-1].split()[2]
        ask = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read())"
        for path in ("", "quit/3"):
            asked = run(*machine, sys.executable, "-c", ask, f"{url}/{path}")
            assert asked.stdout == "b'here\\n'\n", asked.stderr
        shown, rest = process.communicate(timeout=patient(30))
    assert "pasta is not installed (apt-get install passt): no way out" in "".join(said) + rest
    assert '"event":"exit","code":3' in shown.splitlines()[-1]


def test_without_root_and_network(home: pathlib.Path) -> None:
    """Needs neither pasta nor TAP devices."""
    need("qemu", "probe")
    done = run(*as_user(home, tun="600"), *TRY, "--net", "none", PVH)
    assert done.returncode == 0, done.stderr
    assert '"nics":[]' in done.stdout
    assert done.stdout.splitlines()[-1].startswith(ENDED), done.stdout


def test_no_right_to_tun(home: pathlib.Path) -> None:
    """Says which device, and what to do."""
    need("probe")
    done = run(*as_user(home, tun="600"), *TRY, PVH)
    assert done.returncode == 1
    said = "permission denied: the guest can have no network (as root: chmod 0666 /dev/net/tun"
    assert said in done.stderr
    assert done.stdout == ""


HIDDEN = """
mount -t tmpfs tmpfs "$1"
[ -z "$2" ] || { : >"$1/kvm"; mount --bind "$1/kvm" /dev/kvm; }
[ -n "$2" ] || mount -t tmpfs tmpfs /dev/net
shift 2
exec "$@"
"""


def hidden(directory: pathlib.Path, what: str) -> list[str]:
    """Words before a command that is to run without KVM ("kvm"), or without TAP devices ("")."""
    need("root")
    return [
        *("unshare", "--mount", "--propagation", "private", "sh", "-c", HIDDEN, "sh"),
        *(str(directory), what),
    ]


def test_no_tun(tmp_path: pathlib.Path) -> None:
    """Where the kernel has none."""
    need("tun", "qemu", "probe")
    before = hidden(tmp_path, "")
    done = run(*before, *TRY, PVH)
    assert done.returncode == 1
    assert "'/dev/net/tun': no such file or directory: the guest can have no network" in done.stderr
    assert "(modprobe tun, or --net none)" in done.stderr
    assert run(*before, *TRY, "--net", "none", PVH).returncode == 0


def test_no_kvm(tmp_path: pathlib.Path) -> None:
    """QEMU emulates where KVM opens but makes no machine."""
    need("kvm", "qemu", "probe")
    done = run(*hidden(tmp_path, "kvm"), *TRY, "--net", "none", PVH)
    assert done.returncode == 0, done.stderr
    assert "/dev/kvm opens, but has no machine: " in done.stderr
    assert "it is emulated (TCG)" in done.stderr
