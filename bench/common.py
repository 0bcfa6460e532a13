# SPDX-License-Identifier: Apache-2.0
"""What the benches share: the runtimes that are compared and a bundle for each, times, and the file
of results.

Each bench prints its table, and with --results FILE puts its numbers into that file, of which
`draw` and `make bench-docs` make pictures and the tables of docs/performance.md.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import ctypes
import json
import os
import pathlib
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

HERE = pathlib.Path(__file__).resolve().parent.parent
PREFIX = "com.urunc.unikernel."
WARM = 2
"""Turns that fill caches and are not counted."""
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS, MS_REC, MS_PRIVATE, MNT_DETACH = 0x20000, 0x4000, 1 << 18, 2
NAMESPACES = [{"type": kind} for kind in ("pid", "network", "mount", "ipc", "uts")]
MOUNTS = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {
        "destination": "/dev",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "mode=755"],
    },
    {
        "destination": "/sys",
        "type": "sysfs",
        "source": "sysfs",
        "options": ["nosuid", "noexec", "ro"],
    },
]
KERNELS = {"spt": "probe-bare.spt", "hvt": "probe-bare.hvt"}
"""The probe without devices, by monitor; else it is probe.pvh."""

Side = TypeVar("Side")
Bundler = Callable[[pathlib.Path, pathlib.Path, str], None]
"""Makes a bundle in a directory, of the parts, for a monitor."""


class Runtime(NamedTuple):
    """A runtime, and how its bundle is made."""

    name: str
    program: str
    bundler: Bundler
    environment: dict[str, str] = {}
    one_hierarchy: bool = False
    """Whether it runs nothing where control groups v2 are mounted beside v1's (crun)."""


def config() -> dict[str, Any]:
    """The parts of a config.json that all runtimes get."""
    return {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "args": [], "env": ["PATH=/bin"], "cwd": "/"},
        "mounts": MOUNTS,
        "linux": {"namespaces": NAMESPACES, "resources": {"memory": {"limit": 128 << 20}}},
    }


def ordinary_bundle(directory: pathlib.Path, _parts: pathlib.Path, _monitor: str) -> None:
    """`/bin/true` (busybox's) with the usual mounts."""
    (directory / "rootfs/bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", directory / "rootfs/bin/true")
    for name in ("proc", "dev", "sys"):
        (directory / "rootfs" / name).mkdir()
    values = config()
    values["process"]["args"] = ["/bin/true"]
    (directory / "config.json").write_text(json.dumps(values))


def guest_bundle(
    directory: pathlib.Path, parts: pathlib.Path, monitor: str, *words: str, **more: str
) -> None:
    """The probe, which prints a line and does what the words say, or else ends."""
    (directory / "rootfs").mkdir(parents=True)
    shutil.copy(parts / KERNELS.get(monitor, "probe.pvh"), directory / "rootfs/unikernel")
    values = config()
    values["process"]["args"] = ["probe", *words]
    guest = "mirage" if monitor in KERNELS else "unikraft"
    keys = {"unikernelType": guest, "hypervisor": monitor, "binary": "/unikernel", **more}
    values["annotations"] = {PREFIX + key: value for key, value in keys.items()}
    (directory / "config.json").write_text(json.dumps(values))


def upstream_bundle(directory: pathlib.Path, parts: pathlib.Path, monitor: str) -> None:
    """The same as upstream's urunc reads it: all values in base64, and no disk is looked for."""
    guest_bundle(directory, parts, monitor, unikernelVersion="1", useDMBlock="false")
    values = json.loads((directory / "config.json").read_text())
    values["annotations"] = {
        key: base64.b64encode(value.encode()).decode()
        for key, value in values["annotations"].items()
    }
    (directory / "config.json").write_text(json.dumps(values))


def images(directory: pathlib.Path, parts: pathlib.Path) -> list[pathlib.Path]:
    """Archives for engines of the images `urunc`, the probe on spt, and `runc`, busybox."""
    sys.path[:0] = [str(HERE / "src"), str(HERE / "tests")]
    from lib.busybox import BUSYBOX
    from lib.images import archive

    probe = {"probe": parts / "probe-bare.spt"}
    applets = {f"bin/{name}": BUSYBOX for name in ("true", "sleep")}
    return [
        archive(
            directory / "urunc.tar", "urunc", probe, ["probe"],
            unikernelType="rumprun", hypervisor="spt", binary="/probe",
        ),
        archive(directory / "runc.tar", "runc", applets, ["/bin/true"]),
    ]  # fmt: skip


def runtimes(urunc: str) -> tuple[list[Runtime], list[str]]:
    """Those that are here, ours first, and the names of those that are not."""
    peers = {"runc": ordinary_bundle, "crun": ordinary_bundle, "urunc-go": upstream_bundle}
    found = [
        Runtime("urunc", urunc, guest_bundle),
        Runtime("urunc, no door", urunc, guest_bundle, {"URUNC_DOOR": "off"}),
    ]
    missing = []
    for name, bundler in peers.items():
        if program := shutil.which(name):
            found.append(Runtime(name, program, bundler, one_hierarchy=name == "crun"))
        else:
            missing.append(name)
    return found, missing


def quickest(parts: pathlib.Path) -> str:
    """The quickest monitor there is."""
    if shutil.which("solo5-spt"):
        return "spt"
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        if shutil.which("solo5-hvt"):
            return "hvt"
        if shutil.which("firecracker"):
            return "firecracker"
    return "qemu"


def timed(argv: Sequence[str], **environment: str) -> float:
    """Milliseconds that a command takes; its messages are of no interest unless it fails."""
    messages = os.memfd_create("messages")  # no pipe: what it leaves has it open
    before = time.perf_counter()
    code = subprocess.call(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=messages,
        env=os.environ | environment,
    )
    took_ms = (time.perf_counter() - before) * 1e3
    if code:
        said = os.pread(messages, 1 << 16, 0).decode(errors="replace")
        raise SystemExit(f"{' '.join(argv)}: exit code {code}\n{said}")
    os.close(messages)
    return took_ms


def in_turn(turns: int, sides: Sequence[Side]) -> Iterator[tuple[bool, Side]]:
    """Each side once a turn, in an order of its own each turn: what a life leaves to the kernel
    (namespaces, control groups), it does while the next one is measured. With each, whether it
    counts."""
    order = random.Random(turns)
    for turn in range(turns + WARM):
        for side in order.sample(sides, len(sides)):
            yield turn >= WARM, side


def adopt() -> None:
    """Be the parent of containers whose runtime has gone: what is dead is a zombie until somebody
    waits for it, and upstream's urunc takes a zombie for a container that runs."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Worker:
    """A process of its own in which a function is called: the parent of all that it makes, and
    without control groups v2 beside v1's where asked so."""

    def __init__(self, function: Callable[..., Any], *, one_hierarchy: bool) -> None:
        self._ours, its = socket.socketpair()
        self._pid = os.fork()
        if self._pid:
            its.close()
            self._answers = self._ours.makefile("r")
            return
        self._ours.close()
        try:
            adopt()
            if one_hierarchy:
                hide_unified()
            with its.makefile("rw") as stream:
                for line in stream:
                    stream.write(json.dumps(function(*json.loads(line))) + "\n")
                    stream.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def __call__(self, *words: Any) -> Any:
        """Call the function with values of JSON."""
        self._ours.sendall(json.dumps(words).encode() + b"\n")
        answer = self._answers.readline()
        if not answer:
            raise SystemExit(1)
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self._ours.shutdown(socket.SHUT_RDWR)  # a later worker has a copy of it
        self._answers.close()
        self._ours.close()
        os.waitpid(self._pid, 0)


def hide_unified() -> None:
    """In a mount namespace of its own, unmount control groups v2 that are beside v1's."""
    unified = b"/sys/fs/cgroup/unified"
    libc = ctypes.CDLL(None, use_errno=True)
    if os.path.ismount(unified) and (
        libc.unshare(CLONE_NEWNS)
        or libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None)
        or libc.umount2(unified, MNT_DETACH)
    ):
        raise OSError(ctypes.get_errno(), "hide control groups v2")


@contextlib.contextmanager
def syslog() -> Iterator[None]:
    """A system's log, where there is none: upstream's urunc ends without one."""
    path = pathlib.Path("/dev/log")
    if path.exists():
        yield
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(path))
        try:
            threading.Thread(target=_drain, args=(log,), daemon=True).start()
            yield
        finally:
            path.unlink()


def _drain(log: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            log.recv(1 << 16)


def summary(values: Sequence[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    if len(values) < 2:
        return [round(values[0], 3)] * 3
    return [round(value, 3) for value in statistics.quantiles(values, n=4, method="inclusive")]


def machine() -> dict[str, Any]:
    """This machine in words, and the versions of what was measured."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    memory_kib = int(pathlib.Path("/proc/meminfo").read_text().split()[1])
    virtual = any("hypervisor" in line.split() for line in lines if line.startswith("flags"))
    versions = {}
    for name in ("runc", "crun", "containerd", "podman", "dockerd", "firecracker"):
        if program := shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin"):
            said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
            words = [word.strip(",v") for word in said.split() if word.strip(",v")[:1].isdigit()]
            versions[name] = words[0] if words else "?"
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpus": len(os.sched_getaffinity(0)),
        "model": model.strip(),
        "virtual": virtual,
        "memory_gib": round(memory_kib / (1 << 20)),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        "versions": versions,
    }


def options(description: str, count: int) -> argparse.ArgumentParser:
    """The options that all benches have; `-n` is how many times."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("-n", type=int, default=count, help=f"turns (default: {count})")
    parser.add_argument("--urunc", default=shutil.which("urunc") or "urunc")
    parser.add_argument("--parts", type=pathlib.Path, default=HERE / "build/parts")
    parser.add_argument("--results", type=pathlib.Path, help="put the numbers into this file")
    return parser


def keep(path: pathlib.Path | None, name: str, values: Any) -> None:
    """Put a bench's numbers into the file of results, where one is asked for."""
    if path is None:
        return
    found = json.loads(path.read_text()) if path.exists() else {}
    found |= {name: values, "machine": machine()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
