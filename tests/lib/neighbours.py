# SPDX-License-Identifier: Apache-2.0
"""Guests in a network namespace with other programs: what is beside them, who asks whom."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import sys
from collections.abc import Iterator

from lib.patience import patient, tried
from lib.rooted import spared
from lib.support import PARTS, Bundle, Container, Network, Urunc, need

# A web server on port $1 that tells whoever comes who that is.
PEER = """
import socket, sys
listener = socket.create_server(("", int(sys.argv[1])))
print("ready", flush=True)
while True:
    near, (host, _) = listener.accept()
    near.recv(4096)
    near.sendall(f"HTTP/1.0 200 OK\\r\\n\\r\\nyou are {host}\\n".encode())
    near.close()
"""
PAGE = "hello from a Linux guest"


@contextlib.contextmanager
def beside(namespace: str, program: str, *words: str) -> Iterator[None]:
    """A Python program in a namespace, once it has said that it is ready."""
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", program, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def told(namespace: str, program: str, *words: str, timeout_s: float) -> str:
    """What a Python program in a namespace prints, once it succeeds; "" where it never does."""
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", program, *words]

    def said() -> str:
        found = subprocess.run(command, capture_output=True, text=True)
        return "" if found.returncode else found.stdout

    return tried(said, timeout_s)


def fetch(namespace: str, url: str, *, timeout_s: float = 60) -> str:
    """A page over HTTP, from a namespace; "" where there is none."""
    code = (
        "import sys, urllib.request as r\n"
        "print(r.urlopen(sys.argv[1], timeout=float(sys.argv[2])).read().decode())"
    )
    return told(namespace, code, url, str(patient(3)), timeout_s=timeout_s)


def echo(namespace: str, address: str, port: int, text: str) -> str:
    """What is echoed over UDP to a namespace."""
    code = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET,"
        " socket.SOCK_DGRAM)\n"
        "s.settimeout(float(sys.argv[4]))\n"
        "s.connect((sys.argv[1], int(sys.argv[2])))\n"
        "s.send(sys.argv[3].encode())\n"
        "print(s.recv(2048).decode(), end='')"
    )
    return told(namespace, code, address, str(port), text, str(patient(1)), timeout_s=30)


def linux(path: pathlib.Path, place: Network, script: str, **annotations: str) -> Bundle:
    """The Linux guest, with a shell script as its application."""
    need("linux", "qemu")
    bundle = Bundle(path, "linux", "qemu", accelerator="tcg", initrd="/initrd.cpio", **annotations)
    bundle.add("unikernel", PARTS / "linux/vmlinux")
    bundle.add("initrd.cpio", PARTS / "linux/initrd.cpio")
    bundle.config["vm"] = spared("quiet")
    bundle.config["linux"]["resources"]["memory"]["limit"] = 320 << 20
    bundle.args("/init", "/bin/sh", "-c", script)
    bundle.network(place.path)
    return bundle


def probe(
    path: pathlib.Path, place: Network, monitor: str, *words: str, **annotations: str
) -> Bundle:
    """The probe, as a Unikraft or a MirageOS guest."""
    need("probe", *(("solo5",) if monitor == "spt" else (monitor, "kvm")))
    guest = "mirage" if monitor == "spt" else "unikraft"
    bundle = Bundle(path, guest, monitor, **annotations)
    if monitor == "spt":
        bundle.add("unikernel", PARTS / "probe-mirage.spt")
        bundle.add("disk.img", bytes(512 * 64))
        bundle.config["annotations"]["com.urunc.unikernel.block"] = "/disk.img"
    else:
        bundle.add("unikernel", PARTS / "probe.pvh")
    bundle.args("app", "probe.serve=60000", *words)
    bundle.network(place.path)
    return bundle


def resolver(bundle: Bundle, text: str) -> None:
    """Mount a resolv.conf into the container."""
    file = bundle.path / "resolv.conf"
    file.write_text(text)
    bundle.config["mounts"] = [
        {"destination": "/etc/resolv.conf", "type": "bind", "source": str(file)}
    ]


def started(urunc: Urunc, bundle: Bundle) -> Container:
    container = urunc.create(bundle)
    container.start()
    return container


def forwarding(namespace: str) -> list[str]:
    names = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.eth0.accept_ra")
    command = ["ip", "netns", "exec", namespace, "sysctl", "-n", *names]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def tables(namespace: str) -> str:
    command = ["ip", "netns", "exec", namespace, "nft", "list", "ruleset"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
