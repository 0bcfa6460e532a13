# SPDX-License-Identifier: Apache-2.0
"""Root of a user namespace that an ordinary user made, as rootless engines run their runtime: the
user's own id is 0 there, ids after it are subordinate ones (newuidmap(1)); the mount namespace is
its own, the network namespace the host's, from which no way leads back to it. Beside it is a
network namespace for containers, which the user namespace owns.

The user is none of the host's: what newuidmap reads, and a /dev/net/tun that is open to all as most
distributions have it, are in a mount namespace that ends with the place. It must touch nothing else
of the host. Needs root, and the package uidmap.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

from lib.patience import patient
from lib.places import Place

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent.parent
USER = 12_345
SUBORDINATE = (700_000, 65_536)

# $1: the directory; $2: the user; $3, $4: its subordinate ids; $5: mode of /dev/net/tun
OUTSIDE = r"""
set -eu
mount -t tmpfs -o mode=755 tmpfs "$1/space"
cd "$1/space"
echo "$2:$3:$4" >subuid
cp subuid subgid
{ cat /etc/passwd; echo "guest:x:$2:$2::/:/bin/sh"; } >passwd
mknod -m "$5" tun c 10 200
for name in subuid subgid passwd; do
    mount --bind "$name" "/etc/$name"
done
mount --bind tun /dev/net/tun
mkdir -m 700 run
chown "$2:$2" run
exec setpriv --reuid="$2" --regid="$2" --clear-groups \
    unshare --user --map-root-user --map-auto --mount sh -c "$INSIDE" sh "$1/space/run"
"""
INSIDE = r"""
set -eu
: >"$1/net"
unshare --net sh -c 'mount --bind /proc/self/ns/net "$1/net"' sh "$1"
: >"$1/ready"
exec cat
"""


def available() -> bool:
    """Whether this machine has the programs, this process the rights, and any user a way to
    urunc: the project is in no directory that is closed, as root's own is."""
    open_to_all = all(path.stat().st_mode & 0o001 for path in (PROJECT, *PROJECT.parents))
    return (
        open_to_all
        and os.geteuid() == 0
        and shutil.which("newuidmap") is not None
        and all(map(os.path.exists, ("/etc/subuid", "/etc/subgid", "/dev/net/tun")))
    )


class Rootless(Place):
    """The place: `with Rootless() as place: place.run("id")`."""

    def __init__(self, tun_mode: str = "666", timeout_s: float = 10) -> None:
        self.tun_mode = tun_mode
        self.timeout_s = timeout_s

    def boot(self, undo: contextlib.ExitStack) -> None:
        # not below a directory that is closed to the user, as pytest's are
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="urunc-rootless-", dir="/var/tmp"))
        undo.callback(shutil.rmtree, self.directory)
        self.directory.chmod(0o755)
        (self.directory / "space").mkdir()
        log = self.directory / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", OUTSIDE, "sh",
                 str(self.directory), str(USER), *map(str, SUBORDINATE), self.tun_mode],
                stdin=subprocess.PIPE, stdout=out, stderr=out, env=os.environ | {"INSIDE": INSIDE},
            )  # fmt: skip
        undo.callback(process.communicate, timeout=patient(10))  # the end of its input is its own
        self.pid = process.pid
        end = time.monotonic() + patient(self.timeout_s)
        while not os.path.exists(f"/proc/{self.pid}/root{self.runtime_directory}/ready"):
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.01)

    @property
    def runtime_directory(self) -> str:
        """The user's XDG_RUNTIME_DIR."""
        return f"{self.directory}/space/run"

    @property
    def network(self) -> str:
        """The network namespace, by the path that leads to it inside."""
        return f"{self.runtime_directory}/net"

    @property
    def network_outside(self) -> str:
        """The same, by the path that leads to it from the host."""
        return f"/proc/{self.pid}/root{self.network}"

    @property
    def prefix(self) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-U", "-m", "--", "env", "-u", "USER",
                f"XDG_RUNTIME_DIR={self.runtime_directory}"]  # fmt: skip

    def give(self, directory: pathlib.Path) -> None:
        """Make a directory and all that is in it the user's."""
        for path in (directory, *directory.rglob("*")):
            os.chown(path, USER, USER, follow_symlinks=False)
