# SPDX-License-Identifier: Apache-2.0
"""What is checked of guests: what of an ordinary container's checks makes sense for one, by name.

What an application sees is checked in a Linux guest on QEMU that runs once (`booted`); the rest,
with the probe, for which a machine is ready at once: on Solo5's spt, and on Firecracker where the
guest has to have a heart. They must leave nothing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from lib.engines import END
from lib.patience import until
from lib.smoke import MIB, Seen, Side
from lib.support import PARTS, has, need

SERVING = '"serving"'
SCRIPT = (
    "echo colour $COLOUR; hostname; grep MemTotal /proc/meminfo; echo text >/file && cat /file; "
    "echo end of script; exit 3"
)
USER = "12345"
STOPPED = (
    ("solo5", ("probe.serve",)),
    ("probe", ("app", "probe.serve")),
    ("linux", ("/init", "sleep", "60")),
)
"""Images on spt, Firecracker and QEMU, and what they do that are to stop."""
ENDINGS = (("echo c >/proc/sysrq-trigger", 253), ("reboot -f", 253), ("poweroff -f", 0))
"""How a Linux guest may end without a word, and what its exit code is then: urunc's own shim says
it; other engines pass on QEMU's."""


class Guests(Side):
    """An engine with a runtime for guests. `kept` is the probe on Solo5."""

    kind = "guest"

    @property
    def has_shim(self) -> bool:
        """Whether the engine has urunc's own shim."""
        return bool(getattr(self.engine, "shim", ""))

    @functools.cached_property
    def booted(self) -> Seen:
        """`run` of a Linux guest, to its end."""
        need("qemu")
        options = ("--env", "COLOUR=blue", "--hostname", "inside", "--memory", "256m")
        return self.linux(SCRIPT, "--rm", "--read-only", *options, code=7)

    def linux(self, script: str, *options: str, code: int | None = 0) -> Seen:
        """`run` of a Linux guest that does this."""
        words = ("run", "--runtime", self.runtime, *options, "linux", "/init", "/bin/sh", "-c")
        return self.see(*words, script, code=code)

    def exited(self, name: str, code: int) -> None:
        """See that it has, with this code: Podman 5 says "stopped" until it has cleaned up, which
        its commands do not wait for."""
        ended = functools.partial(self.state, name, "Status", "ExitCode")
        until(lambda: ended() == f"exited {code}", ended)

    def probe(self, name: str, *words: str, image: str = "solo5") -> Seen:
        """`run -d` of the probe with these words, under the limit, as a user of its own."""
        limits = ("--memory", "64m", "--memory-swap", "64m", "--user", USER)
        options = ("run", "-d", "--runtime", self.runtime, "--name", name, *limits)
        return self.see(*options, image, *words)

    def started(self, name: str) -> Seen:
        need("solo5")
        seen = self.probe(name, "probe.serve")
        self.engine.wait_for(name, SERVING)
        return seen

    @contextlib.contextmanager
    def named(self) -> Iterator[str]:
        """A name for one more container, which is removed."""
        name = f"{self.name}-named"
        try:
            yield name
        finally:
            self.engine.remove(name)

    def memory_limit(self, container: str) -> int:
        """What the kernel holds its memory to."""
        groups = self.engine.run("cat", f"/proc/{self.state(container, 'Pid')}/cgroup").stdout
        path = dict(line.split(":", 2)[1:] for line in groups.splitlines())
        file = (
            f"memory{path['memory']}/memory.limit_in_bytes"
            if "memory" in path
            else f"{path['']}/memory.max"
        )
        return int(self.engine.run("cat", f"/sys/fs/cgroup/{file}").stdout)

    def report(self, container: str) -> dict[str, Any]:
        """What the probe says of its machine."""
        lines = self.engine("logs", container).stdout.splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return dict(next(line for line in found if "cmdline" in line))


def run(side: Guests) -> None:
    assert END in side.booted.out


def exit_code(side: Guests) -> None:
    """QEMU's 2n+1, the guest's own on Solo5."""
    assert side.booted.code == 2 * 3 + 1
    need("solo5")
    side.see("run", "--rm", "--runtime", side.runtime, "solo5", "probe.exit=5", code=5)


def endings(side: Guests) -> None:
    """A kernel that panics is no success."""
    need("qemu")
    for script, code in ENDINGS if side.has_shim else ENDINGS[:1]:
        with side.named() as name:
            side.linux(f"{script}; sleep 60", "--name", name, code=code)
            side.exited(name, code)


def user(side: Guests) -> None:
    """The monitor's."""
    status = side.engine.run("cat", f"/proc/{side.state(side.kept, 'Pid')}/status").stdout
    assert f"\nUid:\t{USER}\t" in status


def env(side: Guests) -> None:
    assert "colour blue" in side.booted.out.splitlines()


def memory(side: Guests) -> None:
    """The limit, less what the monitor needs."""
    total = int(re.findall(r"^MemTotal: +(\d+) kB", side.booted.out, re.MULTILINE)[0]) << 10
    assert 100 * MIB < total <= (256 - 80) * MIB
    assert 60 * MIB < side.report(side.kept)["memory"] < 64 * MIB


def hostname(side: Guests) -> None:
    assert "inside" in side.booted.out.split()


def read_only(side: Guests) -> None:
    """It is about the container's root, not about what the guest has: harmless."""
    assert "text" in side.booted.out.splitlines()


def stdin(side: Guests) -> None:
    need("qemu")
    with side.named() as name:
        side.linux("echo ready; read word; echo got $word; exit 2", "-di", "--name", name)
        side.engine.wait_for(name, "ready")
        side.engine("attach", name, check=False, stdin="hello\n")
        assert side.see("wait", name).out == "5\n"
        assert "\ngot hello" in side.logs(name).out


def tty(side: Guests) -> None:
    """The guest's console is the terminal."""
    need("qemu")
    words = ("run", "--rm", "-it", "--runtime", side.runtime, "linux", "/init", "/bin/sh", "-c")
    script = "echo ready; read word; echo got $word; exit 2"
    code, shown = side.engine.on_terminal(*words, script, keys="hello\r", after="ready")
    assert "\ngot hello\r" in shown
    assert code == 5


def detached(side: Guests) -> None:
    need("solo5")
    with side.named() as name:
        assert side.probe(name, "probe.serve").out == "ID\n"
        assert side.state(name, "Status", "Running", "ExitCode") == "running true 0"


def ps(side: Guests) -> None:
    seen = side.see("ps", "--format", "{{.Names}} {{.Status}}", "--filter", f"name={side.kept}")
    assert seen.out.startswith("NAME-kept Up")


def logs(side: Guests) -> None:
    assert side.logs(side.kept).out.count(SERVING) == 1


def exec_(side: Guests) -> None:
    """Refused, with a reason (Docker's client says it on standard output)."""
    seen = side.see("exec", side.kept, "/bin/sh", code=None)
    assert "a unikernel has no processes to run a command in" in seen.out + seen.err


def stats(side: Guests) -> None:
    processes, used, limit = side.stats(side.kept)
    assert processes >= 1
    assert 0 < used < limit
    assert limit // MIB == 64


def pause(side: Guests) -> None:
    """The guest stands still, and goes on."""
    need("kvm", "firecracker")
    with side.named() as name:
        side.probe(name, "app", "probe.serve", "probe.beat=50", image="probe")
        side.engine.wait_for(name, '"beat"', times=2)
        side.see("pause", name)
        assert side.state(name, "Status") == "paused"
        before = side.logs(name).out
        time.sleep(0.5)  # ten beats' worth
        assert side.logs(name).out == before
        side.see("unpause", name)
        assert side.state(name, "Status") == "running"
        side.engine.wait_for(name, '"beat"', times=before.count('"beat"') + 2)


def update(side: Guests) -> None:
    """A limit that would kill the guest is refused, with the one that would do."""
    with side.another() as name:
        side.see("update", "--memory", "96m", "--memory-swap", "96m", name)
        assert side.memory_limit(name) == 96 * MIB
        seen = side.see("update", "--memory", "32m", "--memory-swap", "96m", name, code=None)
        assert "at least" in seen.err
        assert side.state(name, "Status") == "running"


def stop(side: Guests) -> None:
    """Long before the engine kills it, also while it boots. The monitor is killed; urunc's own
    shim knows for which signal."""
    need("solo5", "qemu", "kvm", "firecracker")
    code = 143 if side.has_shim else 137
    for image, words in STOPPED:
        with side.named() as name:
            side.see("run", "-d", "--runtime", side.runtime, "--name", name, image, *words)
            time.sleep(0.5)  # a monitor that has not set itself up yet would be killed
            side.see("stop", "--time", "3600", name)
            side.exited(name, code)


def start(side: Guests) -> None:
    with side.another() as name:
        side.engine("stop", name)
        side.see("start", name)
        side.engine.wait_for(name, SERVING, times=2)
        assert side.state(name, "Status", "ExitCode") == "running 0"


def restart(side: Guests) -> None:
    with side.another() as name:
        before = side.state(name, "Pid")
        side.see("restart", name)
        side.engine.wait_for(name, SERVING, times=2)
        assert side.state(name, "Pid") != before


def kill(side: Guests) -> None:
    """A signal that means nothing to a guest does nothing."""
    with side.another() as name:
        side.see("kill", "--signal", "USR1", name)
        assert side.state(name, "Status") == "running"
        side.see("kill", name)
        assert side.see("wait", name).out == "137\n"
        assert side.state(name, "Status") == "exited"


def wait(side: Guests) -> None:
    need("solo5")
    with side.named() as name:
        side.probe(name, "probe.serve=700", "probe.exit=6")
        assert [side.see("wait", name).out for _ in range(2)] == ["6\n", "6\n"]


def rm(side: Guests) -> None:
    with side.another() as name:
        side.see("rm", name, code=None)
        side.see(*side.engine.removal, name)
        side.see("inspect", name, code=None)


def cp(side: Guests) -> None:
    """What is in the image, as long as it does not run: Podman looks for it in the monitor's root
    then."""
    with side.named() as name:
        side.see("create", "--runtime", side.runtime, "--name", name, "solo5")
        copy = f"{side.engine.space}/{side.name}"
        side.see("cp", f"{name}:/probe", copy)
        side.engine.run("cmp", copy, str(PARTS / "probe-mirage.spt"))


def engines_mounts(side: Guests) -> None:
    """What an engine mounts by itself keeps no Solo5 guest from starting, and is nobody's data."""
    need("solo5")
    run = ("run", "--rm", "--runtime", side.runtime)
    for monitor in ("hvt", "spt") if has("kvm") else ("spt",):
        for guest in ("rumprun", "mirage"):
            for options in ((), ("--ipc", "host", "--read-only")):
                side.see(*run, *options, f"{guest}-{monitor}", code=5)
            seen = side.see(*run, f"{guest}-{monitor}-disk", code=None)
            assert "declares the block devices" in seen.err


def init(side: Guests) -> None:
    """`--init` puts a program before the arguments that is no guest's."""
    need("solo5", *(("docker",) if side.engine.own_init else ()))
    options = ("--init", *side.engine.own_init)
    for guest in ("rumprun-spt", "mirage-spt"):
        seen = side.see("run", "--rm", "--runtime", side.runtime, *options, guest,
                        "probe.exit=6", code=6)  # fmt: skip
        assert "-init" not in seen.out


def volumes(side: Guests) -> None:
    """A directory is the disk of a declared device; without one the refusal names it."""
    need("solo5", "images")
    run = ("run", "--rm", "--runtime", side.runtime)
    directory = f"{side.engine.space}/a-directory"
    side.engine.run("mkdir", "-p", directory)
    given = ("--volume", f"{directory}:/in/rootfs:ro")
    seen = side.see(*run, *given, "rumprun-spt-disk", code=5)
    report = next(json.loads(line) for line in seen.out.splitlines() if '"cmdline"' in line)
    assert [disk["name"] for disk in report["disks"]] == ["rootfs"]
    assert '"path":"/dev/ld0a","fstype":"blk","mountpoint":"/in/rootfs"' in report["cmdline"]
    more = ("--volume", f"{directory}:/more:ro")
    for options, image in ((given, "rumprun-spt"), ((*given, *more), "rumprun-spt-disk")):
        seen = side.see(*run, *options, image, code=None)
        name = "/more" if more[1] in options else "/in/rootfs"
        assert f"mount '{name}' of '{directory}'" in seen.err


CHECKS: dict[str, Callable[[Guests], None]] = {
    "run": run,
    "exit-code": exit_code,
    "endings": endings,
    "user": user,
    "env": env,
    "memory": memory,
    "hostname": hostname,
    "read-only": read_only,
    "stdin": stdin,
    "tty": tty,
    "detached": detached,
    "ps": ps,
    "logs": logs,
    "exec": exec_,
    "stats": stats,
    "pause": pause,
    "update": update,
    "stop": stop,
    "start": start,
    "restart": restart,
    "kill": kill,
    "wait": wait,
    "rm": rm,
    "cp": cp,
    "engines-mounts": engines_mounts,
    "init": init,
    "volumes": volumes,
}
"""26 checks; what `top` shows of a guest is another thing with each engine."""
