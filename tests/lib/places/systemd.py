# SPDX-License-Identifier: Apache-2.0
"""A real systemd to run commands beside: PID 1 of namespaces of its own, with D-Bus and its own
part of the control groups.

What is in it is the host's root below an overlay, whose changes are lost; a /dev with nodes for the
host's devices, a /run and a /tmp of its own; the project, read-only; directories that the caller
shares, writable. Its units are the few that are written here and none of the host's. It has a group
of its own in each hierarchy that the host has mounted (v1, hybrid or v2), the root of its cgroup
namespace: there it makes slices and scopes as on a machine of its own.

It must touch nothing of the host but these groups, a directory for temporary files and a pseudo
terminal, and takes them back. After a test that was killed its processes are gone too; what stays
is empty groups and that directory. Needs root, and the packages systemd, dbus and busybox-static.

`PYTHONPATH=tests python3 -m lib.places.systemd [DIRECTORY...] -- COMMAND [WORD...]` runs one
command in a place of its own, so also inside another.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid

from lib.busybox import BUSYBOX
from lib.patience import patient
from lib.places import Place, child, kill

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent.parent
CGROUPS = "/sys/fs/cgroup"
SYSTEMD = "/usr/lib/systemd/systemd"
PROGRAMS = (SYSTEMD, "/usr/bin/dbus-daemon", str(BUSYBOX))
WITHOUT_V1 = 258
"""From this systemd on there is no cgroup v1, nor hybrid: it refuses to boot there."""
MARK = "/run/urunc-tests-ready"
ASK = ("busctl", "get-property", "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
       "org.freedesktop.systemd1.Manager", "Version")  # fmt: skip

# All that there is to start. The targets are those that units with default dependencies name; the
# commands of a test are in the groups of tests.service, as a container engine would be in its own.
FILES = {
    "run/systemd/system/sysinit.target": """
        [Unit]
        DefaultDependencies=no
        Conflicts=shutdown.target
    """,
    "run/systemd/system/basic.target": """
        [Unit]
        Requires=sysinit.target
        After=sysinit.target
    """,
    "run/systemd/system/shutdown.target": """
        [Unit]
        DefaultDependencies=no
    """,
    "run/systemd/system/dbus.socket": """
        [Socket]
        ListenStream=/run/dbus/system_bus_socket
    """,
    "run/systemd/system/dbus.service": """
        [Unit]
        Requires=dbus.socket
        [Service]
        ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile
    """,
    "run/systemd/system/tests.service": f"""
        [Unit]
        Requires=dbus.service
        After=dbus.service
        [Service]
        Delegate=yes
        ExecStart=/bin/sh -c ': >{MARK}; exec sleep infinity'
    """,
    "run/systemd/system/tests.target": """
        [Unit]
        Requires=basic.target tests.service
        After=basic.target tests.service
    """,
    "etc/systemd/system.conf": """
        [Manager]
        DefaultStandardOutput=tty
        DefaultStandardError=tty
        DefaultTimeoutStopSec=5
        StatusUnitFormat=name
    """,
    "etc/fstab": "",
}
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "container": "urunc-tests",
    # only what is written here, by hand or by systemctl, and what is made through D-Bus
    "SYSTEMD_UNIT_PATH": ":".join(
        f"/run/systemd/{name}" for name in ("system.control", "transient", "system")
    ),
    "SYSTEMD_GENERATOR_PATH": "/run/systemd/no-generators",
}

# The first process of the PID namespace becomes systemd. It joins its groups before it makes their
# namespace, which is rooted there. $1: the directory; $2: the terminal; then groups, `--`,
# directories.
BOOT = r"""
set -eu
here=$1 console=$2
shift 2
while [ "$1" != -- ]; do
    echo 0 >"$1/cgroup.procs"
    shift
done
shift
exec unshare --mount --propagation private --uts --ipc --net --cgroup \
    sh "$here/inside" "$here" "$console" "$@"
"""
INSIDE = r"""
set -eu
here=$1 console=$2 project=$3
shift 3
mount -t tmpfs -o mode=755 tmpfs "$here/space"
cd "$here/space"
mkdir upper work root
mount -t overlay -o "lowerdir=/,upperdir=upper,workdir=work" overlay root
root=$here/space/root
cd "$root"

# nodes for the same devices, not the same directory: systemd makes links in its /dev
mount -t tmpfs -o mode=755 tmpfs dev
cp -ax /dev/. dev
rm -rf dev/console dev/log dev/initctl dev/core dev/ptmx dev/pts dev/shm dev/mqueue
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t mqueue mqueue dev/mqueue
: >dev/console
mount --bind "$console" dev/console

# what is the host's in them, and not the namespaces', is not to be written
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys
mount -o remount,bind,ro sys

if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
    while read -r name type options; do
        mkdir "sys/fs/cgroup/$name"
        mount -t "$type" -o "$options" "$type" "sys/fs/cgroup/$name"
    done <"$here/hierarchies"
    find /sys/fs/cgroup -maxdepth 1 -type l -exec cp -P {} sys/fs/cgroup \;
    mount -o remount,ro,mode=755 sys/fs/cgroup
fi

mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir run/lock run/old
cp -a "$here/files/." .
mkdir -p "./$project"
mount --rbind "$project" "./$project"
mount -o remount,bind,ro "./$project"
for directory; do
    mkdir -p "./$directory"
    mount --rbind "$directory" "./$directory"
done
busybox pivot_root . run/old
cd /
umount -l run/old
rmdir run/old
exec /usr/lib/systemd/systemd --unit=tests.target --log-target=console --show-status=yes \
    </dev/null >/dev/console 2>&1
"""

# The command, which dies with the one that waits for it outside, joins the groups of tests.service
# before it enters their namespace: v2's nsdelegate lets nothing come in from outside of that. Only
# what is in the PID namespace joins: systemd cannot say who the others are.
ENTER = ("-m", "-u", "-i", "-n", "-p", "setpriv", "--pdeathsig", "KILL")
JOIN = r"""
set -eu
while [ "$1" != -- ]; do
    echo 0 >"$1/cgroup.procs"
    shift
done
shift
cd "$0" 2>/dev/null || cd /
exec nsenter -t 1 -C "$@"
"""


class Hierarchy:
    """A hierarchy of control groups that the host has mounted, and this place's group in it."""

    def __init__(self, controllers: str, own: str, name: str) -> None:
        v1 = [*(["none"] if "=" in controllers else []), controllers] if controllers else []
        first = controllers.split(",")[0].removeprefix("name=")
        if v1:
            self.mounted = os.path.realpath(f"{CGROUPS}/{first}")
        elif os.path.exists(f"{CGROUPS}/cgroup.controllers"):
            self.mounted = CGROUPS
        else:
            self.mounted = f"{CGROUPS}/unified"
        self.type = "cgroup" if v1 else "cgroup2"
        self.options = ",".join(["rw", *v1])
        # v2 lets no group hand controllers down that has processes: the caller's own is no parent
        self.parent = f"{self.mounted}/{own}" if v1 else self.mounted
        self.group = os.path.normpath(f"{self.parent}/{name}")

    def make(self) -> None:
        """Make the group; on v1 cpuset nothing may join one without cpus and memory nodes."""
        os.mkdir(self.group)
        if self.type == "cgroup" and os.path.exists(f"{self.group}/cpuset.cpus"):
            for name in ("cpuset.cpus", "cpuset.mems"):
                inherited = pathlib.Path(self.parent, name).read_text()
                pathlib.Path(self.group, name).write_text(inherited)

    def remove(self) -> bool:
        """Remove the group and all below it; False while there is a process in one."""
        for directory, _, _ in os.walk(self.group, topdown=False):
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True

    def for_tests(self) -> str:
        """Inside, the group of tests.service; systemd makes none where it manages nothing."""
        service = "system.slice/tests.service"
        made = os.path.isdir(f"{self.group}/{service}")
        return f"{self.mounted}/{service}" if made else self.mounted


def hierarchies(name: str) -> list[Hierarchy]:
    """Those that the host has mounted in their usual places."""
    found = []
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        hierarchy = Hierarchy(controllers, own, name)
        if os.path.exists(f"{hierarchy.mounted}/cgroup.procs"):
            found.append(hierarchy)
    return found


def version() -> int:
    """systemd's, 0 where there is none."""
    if not os.path.exists(SYSTEMD):
        return 0
    said = subprocess.run([SYSTEMD, "--version"], capture_output=True, text=True, check=False)
    return int(said.stdout.split()[1])


def available() -> bool:
    """Whether this machine has the programs, this process the rights, and systemd its control
    groups."""
    if os.geteuid() or not all(map(os.path.exists, PROGRAMS)):
        return False
    return version() < WITHOUT_V1 or os.path.exists(f"{CGROUPS}/cgroup.controllers")


class Terminal:
    """A pseudo terminal that is systemd's console; what is written there is kept."""

    def __init__(self) -> None:
        self._master, self.slave = os.openpty()
        self.path = os.ttyname(self.slave)
        self._seen = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while data := os.read(self._master, 65536):
                self._seen += data

    def text(self) -> str:
        """What has been written so far."""
        return bytes(self._seen).decode(errors="replace").replace("\r\n", "\n")

    def close(self) -> None:
        """Close it, once nothing has it open any more."""
        os.close(self.slave)
        self._reader.join(patient(5))
        os.close(self._master)


class Systemd(Place):
    """The place: `with Systemd(tmp_path) as place: place.run("systemctl", "status")`.

    `shared` are directories that are the host's own inside, writable, below the same names.
    """

    def __init__(self, *shared: pathlib.Path, timeout_s: float = 30) -> None:
        self.shared = shared
        self.timeout_s = timeout_s
        self._enter: list[str] = []
        self._groups: list[str] = []

    @property
    def prefix(self) -> list[str]:
        return [*self._enter, os.getcwd(), *self._groups, "--"]

    def log(self) -> str:
        """systemd's console: its messages, and its units' output."""
        return self._terminal.text()

    def boot(self, undo: contextlib.ExitStack) -> None:
        """Start systemd and wait for tests.service; `undo` is what takes it back."""
        name = f"urunc-test-{uuid.uuid4().hex[:8]}"
        here = tempfile.mkdtemp(prefix="urunc-test-")
        undo.callback(shutil.rmtree, here)
        self._terminal = Terminal()
        undo.callback(self._terminal.close)
        self._hierarchies = hierarchies(name)
        undo.callback(self._remove_groups)
        for hierarchy in self._hierarchies:
            hierarchy.make()
        self._write_files(pathlib.Path(here))
        groups = [hierarchy.group for hierarchy in self._hierarchies]
        shared = [str(directory) for directory in self.shared]
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child",
             "sh", f"{here}/boot", here, self._terminal.path, *groups, "--", str(PROJECT), *shared],
            stdin=subprocess.DEVNULL,
            stdout=self._terminal.slave,
            stderr=self._terminal.slave,
            env=ENVIRONMENT,
            start_new_session=True,
        )  # fmt: skip
        undo.callback(kill, process)
        end = time.monotonic() + patient(self.timeout_s)
        pid = 0
        while not self._is_up(pid):
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"systemd did not come up:\n{self.log()}")
            time.sleep(0.02)
            pid = pid or child(process)

    def _is_up(self, pid: int) -> bool:
        """Whether tests.service runs and systemd answers on the bus."""
        if not pid or not os.path.exists(f"/proc/{pid}/root{MARK}"):
            return False
        self._enter = ["nsenter", "-t", str(pid), *ENTER, "sh", "-c", JOIN]
        self._groups = [hierarchy.for_tests() for hierarchy in self._hierarchies]
        return self.run(*ASK, check=False).returncode == 0

    def _write_files(self, here: pathlib.Path) -> None:
        """What the first process reads: the scripts, and files to be copied into the root."""
        for name in ("space", "files"):
            (here / name).mkdir()
        (here / "boot").write_text(BOOT)
        (here / "inside").write_text(INSIDE)
        (here / "hierarchies").write_text(
            "".join(
                f"{os.path.basename(hierarchy.mounted)} {hierarchy.type} {hierarchy.options}\n"
                for hierarchy in self._hierarchies
            )
        )
        files = FILES | {"etc/machine-id": f"{uuid.uuid4().hex}\n"}
        for name, content in files.items():
            path = here / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(content))

    def _remove_groups(self) -> None:
        """Remove the groups; the kernel lets go of the dead in its own time."""
        end = time.monotonic() + patient(5)
        while not all(hierarchy.remove() for hierarchy in self._hierarchies):
            if time.monotonic() > end:
                names = " ".join(hierarchy.group for hierarchy in self._hierarchies)
                raise AssertionError(f"there are still processes in some of {names}")
            time.sleep(0.01)


def main(words: list[str]) -> int:
    """Run one command in a place of its own, sharing the directories that are named before `--`."""
    border = words.index("--")
    with Systemd(*map(pathlib.Path, words[:border]), timeout_s=120) as place:
        return subprocess.run([*place.prefix, *words[border + 1 :]]).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
