# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes node as its installer sees it: a root of its own with /usr from the machine, an
/etc, /var and /usr/local that are empty but for what a test writes, and engines that run in it.

The root is a directory with mounts that only the place's mount namespace has; files of /etc, /run
and /var are plain ones that a test reads and writes below `root`, those of /usr/local below
`local`. Processes are in a PID namespace of their own and end with its first one. Needs root.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

from lib.patience import patient, until
from lib.places import Place, child, kill

KEPT = ("/etc", "/usr/local", "/var")
"""Directories of what a node keeps."""
SHORT_BYTES = 4096
INSIDE = r"""
set -eu
cd "$1"
mount -t proc proc /proc
mount --rbind /usr root/usr
mount -t tmpfs -o mode=755 tmpfs root/usr/sbin
cp -a /usr/sbin/runc root/usr/sbin/ 2>/dev/null || :
mount --bind local root/usr/local
mount --rbind /dev root/dev
mount --rbind /sys root/sys
mount -t proc proc root/proc
ip link set lo up
: >ready
while :; do sleep 1; done
"""
# The engine's supervisor: $1: the root; starts containerd again whenever it ends. A file `refuse`
# makes it wait as long as the configuration speaks of urunc: an engine that is not well with it.
CONTAINERD = r"""
cd "$1"
while :; do
    if [ -e refuse ] && grep -rqs urunc etc/containerd var/lib/rancher; then sleep 0.1; continue; fi
    env -i PATH=/usr/local/bin:/usr/bin:/usr/sbin chroot "$1" containerd >>containerd.log 2>&1 || :
    sleep 0.1
done
"""
# k3s in a few lines: writes containerd's configuration by the template, then listens at the socket.
K3S = r"""
import os, pathlib, socket, sys, time
agent = pathlib.Path(sys.argv[1])
base = (agent / "base.toml").read_text()
version = 3 if "version = 3" in base else 2
new, old = agent / "config-v3.toml.tmpl", agent / "config.toml.tmpl"
template = new if version == 3 and new.exists() else old
text = template.read_text() if template.exists() else '{{ template "base" . }}'
(agent / "config.toml").write_text(text.replace('{{ template "base" . }}', base))
path = sys.argv[2]
with __import__("contextlib").suppress(OSError):
    os.unlink(path)
if (agent / "refuse").exists() and "urunc" in (agent / "config.toml").read_text():
    sys.exit(1)
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen()
if os.fork():
    os._exit(0)
os.setsid()
for fd in (0, 1, 2):
    os.dup2(os.open("/dev/null", os.O_RDWR), fd)
while True:
    server.accept()[0].close()
"""


class Node(Place):
    """The place: `with Node() as node: node.run(…)`; `write` and `read` take the node's paths."""

    def boot(self, undo: contextlib.ExitStack) -> None:
        self.here = pathlib.Path(tempfile.mkdtemp(prefix="urunc-test-"))
        undo.callback(shutil.rmtree, self.here, ignore_errors=True)
        self.root, self.local = self.here / "root", self.here / "local"
        for name in ("usr", "etc", "run", "var/lib", "tmp", "dev", "sys", "proc"):
            (self.root / name).mkdir(parents=True)
        (self.local / "bin").mkdir(parents=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            if os.path.islink(f"/{name}"):
                (self.root / name).symlink_to(os.readlink(f"/{name}"))
        with (self.here / "inside.log").open("wb") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private",
                 "--net", "--pid", "--fork", "--kill-child", "sh", "-c", INSIDE, "sh",
                 str(self.here)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        undo.callback(kill, process)
        end = time.monotonic() + patient(20)
        while not (self.here / "ready").exists():
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError((self.here / "inside.log").read_text())
            time.sleep(0.02)
        self._pid = child(process)

    @property
    def prefix(self) -> list[str]:
        return ["nsenter", "-t", str(self._pid), "-m", "-n", "-p"]

    def path(self, path: str) -> pathlib.Path:
        """Where a path of the node's is."""
        inner = path.removeprefix("/usr/local/")
        return self.local / inner if inner != path else self.root / path.lstrip("/")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the node's."""
        here = self.path(path)
        here.parent.mkdir(parents=True, exist_ok=True)
        here.write_text(text)
        here.chmod(mode)

    def read(self, path: str) -> str:
        """A file of the node's."""
        return self.path(path).read_text()

    def files(self, *directories: str) -> dict[str, str]:
        """All files below some of the node's directories: their contents, or digests of those that
        nobody wants to read."""
        found = {}
        for directory in directories or KEPT:
            for file in sorted(self.path(directory + "/").rglob("*")):
                if file.is_file() and not file.is_symlink():
                    content = file.read_bytes()
                    digest = hashlib.sha256(content).hexdigest()
                    short = len(content) < SHORT_BYTES and content.isascii()
                    found[str(file.relative_to(self.here))] = content.decode() if short else digest
        return found

    def copy(self) -> pathlib.Path:
        """A copy of what the node keeps, for `put_back`."""
        copy = pathlib.Path(tempfile.mkdtemp(dir=self.here))
        for place, directory in enumerate(KEPT):
            shutil.copytree(self.path(directory + "/"), copy / str(place), symlinks=True)
        return copy

    def put_back(self, copy: pathlib.Path) -> None:
        """Have the node keep what it did when it was copied."""
        for place, directory in enumerate(KEPT):
            here = self.path(directory + "/")  # /usr/local is a mount: it stays
            for entry in here.iterdir():
                shutil.rmtree(
                    entry
                ) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            shutil.copytree(copy / str(place), here, symlinks=True, dirs_exist_ok=True)

    def spawn(self, script: str, *words: str) -> None:
        """Run a shell script on the node's machine until the place is left."""
        subprocess.Popen(
            [*self.prefix, "sh", "-c", script, "sh", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait_for(self, path: str, timeout_s: float = 30) -> None:
        """Wait until the node has a file."""
        until(self.path(path).exists, f"no {path}", timeout_s)
