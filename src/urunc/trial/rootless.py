# SPDX-License-Identifier: Apache-2.0
"""An ordinary user's place for a guest: a user namespace that `urunc try` goes into, where the user
is root, and a network namespace of it, which pasta joins to this machine's network.

The keeper stays outside. It has a process in the network namespace, which holds it, and passes the
ports on: a socket that listens keeps the namespace that it was made in, so its clients are this
machine's. pasta is for the way out alone.
"""

from __future__ import annotations

import asyncio
import os
import posix
import subprocess
from contextlib import suppress
from shutil import which
from time import monotonic, sleep

from urunc.errors import HostError, reason
from urunc.linux import _linux
from urunc.linux.namespaces import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER, open_namespace
from urunc.places import runtime_directory
from urunc.trial.forward import Forwarder
from urunc.trial.nat import Made

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from urunc.trial.ports import Listener

PR_SET_DUMPABLE = 4
PASTA_S = 5.0
SUBNETS = "10.209.0.0/16"
GUEST = "10.209.1.2"
"""What the first guest of SUBNETS has (network mode `shared`)."""
OUTSIDE = ("-a", "10.208.0.2", "-n", "24", "-g", "10.208.0.1")
NO_PORTS = ("-t", "none", "-u", "none", "-T", "none", "-U", "none")
SWITCHES = (
    "sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns"
)
SETTINGS: dict[str, Any] = {
    "network.shared_subnets": [SUBNETS],
    **{f"monitors.{name}.run_as_root": True for name in ("qemu", "firecracker", "hvt", "spt")},
}
"""Of the configuration: the one id that there is, the user's own, is the monitor's."""


def enter() -> None:
    """Go into a user and a mount namespace of our own, whose ids the keeper maps; in `urunc try`.
    Raises HostError."""
    posix.environ[b"XDG_RUNTIME_DIR"] = os.fsencode(runtime_directory())
    posix.environ.pop(b"USER", None)
    try:
        _linux.unshare(CLONE_NEWUSER | CLONE_NEWNS)
    except OSError as error:
        raise HostError(
            f"user namespace: {reason(error)}",
            f"the host may forbid them: {SWITCHES}",
        ) from None


class Rootless:
    """The keeper's side: the namespaces of one `urunc try`, its parent."""

    def __init__(self, *, networked: bool) -> None:
        self.networked = networked
        self._user = self._mounts = -1
        self._holder = 0
        self._line = -1
        self._pasta: subprocess.Popen[bytes] | None = None

    def make(self, listeners: list[Listener], answered: Callable[[Listener], None]) -> Made | None:
        """Map the ids, and make the network if there is to be one. Raises HostError, OSError."""
        parent = f"/proc/{os.getppid()}"
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"0 {os.geteuid()} 1"),
            ("gid_map", f"0 {os.getegid()} 1"),
        ):
            try:
                with open(f"{parent}/{name}", "w") as file:
                    file.write(text)
            except OSError as error:
                raise HostError(
                    f"user namespace: {name}: {reason(error)}",
                    f"the host may restrict them: {SWITCHES}",
                ) from None
        self._user = open_namespace(f"{parent}/ns/user")
        self._mounts = open_namespace(f"{parent}/ns/mnt")
        if not self.networked:
            return None
        self._hold(listeners, answered)
        remarks = self._reach_out(parent)
        return Made(namespace=f"/proc/{self._holder}/ns/net", addresses=(GUEST,), remarks=remarks)

    def remove(self) -> None:
        """End what holds the network namespace."""
        if self._pasta:
            self._pasta.terminate()
            self._pasta.wait()
        if self._holder:
            os.close(self._line)
            os.waitpid(self._holder, 0)

    def within(self, clean: Callable[[], None]) -> None:
        """Do it as the namespace's root."""
        pid = os.fork()
        if not pid:
            code = 1
            try:
                _linux.setns(self._user, CLONE_NEWUSER)
                _linux.setns(self._mounts, CLONE_NEWNS)
                clean()
                code = 0
            finally:
                os._exit(code)
        if os.waitpid(pid, 0)[1]:
            raise HostError("it did not come to its end", "urunc list shows what is left")

    def _hold(self, listeners: list[Listener], answered: Callable[[Listener], None]) -> None:
        """Fork the process in the network namespace."""
        theirs, self._line = os.pipe()
        ready, told = os.pipe()
        self._holder = os.fork()
        if not self._holder:
            try:
                os.close(self._line)
                os.close(ready)
                _linux.setns(self._user, CLONE_NEWUSER)
                _linux.unshare(CLONE_NEWNET)
                _linux.prctl(PR_SET_DUMPABLE, 1)
                subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
                os.write(told, b"1")
                os.close(told)
                asyncio.run(_serve(theirs, listeners, answered))
            finally:
                os._exit(0)
        os.close(theirs)
        os.close(told)
        if not os.read(ready, 1):
            raise HostError("network namespace: not to be had in a user namespace", "--net none")
        os.close(ready)

    def _reach_out(self, parent: str) -> tuple[str, ...]:
        """Start pasta; what is missing, in words."""
        if not which("pasta"):
            return ("pasta is not installed (apt-get install passt): no way out for the guest",)
        self._pasta = subprocess.Popen(
            ["pasta", "-f", "-q", "--config-net", *NO_PORTS, *OUTSIDE,
             "--userns", f"{parent}/ns/user", "--netns", f"/proc/{self._holder}/ns/net"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        end = monotonic() + PASTA_S
        while monotonic() < end:
            if self._pasta.poll() is not None:
                lines = self._pasta.communicate()[1].decode(errors="replace").splitlines()
                said = [line for line in lines if "syslog" not in line] or ["it ended"]
                return (f"pasta: {said[-1][:200]}: no way out for the guest",)
            with suppress(OSError), open(f"/proc/{self._holder}/net/dev") as file:
                if len(file.read().splitlines()) > 3:  # two of headings, and lo
                    return ()
            sleep(0.02)
        return (f"pasta: no device after {PASTA_S:g} s: no way out for the guest",)


async def _serve(
    line: int, listeners: list[Listener], answered: Callable[[Listener], None]
) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(line, ended.set)
    await Forwarder((GUEST,), answered).serve(listeners)
    await ended.wait()
