# SPDX-License-Identifier: Apache-2.0
"""What the places of container engines share: a machine's root, processes and network of their own,
in which an engine is at home and its bridges, ports and rules touch nobody.

The root is the host's with a /run, a /dev/shm and an overlaid /etc of its own, so an engine reads
its configuration where it always does; what it keeps is in a tmpfs and dies with the place. The
network has lo and what the engine makes: it is the engine's host. All processes are in a PID
namespace, so they end with its first one. Containers get their control groups below one of the
place's own, by the engine's --cgroup-parent: no systemd is needed or asked.

It must touch nothing of the host but these groups and a directory for temporary files, and takes
them back. After a test that was killed its processes are gone too; what stays is empty groups and
that directory. Needs root and overlayfs; for what is in it, the engine's packages.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from collections.abc import Callable

from lib.busybox import BUSYBOX
from lib.patience import patient, pause, until
from lib.places import Place, child, kill

CGROUPS = pathlib.Path("/sys/fs/cgroup")
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
# what no engine can use here is no surprise that depends on the machine: an address of RFC 5737
RESOLVER = "nameserver 192.0.2.53\n"

# The first process of the PID namespace, which stays to wait for those that have no other parent.
# $1: the directory.
INSIDE = r"""
set -eu
here=$1
mount -t proc proc /proc
# others' network namespaces, which would stay here, hidden, as long as they do
for mounted in $(cut -d' ' -f5 /proc/self/mountinfo | grep '^/run/'); do
    umount -l "$mounted" 2>/dev/null || :
done
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs "$here/space"
mkdir /run/lock "$here/space/etc" "$here/space/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$here/space/etc,workdir=$here/space/work" overlay /etc
cp -a --remove-destination "$here/etc/." /etc
ip link set lo up
. "$here/daemons"
sleep infinity &
: >/run/urunc-tests-ready
wait
"""

# What a client on the place's host does: $1: address; $2: port; $3: what is to come back.
UDP = """
import contextlib, socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(0.5)
    for _ in range(20):
        sock.sendto(sys.argv[3].encode(), (sys.argv[1], int(sys.argv[2])))
        with contextlib.suppress(TimeoutError, ConnectionRefusedError):
            print(sock.recv(2048).decode())
            break
"""


class Engine(Place):
    """A place with an engine, called as its command: `engine("ps", "--all")`.

    `runtime` is urunc's program, `config` what its configuration file says, and `configs` what
    others in /etc/urunc say, by their names.
    """

    up_s = 30
    """In which it has to be up."""
    gateway_form = ""
    """Where `network inspect` has the host's address."""
    removal: tuple[str, ...] = ("rm", "--force")
    """The words that remove a container at once."""
    following: tuple[str, ...] = ("--follow",)
    """The words with which `logs` goes on, and ends when it is killed."""
    own_init: tuple[str, ...] = ()
    """Words that name a program for `--init`, where the engine's package has none."""
    states: tuple[str, ...] = ()
    """Patterns of the directories in which runtimes keep containers; {space} is the place's
    tmpfs."""

    def __init__(self, runtime: str, config: str = "", **configs: str) -> None:
        self.runtime = runtime
        self.configs = {"config": config, **configs}
        self.group = f"urunc-test-{uuid.uuid4().hex[:8]}"

    @property
    def prefix(self) -> list[str]:
        script = 'cd "$0" 2>/dev/null || cd /; exec "$@"'
        enter = ["nsenter", "-t", str(self._pid), "-m", "-n", "-p"]
        return [*enter, "setpriv", "--pdeathsig", "KILL", "sh", "-c", script, os.getcwd()]

    def files(self) -> dict[str, str]:
        """Files of the place's /etc."""
        raise NotImplementedError

    def command(self, *words: str) -> list[str]:
        """The engine's command line for these words."""
        raise NotImplementedError

    def is_up(self) -> bool:
        """Whether the engine answers."""
        raise NotImplementedError

    def __call__(
        self, *words: str, check: bool = True, timeout_s: float = 60, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the engine's to its end."""
        command = self.command(*words)
        return self.run(*command, check=check, timeout_s=timeout_s, stdin=stdin, **ENVIRONMENT)

    def on_terminal(
        self, *words: str, keys: str = "", after: str = "", timeout_s: float = 60
    ) -> tuple[int, str]:
        """Run a command of the engine's on a terminal, and press keys once it shows the text
        `after`: its exit code, and all that is shown."""
        ours, its = os.openpty()
        process = subprocess.Popen(
            [*self.prefix, *self.command(*words)],
            stdin=its, stdout=its, stderr=its, env=os.environ | ENVIRONMENT,
        )  # fmt: skip
        os.close(its)
        shown = ""
        end = time.monotonic() + patient(timeout_s)
        try:
            while select.select([ours], [], [], max(0, end - time.monotonic()))[0]:
                try:
                    shown += os.read(ours, 4096).decode(errors="replace")
                except OSError:  # EIO: nobody has the other end
                    break
                if keys and after in shown:
                    os.write(ours, keys.encode())
                    keys = ""
            return process.wait(max(0.1, end - time.monotonic())), shown
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{' '.join(words)} does not end:\n{shown}") from None
        finally:
            process.kill()
            process.wait()
            os.close(ours)

    def remove(self, container: str) -> None:
        """Remove a container, whatever it does, if there is one."""
        self(*self.removal, container, check=False)

    @property
    def space(self) -> str:
        """The place's tmpfs."""
        return f"{self._here}/space"

    @property
    def daemons(self) -> str:
        """Shell commands that start what has to run, in the background."""
        return ""

    def boot(self, undo: contextlib.ExitStack) -> None:
        """Start the first process and the daemons; `undo` is what takes it back."""
        self._here = here = pathlib.Path(tempfile.mkdtemp(prefix="urunc-test-"))
        undo.callback(shutil.rmtree, here)
        undo.callback(self._remove_groups)
        (here / "space").mkdir()
        (here / "daemons").write_text(self.daemons)
        files = {f"urunc/{name}.toml": text for name, text in self.configs.items()}
        files |= {"resolv.conf": RESOLVER} | self.files()
        for name, content in files.items():
            path = here / "etc" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(content))
        with (here / "inside.log").open("wb") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private",
                 "--net", "--pid", "--fork", "--kill-child", "sh", "-c", INSIDE, "sh", str(here)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=ENVIRONMENT,
                start_new_session=True,
            )  # fmt: skip
        undo.callback(kill, process)
        end = time.monotonic() + patient(self.up_s)
        self._pid = 0
        looked = time.monotonic()
        while not self._is_ready():
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the engine did not come up:\n{self.log()}")
            pause(time.monotonic() - looked)
            looked = time.monotonic()
            self._pid = self._pid or child(process)

    def _is_ready(self) -> bool:
        ready = self._pid and os.path.exists(f"{self._root}/run/urunc-tests-ready")
        return bool(ready) and self.is_up()

    @property
    def _root(self) -> str:
        """The place's files as the host sees them."""
        return f"/proc/{self._pid}/root"

    @property
    def network(self) -> str:
        """The path of the place's network namespace."""
        return f"/proc/{self._pid}/ns/net"

    def seen(self, path: str) -> str:
        """Where the host sees a file of the place."""
        return f"{self._root}{path}"

    def log(self) -> str:
        """What the first process and the daemons say."""
        return "\n".join(
            f"{path.name}:\n{path.read_text(errors='replace')}"
            for path in sorted(self._here.glob("*.log"))
        )

    def holds(self) -> dict[str, set[str]]:
        """What the place holds: to be compared before a container was and after it. Network
        namespaces that somebody keeps are among the mounts."""
        here = f"/proc/{self._pid}"
        proc = pathlib.Path(f"{self._root}/proc")
        mounts = pathlib.Path(f"{here}/mountinfo").read_text(errors="surrogateescape").splitlines()
        devices = pathlib.Path(f"{here}/net/dev").read_text().splitlines()[2:]
        processes = set()
        for entry in proc.iterdir():
            with contextlib.suppress(OSError):  # it has ended
                if entry.name.isdigit():
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    # a dead one is its parent's to reap, at any moment
                    if command or "\nState:\tZ" not in (entry / "status").read_text():
                        processes.add(f"{entry.name} {command}")
        root = pathlib.Path(self._root)
        states = [pattern.format(space=self.space).lstrip("/") for pattern in self.states]
        states.append("run/urunc.d/users/*")
        return {
            "mounts": {line.split(" ", 2)[2] for line in mounts},
            "links": {line.split(":")[0].strip() for line in devices},
            "processes": processes,
            "states": {str(path) for pattern in states for path in root.glob(pattern)},
            "groups": {
                directory
                for group in self._groups()
                for directory, _, _ in os.walk(group)
                if directory != str(group) and not directory.endswith("/conmon")  # once, for all
            },
        }

    def remains(self) -> list[str]:
        """What there is of the place once it has been left: nothing, if all is well."""
        names = (self.group, str(self._here))
        found = [str(group) for group in self._groups()]
        mounts = (
            pathlib.Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        )
        found += [line for line in mounts if names[1] in line]
        for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended
                command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found += [command] if any(name in command for name in names) else []
        return found + ([names[1]] if self._here.exists() else [])

    def fetch(self, url: str, timeout_s: float = 30) -> str:
        """A page, as the place's host sees it, once there is an answer."""
        asked: subprocess.CompletedProcess[str]

        def answers() -> bool:
            nonlocal asked
            limit = f"{patient(5):.0f}"
            asked = self.run("timeout", limit, str(BUSYBOX), "wget", "-qO-", url, check=False)
            return asked.returncode == 0

        until(answers, lambda: f"{url}: {asked.stderr}", timeout_s)
        return asked.stdout

    def udp(self, address: str, port: int, payload: str) -> str:
        """What a UDP port answers to the place's host; nothing where it is silent."""
        return self.run(sys.executable, "-I", "-c", UDP, address, str(port), payload).stdout.strip()

    def wait_for(self, container: str, text: str, times: int = 1, timeout_s: float = 30) -> str:
        """Wait until a container's log holds a text so many times; returns the log so far. One
        client follows the log: to ask again and again takes more CPU time than the guest does."""
        log = ""

        def says() -> bool:
            nonlocal log
            log = self._followed(container, lambda log: log.count(text) >= times, timeout_s)
            return log.count(text) >= times

        until(says, lambda: f"no {text!r} in the log of {container}:\n{log}", timeout_s)
        return log

    def _followed(self, container: str, enough: Callable[[str], bool], timeout_s: float) -> str:
        """A container's log until it is enough, or ends: with the container, or with the time."""
        log = b""

        def so_far() -> str:
            return log.decode(errors="replace").replace("\r\n", "\n")

        end = time.monotonic() + patient(timeout_s)
        with subprocess.Popen(
            [*self.prefix, *self.command("logs", *self.following, container)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=os.environ | ENVIRONMENT,
        ) as client:  # fmt: skip
            try:
                assert client.stdout
                while not enough(so_far()):
                    left_s = max(0, end - time.monotonic())
                    if not select.select([client.stdout], [], [], left_s)[0]:
                        break
                    if not (more := os.read(client.stdout.fileno(), 65536)):
                        break
                    log += more
            finally:
                kill(client)
        return so_far()

    def address(self, container: str, network: str) -> str:
        """A container's address in a network."""
        form = f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
        return self("inspect", "--format", form, container).stdout.strip()

    def gateway(self, network: str) -> str:
        """The host's address in a network."""
        return self("network", "inspect", "--format", self.gateway_form, network).stdout.strip()

    def _groups(self) -> list[pathlib.Path]:
        """The place's group in each hierarchy that has it."""
        return [*CGROUPS.glob(self.group), *CGROUPS.glob(f"*/{self.group}")]

    def _remove_groups(self) -> None:
        """Remove the groups; the kernel lets go of the dead in its own time."""
        end = time.monotonic() + patient(5)
        for group in self._groups():
            for directory, _, _ in os.walk(group, topdown=False):
                while True:
                    try:
                        os.rmdir(directory)
                        break
                    except OSError:
                        if time.monotonic() > end:
                            raise
                        time.sleep(0.01)
