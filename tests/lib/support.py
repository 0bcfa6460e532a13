# SPDX-License-Identifier: Apache-2.0
"""What the tests share: bundles, the installed urunc, networks, and the kernel before and after.

What a test needs of the machine is probed, not guessed from the user id. A need named in
URUNC_TEST_REQUIRE (comma-separated) is a failure where it is missing; any other is a skip that says
what is missing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import re
import select
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lib import virtiofs
from lib.busybox import available as busybox_available
from lib.patience import patient, pause, until
from lib.places.cluster import available as cluster_available
from lib.places.cni import available as cni_available
from lib.places.containerd import available as containerd_available
from lib.places.crio import available as crio_available
from lib.places.docker import available as docker_available
from lib.places.machine import available as machine_available
from lib.places.podman import available as podman_available
from lib.places.rootless import available as rootless_available
from lib.places.systemd import available as systemd_available

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
PARTS = PROJECT / "build/parts"
TOOLS = pathlib.Path(os.environ.get("URUNC_TEST_TOOLS", PROJECT / "build/tools"))
"""Where `make tools` builds; or another version, to try."""
URUNC = PROJECT / "build/prefix/bin/urunc"
RESERVED_USERS = 2_000_000_000
WORLD = bool(os.environ.get("URUNC_TEST_WORLD"))
"""Whether these tests have all that they see to themselves (world.py)."""
SHARED = not WORLD and (
    os.environ.get("CI") != "true" or os.environ.get("URUNC_TEST_SHARED_MACHINE") == "1"
)
"""Whether others make and remove things here: then what is ours by name is compared alone."""
RUN = f"r{uuid.uuid4().hex[:4]}"
"""In the names of what these tests make: others may be running the same ones."""
PREFIX = "com.urunc.unikernel."
os.environ["PATH"] = f"{PARTS}/bin:{os.environ['PATH']}:/usr/sbin:/sbin:{TOOLS}"
# fsconfig(2), which mount(8) takes from 2.39 on, has 255 bytes for the layers of an overlay
os.environ["LIBMOUNT_FORCE_MOUNT2"] = "always"


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return True


def _may_mount() -> bool:
    return os.geteuid() == 0 and subprocess.run(["unshare", "-m", "-n", "true"]).returncode == 0


PROGRAMS = ("docker-registry", "nft", "pasta", "skopeo", "slirp4netns", "strace")
PROBES: dict[str, Callable[[], object]] = {
    "root": _may_mount,
    "kvm": lambda: _opens("/dev/kvm"),
    "tun": lambda: _opens("/dev/net/tun"),
    "qemu": lambda: shutil.which("qemu-system-x86_64") is not None,
    "firecracker": lambda: shutil.which("firecracker") is not None,
    "solo5": lambda: shutil.which("solo5-hvt") is not None,
    "probe": lambda: (PARTS / "probe.pvh").exists(),
    "linux": lambda: (PARTS / "linux/vmlinuz").exists(),
    "systemd": systemd_available,
    "machine": machine_available,
    "docker": docker_available,
    "containerd": containerd_available,
    "podman": podman_available,
    "rootless": rootless_available,
    "cni": cni_available,
    "crio": crio_available,
    "virtiofsd": lambda: bool(virtiofs.program()),
    "busybox": busybox_available,
    "runc": lambda: shutil.which("runc") is not None,
    "containerd2": (TOOLS / "containerd").exists,
    **{name: (TOOLS / name).exists for name in ("critest", "nerdctl")},
    "kube-router": lambda: all(map(shutil.which, (f"{TOOLS}/kubernetes/kube-router", "ipset"))),
    "kubernetes": lambda: cluster_available(TOOLS / "kubernetes"),
    "images": lambda: all(map(shutil.which, ("mke2fs", "mkfs.erofs", "mksquashfs"))),
    "installed": URUNC.exists,
    **{name: functools.partial(shutil.which, name) for name in PROGRAMS},
}
_found: dict[str, bool] = {}


def need(*names: str) -> None:
    """Skip (or fail, where it is required) unless this machine has all of it."""
    required = os.environ.get("URUNC_TEST_REQUIRE", "").split(",")
    for name in names:
        if not has(name):
            if name in required:
                pytest.fail(f"this run requires {name}, and this machine has none")
            pytest.skip(f"needs {name}")


def has(name: str) -> bool:
    """Whether this machine has something that `need` may ask for."""
    if name not in _found:
        _found[name] = bool(PROBES[name]())
    return _found[name]


class Bundle:
    """A bundle in a directory: `files` of the root filesystem by name, and a configuration to
    change."""

    def __init__(
        self, path: pathlib.Path, guest: str = "", monitor: str = "", **annotations: str
    ) -> None:
        self.path = path
        self.root = path / "rootfs"
        self.root.mkdir(parents=True, exist_ok=True)
        self.config: dict[str, Any] = {
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["app"], "env": [], "cwd": "/"},
            "annotations": {},
            "linux": {
                "namespaces": [
                    {"type": kind} for kind in ("pid", "network", "mount", "ipc", "uts")
                ],
                "resources": {"memory": {"limit": 192 << 20}},
            },
        }
        if guest:
            named = {
                "unikernelType": guest,
                "hypervisor": monitor,
                "binary": "/unikernel",
                **annotations,
            }
            self.config["annotations"] = {PREFIX + key: value for key, value in named.items()}

    def add(self, name: str, source: pathlib.Path | bytes) -> None:
        """A file of the root filesystem, copied or written."""
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            target.write_bytes(source)
        else:
            shutil.copy(source, target)

    def args(self, *words: str) -> None:
        """The process's arguments."""
        self.config["process"]["args"] = list(words)

    def network(self, namespace: str) -> None:
        """Join a network namespace by path instead of making one."""
        for item in self.config["linux"]["namespaces"]:
            if item["type"] == "network":
                item["path"] = namespace

    def write(self) -> pathlib.Path:
        """Write config.json."""
        (self.path / "config.json").write_text(json.dumps(self.config))
        return self.path


class Urunc:
    """The installed urunc with a --root and a configuration of its own."""

    def __init__(self, directory: pathlib.Path, program: str = str(URUNC)) -> None:
        self.root = directory / "state"
        self.config = directory / "urunc.toml"
        self.stamps = directory / "timestamps.jsonl"
        self.config.write_text(f'[timestamps]\nfile = "{self.stamps}"\n')
        self.program = program
        self.prefix: list[str] = []
        """Words before every command: those that run it in another place."""
        self.options: list[str] = []
        """Global options of every command."""
        self.identifiers: list[str] = []

    def command(self, *words: str) -> list[str]:
        """The whole command line."""
        return [
            *self.prefix,
            self.program,
            "--root",
            str(self.root),
            "--config",
            str(self.config),
            *self.options,
            *words,
        ]

    def __call__(
        self, *words: str, check: bool = True, timeout_s: float = 60, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a verb to its end."""
        result = subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            timeout=patient(timeout_s),
            stdin=subprocess.DEVNULL,
            env=os.environ | environment,
        )
        if check and result.returncode:
            raise AssertionError(
                f"{' '.join(words)}: {result.returncode}\n{result.stdout}{result.stderr}"
            )
        return result

    def new_id(self) -> str:
        """A container id that this test removes in the end."""
        identifier = f"t{RUN}{uuid.uuid4().hex[:8]}"
        self.identifiers.append(identifier)
        return identifier

    def create(self, bundle: Bundle, *options: str, **environment: str) -> Container:
        """`create` with the guest's console in a file."""
        identifier = self.new_id()
        console = bundle.path / f"{identifier}.console"
        with console.open("wb") as out:  # files, not pipes: the monitor keeps them open
            result = subprocess.run(
                self.command("create", "--bundle", str(bundle.write()), *options, identifier),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=patient(60),
                env=os.environ | environment,
            )
        if result.returncode:
            raise AssertionError(console.read_text())
        return Container(self, identifier, console)

    def state(self, identifier: str) -> dict[str, Any]:
        """What `state` prints."""
        found: dict[str, Any] = json.loads(self("state", identifier).stdout)
        return found

    def clean(self) -> None:
        """Remove what a failed test left."""
        for identifier in self.identifiers:
            self("delete", "--force", identifier, check=False)


SPT_TASKS = 8 + 2 + 1
"""By how many a container's pids.max is above its limit for processes, with spt and one vCPU."""


class Container:
    """A created container and its console."""

    def __init__(self, urunc: Urunc, identifier: str, console: pathlib.Path) -> None:
        self.urunc = urunc
        self.id = identifier
        self.console = console
        self.pid: int = urunc.state(identifier)["pid"]

    def start(self, **environment: str) -> None:
        """`start`."""
        self.urunc("start", self.id, check=True, timeout_s=60, **environment)

    def plan(self) -> dict[str, Any]:
        """What was decided of it, as recorded."""
        state = json.loads((self.urunc.root / self.id / "container.json").read_text())
        return dict(state["plan"])

    def status(self) -> str:
        """`state`'s status."""
        return str(self.urunc.state(self.id)["status"])

    def shown(self) -> str:
        """What is on the console so far."""
        return self.console.read_text(errors="replace")

    def wait_for(self, text: str, timeout_s: float = 30) -> str:
        """Wait until the console holds a text; returns the whole console."""
        until(
            lambda: text in self.shown(),
            lambda: f"no {text!r} on the console:\n{self.shown()}",
            timeout_s,
        )
        return self.shown()

    def wait_stopped(self, timeout_s: float = 30) -> None:
        """Wait for the monitor's end."""
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(self.pid)
            assert select.select([pidfd], [], [], patient(timeout_s))[0], "the monitor did not end"
            os.close(pidfd)
        assert self.status() == "stopped"

    def delete(self, *options: str) -> None:
        """`delete`."""
        self.urunc("delete", *options, self.id)

    def report(self) -> dict[str, Any]:
        """The line of JSON with which the probe (or the tenders' double) says what it was given."""
        return self._line_with(lambda found: "cmdline" in found)

    def event(self, name: str, timeout_s: float = 30) -> dict[str, Any]:
        """The line of JSON with which the probe tells of an event."""
        return self._line_with(lambda found: found.get("event") == name, timeout_s)

    def _line_with(
        self, wanted: Callable[[dict[str, Any]], bool], timeout_s: float = 30
    ) -> dict[str, Any]:
        def find() -> dict[str, Any] | None:
            for line in self.shown().splitlines():
                with contextlib.suppress(ValueError):  # a line that is still being written
                    found = json.loads(line)
                    if isinstance(found, dict) and wanted(found):
                        return found
            return None

        found = until(find, self.shown, timeout_s)
        assert found
        return found


def ip(*words: str) -> str:
    """iproute2's `ip`."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


class Network:
    """Two network namespaces joined by a veth pair: `inside` is a container's, `outside` its
    peer's."""

    inside_address = "10.123.0.2"
    outside_address = "10.123.0.1"

    def __init__(self) -> None:
        name = RUN + uuid.uuid4().hex[:6]
        self.inside = f"urunc-in-{name}"
        self.outside = f"urunc-out-{name}"
        self.path = f"/run/netns/{self.inside}"
        for namespace in (self.inside, self.outside):
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
            settle = ["sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"]  # at once, that is
            subprocess.run(["ip", "netns", "exec", namespace, *settle], check=True)

    def adopt(self, namespace: str) -> None:
        """Have another namespace, which this path leads to, as the container's."""
        subprocess.run(["umount", self.path], check=True)
        subprocess.run(["mount", "--bind", namespace, self.path], check=True)
        ip("-n", self.inside, "link", "set", "lo", "up")

    def connect(self, device: str = "eth0", mtu: int = 1500) -> None:
        """Put an interface with an address and a default route into the container's namespace."""
        ip("-n", self.outside, "link", "add", "peer0", "mtu", str(mtu), "type", "veth",
           "peer", "name", device, "mtu", str(mtu), "netns", self.inside)  # fmt: skip
        ip("-n", self.outside, "addr", "add", f"{self.outside_address}/24", "dev", "peer0")
        ip("-n", self.outside, "link", "set", "peer0", "up")
        ip("-n", self.inside, "addr", "add", f"{self.inside_address}/24", "dev", device)
        ip("-n", self.inside, "link", "set", device, "up")
        ip("-n", self.inside, "route", "add", "default", "via", self.outside_address)

    def ping(self) -> None:
        """The guest must answer."""
        command = ["ip", "netns", "exec", self.outside, "ping", "-c1", f"-W{patient(2):.0f}"]
        command += [self.inside_address]
        until(
            lambda: subprocess.run(command, capture_output=True).returncode == 0,
            "the guest does not answer ping",
        )

    def udp(self, payload: bytes) -> bytes:
        """What the guest's UDP echo on port 7 answers."""
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.outside}", os.O_RDONLY)
        from urunc.linux import _linux

        _linux.setns(there, 0x40000000)
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        finally:
            _linux.setns(home, 0x40000000)
            os.close(home)
            os.close(there)
        with sock:
            sock.settimeout(patient(2))

            def answer() -> bytes:
                sock.sendto(payload, (self.inside_address, 7))
                with contextlib.suppress(TimeoutError):
                    return sock.recv(2048)
                return b""

            return until(answer, "the guest does not answer UDP")

    def remove(self) -> None:
        """Take it down."""
        for namespace in (self.inside, self.outside):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True)


def kernel(*directories: pathlib.Path) -> dict[str, set[str]]:
    """What the kernel holds: to be compared before and after something that must leave nothing."""
    table = pathlib.Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    mounts = {re.sub(r"^\d+ \d+ ", "", line) for line in table.splitlines()}
    names = [line.split()[0] for line in ip("netns", "list").splitlines()]
    if SHARED:  # others' may go while they are looked at
        names = [name for name in names if RUN in name]
    links, qdiscs = set(), set()
    for name in ["", *names]:
        where = ["-n", name] if name else []
        # without `check`: on a shared machine a namespace may be gone since it was listed
        shown = subprocess.run(["ip", *where, "-o", "link"], capture_output=True, text=True).stdout
        for line in shown.splitlines():
            links.add(f"{name} {line.split(':')[1].strip().partition('@')[0]}")
        shown = subprocess.run(["tc", *where, "qdisc"], capture_output=True, text=True).stdout
        qdiscs |= {f"{name} {line}" for line in shown.splitlines()}
    namespaces, processes = set(), set()
    me = os.getpid()
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            for kind in ("net", "mnt", "pid", "ipc", "uts", "cgroup"):
                namespaces.add(os.readlink(entry / "ns" / kind))
            uid = entry.stat().st_uid
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        ours = any(str(directory) in command for directory in directories)
        ours = ours or WORLD or (uid >= RESERVED_USERS and not SHARED)
        if ours or int(parent) == me:
            processes.add(f"{entry.name} {command}")
    groups = {path for path, _, _ in os.walk("/sys/fs/cgroup")}
    if SHARED:  # others' come and go
        groups = {path for path in groups if RUN in path}
        namespaces.clear()
        mounts = {line for line in mounts if RUN in line}
        links = {line for line in links if RUN in line.split()[0]}
        qdiscs = {line for line in qdiscs if RUN in line.split()[0]}
    files = {str(path) for directory in directories for path in directory.rglob("*")}
    for shared in ("/run/urunc.d/users", "/tmp", "/run/urunc"):
        with contextlib.suppress(FileNotFoundError):
            files |= {f"{shared}/{name}" for name in os.listdir(shared)}
    if SHARED:
        files = {path for path in files if path.startswith(tuple(map(str, directories)))}
    descriptors = {f"{fd}" for fd in os.listdir("/proc/self/fd")}
    return {
        "mounts": mounts,
        "links": links,
        "qdiscs": qdiscs,
        "namespaces": namespaces,
        "processes": processes,
        "cgroups": groups,
        "files": files,
        "descriptors": descriptors,
    }


def assert_same(before: dict[str, set[str]], after: dict[str, set[str]]) -> None:
    """The kernel holds what it held; but processes may have ended, which an engine still had."""
    found = {
        kind: {
            "new": sorted(after[kind] - before[kind]),
            "gone": sorted(before[kind] - after[kind]) if kind != "processes" else [],
        }
        for kind in before
    }
    changes = {kind: change for kind, change in found.items() if any(change.values())}
    assert not changes, json.dumps(changes, indent=2)


@contextlib.contextmanager
def unchanged(look: Callable[[], dict[str, set[str]]], timeout_s: float = 2) -> Iterator[None]:
    """Compare what `look` finds before and after the block."""
    before = look()
    yield
    begin = time.monotonic()
    while True:  # the kernel takes namespaces down in its own time
        looked = time.monotonic()
        after = look()
        if after == before or time.monotonic() - begin > patient(timeout_s):
            break
        pause(time.monotonic() - looked)
    assert_same(before, after)


def nothing_left(*directories: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Compare the kernel before and after the block."""
    return unchanged(lambda: kernel(*directories))
