# SPDX-License-Identifier: Apache-2.0
"""A machine to run commands in: Debian's kernel on QEMU, with a v2 tree of control groups that has
every controller.

Its root is the host's below an overlay whose changes are lost, by virtiofs; /run and /tmp are its
own; directories that the caller shares are the host's, writable. It has no network but lo. Commands
run in system.slice/tests.service, as a container engine would in a group of its own; the groups
above hand all controllers down. The processor is emulated, so all of it is ten times slower than
outside.

It must touch nothing of the host but what is shared and a directory for temporary files. What it
starts ends with the test, even if that is killed; then the directory stays. Needs root, QEMU,
virtiofsd, busybox-static, and the kernel of the tests' Linux guest with its modules. What is read
of the host's root is kept: where files may change, share the directory.

`PYTHONPATH=tests python3 -m lib.places.machine DIRECTORY -- COMMAND [WORD...]` runs one command in
a place of its own, in the caller's directory, and shares the directory.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from lib import virtiofs
from lib.busybox import BUSYBOX
from lib.patience import patient
from lib.places import Place

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent.parent
KERNEL = PROJECT / "build/parts/linux"
IMAGETOOL = PROJECT / "guests-src/linux/imagetool.py"
JOB = pathlib.Path(__file__).resolve().parent / "job.py"
QEMU = "qemu-system-x86_64"
# the selftests and the mitigations take a quarter of the boot
WORDS = "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests cgroup_no_v1=all"

# A view of the host's root without what is mounted in it, read-only. $1: the view's directory; $2:
# the project, which may be such a mount; then the daemon.
ROOT = r"""
set -eu
view=$1 project=$2
shift 2
mount --bind / "$view"
mount -o remount,bind,ro "$view"
if [ "$(stat -c %d "$project")" != "$(stat -c %d /)" ]; then
    mount --bind "$project" "$view/$project"
    mount -o remount,bind,ro "$view/$project"
fi
exec "$@"
"""
# A directory with all that the host and the machine both write. $1: the directory; then the shared
# ones, `--`, the daemon. They are named 0, 1, …; `shares` has a line for each.
SHARED = r"""
set -eu
directory=$1 number=0
shift
while [ "$1" != -- ]; do
    mkdir "$directory/$number"
    mount --bind "$1" "$directory/$number"
    echo "$number $1" >>"$directory/shares"
    number=$((number + 1))
    shift
done
shift
exec "$@"
"""

# The machine's first process, in the initrd; its words are busybox's.
INIT = r"""#!/bin/busybox sh
set -eu
/bin/busybox --install /bin
mount -t proc proc /proc
while read -r module; do insmod "/modules/$module.ko" || :; done </modules/order
mount -t virtiofs root /host
mount -t tmpfs tmpfs /space
mkdir /space/upper /space/work
mount -t overlay -o lowerdir=/host,upperdir=/space/upper,workdir=/space/work overlay /root
cd /root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 -o nsdelegate cgroup2 sys/fs/cgroup
mount -t devtmpfs dev dev
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o ptmxmode=666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t mqueue mqueue dev/mqueue
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir run/lock run/machine
mount -t virtiofs shared run/machine
while read -r number directory; do
    mkdir -p "./$directory"
    mount --bind "run/machine/$number" "./$directory"
done <run/machine/shares
read -r project <run/machine/project
if [ ! -e "./$project" ]; then  # below a directory that the machine has its own of
    mkdir -p "./$project"
    mount --bind "/host$project" "./$project"
fi
ip link set lo up
hostname machine

groups=sys/fs/cgroup
mkdir -p $groups/system.slice/tests.service
for controller in $(cat $groups/cgroup.controllers); do
    echo "+$controller" >$groups/cgroup.subtree_control
    echo "+$controller" >$groups/system.slice/cgroup.subtree_control
done
exec switch_root /root /bin/sh /run/machine/agent
"""
# What init becomes, in the machine's root: it waits for whatever has no other parent. Its child
# reads names of jobs from the serial line, repeats each, and runs them beside each other. A program
# that is started costs 50 ms here, so nothing is that the shell does itself.
AGENT = r"""
job() {
    (. "$1/run") </dev/null >"$1/out" 2>"$1/err" 3>&-
    echo $? >"$1/status"
}
{
    echo 0 >/sys/fs/cgroup/system.slice/tests.service/cgroup.procs
    exec 3<>/dev/ttyS1
    stty raw -echo <&3
    : >/run/machine/ready
    while read -r name <&3; do
        (job "/run/machine/jobs/$name" &)
        echo "$name" >&3
    done
} &
wait
"""


def available() -> bool:
    """Whether this machine has the programs, the kernel and the rights."""
    files = [str(BUSYBOX), str(KERNEL / "vmlinux"), str(KERNEL / "modules/order")]
    programs = virtiofs.program() and shutil.which(QEMU)
    return os.geteuid() == 0 and all(map(os.path.exists, files)) and bool(programs)


class Machine(Place):
    """The place: `with Machine(tmp_path) as place: place.run("uname", "-r")`.

    `shared` are directories that are the host's own inside, writable, below the same names.
    Standard input is empty inside, standard output and error are files. Commands may run at the
    same time. A command whose caller has been killed goes on until the machine ends.
    """

    def __init__(
        self,
        *shared: pathlib.Path,
        kernel: pathlib.Path = KERNEL,
        memory_mib: int = 1024,
        processors: int = 2,
        modules: str = "modules",
        timeout_s: float = 90,
    ) -> None:
        self.modules = modules
        self.shared = shared
        self.kernel = kernel
        self.memory_mib = memory_mib
        self.processors = processors
        self.timeout_s = timeout_s
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def prefix(self) -> list[str]:
        return [sys.executable, "-I", str(JOB), str(self._here), str(self._pid), "--"]

    def log(self) -> str:
        """The kernel's console, and what QEMU and the file system's daemons say."""
        names = ("console", "qemu.log", "root.log", "shared.log")
        logs = [self._here / name for name in names]
        return "\n".join(log.read_text(errors="replace") for log in logs if log.exists())

    def boot(self, undo: contextlib.ExitStack) -> None:
        """Start the daemons and QEMU, and wait for the agent; `undo` is what takes it back."""
        self._here = here = pathlib.Path(tempfile.mkdtemp(prefix="urunc-test-"))
        undo.callback(shutil.rmtree, here)
        self._write_files(here)
        shared = [str(directory) for directory in self.shared]
        # once read, the root's files do not change; those that both sides write are looked at anew
        daemons = {
            "root": [ROOT, "sh", f"{here}/root", str(PROJECT)],
            "shared": [SHARED, "sh", f"{here}/shared", *shared, "--"],
        }
        for name, script in daemons.items():
            socket = here / f"{name}.sock"
            daemon = virtiofs.command(socket, here / name, changes=name == "shared")
            private = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
            self._start(undo, [*private, *script, *daemon], here / f"{name}.log")
        self._wait(lambda: all((here / f"{name}.sock").exists() for name in daemons))
        self._pid = self._start(undo, self._qemu(here), here / "qemu.log")
        self._wait((here / "shared/ready").exists)

    def _qemu(self, here: pathlib.Path) -> list[str]:
        """QEMU's command line: no device but what is named, the uncompressed kernel (2 s less)."""
        machine = "q35,memory-backend=memory,graphics=off,sata=off,usb=off,smbus=off,i8042=off"
        memory = f"memory-backend-memfd,id=memory,size={self.memory_mib}M,share=on"
        words = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        words += ["-machine", machine, "-accel", "tcg,thread=multi", "-cpu", "max"]
        words += ["-smp", str(self.processors), "-m", str(self.memory_mib), "-object", memory]
        words += ["-kernel", str(self.kernel / "vmlinux"), "-append", WORDS]
        words += ["-initrd", str(here / "initrd.cpio"), "-serial", f"file:{here}/console"]
        words += ["-chardev", f"socket,id=jobs,path={here}/jobs.sock,server=on,wait=off"]
        words += ["-serial", "chardev:jobs"]
        for tag in ("root", "shared"):
            words += ["-chardev", f"socket,id={tag},path={here}/{tag}.sock"]
            words += ["-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}"]
        return words

    def _start(self, undo: contextlib.ExitStack, command: list[str], log: pathlib.Path) -> int:
        """Start a process that ends with this one, and is ended by `undo`."""
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        undo.callback(process.wait, 10)
        undo.callback(process.kill)
        self._processes.append(process)
        return process.pid

    def _wait(self, happened: Callable[[], bool]) -> None:
        """Wait for something that the processes do."""
        end = time.monotonic() + patient(self.timeout_s)
        while not happened():
            ended = any(process.poll() is not None for process in self._processes)
            if ended or time.monotonic() > end:
                raise AssertionError(f"the machine did not come up:\n{self.log()}")
            time.sleep(0.02)

    def _write_files(self, here: pathlib.Path) -> None:
        """The directories that the daemons serve, and the initrd."""
        initrd = here / "initrd"
        for directory in ("bin", "host", "proc", "root", "space"):
            (initrd / directory).mkdir(parents=True)
        shutil.copy(BUSYBOX, initrd / "bin/busybox")
        shutil.copytree(self.kernel / self.modules, initrd / "modules")
        (initrd / "init").write_text(INIT)
        (initrd / "init").chmod(0o755)
        command = [sys.executable, str(IMAGETOOL), "cpio", str(initrd), f"{initrd}.cpio"]
        subprocess.run(command, check=True)
        (here / "root").mkdir()
        (here / "shared/jobs").mkdir(parents=True)
        (here / "shared/agent").write_text(AGENT)
        (here / "shared/project").write_text(f"{PROJECT}\n")
        (here / "shared/shares").write_text("")


def main(words: list[str]) -> int:
    """Run one command in a place of its own."""
    border = words.index("--")
    directories = [pathlib.Path(word) for word in words[:border]]
    with Machine(*directories, memory_mib=4096, modules="more-modules") as place:
        command = [*place.prefix, *words[border + 1 :]]
        # slower by so much than a limit was chosen on: patience.py's guess has its own limit
        return subprocess.run(command, env=os.environ | {"URUNC_TEST_PATIENCE": "20"}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
